"""Submission through Ray's job API: ship the job's code, start the driver on the head, wait, give its true exit code.

The decisions are in `submission_decisions`; here are the effects, `submit_job` and `wait_for`. Ray is imported inside
functions, so that importing this module costs nothing.
"""

from __future__ import annotations

import os
import re
import shlex
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from orchestrator.cluster.authentication import read_means, refused
from orchestrator.cluster.job_log import LogFollower
from orchestrator.cluster.submission_decisions import (
    NEVER_SHIPPED,
    excludes_of,
    exit_code_of,
    outside_of_working_dir,
    shippable_env,
)
from orchestrator.errors import ClusterUnavailable, InvalidJob, TimedOut

_REQUEST_TIMEOUT_S = 30.0
_UPLOAD_TIMEOUT_S = 600.0
_POLL_S = 0.5
_PATIENCE_S = 120.0
_SUBMISSION_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


@dataclass(frozen=True)
class Submission:
    """A job on a cluster.

    `state` tells what `submit_job` found: `submitted` now, `attached` to a live job of that id, or `finished`: the id
    belongs to a job that has ended. `wait_for` works on all three; who wants to run again gives a new id.
    """

    address: str
    submission_id: str
    state: Literal["submitted", "attached", "finished"]
    token: str | None = field(default=None, repr=False)


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


def read_excludes(working_dir: str) -> tuple[str, ...]:
    """`excludes_of` the `.gitignore` at the top of the working directory, if there is one."""
    path = Path(working_dir) / ".gitignore"
    return excludes_of(path.read_text(encoding="utf-8") if path.is_file() else "")


def submit_job(
    *,
    address: str,
    entrypoint: Sequence[str],
    working_dir: str,
    submission_id: str,
    excludes: Sequence[str] = NEVER_SHIPPED,
    env_vars: Mapping[str, str] | None = None,
    token: str | None = None,
    request_timeout_s: float = _REQUEST_TIMEOUT_S,
) -> Submission:
    """Ship the working directory and start the driver on the cluster's head; or find the job that has this id.

    Submitting twice is safe: a used id is never an error, also when the answer to the first request was lost.

    Args:
        address: the job server, `http://HEAD:8265` (see `resolve_address`).
        entrypoint: the driver's command line (see `driver_command`); quoted here, as Ray hands it to a shell.
        working_dir: the folder to ship; the driver starts in its copy.
        submission_id: the job's id on that cluster.
        excludes: patterns, as in `.gitignore`, of what is not shipped (see `read_excludes`).
        env_vars: for the driver and its workers; names and paths of credentials, never values.
        token: the cluster's token (see `find_token`); None leaves it to Ray's own settings.
        request_timeout_s: seconds that one request may take; an upload may take ten minutes.

    Raises:
        ClusterUnavailable: the job server is out of reach, silent, or failed.
        AccessDenied: the token is missing or wrong.
        InvalidJob: the id, the folder or a variable cannot be used, or the folder is too large to ship.
    """
    if not _SUBMISSION_ID.fullmatch(submission_id):
        raise InvalidJob(
            "a submission id has up to 128 letters, digits, `.`, `_` and `-`, and starts with no mark",
            where=repr(submission_id),
        )
    if not Path(working_dir).is_dir():
        raise InvalidJob("the working directory is no folder", where=working_dir)
    runtime_env = {
        "working_dir": working_dir,
        "excludes": list(excludes),
        "env_vars": shippable_env(env_vars or {}),
    }
    client = _connect(address, token, request_timeout_s)
    found = _found(client, address, submission_id, token)
    if found:
        return found
    try:
        with _ray_errors(address):
            client.submit_job(entrypoint=shlex.join(entrypoint), submission_id=submission_id, runtime_env=runtime_env)
    except ClusterUnavailable:
        # Another submitter may have been first, or the answer to our own request was lost.
        found = _found(client, address, submission_id, token)
        if not found:
            raise
        return found
    return Submission(address, submission_id, "submitted", token)


def wait_for(
    submission: Submission,
    *,
    timeout_s: float | None,
    on_log: Callable[[str], None],
    patience_s: float = _PATIENCE_S,
    request_timeout_s: float = _REQUEST_TIMEOUT_S,
) -> int:
    """Wait until the job ends, handing out its log line by line, and return its exit code (see `exit_code_of`).

    A log stream that drops is taken up where it ended; when the code is not 0, the last line says why.

    Args:
        submission: from `submit_job`.
        timeout_s: seconds to wait; None: until the job ends or the cluster is lost.
        on_log: gets each line of the driver's stdout and stderr (Ray merges them), without its newline, in this thread.
        patience_s: seconds for which the job server may be out of reach before it is given up.
        request_timeout_s: seconds that one request may take.

    Raises:
        TimedOut: `timeout_s` is over; the job goes on.
        ClusterUnavailable: the job server stayed out of reach, or it does not know the job (a new head).
        AccessDenied: the token is missing or wrong.
    """
    deadline = None if timeout_s is None else time.monotonic() + timeout_s
    client = _connect(submission.address, submission.token, request_timeout_s)
    seen_at = time.monotonic()
    with closing(LogFollower(lambda: client.tail_job_logs(submission.submission_id), on_log)) as log:
        while True:
            left = _POLL_S if deadline is None else min(_POLL_S, deadline - time.monotonic())
            log.pump(max(left, 0.0))
            try:
                job = _job(client, submission)
                seen_at = time.monotonic()
            except ClusterUnavailable:
                if time.monotonic() - seen_at > patience_s:
                    raise
                job = None
            if job is not None and job.status.is_terminal():
                return _end(client, submission, job, log, on_log)
            if deadline is not None and time.monotonic() >= deadline:
                raise TimedOut(
                    f"the job has not ended within {timeout_s:g} s; it goes on",
                    where=_where(submission),
                    hint="submit again with the same id to wait on, or stop the job",
                )


