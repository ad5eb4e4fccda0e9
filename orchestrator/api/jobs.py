"""Runs on a Ray cluster that somebody submitted: waited for, read, looked at and stopped through its job server.

Ray is imported inside the functions: what only plans answers at once.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from orchestrator.api.awaited import SubmittedRun, Waiting, await_job, coordinates_now
from orchestrator.api.stored import open_at
from orchestrator.errors import AccessDenied, InvalidJob, MissingObject, OrchestratorError, TryAgain
from orchestrator.planning.ports import Store
from orchestrator.reporting.run_status import RunStatus
from orchestrator.reporting.status import find_run, status_of
from orchestrator.storage.layout import RunLayout, new_nonce
from orchestrator.storage.log import Log

if TYPE_CHECKING:
    from orchestrator.cluster.jobs.server import JobServer
    from orchestrator.cluster.jobs.submitted import KnownJob


def wait_submitted(
    run: str,
    *,
    address: str,
    headers: Sequence[str] = (),
    storage: Mapping[str, Any] | None = None,
    waiting: Waiting | None = None,
) -> SubmittedRun:
    """Wait for a run's job on a cluster: the live one, else the newest.

    Args:
        run: its run id or run key, or the submission id of one job.
        address, headers: as for `submit`.
        storage: arguments of `open_at`; default where the job's metadata say that the run is stored.
        waiting: how; default without end, silent.

    Raises:
        InvalidJob: the cluster knows no such job.
        ClusterUnavailable, AccessDenied, TimedOut, Interrupted: as for `submit`.
    """
    from orchestrator.cluster.jobs.submitted import storage_in

    server, jobs = _find_jobs(run, address, headers)
    job = jobs[-1]
    found = SubmittedRun(
        run_id=job.metadata.get("run_id", job.run_key),
        run_key=job.run_key,
        address=server.address,
        folder=job.folder,
        submission_id=job.submission_id,
        state="attached" if job.is_live else "ended",
    )
    return await_job(server, found, storage or storage_in(job.metadata), waiting or Waiting())


def submitted_log(
    run: str,
    *,
    address: str,
    headers: Sequence[str] = (),
    follow: bool = False,
    member: int | None = None,
    on_line: Callable[[str], None],
    interruption: Callable[[], OrchestratorError | None] = lambda: None,
) -> None:
    """Hand out the log of a run's driver, the live one's or else the newest's, line by line.

    Args:
        run, address, headers: as for `wait_submitted`.
        follow: go on until the job ends, however it does; else what there is now.
        member: only lines about this one.
        on_line: gets each line.
        interruption: asked twice a second; an error that it returns ends the following.

    Raises:
        InvalidJob, ClusterUnavailable, AccessDenied, Interrupted: as for `wait_submitted`.
    """
    from orchestrator.cluster.jobs.decisions import is_of_member
    from orchestrator.cluster.jobs.submission import wait_for

    def hand_out(line: str) -> None:
        if member is None or is_of_member(line, member):
            on_line(line)

    server, jobs = _find_jobs(run, address, headers)
    submission_id = jobs[-1].submission_id
    if follow:
        wait_for(server, submission_id, timeout_s=None, on_log=hand_out, interruption=interruption)
        return
    for line in server.log(submission_id).splitlines():
        hand_out(line)


@dataclass(frozen=True)
class SubmittedJob:
    """One job of a run: Ray's status, and once it has ended the exit code and what it means; UTC epoch seconds."""

    submission_id: str
    status: str
    exit_code: int | None
    reason: str | None
    started_at: float | None
    ended_at: float | None


@dataclass(frozen=True)
class SubmittedStatus:
    """A run as its cluster and its storage show it; `run` is None where storage cannot be read from here."""

    run_id: str
    run_key: str
    address: str
    jobs: tuple[SubmittedJob, ...]
    run: RunStatus | None


