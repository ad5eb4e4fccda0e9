"""Submission through Ray's job API: ship the job's code, start the driver on the head, wait, give its true exit code.

The decisions are in `submission_decisions` and `submitted_jobs`, the requests in `job_server`; here is what they make.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from orchestrator.cluster.jobs.decisions import (
    NEVER_SHIPPED,
    Decision,
    exit_code_of,
    outside_of_working_dir,
    shippable_env,
)
from orchestrator.cluster.jobs.log import LogFollower
from orchestrator.cluster.jobs.server import JobServer
from orchestrator.cluster.jobs.submitted import (
    KnownJob,
    is_of_run,
    is_same,
    jobs_of,
    newest,
    next_number,
    submission_id_of,
)
from orchestrator.errors import (
    AccessDenied,
    ClusterUnavailable,
    CredentialsExpired,
    IdentityChanged,
    InvalidJob,
    OrchestratorError,
    TimedOut,
)

_POLL_S = 0.5
_PATIENCE_S = 120.0
_MOST_TRIES = 10


@dataclass(frozen=True)
class Submission:
    """A run's job on a cluster: `submitted` now, or `attached`: a live one that was there, whoever submitted it."""

    submission_id: str
    state: Literal["submitted", "attached"]


def job_path_in(working_dir: str, job: str) -> str:
    """The job file's path relative to the working directory, `/`-joined, as the driver will see it.

    Raises:
        InvalidJob: the job file lies outside of the working directory, so that it would not be shipped.
    """
    root = Path(working_dir).resolve()
    path = Path(job).resolve() if Path(job).is_absolute() else (root / job).resolve()
    if not path.is_relative_to(root):
        raise outside_of_working_dir(job)
    return path.relative_to(root).as_posix()


def submit_job(
    server: JobServer,
    *,
    run_key: str,
    entrypoint: Sequence[str],
    working_dir: str,
    last_term: int | None = None,
    metadata: Mapping[str, str] | None = None,
    accept_code_change: bool = False,
    env_vars: Mapping[str, str] | None = None,
    is_frozen: Callable[[KnownJob], bool] = lambda job: False,
) -> Submission:
    """Find the live job of a run, or ship the working directory and start one on the cluster's head.

    Submitting twice is safe, also when the answer to the first request was lost, or two submit at once.

    Args:
        server: the cluster's.
        run_key: the run.
        entrypoint: the driver's command line (see `driver_command`); quoted here, as Ray hands it to a shell.
        working_dir: the folder to ship; the driver starts in its copy.
        last_term: the last term in the run's log, 0 where there is none; None where it cannot be read from here.
        metadata: what the cluster tells of the job besides the run's key, see `metadata_of`; no secrets.
        accept_code_change: attach although the live job's own code is not that in `metadata`.
        env_vars: for the driver and its workers; names and paths of credentials, never values.
        is_frozen: whether a live job does nothing any more: then it is left alone, and another takes the run over.

    Raises:
        ClusterUnavailable: the job server is out of reach, silent, or failed.
        AccessDenied: the token is missing or wrong.
        IdentityChanged: the live job is of another identity.
        InvalidJob: the folder or a variable cannot be used, or the folder is too large to ship.
    """
    if not Path(working_dir).is_dir():
        raise InvalidJob("the working directory is no folder", where=working_dir)
    runtime_env = {
        "working_dir": working_dir,
        "excludes": list(NEVER_SHIPPED),
        "env_vars": shippable_env(env_vars or {}),
    }
    told = metadata or {}
    for _ in range(_MOST_TRIES):
        known = jobs_of(server.jobs(), run_key)
        live = newest([job for job in known if is_of_run(job, told)])
        if live is not None and live.is_live:
            found = _attached(server, live, told, accept_code_change)
            if not is_frozen(live):
                return found
        number = next_number(known, last_term)
        submission_id = submission_id_of(run_key, number)
        term = {} if last_term is None else {"term": str(number)}
        try:
            server.submit(
                submission_id,
                entrypoint=entrypoint,
                runtime_env=runtime_env,
                metadata={**told, **term, "run_key": run_key},
            )
        except ClusterUnavailable:
            # Another submitter was first, or the answer to our own request was lost: then there is a job to wait for.
            there = server.job(submission_id)
            if there is None:
                raise
            if is_of_run(there, told):
                return _attached(server, there, told, accept_code_change)
        else:
            return Submission(submission_id, "submitted")
    raise ClusterUnavailable(
        f"other runs of this id were submitted first, {_MOST_TRIES} times", where=f"run {run_key} on {server.address}"
    )


