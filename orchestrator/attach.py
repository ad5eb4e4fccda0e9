"""What a start does before it may coordinate: return the result, follow the live coordinator, or become it.

Many starts of one run at once (schedulers that retry, two triggers) end with one coordinator: a start claims only the
log that it saw, so of all that saw the same only one gets it, and the others see its claim.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from orchestrator.errors import (
    Interrupted,
    OrchestratorError,
    QuorumMissed,
    RunEnded,
    RunHeld,
    StoreUnavailable,
    TimedOut,
)
from orchestrator.planning.collection import ENDED
from orchestrator.planning.liveness import Sign, Watch, look
from orchestrator.planning.ports import Clock, Store
from orchestrator.planning.recovery import read_run
from orchestrator.reporting.progress import Progress
from orchestrator.reporting.publish import finished_result
from orchestrator.reporting.result import Result
from orchestrator.storage.beat import read_beat
from orchestrator.storage.layout import RunLayout
from orchestrator.storage.log import Log
from orchestrator.storage.records import JSON

LOOK_EVERY_S = 1.0
TELL_EVERY_S = 60.0


@dataclass(frozen=True)
class Start:
    """One start of a run.

    Attributes:
        store, layout: where the run lives.
        run_id: for messages.
        takeover_s: how long nothing may move before a coordinator counts as dead.
        attach: whether to follow a live coordinator; else `RunHeld`.
        claim: what a claim of this start says besides its term and time.
    """

    store: Store
    layout: RunLayout
    run_id: str
    takeover_s: float
    attach: bool
    claim: dict[str, JSON]


def become_coordinator(
    start: Start,
    log: Log,
    *,
    clock: Clock,
    progress: Progress,
    before_claim: Callable[[], None],
    interruption: Callable[[], OrchestratorError | None],
    give_up_at: float | None,
    pause: Callable[[float], object] = time.sleep,
) -> Result | int:
    """Wait until this start is the run's coordinator, or the run has a result.

    Args:
        start: which.
        log: the coordinator's log, open.
        clock, progress, pause: effects.
        before_claim: checks that a claim can be trusted (the probe); called once, when it comes to that.
        interruption: asked at each look; an error that it returns ends the waiting, not the run.
        give_up_at: monotonic second at which to end with `TimedOut`; None: never.

    Returns:
        The result, or the term under which this start is the coordinator now.

    Raises:
        RunHeld: a coordinator is alive, and `attach` is off.
        RunEnded: the coordinator that was followed ended the run without a result; the exit code is the recorded one.
        Interrupted, TimedOut: as asked.
    """
    watch: Watch | None = None
    checked = False
    told_at = float("-inf")
    while True:
        log.refresh()
        memory = read_run(log.records())
        if memory.done is not None:
            progress.note(f"run {start.run_id} is finished: this is its recorded result")
            return finished_result(start.store, start.layout, memory)
        sign = _sign(start, log, watch)
        watch, decision = look(watch, sign, clock.monotonic(), start.takeover_s)
        if decision.action == "claim":
            if not checked:
                before_claim()
                checked = True
                continue  # checking took its time: look again
            if log.last is not None:
                progress.note(f"taking run {start.run_id} over: {decision.reason}")
            told: Sequence[JSON] = sorted(start.store.list(start.layout.control))  # to those before us, not to us
            term = log.claim_if_unchanged(**start.claim, run_id=start.run_id, at=clock.epoch(), stops=told)
            if term is not None:
                return term
            continue
        if decision.action == "end":
            raise _recorded_end(start, log)
        if decision.action == "follow" and not start.attach:
            raise RunHeld(
                f"run {start.run_id} has a live coordinator (term {log.term})",
                hint="start again later, or without --no-attach to wait for its result",
            )
        if clock.monotonic() - told_at >= TELL_EVERY_S:
            told_at = clock.monotonic()
            progress.note(f"attached to run {start.run_id} (term {log.term}): {decision.reason}")
        _check_time(interruption(), give_up_at, clock)
        pause(LOOK_EVERY_S)


def is_silent(start: Start, log: Log, *, clock: Clock, pause: Callable[[float], object] = time.sleep) -> bool:
    """Whether an unfinished run's coordinator gives no sign of life; until it gives one, `takeover_s` are waited for.

    Args:
        start: the run; `attach` and `claim` do not matter.
        log: the coordinator's log, open.
        clock, pause: effects.
    """
    watch: Watch | None = None
    while True:
        log.refresh()
        if log.last is None or log.last.kind in ENDED:
            return False
        watch, decision = look(watch, _sign(start, log, watch), clock.monotonic(), start.takeover_s)
        if decision.action != "wait":
            return decision.action == "claim"
        pause(LOOK_EVERY_S)


def await_end(
    start: Start,
    log: Log,
    *,
    clock: Clock,
    note: Callable[[str], None],
    interruption: Callable[[], OrchestratorError | None],
    give_up_at: float | None,
    pause: Callable[[float], object] = time.sleep,
) -> Result:
    """Look on until a run has ended, whoever coordinates it; nothing is written and nothing claimed.

    Args:
        start: the run; `attach` and `claim` do not matter.
        log: the coordinator's log, open.
        clock, note, pause: effects.
        interruption, give_up_at: as for `become_coordinator`.

    Raises:
        RunEnded: the run ended without a result, with the recorded exit code; or nobody works on it (75).
        Interrupted, TimedOut: as asked.
    """
    watch: Watch | None = None
    told_at = float("-inf")
    while True:
        log.refresh()
        memory = read_run(log.records())
        if memory.done is not None:
            return finished_result(start.store, start.layout, memory)
        if log.last is not None and log.last.kind in ENDED:
            raise _recorded_end(start, log)
        now = clock.monotonic()
        watch, decision = look(watch, _sign(start, log, watch), now, start.takeover_s)
        if decision.action == "claim" and now - watch.since >= start.takeover_s:
            raise RunEnded(
                f"nobody works on the run: {decision.reason}",
                where=f"run {start.run_id}",
                hint="start it again: it resumes",
            )
        if now - told_at >= TELL_EVERY_S:
            told_at = now
            note(f"waiting for run {start.run_id} (term {log.term}): {decision.reason}")
        _check_time(interruption(), give_up_at, clock)
        pause(LOOK_EVERY_S)


def _sign(start: Start, log: Log, watch: Watch | None) -> Sign:
    try:
        pulse = read_beat(start.store, start.layout.beat)
        beat = (pulse.term, pulse.n) if pulse else None
    except StoreUnavailable:  # the log could be read; a beat that cannot be is one that does not move
        beat = watch.sign.beat if watch else None
    return Sign(len(log.records()), log.last.kind if log.last else None, beat)


def _recorded_end(start: Start, log: Log) -> OrchestratorError:
    last = log.last
    body = last.body if last else {}
    error = RunEnded(
        f"the run that this start was attached to ended without a result: {body.get('message')}",
        where=f"run {start.run_id}",
        hint="start again to resume",
    )
    error.exit_code = int(str(body.get("exit_code", error.exit_code)))
    error.retryable = error.exit_code > QuorumMissed.exit_code
    return error


def _check_time(error: OrchestratorError | None, give_up_at: float | None, clock: Clock) -> None:
    if error is not None:
        if isinstance(error, Interrupted):
            error.hint = "this start was attached: the run goes on without it; `orchestrator stop` ends it"
        raise error
    if give_up_at is not None and clock.monotonic() >= give_up_at:
        raise TimedOut("the time given by --timeout is over", hint="the run goes on; start again to attach")
