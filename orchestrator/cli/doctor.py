"""`orchestrator doctor`: is everything there that a run needs; `main` registers it."""

from __future__ import annotations

import contextlib
import sys
from typing import Annotated

import typer

from orchestrator import api
from orchestrator.cli.options import AsJson, Overrides
from orchestrator.cli.output import answer, json_line
from orchestrator.planning.checkup import Finding, exit_code, findings_json
from orchestrator.reporting.tables import plan_text


def doctor(
    job: Annotated[str | None, typer.Argument(metavar="JOB", help="The job file; without one, the machines.")] = None,
    overrides: Overrides = None,
    address: Annotated[
        str | None, typer.Option(help="Cluster to look at: as ray.address, or http://HEAD:8265 to look from there.")
    ] = None,
    modules: Annotated[
        list[str] | None,
        typer.Option("--module", help="Must be found on every node, besides the job's own modules; may be repeated."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Check versions, GPUs, storage rights, clocks, authentication, disk and code, here and on every node.

    Exit code 0, 2 with a problem that no retry mends, or 75 when something is out of reach.
    """
    with contextlib.redirect_stdout(sys.stderr):  # Ray tells of its nodes there
        findings = api.doctor(job, overrides=overrides or [], address=address, modules=modules or [])
    code = exit_code(findings)
    if as_json:
        answer(json_line(findings_json(findings)))
    else:
        wrong = sum(finding.level != "ok" for finding in findings)
        answer(plan_text({"found": f"{wrong} to look at" if wrong else "nothing wrong"}, list(map(_row, findings))))
    raise typer.Exit(code)


def _row(finding: Finding) -> dict[str, object]:
    mend = f"\n→ {finding.hint}" if finding.hint else ""
    return {"check": finding.check, "": finding.level, "where": finding.where, "what": f"{finding.what}{mend}"}
