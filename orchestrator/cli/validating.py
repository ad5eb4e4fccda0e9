"""`validate`: what can be known before anything runs, of a job file and of a cluster launcher file."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any

import typer

from orchestrator import api
from orchestrator.cli.options import AsJson, Overrides
from orchestrator.cli.output import answer, json_line, tell
from orchestrator.errors import InvalidInput, InvalidJob
from orchestrator.spec import Job, load_job


def validate(
    job: Annotated[str | None, typer.Argument(metavar="[JOB]", help="The job file (YAML).")] = None,
    overrides: Overrides = None,
    cluster: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="Check this cluster launcher file too, offline, and whether the job would run on it; or alone.",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Check a job file without running any of its code; with --cluster what `ray up` would start."""
    if job is None and cluster is None:
        raise InvalidJob("there is nothing to check", hint="name a job file, or --cluster cluster.yaml, or both")
    valid: dict[str, Any] = {"valid": True}
    loaded: Job | None = None
    if job is not None:
        loaded = load_job(job, overrides or [])
        api.validate(loaded)
        tell(f"{job}: valid, {loaded.members.total} members; model and data are checked further when the run starts")
        valid |= {"name": loaded.name, "members": loaded.members.total}
    if cluster is not None:
        valid |= _check_cluster(cluster, loaded)
    if as_json:
        answer(json_line(valid))
    if not valid["valid"]:
        raise typer.Exit(InvalidInput.exit_code)


def _check_cluster(path: str, job: Job | None) -> dict[str, Any]:
    findings = api.validate_cluster(path, job)
    for finding in findings:
        tell(f"{finding.level}: {path}: {finding}")
    told = {level: [asdict(each) for each in findings if each.level == level] for level in ("error", "warning")}
    num_errors, num_warnings = len(told["error"]), len(told["warning"])
    counts = f"errors: {num_errors}, warnings: {num_warnings}"
    tell(f"{path}: {'invalid' if num_errors else 'valid'}; {counts}; no cloud was asked")
    return {"valid": not num_errors, "cluster": {"errors": told["error"], "warnings": told["warning"]}}
