"""What comes of a run's job on a cluster: waited for through the job server, gathered from storage or its own answer.

Ray is imported inside the functions: what only plans answers at once.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

from orchestrator.api.stored import open_at
from orchestrator.errors import (
    AccessDenied,
    ClusterUnavailable,
    DamagedStore,
    Interrupted,
    InvalidJob,
    MissingObject,
    OrchestratorError,
    TimedOut,
    TryAgain,
    UnsupportedStore,
)
from orchestrator.planning.collection import ENDED
from orchestrator.planning.recovery import read_run
from orchestrator.reporting.publish import finished_result
from orchestrator.reporting.result import Result, from_json, to_json
from orchestrator.reporting.status import find_run
from orchestrator.storage.beat import Pulse, read_beat
from orchestrator.storage.log import Log
from orchestrator.storage.parallel import in_background

if TYPE_CHECKING:
    from orchestrator.cluster.jobs.decisions import Decision
    from orchestrator.cluster.jobs.server import JobServer
    from orchestrator.cluster.jobs.submitted import KnownJob

STOPPED_WITHIN_S = 45.0
"""How long a stopped job is waited for: what its driver has between SIGTERM and SIGKILL, and Ray's own time."""

READ_WITHIN_S = 10.0
"""How long storage is tried for a result that the driver has told already."""

_LISTEN_EVERY_S = 30.0
"""How often storage is asked for a driver's sign of life."""

_SIGINT, _SIGTERM = 130, 143

OnInterrupt = Literal["detach", "stop"]


@dataclass(frozen=True)
class Waiting:
    """How to wait for a job, and what to tell meanwhile.

    Attributes:
        timeout_s: stop waiting after that long (TimedOut); the job goes on.
        on_log: gets each line of the driver's log, but for its answer.
        on_note: gets what else there is to know.
        interruption: asked twice a second; an `Interrupted` that it returns ends the waiting.
        on_interrupt: what becomes of the job then; None: SIGTERM stops it, SIGINT does not.
        silent_s: stop waiting (ClusterUnavailable) after so many seconds without a sign of life in storage from a
            driver that coordinates the run: it is frozen, and Ray would call it running for ever.
    """

    timeout_s: float | None = None
    on_log: Callable[[str], None] = lambda line: None
    on_note: Callable[[str], None] = lambda text: None
    interruption: Callable[[], OrchestratorError | None] = lambda: None
    on_interrupt: OnInterrupt | None = None
    silent_s: float = 600.0


@dataclass(frozen=True)
class SubmittedRun:
    """A run on a cluster, as far as the one who submitted it, or waited for it, knows.

    Attributes:
        run_id, run_key, address: which, and where.
        folder: where the run lies in storage, see `KnownJob.folder`.
        submission_id: the id of its job; None where none was needed.
        state: `submitted` now; `attached` to the live job that was there; `ended`: the job waited for had ended before;
            `recorded`: the run has a result, which is returned without a job.
        exit_code: the driver's true one, or the recorded one; None: it was not waited for.
        reason: why the exit code is not 0.
        status: of the result; without one `stopped` or `failed`, once the job has ended badly.
        result: where there is one, and it was waited for.
        error: what the driver answered instead of a result.
    """

    run_id: str
    run_key: str
    address: str
    folder: str
    submission_id: str | None
    state: Literal["submitted", "attached", "ended", "recorded"]
    exit_code: int | None = None
    reason: str | None = None
    result: Result | None = field(default=None, repr=False)
    error: Mapping[str, Any] | None = None

    @property
    def status(self) -> str | None:
        """See above."""
        if self.result is not None:
            return self.result.status
        return "stopped" if self.exit_code == _SIGTERM else "failed" if self.exit_code else None

    def to_json(self) -> dict[str, Any]:
        """As plain values; `result` is what `run --json` prints, `error` what it prints instead."""
        names = ("run_id", "run_key", "address", "submission_id", "state", "exit_code", "reason", "status", "error")
        result = None if self.result is None else json.loads(to_json(self.result))
        return {**{name: getattr(self, name) for name in names}, "result": result}


