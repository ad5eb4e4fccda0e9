"""The commands for runs that are stored, whether or not anybody works on them; `main` registers them."""

from __future__ import annotations

import sys
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Annotated

import typer

from orchestrator import api
from orchestrator.cli.options import AsJson, Endpoint, Region, Run, Storage
from orchestrator.cli.output import answer, json_line, tell
from orchestrator.reporting.status import MemberStatus, RunStatus
from orchestrator.reporting.tables import plan_text


def status(
    run: Run, storage: Storage = "runs", endpoint_url: Endpoint = None, region: Region = None, as_json: AsJson = False
) -> None:
    """Show where a run stands, from what is stored."""
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


def stop(run: Run, storage: Storage = "runs", endpoint_url: Endpoint = None, region: Region = None) -> None:
    """Ask a run to end, from any process or machine; what is published stands, a later start resumes."""
    key = api.stop(run, storage=storage, endpoint_url=endpoint_url, region=region)
    tell(f"asked run {run} to stop ({key}); its coordinator, where there is one, looks every few seconds")


def logs(
    run: Run,
    member: Annotated[int | None, typer.Option(min=0, help="Only this member.")] = None,
    attempt: Annotated[int | None, typer.Option(min=1, help="This attempt; default each member's newest.")] = None,
    storage: Storage = "runs",
    endpoint_url: Endpoint = None,
    region: Region = None,
    as_json: AsJson = False,
) -> None:
    """Print the logs that attempts at members left in storage, and the keys of other files of theirs."""
    found = api.logs(run, member=member, attempt=attempt, storage=storage, endpoint_url=endpoint_url, region=region)
    if as_json:
        answer(
            json_line(
                [
                    {"member": each.member, "attempt": each.term, "files": each.files, "text": "".join(text)}
                    for each, text in found
                ]
            )
        )
        return
    files: list[str] = []
    for each, text in found:
        answer(f"== member {each.member}, attempt {each.term} ==")
        for part in text:
            sys.stdout.write(part)
        answer("")
        files += each.files
    if files:
        answer("\n".join(["other files:", *files]))


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


def ago(seconds: float | None) -> str | None:
    """An age in words: `12 s`, `3 min`, `2 h 5 min`, `3 d 4 h`."""
    if seconds is None:
        return None
    minutes, hours, days = int(seconds // 60), int(seconds // 3600), int(seconds // 86400)
    if days:
        return f"{days} d {hours % 24} h ago"
    if hours:
        return f"{hours} h {minutes % 60} min ago"
    return f"{minutes} min ago" if minutes else f"{seconds:.0f} s ago"


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
