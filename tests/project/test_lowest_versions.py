"""The lowest versions that pyproject.toml allows: installed in an environment of their own, and used. Opt-in."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.lowest


def floors() -> list[str]:
    """`name==floor` for every requirement that applies to this Python; pinned to the release, not to its patches."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    found = []
    for requirement in [*project["dependencies"], *project["optional-dependencies"]["test"]]:
        text, _, marker = requirement.partition(";")
        if "python_version" in marker:
            below = "<" in marker
            if below != (sys.version_info < (3, 13)):
                continue
        match = re.fullmatch(r"\s*([A-Za-z0-9_.-]+)(\[[a-z]+\])?>=([0-9.]+)[^;]*", text)
        if match:
            found.append(f"{match[1]}{match[2] or ''}=={match[3]}")
    return found


def test_quick_start_and_fast_tests_pass_on_the_lowest_versions(tmp_path: Path) -> None:
    environment = tmp_path / "venv"
    venv.create(environment, with_pip=True)
    python = environment / "bin" / "python"
    wanted = floors()
    assert any(pin.startswith("tensorflow==") for pin in wanted)
    subprocess.run([python, "-m", "pip", "install", "-q", *wanted, "-e", f"{ROOT}[test]"], check=True)
    frozen = subprocess.run([python, "-m", "pip", "freeze"], check=True, capture_output=True, text=True).stdout.lower()
    for pin in wanted:
        name, _, version = re.sub(r"\[.*\]", "", pin).lower().partition("==")
        assert re.search(rf"^{name.replace('_', '[-_]')}=={re.escape(version)}(\.0)*$", frozen, re.MULTILINE), pin

    run = [environment / "bin" / "orchestrator", "run", "jobs/digits.yaml", f"storage.url={tmp_path}/runs", "--json"]
    done = subprocess.run(run, cwd=ROOT, check=True, capture_output=True, text=True)
    assert json.loads(done.stdout)["validation"]["ensemble"]["accuracy"] > 0.9

    tests = [python, "-m", "pytest", "-q", "-x", "tests/unit", "tests/contract", "-p", "no:cacheprovider"]
    subprocess.run(tests, cwd=ROOT, check=True)
