"""The files of `jobs/schedulers`, read as their schedulers read them, and the commands in them."""

from __future__ import annotations

import ast
import re
import shlex
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import yaml

from tests.support.manifests import RayJob, Workflow

FOLDER = Path(__file__).parents[2] / "jobs" / "schedulers"
RUN_ID = "digits-2026-11-22"
BUCKET = "s3://my-bucket/ensembles"


def manifest(name: str, **placeholders: str) -> Any:
    text = (FOLDER / name).read_text(encoding="utf-8")
    for placeholder, value in placeholders.items():
        text = text.replace(placeholder, value)
    return yaml.safe_load(text)


def workflow() -> Workflow:
    return Workflow.model_validate(manifest("argo_workflow.yaml"))


def rayjob() -> RayJob:
    return RayJob.model_validate(manifest("kuberay_rayjob.yaml", **{"${RUN}": RUN_ID}))


def argo_command() -> list[str]:
    [container] = [each.container for each in workflow().spec.templates if each.name == "train" and each.container]
    return [part.replace("{{workflow.name}}", RUN_ID) for part in [*container.command, *container.args]]


def kuberay_command() -> list[str]:
    return shlex.split(rayjob().spec.entrypoint)


def cron_line() -> str:
    """What cron hands to the shell."""
    [line] = [line for line in (FOLDER / "crontab").read_text().splitlines() if line and not line.startswith("#")]
    schedule, command = line.split(" ", 5)[:5], line.split(" ", 5)[5]
    assert all(re.fullmatch(r"[0-9*/,-]+", field) for field in schedule), schedule
    assert "%" not in command.replace("\\%", ""), "cron would end the line there"
    return command.replace("\\%", "%")


def cron_command() -> list[str]:
    """Its arguments, without what belongs to the shell."""
    parts = shlex.split(cron_line().replace("$(date +%F)", "2026-11-22"))
    begin = next(index for index, part in enumerate(parts) if part.endswith("/orchestrator"))
    return parts[begin : parts.index(">>")]


def python_command(name: str) -> list[str]:
    """The list of arguments in a Python file, with values in the place of names."""
    values = {
        "COMMAND": "orchestrator",
        "STORAGE": BUCKET,
        "job": "jobs/digits.yaml",
        "run_id": RUN_ID,
        "self": SimpleNamespace(job="jobs/digits.yaml", run_id=RUN_ID),
    }
    tree = ast.parse((FOLDER / name).read_text(encoding="utf-8"), name)
    [found] = [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.List) and node.elts and getattr(node.elts[0], "id", None) == "COMMAND"
    ]
    return list(eval(compile(ast.Expression(found), name, "eval"), {}, values))
