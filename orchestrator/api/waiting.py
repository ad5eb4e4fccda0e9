"""Runs that are waited for, whoever works on them, from storage alone: from any machine, without a cluster."""

from __future__ import annotations

import time
from collections.abc import Callable

from orchestrator.api.clock import SystemClock
from orchestrator.api.stored import open_at
from orchestrator.attach import Start, await_end
from orchestrator.errors import InvalidJob, OrchestratorError, RunEnded, TimedOut
from orchestrator.planning.ports import Store
from orchestrator.reporting.attempts import LogTail
from orchestrator.reporting.result import Result
from orchestrator.reporting.run_spec import read_spec
from orchestrator.reporting.status import find_run, find_run_if_there
from orchestrator.storage.layout import RunLayout
from orchestrator.storage.log import Log

LOOK_FOR_RUN_EVERY_S = 1.0


def wait(
    run: str,
    *,
    storage: str = "runs",
    endpoint_url: str | None = None,
    region: str | None = None,
    timeout_s: float | None = None,
    on_note: Callable[[str], None] = lambda text: None,
    interruption: Callable[[], OrchestratorError | None] = lambda: None,
) -> Result:
    """Wait until a run has a result, and return it.

    Args:
        run: its run id or run key.
        storage, endpoint_url, region: as for `status`.
        timeout_s: give up after that many seconds; until then a run that is not there yet is waited for, too.
        on_note: gets what there is to know meanwhile.
        interruption: asked every second; an error that it returns ends the waiting, not the run.

    Raises:
        InvalidJob: there is no such run, and no `timeout_s` within which it may begin; or several have this id.
        RunEnded: it ended without a result, with the exit code that it recorded; or nobody works on it (75).
        StoreUnavailable: storage is out of reach.
        TimedOut, Interrupted: as asked; TimedOut also of a run that has not begun.
    """
    clock = SystemClock()
    give_up_at = None if timeout_s is None else clock.monotonic() + timeout_s
    store = open_at(storage, endpoint_url, region)
    layout = _find(store, run, storage, give_up_at, interruption)
    log = Log.open(store, layout.coord_log)
    return await_end(
        _start(store, layout), log, clock=clock, note=on_note, interruption=interruption, give_up_at=give_up_at
    )


def follow_logs(
    run: str,
    *,
    on_line: Callable[[int, int, str], None],
    member: int | None = None,
    storage: str = "runs",
    endpoint_url: str | None = None,
    region: str | None = None,
    on_note: Callable[[str], None] = lambda text: None,
    interruption: Callable[[], OrchestratorError | None] = lambda: None,
) -> None:
    """Hand out what members log, as it arrives in storage, until the run has ended, however it does.

    Args:
        run: its run id or run key.
        on_line: gets member, attempt and line.
        member: only this one's.
        storage, endpoint_url, region: as for `status`.
        on_note, interruption: as for `wait`.

    Raises:
        InvalidJob: there is no such run.
        StoreUnavailable: storage is out of reach.
        Interrupted: as asked.
    """
    store = open_at(storage, endpoint_url, region)
    layout = find_run(store, run, storage)
    tail = LogTail(store, layout, member=member)

    def hand_out(*, last: bool = False) -> None:
        for attempt, line in tail.read(last=last):
            on_line(attempt.member, attempt.term, line)

    def pause(seconds: float) -> None:
        hand_out()
        time.sleep(seconds)

    log = Log.open(store, layout.coord_log)
    try:
        await_end(
            _start(store, layout),
            log,
            clock=SystemClock(),
            note=lambda text: None,
            interruption=interruption,
            give_up_at=None,
            pause=pause,
        )
    except RunEnded as ended:
        on_note(ended.what)
    hand_out(last=True)


def _start(store: Store, layout: RunLayout) -> Start:
    spec = read_spec(store, layout)
    return Start(store, layout, spec.run_id, spec.takeover_s, attach=True, claim={})


def _find(
    store: Store,
    run: str,
    storage: str,
    give_up_at: float | None,
    interruption: Callable[[], OrchestratorError | None],
) -> RunLayout:
    """The run, once it is there: a job that was just submitted takes a while to begin."""
    while (found := find_run_if_there(store, run)) is None:
        if give_up_at is None:
            try:
                return find_run(store, run, storage)
            except InvalidJob as absent:
                absent.hint = f"{absent.hint}; with --timeout SECONDS a run that has not begun is waited for"
                raise
        if time.monotonic() >= give_up_at:
            raise TimedOut(
                "the run has not begun within the time given by --timeout",
                where=f"{storage}: run {run}",
                hint="wait on; or is it kept elsewhere (--storage), or known by another id (`orchestrator list`)?",
            )
        if error := interruption():
            raise error
        time.sleep(LOOK_FOR_RUN_EVERY_S)
    return found
