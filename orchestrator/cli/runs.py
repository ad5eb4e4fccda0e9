"""The commands for runs that are stored, whether or not anybody works on them; `main` registers them."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from orchestrator import api
from orchestrator.cli import clusters
from orchestrator.cli.options import Address, AsJson, Endpoint, Headers, Region, Run, Storage, Timeout
from orchestrator.cli.output import answer, json_line, tell, use_color
from orchestrator.cli.watch import watch as watch_until_it_ends
from orchestrator.errors import InvalidJob
from orchestrator.reporting.compare_text import comparison_json, comparison_text
from orchestrator.reporting.member_status import MemberStatus
from orchestrator.reporting.result import to_json
from orchestrator.reporting.run_status import RunStatus
from orchestrator.reporting.tables import plan_text
from orchestrator.reporting.words import ago

MOST_NAMED = 5
"""Figures that `evaluate` names where they are not the stored ones."""


def status(
    run: Run,
    watch: Annotated[
        bool,
        typer.Option(
            "--watch",
            help="Show it again and again until it ends, then exit with the run's own exit code; Ctrl-C (130) leaves "
            "the run alone. A run that is not there, or that nobody works on, is waited for for ten minutes (124).",
        ),
    ] = False,
    every: Annotated[float, typer.Option(min=0.5, help="Seconds between two looks of --watch.")] = 5.0,
    timeout: Timeout = None,
    address: Address = None,
    headers: Headers = None,
    storage: Storage = "runs",
    endpoint_url: Endpoint = None,
    region: Region = None,
    as_json: AsJson = False,
) -> None:
    """Show where a run stands, from what is stored; with --address its jobs on that cluster, too."""
    if timeout is not None and not watch:
        raise InvalidJob("it is for --watch", where="--timeout", hint="add --watch, or leave --timeout out")
    if address is not None and watch:
        raise InvalidJob("a run is watched from its storage", where="--address", hint="leave it or --watch out")
    if address is not None:
        clusters.status(run, address, headers, clusters.place_of(storage, endpoint_url, region), as_json=as_json)
        return
    clusters.refuse_without_address({"--header": headers})
    if watch:

        def look(note: Callable[[str], None]) -> Iterator[RunStatus]:
            return api.watch(
                run,
                every_s=every,
                timeout_s=timeout,
                note=note,
                storage=storage,
                endpoint_url=endpoint_url,
                region=region,
            )

        watch_until_it_ends(look, as_json=as_json)
    found = api.status(run, storage=storage, endpoint_url=endpoint_url, region=region)
    if as_json:
        answer(json_line(asdict(found)))
        return
    facts = {
        "run_id": found.run_id,
        "status": found.status,
        "starts": found.terms,
        "first start": _first_start(found),
        "last sign of life": _last_sign(found),
        "in the ensemble": None if found.num_done is None else f"{found.num_done} of {found.num_members} members",
        "message": found.message,
    }
    rows = [_member_row(member) for member in found.members]
    answer(plan_text({name: value for name, value in facts.items() if value is not None}, rows))


def list_(
    storage: Storage = "runs", endpoint_url: Endpoint = None, region: Region = None, as_json: AsJson = False
) -> None:
    """List the runs in a storage location."""
    found = api.list_runs(storage=storage, endpoint_url=endpoint_url, region=region)
    if as_json:
        answer(json_line([asdict(run) for run in found]))
        return
    rows = [
        {
            "job": run.job,
            "run": run.run_key,
            "status": run.status,
            "starts": run.terms,
            "members": _members(run),
            "last sign of life": _last_sign(run),
        }
        for run in found
    ]
    answer(plan_text({"storage": storage}, rows))


def evaluate(
    run: Run,
    overrides: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[KEY=VALUE]...",
            help="Another way to combine, such as ensemble.weights=nll, or to choose among the trials of a search: "
            "search.keep=greedy.",
        ),
    ] = None,
    storage: Storage = "runs",
    endpoint_url: Endpoint = None,
    region: Region = None,
    as_json: AsJson = False,
) -> None:
    """Compute a run's figures again from its kept predictions, also combined in another way; nothing is written."""
    result, differing = api.evaluate(run, overrides or [], storage=storage, endpoint_url=endpoint_url, region=region)
    answer(to_json(result).decode() if as_json else str(result))
    if overrides:
        tell(f"combined anew by {', '.join(overrides)}; the stored result is as it was")
    elif differing is not None:
        tell(_told_apart(differing))


def _told_apart(differing: Sequence[str]) -> str:
    if not differing:
        return "the same as the stored result"
    more = f" and {len(differing) - MOST_NAMED} more" if len(differing) > MOST_NAMED else ""
    return f"this differs from the stored result in {', '.join(differing[:MOST_NAMED])}{more}"


