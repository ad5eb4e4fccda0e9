"""The command for what members printed, and for the files that they left; `main` registers it."""

from __future__ import annotations

import shlex
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from orchestrator import api
from orchestrator.cli import clusters
from orchestrator.cli.ending import Signals
from orchestrator.cli.options import Address, AsJson, Endpoint, Headers, Region, Run, Storage
from orchestrator.cli.output import answer, json_line, tell
from orchestrator.errors import InvalidJob
from orchestrator.reporting.attempts import printable
from orchestrator.reporting.sync import Synced


def logs(
    run: Run,
    member: Annotated[int | None, typer.Option(min=0, help="Only this member.")] = None,
    attempt: Annotated[int | None, typer.Option(min=1, help="This attempt; default each member's newest.")] = None,
    follow: Annotated[bool, typer.Option(help="Go on printing what is added until the run has ended.")] = False,
    sync: Annotated[
        Path | None, typer.Option(help="Bring all files for TensorBoard to this folder instead, and what is new there.")
    ] = None,
    address: Address = None,
    headers: Headers = None,
    storage: Storage = "runs",
    endpoint_url: Endpoint = None,
    region: Region = None,
    as_json: AsJson = False,
) -> None:
    """Print the logs that attempts at members left in storage, and the keys of other files of theirs; with --address
    the log of the run's driver."""
    if address is not None or follow:
        refused = {"--attempt": attempt is not None, "--sync": sync is not None, "--json": as_json}
        for name in (name for name, given in refused.items() if given):
            raise InvalidJob("it does not go with --follow or --address", where=name, hint="leave one of them out")
    if address is not None:
        clusters.logs(run, address, headers, member=member, follow=follow)
        return
    clusters.refuse_without_address({"--header": headers})
    if follow:
        _follow(run, member, storage, endpoint_url, region)
        return
    if sync is not None:
        if member is not None or attempt is not None:
            raise InvalidJob(
                "--sync brings the files of all members and attempts", hint="leave --member and --attempt out"
            )
        _tell_synced(sync, api.sync(run, str(sync), storage=storage, endpoint_url=endpoint_url, region=region), as_json)
        return
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


def _follow(run: str, member: int | None, storage: str, endpoint_url: str | None, region: str | None) -> None:
    """Each line with the member that it is of; where an attempt begins, that is said."""
    begun: set[tuple[int, int]] = set()

    def show(index: int, attempt: int, line: str) -> None:
        if (index, attempt) not in begun:
            begun.add((index, attempt))
            answer(f"== member {index}, attempt {attempt} ==")
        answer(f"[member {index}] {line}")

    with Signals("no longer following the logs", clusters.GOES_ON) as signals:
        api.follow_logs(
            run,
            on_line=show,
            member=member,
            storage=storage,
            endpoint_url=endpoint_url,
            region=region,
            on_note=tell,
            interruption=signals.interruption,
        )


def _tell_synced(folder: Path, synced: Synced, as_json: bool) -> None:
    if as_json:
        answer(json_line({"folder": str(folder), **asdict(synced)}))
        return
    size = sum(synced.brought.values())
    tell(f"brought {len(synced.brought)} files ({size:,} bytes) to {folder}; {synced.unchanged} were there")
    for key, reason in synced.skipped.items():
        tell(printable(f"left in storage: {key}: {reason}").replace("\n", " "))
    if synced.boards:
        tell(f"to look at them: tensorboard --logdir {shlex.quote(str(folder))}")
    else:
        tell(
            "none of the run's files is for TensorBoard: `report.tensorboard: true` writes some when it ends, "
            "`orchestrator report RUN --tensorboard` for a run that has ended, a TensorBoard callback while it trains"
        )