def _attached(server: JobServer, job: KnownJob, told: Mapping[str, str], accept_code_change: bool) -> Submission:
    if not is_same(job, told, accept_code_change=accept_code_change):
        raise IdentityChanged(
            "this run id stands for another job, or other code, at which a cluster is working",
            where=f"job {job.submission_id} on {server.address}",
            hint="use another --run-id or --fresh; `orchestrator wait` attaches to it as it is, "
            "--accept-code-change where the code alone has changed",
        )
    return Submission(job.submission_id, "attached")


def wait_for(
    server: JobServer,
    submission_id: str,
    *,
    timeout_s: float | None,
    on_log: Callable[[str], None],
    interruption: Callable[[], OrchestratorError | None] = lambda: None,
    patience_s: float = _PATIENCE_S,
) -> Decision:
    """Wait until a job ends, handing out its log line by line, and say what its end means (see `exit_code_of`).

    A log stream that drops is taken up where it ended.

    Args:
        server: the cluster's.
        submission_id: the job.
        timeout_s: seconds to wait; None: until the job ends or the cluster is lost.
        on_log: gets each line of the driver's stdout and stderr (Ray merges them), without its newline, in this thread.
        interruption: asked twice a second; an error that it returns ends the waiting, not the job.
        patience_s: seconds for which the job server may be out of reach before it is given up.

    Raises:
        TimedOut: `timeout_s` is over; the job goes on.
        ClusterUnavailable: the job server stayed out of reach, or it does not know the job (a new head).
        CredentialsExpired: it refuses the token that it took before.
    """
    where = f"job {submission_id} on {server.address}"
    deadline = None if timeout_s is None else time.monotonic() + timeout_s
    seen_at = time.monotonic()
    with closing(LogFollower(lambda: server.tail(submission_id), on_log)) as log:
        while True:
            left = _POLL_S if deadline is None else min(_POLL_S, deadline - time.monotonic())
            log.pump(max(left, 0.0))
            job: KnownJob | None = None
            try:
                job = _look(server, submission_id, where)
                seen_at = time.monotonic()
            except ClusterUnavailable:
                if time.monotonic() - seen_at > patience_s:
                    raise
            if job is not None and not job.is_live:
                _finish(server, submission_id, log, on_log)
                return exit_code_of(job.status, job.driver_exit_code, job.message)
            if error := interruption():
                raise error
            if deadline is not None and time.monotonic() >= deadline:
                raise TimedOut(
                    f"the job has not ended within {timeout_s:g} s; it goes on",
                    where=where,
                    hint=how_to_go_on(submission_id, server.address),
                )


def how_to_go_on(submission_id: str, address: str) -> str:
    """What a user types about a job that goes on."""
    job = f"{submission_id} --address {address}"
    return f"`orchestrator wait {job}` waits on; `orchestrator stop {job}` ends it"


def _look(server: JobServer, submission_id: str, where: str) -> KnownJob:
    try:
        job = server.job(submission_id)
    except AccessDenied as error:
        raise CredentialsExpired(
            f"the cluster let us in when the waiting began, and no longer does: {error.what}; the job may go on",
            where=where,
            hint=error.hint,
        ) from error
    if job is None:
        raise ClusterUnavailable(
            "the cluster does not know this job: its head is a new one",
            where=where,
            hint="submit again: the run resumes from its storage",
        )
    return job


def _finish(server: JobServer, submission_id: str, log: LogFollower, on_log: Callable[[str], None]) -> None:
    try:
        log.finish(server.log(submission_id))
    except (AccessDenied, ClusterUnavailable) as error:
        on_log(f"the end of the log is missing: {error.what}")