def submitted_status(
    run: str, *, address: str, headers: Sequence[str] = (), storage: Mapping[str, Any] | None = None
) -> SubmittedStatus:
    """Where a run's jobs on a cluster stand, and the run itself.

    Args:
        run, address, headers, storage: as for `wait_submitted`.

    Raises:
        InvalidJob, ClusterUnavailable, AccessDenied: as for `wait_submitted`.
    """
    server, jobs = _find_jobs(run, address, headers)
    job = jobs[-1]
    found = _find_stored(job, storage)
    return SubmittedStatus(
        run_id=job.metadata.get("run_id", job.run_key),
        run_key=job.run_key,
        address=server.address,
        jobs=tuple(_shown(each) for each in sorted(jobs, key=lambda each: each.number)),
        run=None if found is None else status_of(*found, now=time.time()),
    )


def stop_submitted(
    run: str, *, address: str, headers: Sequence[str] = (), storage: Mapping[str, Any] | None = None
) -> str:
    """Ask a run's live job to end, and return how it was asked; what is published stands, a later start resumes.

    Where the run's storage can be read from here and the job's driver coordinates the run, the request goes there, as
    without a cluster: the driver then has all the time that it needs. Else Ray sends the driver SIGTERM.

    Raises:
        InvalidJob: there is no live job of the run.
        ClusterUnavailable, AccessDenied: as for `wait_submitted`.
    """
    server, jobs = _find_jobs(run, address, headers)
    job = jobs[-1]
    if not job.is_live:
        raise InvalidJob("the job has ended", where=f"job {job.submission_id}", hint="there is nothing to stop")
    found = _find_stored(job, storage)
    if found is not None:
        store, layout = found
        log = Log.open(store, layout.coord_log)
        if coordinates_now(job, log):
            key = layout.stop_request(new_nonce())
            store.create(key, b"{}")
            return f"asked the coordinator through storage ({key}); it looks every few seconds"
    server.stop(job.submission_id)
    return "asked Ray to stop the driver"


def _shown(job: KnownJob) -> SubmittedJob:
    from orchestrator.cluster.jobs.decisions import exit_code_of

    end = None if job.is_live else exit_code_of(job.status, job.driver_exit_code, job.message)
    return SubmittedJob(
        job.submission_id,
        job.status,
        None if end is None else end.exit_code,
        None if end is None else end.reason,
        job.started_at,
        job.ended_at,
    )


def _find_jobs(run: str, address: str, headers: Sequence[str]) -> tuple[JobServer, list[KnownJob]]:
    """A run's jobs; the last of them is the one to look at."""
    from orchestrator.cluster.jobs.server import open_job_server
    from orchestrator.cluster.jobs.submitted import jobs_of, of_the_run_meant

    server = open_job_server(address, headers, os.environ)
    jobs = jobs_of(server.jobs(), run)
    if not jobs:
        raise InvalidJob(
            "the cluster knows no job of this run",
            where=f"{server.address}: run {run}",
            hint="is it the right cluster? If its head is a new one, submit again: the run resumes from its storage",
        )
    meant = of_the_run_meant(jobs)
    if not meant:
        shown = ", ".join(f"{job.folder} ({job.submission_id} in {job.metadata.get('storage', '?')})" for job in jobs)
        raise InvalidJob(
            "several runs on this cluster have this id",
            where=f"{server.address}: run {run}",
            hint=f"name one by <job>/<run key>, or its job: {shown}",
        )
    return server, meant


def _find_stored(job: KnownJob, storage: Mapping[str, Any] | None) -> tuple[Store, RunLayout] | None:
    """The run in its storage; None where it cannot be read from here, or is not there yet."""
    from orchestrator.cluster.jobs.submitted import storage_in

    place = storage or storage_in(job.metadata)
    if place is None:
        return None
    try:
        store = open_at(**place)
        return store, find_run(store, job.folder, str(place["storage"]))
    except (AccessDenied, InvalidJob, MissingObject, TryAgain):
        return None
