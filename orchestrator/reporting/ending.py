"""How a run ended that has no result, in its coordinator's log."""

from __future__ import annotations

import os
from collections.abc import Mapping

from orchestrator.errors import Interrupted, OrchestratorError, TimedOut
from orchestrator.planning.ports import Clock
from orchestrator.reporting.progress import Progress
from orchestrator.storage.log import Log
from orchestrator.storage.redact import redact

RECORD_END_S = 10.0
"""How long the last record may take: whoever sent SIGTERM sends SIGKILL soon, and a later start can do without it."""


def kind_of_end(error: BaseException) -> str:
    """What a run that ended in this error, without a result, is called: `stopped` where somebody wanted that."""
    return "stopped" if isinstance(error, Interrupted | TimedOut | KeyboardInterrupt) else "failed"


def record_end(
    log: Log, error: OrchestratorError, clock: Clock, progress: Progress, environ: Mapping[str, str] = os.environ
) -> None:
    """Remember why a run ended without a result. It may still be resumed, so this is no `done`.

    Args:
        log: the coordinator's log, claimed.
        error: why; it is the one to report, whether or not it can be recorded.
        clock, progress: effects.
        environ: of this process, whose secrets are blotted out.
    """
    if log.last is not None and log.last.kind == "done":  # only a copy of the result is missing
        return
    try:
        with log.within(RECORD_END_S):
            log.append(
                kind_of_end(error),
                exit_code=error.exit_code,
                message=redact(str(error), environ)[:4000],
                at=clock.epoch(),
            )
    except OrchestratorError as unrecorded:
        progress.note(f"could not record the end of the run: {unrecorded.what}")