def stop(
    run: Run,
    address: Address = None,
    headers: Headers = None,
    storage: Storage = "runs",
    endpoint_url: Endpoint = None,
    region: Region = None,
) -> None:
    """Ask a run to end, from any process or machine; what is published stands, a later start resumes."""
    if address is not None:
        clusters.stop(run, address, headers, clusters.place_of(storage, endpoint_url, region))
        return
    clusters.refuse_without_address({"--header": headers})
    key = api.stop(run, storage=storage, endpoint_url=endpoint_url, region=region)
    tell(f"asked run {run} to stop ({key}); its coordinator, where there is one, looks every few seconds")


def report(
    run: Run,
    out: Annotated[Path | None, typer.Option(help="Write a copy to this file.")] = None,
    tensorboard: Annotated[bool, typer.Option("--tensorboard", help="Write event files for TensorBoard, too.")] = False,
    mlflow: Annotated[bool, typer.Option("--mlflow", help="Log the run to MLflow, should it not be there.")] = False,
    storage: Storage = "runs",
    endpoint_url: Endpoint = None,
    region: Region = None,
    as_json: AsJson = False,
) -> None:
    """Draw the report of a finished run again: report.html beside its result."""
    copy = None if out is None else str(out)
    key = api.report(
        run,
        out=copy,
        tensorboard=tensorboard,
        mlflow=mlflow,
        storage=storage,
        endpoint_url=endpoint_url,
        region=region,
    )
    if as_json:
        answer(json_line({"report": key, "storage": storage, "out": copy}))
        return
    tell(f"the report is {key} in {storage}" + (f", and {copy}" if copy else ""))


def compare(
    runs: Annotated[
        list[str], typer.Argument(metavar="RUN RUN...", help="Run ids or run keys; all against the first.")
    ],
    out: Annotated[Path | None, typer.Option(help="Write the comparison to this file, as one HTML page.")] = None,
    storage: Storage = "runs",
    endpoint_url: Endpoint = None,
    region: Region = None,
    as_json: AsJson = False,
) -> None:
    """Set finished runs side by side: what differs, what they score, and which is better on the same rows."""
    page = None if out is None else str(out)
    found = api.compare(runs, out=page, storage=storage, endpoint_url=endpoint_url, region=region)
    if as_json:
        answer(json_line(comparison_json(found)))
    else:
        color = use_color(os.environ, isatty=sys.stdout.isatty())
        answer(comparison_text(found, width=shutil.get_terminal_size((110, 24)).columns, color=color))
    if page is not None:
        tell(f"the comparison is {page}")


def prune(
    run: Annotated[str | None, typer.Option(help="Only this run: its run id or run key.")] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Delete what was found.")] = False,
    storage: Storage = "runs",
    endpoint_url: Endpoint = None,
    region: Region = None,
    as_json: AsJson = False,
) -> None:
    """Show stored objects that no record names, and delete them with --yes; runs at work are left alone."""
    found = api.prune(run, delete=yes, storage=storage, endpoint_url=endpoint_url, region=region)
    if as_json:
        answer(json_line([asdict(each) for each in found]))
        return
    rows = [
        {"job": each.job, "run": each.run_key, "objects": len(each.candidates), "skipped because": each.skipped}
        for each in found
    ]
    answer(plan_text({"storage": storage}, rows))
    candidates = [candidate for each in found for candidate in each.candidates]
    for candidate in candidates:
        answer(f"{candidate.key}  ({candidate.reason})")
    if not candidates:
        tell("there is nothing to delete")
    else:
        tell(f"deleted {len(candidates)}" if yes else f"nothing was deleted: --yes deletes these {len(candidates)}")


def _first_start(run: RunStatus) -> str | None:
    if run.started_at is None:
        return None
    return f"{datetime.fromtimestamp(run.started_at, UTC):%Y-%m-%d %H:%M:%S} UTC, {ago(run.age_s)}"


def _last_sign(run: RunStatus) -> str | None:
    return None if run.sign_age_s is None else f"{ago(run.sign_age_s)} (term {run.sign_term})"


def _members(run: RunStatus) -> str | None:
    return None if run.num_members is None else f"{'–' if run.num_done is None else run.num_done}/{run.num_members}"


def _member_row(member: MemberStatus) -> dict[str, object]:
    checkpoint = None
    if member.checkpoint_epoch is not None:
        parts = (f"epoch {member.checkpoint_epoch}", ago(member.checkpoint_age_s))
        checkpoint = ", ".join(part for part in parts if part)
    return {
        "member": member.index,
        "status": member.status,
        "attempts": member.attempts,
        "preemptions": member.preemptions,
        "last checkpoint": checkpoint,
        "epochs": member.epochs,
        "best epoch": member.best_epoch,
        "last cause": member.last_cause,
    }