def await_job(
    server: JobServer, found: SubmittedRun, storage: Mapping[str, Any] | None, waiting: Waiting
) -> SubmittedRun:
    """Wait for a job's end and gather what came of it.

    Args:
        server: the cluster's.
        found: the run, with its submission id.
        storage: where the run is stored, as arguments of `open_at`; None: not known.
        waiting: how.
    """
    from orchestrator.cluster.jobs.decisions import driver_answer
    from orchestrator.cluster.jobs.submission import wait_for

    answers: list[dict[str, Any]] = []

    def on_log(line: str) -> None:
        answer = driver_answer(line)
        if answer is None:
            waiting.on_log(line)
        else:
            answers[:] = [answer]

    leaving = _Leaving(server, str(found.submission_id), waiting)
    silence = _Silence(server, found, storage, waiting.silent_s)
    end = wait_for(
        server,
        str(found.submission_id),
        timeout_s=waiting.timeout_s,
        on_log=on_log,
        interruption=lambda: leaving() or (silence() if leaving.error is None else None),
    )
    if leaving.error is not None:
        raise leaving.stopped(leaving.error)
    return _ended(found, end, answers[-1] if answers else None, storage)


def coordinates_now(job: KnownJob, log: Log) -> bool:
    """Whether a live job's driver coordinates the run of this log, so far as the log tells."""
    from orchestrator.cluster.jobs.submitted import coordinates

    return coordinates(job, log.term, has_ended=log.last is not None and log.last.kind in ENDED)


def stored_result(storage: Mapping[str, Any] | None, folder: str) -> Result | None:
    """A run's result, where it has one and its storage can be read from here."""
    if storage is None:
        return None
    with suppress(AccessDenied, InvalidJob, UnsupportedStore, DamagedStore, MissingObject, TryAgain):
        store = open_at(**storage)
        layout = find_run(store, folder, str(storage["storage"]))
        memory = read_run(Log.open(store, layout.coord_log, deadline_s=READ_WITHIN_S).records())
        return finished_result(store, layout, memory) if memory.done is not None else None
    return None


class _Leaving:
    """What an interruption means for the job, asked again and again: whether to stop it, and for how long to wait then.

    Ctrl-C at a terminal ends the looking on, as nobody means a night's work by it. SIGTERM comes from a scheduler that
    gives its task up, by its own time limit or because somebody cancelled it: who pays for the GPUs wants them free.
    If it was only the scheduler's machine that was taken, little is lost: the driver publishes the newest finished
    epoch, and the retry resumes there.
    """

    def __init__(self, server: JobServer, submission_id: str, waiting: Waiting) -> None:
        self.error: OrchestratorError | None = None
        self._server = server
        self._submission_id = submission_id
        self._waiting = waiting
        self._until = 0.0

    def __call__(self) -> OrchestratorError | None:
        """The error with which the waiting ends now; None: it goes on."""
        error = self._waiting.interruption()
        if error is not None and self.error is None:
            if (self._waiting.on_interrupt or ("stop" if error.exit_code == _SIGTERM else "detach")) == "detach":
                return self._interrupted(error, "no longer waiting; the job goes on")
            self._waiting.on_note(f"stopping job {self._submission_id}")
            self.error = error
            self._until = time.monotonic() + STOPPED_WITHIN_S
            try:
                self._server.stop(self._submission_id)
            except (AccessDenied, ClusterUnavailable) as unasked:
                return self._interrupted(error, f"the job could not be asked to stop: {unasked.what}")
        if self.error is not None and time.monotonic() > self._until:
            return self._interrupted(self.error, "the job was asked to stop, and has not been seen to end")
        return None

    def stopped(self, error: OrchestratorError) -> Interrupted:
        """What is told once the job has ended."""
        return self._interrupted(error, "the job was stopped", "submit again: the run resumes")

    def _interrupted(self, error: OrchestratorError, what: str, hint: str | None = None) -> Interrupted:
        from orchestrator.cluster.jobs.submission import how_to_go_on

        address = self._server.address
        hint = hint or how_to_go_on(self._submission_id, address)
        where = f"job {self._submission_id} on {address}"
        return Interrupted(what, where=where, hint=hint, signal_number=error.exit_code - 128)