def _end(client: Any, submission: Submission, job: Any, log: LogFollower, on_log: Callable[[str], None]) -> int:
    try:
        with _ray_errors(submission.address):
            log.finish(client.get_job_logs(submission.submission_id))
    except ClusterUnavailable as error:
        on_log(f"the end of the log is missing: {error.what}")
    decision = exit_code_of(job.status.value, job.driver_exit_code, job.message)
    if decision.exit_code:
        on_log(f"{_where(submission)}: {decision.reason}")
    return decision.exit_code


def _where(submission: Submission) -> str:
    return f"job {submission.submission_id} on {submission.address}"


def _found(client: Any, address: str, submission_id: str, token: str | None) -> Submission | None:
    """The job that already has this id, if there is one."""
    with _ray_errors(address):
        try:
            job = client.get_job_info(submission_id)
        except RuntimeError as error:
            if "status code 404" in str(error):
                return None
            raise
    return Submission(address, submission_id, "finished" if job.status.is_terminal() else "attached", token)


def _job(client: Any, submission: Submission) -> Any:
    with _ray_errors(submission.address):
        try:
            return client.get_job_info(submission.submission_id)
        except RuntimeError as error:
            if "status code 404" not in str(error):
                raise
            raise ClusterUnavailable(
                "the cluster does not know this job: its head is a new one",
                where=_where(submission),
                hint="submit again: the run resumes from its storage",
            ) from None


def _connect(address: str, token: str | None, request_timeout_s: float) -> Any:
    """A client of the job server whose every request ends, at this address whatever the environment names."""
    from ray.job_submission import JobSubmissionClient

    class BoundedClient(JobSubmissionClient):  # type: ignore[misc]  # Ray ships no types
        def _do_request(self, method: str, endpoint: str, **kwargs: Any) -> Any:
            # Ray's requests have no timeout: a silent server would hold us for ever.
            timeout_s = _UPLOAD_TIMEOUT_S if method == "PUT" else request_timeout_s
            return super()._do_request(method, endpoint, timeout=timeout_s, **kwargs)

    headers = {"Authorization": f"Bearer {token}"} if token else None
    with _ray_errors(address), _named_in_environment(address):
        return BoundedClient(address, headers=headers)


@contextmanager
def _named_in_environment(address: str) -> Iterator[None]:
    """Ray's client prefers RAY_API_SERVER_ADDRESS and RAY_ADDRESS to its own argument; ours has to win."""
    before = os.environ.get("RAY_API_SERVER_ADDRESS")
    os.environ["RAY_API_SERVER_ADDRESS"] = address
    try:
        yield
    finally:
        if before is None:
            del os.environ["RAY_API_SERVER_ADDRESS"]
        else:
            os.environ["RAY_API_SERVER_ADDRESS"] = before


@contextmanager
def _ray_errors(address: str) -> Iterator[None]:
    """Turn what Ray's client raises into errors that say what to do."""
    from ray.exceptions import AuthenticationError

    try:
        yield
    except AuthenticationError as error:
        shown = "Authentication required" not in str(error)  # Ray's words for 401; 403 is for a token that is wrong
        raise refused(read_means(os.environ), address, shown=shown) from error
    except OSError as error:
        if error.filename is not None:
            raise InvalidJob(f"a file to ship cannot be read: {error.strerror}", where=str(error.filename)) from error
        raise ClusterUnavailable(
            "the cluster's job server is out of reach",
            where=address,
            hint="is the cluster up, and the port forwarded (`ray dashboard cluster.yaml`)?",
        ) from error
    except KeyError as error:
        raise ClusterUnavailable("what answers there is no Ray job server", where=address) from error
    except (RuntimeError, ValueError) as error:
        if "exceeds the maximum size" in str(error):
            raise InvalidJob(
                "the working directory is too large to ship", hint="name data and results in .gitignore"
            ) from error
        if isinstance(error, ValueError):
            raise InvalidJob(f"Ray refused the submission: {error}") from error
        raise ClusterUnavailable(f"the cluster's job server failed: {_last_line(error)}", where=address) from error


def _last_line(error: Exception) -> str:
    """The telling line of an error: the job server answers with whole tracebacks."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[-1].strip() if lines else type(error).__name__
