"""The files of `jobs/schedulers`: schedulers take them, their commands are true, they retry what can be mended."""

from __future__ import annotations

import ast
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from pydantic import BaseModel, ValidationError
from typer.main import get_command

from orchestrator import errors
from orchestrator.api import plan
from orchestrator.cli.main import app
from orchestrator.cluster.jobs.decisions import driver_command
from orchestrator.spec import load_job
from tests.support.cli_job import write_tiny_job
from tests.support.manifests import RayJob, Workflow
from tests.support.processes import RAY_OF_TESTS
from tests.support.scheduler_files import (
    BUCKET,
    FOLDER,
    RUN_ID,
    argo_command,
    cron_command,
    cron_line,
    kuberay_command,
    manifest,
    python_command,
    rayjob,
    workflow,
)

ROOT = Path(__file__).parents[2]
NEVER_RETRIED = {errors.InvalidInput.exit_code, 3, errors.QuorumMissed.exit_code}
"""3 is no error: the run has a result, whose gate was missed."""


COMMANDS = {
    "argo_workflow.yaml": argo_command,
    "kuberay_rayjob.yaml": kuberay_command,
    "crontab": cron_command,
    "airflow_dag.py": lambda: python_command("airflow_dag.py"),
    "prefect_flow.py": lambda: python_command("prefect_flow.py"),
}