class _Silence:
    """Whether the driver is frozen, so far as the run's storage tells it here; asked again and again."""

    def __init__(
        self, server: JobServer, found: SubmittedRun, storage: Mapping[str, Any] | None, silent_s: float
    ) -> None:
        self._server = server
        self._found = found
        self._storage = storage
        self._silent_s = silent_s
        self._every_s = min(_LISTEN_EVERY_S, silent_s / 2)
        self._seen: Pulse | None = None
        self._since = time.monotonic()
        self._next_at = self._since + self._every_s
        self._look: Future[Pulse | None] | None = None

    def __call__(self) -> OrchestratorError | None:
        """The error with which the waiting ends now; None: it goes on. Waits for nothing, least of all for storage."""
        now, storage = time.monotonic(), self._storage
        if self._look is None:
            if storage is not None and now >= self._next_at:
                self._look = in_background(lambda: self._sign(storage))
            return None
        if not self._look.done():
            return None
        # Whatever goes wrong while looking is no sign that the driver is frozen.
        sign = None if self._look.exception() is not None else self._look.result()
        self._look, self._next_at = None, now + self._every_s
        if sign is None or sign != self._seen:
            self._seen, self._since = sign, now
        if now - self._since < self._silent_s:
            return None
        return ClusterUnavailable(
            f"its driver has shown no sign of life in storage for {self._silent_s:g} s",
            where=f"job {self._found.submission_id} on {self._server.address}",
            hint="submit again: another driver takes the run over, and goes on from what is stored",
        )

    def _sign(self, storage: Mapping[str, Any]) -> Pulse | None:
        """The newest beat of the job's own driver; None: it has made none, or its run has ended."""
        job = self._server.job(str(self._found.submission_id))
        if job is None or job.status != "RUNNING":
            return None
        store = open_at(**storage)
        layout = find_run(store, self._found.folder, str(storage["storage"]))
        log = Log.open(store, layout.coord_log, deadline_s=READ_WITHIN_S)
        if not coordinates_now(job, log):
            return None
        beat = read_beat(store, layout.beat)
        return beat if beat is not None and beat.term == log.term else None


def _ended(
    found: SubmittedRun, end: Decision, answer: Mapping[str, Any] | None, storage: Mapping[str, Any] | None
) -> SubmittedRun:
    """The result as it is stored, else as the driver told it; without one, what the driver said instead."""
    told = answer is not None and "schema" in answer
    result = stored_result(storage, found.folder) if told or end.exit_code == 0 else None
    if result is None and told:
        with suppress(DamagedStore):  # another version of this package trains there: its exit code stands
            result = from_json(json.dumps(answer).encode())
    reason = end.reason if end.exit_code else None
    if result is not None:
        return replace(found, exit_code=end.exit_code, reason=reason, result=result)
    error = _job_ended(found, end, has_result=told) if answer is None or told else answer
    return replace(found, exit_code=end.exit_code, reason=reason, error=error)


def _job_ended(found: SubmittedRun, end: Decision, *, has_result: bool) -> dict[str, Any]:
    """What stands for the answer of a driver that gave none, or none that can be read here."""
    worth_a_retry = end.exit_code in (ClusterUnavailable.exit_code, TimedOut.exit_code, _SIGINT, _SIGTERM)
    if has_result or end.exit_code == 0:
        hint = "the run has its result in its storage; is this package of the same version here as there?"
    elif worth_a_retry:
        hint = "submit again: the run resumes from its storage"
    else:
        hint = "its log tells more; the cluster's nodes need this package and those of the job's own code"
    return {
        "error": "JobEnded",
        "what": f"{end.reason}, and its result cannot be read here" if has_result else end.reason,
        "where": f"job {found.submission_id} on {found.address}",
        "hint": hint,
        "exit_code": end.exit_code,
        "retryable": worth_a_retry,
    }
