"""The README's commands and examples are true."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from orchestrator import parse_job
from orchestrator.api import plan, validate
from orchestrator.cli.main import app
from orchestrator.spec import load_job, load_yaml

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
JOBS = sorted((ROOT / "jobs").glob("*.yaml"))

SHORTEST = {"name": "part", "model": "jobs.digits:build_model", "data": "jobs.digits:load_data"}


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def test_readme_has_exactly_two_commands_to_set_up() -> None:
    run_it, test_it = (block.strip() for block in blocks("bash"))
    assert run_it.endswith("orchestrator run jobs/digits.yaml")
    assert test_it.endswith("pytest")


def test_ci_runs_the_readmes_test_command_word_for_word() -> None:
    assert blocks("bash")[1].strip() in (ROOT / ".ci" / "run").read_text().splitlines()


@pytest.mark.parametrize("example", blocks("yaml"))
def test_every_job_in_the_readme_is_valid(example: str) -> None:
    asked = load_yaml(example, "README.md").data
    job = parse_job({**SHORTEST, **asked}, filename="README.md")
    if "model" in asked:  # else it is a part of some job, whose build function may take other keywords
        validate(job, root=str(ROOT))


@pytest.mark.parametrize("path", JOBS, ids=[path.name for path in JOBS])
def test_every_job_that_comes_along_can_be_planned(path: Path) -> None:
    job = load_job(str(path))
    known = job.members.total if job.search is None else job.search.generation
    assert len(plan(job, root=str(ROOT)).request.plan.members) == known
    assert f"jobs/{path.name}" in README


def test_every_command_is_in_the_readme_and_every_row_is_a_command() -> None:
    told = set(re.findall(r"^\| `(\w+)|`, `(\w+)", README, re.MULTILINE))
    names = {name for pair in told for name in pair if name}
    assert {command.name or command.callback.__name__ for command in app.registered_commands} <= names  # type: ignore[union-attr]
    for name in ("validate", "plan", "run", "submit", "status", "list", "stop", "schema"):
        assert CliRunner().invoke(app, [name, "--help"]).exit_code == 0


def test_every_room_is_on_the_map() -> None:
    rooms = {path.name for path in (ROOT / "orchestrator").iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert all(f"{room}/" in README for room in rooms)


@pytest.mark.slow
def test_quick_start_command_shows_members_and_ensemble(tmp_path: Path) -> None:
    command = shlex.split(blocks("bash")[0].strip().split("&&")[-1])
    program = [sys.executable, "-m", "orchestrator", *command[1:]]
    done = subprocess.run([*program, f"storage.url={tmp_path}"], cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    for words in ("seed", "dropout", "best epoch", "mean of members", "best member", "ensemble", "weighted ensemble"):
        assert all(word in done.stdout for word in words.split()), done.stdout
    (path,) = tmp_path.glob("digits/*/result.json")
    result = json.loads(path.read_bytes())
    assert result["status"] == "succeeded"
    assert len(result["members"]) == 5
    assert result["validation"]["ensemble"]["accuracy"] > 0.9
    assert all(f"{member['validation']['accuracy']:.4f}" in done.stdout for member in result["members"])
