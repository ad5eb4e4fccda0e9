"""Watching a run from storage alone until it ends, from any machine: the run does not notice."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from orchestrator.errors import OrchestratorError, StoreUnavailable, TimedOut
from orchestrator.planning.ports import Clock
from orchestrator.reporting.run_status import RunReader, RunStatus
from orchestrator.reporting.words import duration_text

QUIET_S = 600.0
"""For how long a run is waited for that is not there, that nobody works on, or whose storage is out of reach."""


def watch_run(
    find: Callable[[], RunReader | None],
    *,
    clock: Clock,
    pause: Callable[[float], object],
    note: Callable[[str], None],
    every_s: float,
    timeout_s: float | None = None,
    quiet_s: float = QUIET_S,
    others: Callable[[], str] = str,
) -> Iterator[RunStatus]:
    """Where the run stands, again and again until it has ended; the last one says how.

    Args:
        find: gives the reader of the run; None: it is not there yet.
        clock, pause: the time, and waiting for some seconds.
        note: tells people what cannot be seen in a status.
        every_s: seconds between two looks.
        timeout_s: give up after that many seconds; None: not while the run lives.
        quiet_s: give up after so many seconds in which nothing was heard of the run.
        others: names the runs that there are, for whoever waits for one that is spelled differently; none by default.

    Raises:
        TimedOut: of either kind.
        StoreUnavailable: storage was out of reach for `quiet_s`.
        InvalidInput: several runs have this name, what is stored is damaged, or storage refuses; at once.
    """
    began = heard_at = clock.monotonic()
    reader: RunReader | None = None
    last: RunStatus | None = None
    trouble: OrchestratorError | None = None
    waited = False
    while True:
        try:
            reader = reader or find()
            status = None if reader is None else reader.look(clock.epoch())
            names = others() if status is None and not waited else ""
        except StoreUnavailable as error:
            if trouble is None:
                note(f"storage is out of reach, trying again: {error.what}")
            trouble = error
        else:
            if trouble is not None:
                note("storage answers again")
            trouble = None
            if status is None and not waited:
                waited = True
                note("there is no such run yet: waiting for it" + (f" (there are: {names})" if names else ""))
            if status is not None:
                if last is None or _signs(status) != _signs(last):
                    heard_at = clock.monotonic()
                last = status
                yield status
                if status.exit_code is not None:
                    return
        _check_time(clock.monotonic(), began, heard_at, timeout_s, quiet_s, trouble)
        pause(every_s)


def _signs(status: RunStatus) -> tuple[object, ...]:
    """What changes while somebody works on the run."""
    return status.terms, status.sign_at, [member.sign_at for member in status.members]


def _check_time(
    now: float,
    began: float,
    heard_at: float,
    timeout_s: float | None,
    quiet_s: float,
    trouble: OrchestratorError | None,
) -> None:
    if timeout_s is not None and now - began >= timeout_s:
        raise TimedOut("the time given by --timeout is over", hint="the run does not notice; watch it again")
    if now - heard_at < quiet_s:
        return
    if trouble is not None:
        raise trouble
    raise TimedOut(
        f"nothing has been heard of the run for {duration_text(quiet_s)}",
        hint="is its name right, and its storage? A run that lost its coordinator goes on when it is started again",
    )