def test_every_example_has_a_command_that_is_tested() -> None:
    assert {path.name for path in FOLDER.iterdir() if path.is_file()} == set(COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_the_command_is_one_that_the_command_line_takes_and_its_job_can_be_planned(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    command = COMMANDS[name]()
    verb = next(index for index, part in enumerate(command) if part in ("run", "submit"))
    subcommand = get_command(app).commands[command[verb]]  # type: ignore[attr-defined]
    asked = subcommand.make_context(command[verb], command[verb + 1 :]).params
    assert asked["as_json"]
    assert asked["run_id"] == RUN_ID
    planned = plan(load_job(asked["job"], asked["overrides"] or []), run_id=asked["run_id"], root=str(ROOT))
    assert planned.request.run_id == RUN_ID
    if command[verb] == "submit":
        assert asked["wait"]
        driver_command(asked["job"], asked["overrides"], asked["run_id"], [])


def test_manifests_are_what_argo_and_kuberay_accept() -> None:
    argo = workflow().spec
    templates = {template.name: template for template in argo.templates}
    assert argo.entrypoint in templates
    steps = [step for group in templates[argo.entrypoint].steps or [] for step in group]
    assert {step.template for step in steps} == set(templates) - {argo.entrypoint}
    ray = rayjob().spec.rayClusterSpec
    assert ray.authOptions.mode == "token"
    assert ray.headGroupSpec.rayStartParams["num-cpus"] == "0"
    [head] = ray.headGroupSpec.template.spec.containers
    assert "nvidia.com/gpu" not in head.resources.limits
    for group in ray.workerGroupSpecs:
        assert group.minReplicas <= group.replicas <= group.maxReplicas
        [worker] = group.template.spec.containers
        assert worker.resources.limits["nvidia.com/gpu"] == "1"
    assert yaml.safe_load(rayjob().spec.runtimeEnvYAML) == {"working_dir": "/opt/ensembles"}


@pytest.mark.parametrize(
    ("name", "model", "place", "value"),
    [
        ("argo_workflow.yaml", Workflow, ("spec", "templates", 1, "retryStrategy", "limits"), "5"),
        ("argo_workflow.yaml", Workflow, ("spec", "templates", 1, "retryStrategy", "limit"), 5),
        ("argo_workflow.yaml", Workflow, ("spec", "templates", 1, "container", "args", 0), 7),
        ("kuberay_rayjob.yaml", RayJob, ("spec", "backoffLimits"), 3),
        ("kuberay_rayjob.yaml", RayJob, ("spec", "rayClusterSpec", "headGroupSpec", "rayStartParams", "num-cpus"), 0),
        ("kuberay_rayjob.yaml", RayJob, ("spec", "submissionMode"), "K8SJobMode"),
    ],
)
def test_the_check_of_manifests_refuses_what_the_schedulers_would(
    name: str, model: type[BaseModel], place: tuple[Any, ...], value: Any
) -> None:
    document = manifest(name, **{"${RUN}": RUN_ID})
    part = document
    for key in place[:-1]:
        part = part[key]
    part[place[-1]] = value
    with pytest.raises(ValidationError, match=str(place[-1])):
        model.model_validate(document)


def test_no_example_retries_what_a_retry_repeats_and_each_retries_what_it_can_mend() -> None:
    [strategy] = [each.retryStrategy for each in workflow().spec.templates if each.retryStrategy is not None]

    def argo_retries(code: int, status: str = "Failed") -> bool:
        last = SimpleNamespace(exitCode=str(code), status=status)
        expression = strategy.expression.replace("||", " or ")
        return bool(eval(expression, {"asInt": int, "lastRetry": last}))

    assert [code for code in range(256) if argo_retries(code)] == [75, 124, 137, 143]
    assert argo_retries(-1, "Error")
    for name in ("airflow_dag.py", "prefect_flow.py"):
        tree = ast.parse((FOLDER / name).read_text(encoding="utf-8"))
        [final] = [
            ast.literal_eval(node.value)
            for node in ast.walk(tree)
            if isinstance(node, ast.Assign) and [getattr(target, "id", None) for target in node.targets] == ["FINAL"]
        ]
        assert set(final) == NEVER_RETRIED


@pytest.mark.slow
def test_crons_line_trains_and_the_manifests_commands_find_its_result(tmp_path: Path) -> None:
    """One run for all: it is the same job under the same run id, so the others return what is recorded."""
    job = write_tiny_job(tmp_path, {"url": "runs"})
    (tmp_path / "jobs").mkdir()
    job.rename(tmp_path / "jobs" / "digits.yaml")
    commands = tmp_path / ".venv" / "bin"
    commands.mkdir(parents=True)
    (commands / "orchestrator").symlink_to(Path(sys.executable).with_name("orchestrator"))
    cron = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "SHELL": "/bin/sh", **RAY_OF_TESTS}  # cron gives no more
    line = cron_line().replace("/srv/ensembles", shlex.quote(str(tmp_path)))
    first = subprocess.run(["/bin/sh", "-c", line], env=cron, capture_output=True, text=True, timeout=300, check=False)
    told = (tmp_path / "digits.log").read_text()
    assert (first.returncode, first.stdout, first.stderr) == (0, "", ""), told
    document = (tmp_path / "results" / "digits.json").read_text()
    result = json.loads(document)
    assert (result["status"], len(result["members"])) == ("succeeded", 2)
    assert told.splitlines()[-1] == document.rstrip("\n")
    assert re.fullmatch(r"digits-\d{4}-\d\d-\d\d", result["run_id"])

    path = os.pathsep.join([str(Path(sys.executable).parent), cron["PATH"]])
    for command in (argo_command(), kuberay_command()):
        here = {RUN_ID: result["run_id"], f"storage.url={BUCKET}": f"storage.url={tmp_path}/runs"}
        found = [here.get(part, part).replace("/tmp/values", str(tmp_path / "values")) for part in command]
        again = subprocess.run(
            found,
            cwd=tmp_path,
            env={**cron, "PATH": path},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=300,
            check=False,
        )
        assert again.returncode == 0, again.stdout
        assert again.stdout.splitlines()[-1] == document.rstrip("\n")
    [outputs] = [each.outputs for each in workflow().spec.templates if each.outputs is not None]
    values = {each.name: each.valueFrom.path for each in outputs.parameters if each.valueFrom is not None}
    read = {name: (tmp_path / "values" / Path(path).name).read_text() for name, path in values.items()}
    assert read == {"accuracy": str(result["validation"]["ensemble"]["accuracy"]), "status": "succeeded"}
    assert [(tmp_path / "values" / Path(each.path).name).read_text() for each in outputs.artifacts] == [document]
