"""The commands for runs on a Ray cluster that are reached through its job server; `main` registers them."""

from __future__ import annotations

from typing import Annotated

import typer

from orchestrator import api
from orchestrator.cli.options import AsJson, JobPath, Overrides, RunId, Timeout
from orchestrator.cli.output import answer, json_line, tell


def submit(
    job: JobPath,
    overrides: Overrides = None,
    address: Annotated[str | None, typer.Option(help="http://HEAD:8265; default from RAY_API_SERVER_ADDRESS.")] = None,
    run_id: RunId = None,
    wait: Annotated[bool, typer.Option(help="Follow the log and exit with the driver's own code.")] = False,
    timeout: Timeout = None,
    as_json: AsJson = False,
) -> None:
    """Submit the job, with the code of this folder, to a Ray cluster."""
    submission_id, code = api.submit(
        job, address=address, overrides=overrides or [], run_id=run_id, wait=wait, timeout_s=timeout, on_log=tell
    )
    if as_json:
        answer(json_line({"submission_id": submission_id, "exit_code": code}))
    else:
        answer(submission_id)
    raise typer.Exit(code or 0)
