"""A cluster's job server, as one client: every request ends in time, every failure is an error that says what to do.

Ray is imported inside functions, so that importing this module costs nothing.
"""

from __future__ import annotations

import io
import os
import shlex
import zipfile
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from orchestrator.cluster.authentication import find_token, none_to_show, read_means, refused
from orchestrator.cluster.jobs.decisions import heaviest, parse_headers, resolve_address, with_token
from orchestrator.cluster.jobs.submitted import KnownJob
from orchestrator.errors import ClusterUnavailable, InvalidJob

REQUEST_TIMEOUT_S = 30.0
_UPLOAD_TIMEOUT_S = 600.0

MAX_PACKAGE_BYTES = 100 * 2**20
"""The largest request that Ray's dashboard takes, and so the most that a packed folder may have."""


def open_job_server(address: str | None, headers: Sequence[str], environ: Mapping[str, str]) -> JobServer:
    """The job server that a user names, with the headers and the token that there are for it.

    Args:
        address: `http://HEAD:8265`; None: found in the environment (see `resolve_address`).
        headers: `NAME=VALUE` texts, before those in RAY_JOB_HEADERS (see `parse_headers`).
        environ: where Ray looks for the rest.

    Raises:
        InvalidJob: no address, or an address or header that cannot be one.
        AccessDenied: a token is missing or refused.
        ClusterUnavailable: out of reach.
    """
    url = resolve_address(address, environ)
    return JobServer(url, headers=with_token(parse_headers(headers, environ), find_token(environ)))


class JobServer:
    """A connection to a job server. `address` is its URL.

    Args:
        address: `http://HEAD:8265`, whatever the environment names.
        headers: sent with each request; they may hold secrets, and are never shown.
        request_timeout_s: seconds that one request may take; an upload may take ten minutes.
        max_package_bytes: the most that a packed folder may have.

    Raises:
        ClusterUnavailable, AccessDenied: as for all of its methods.
    """

    def __init__(
        self,
        address: str,
        *,
        headers: Mapping[str, str] | None = None,
        request_timeout_s: float = REQUEST_TIMEOUT_S,
        max_package_bytes: int = MAX_PACKAGE_BYTES,
    ) -> None:
        self.address = address
        self._client = _connect(address, headers or {}, request_timeout_s, max_package_bytes)

    def jobs(self) -> tuple[KnownJob, ...]:
        """All submitted jobs that the cluster knows, live or ended."""
        with _ray_errors(self.address):
            return tuple(_known(job) for job in self._client.list_jobs() if job.submission_id)

    def job(self, submission_id: str) -> KnownJob | None:
        """The job of this id; None where the cluster knows none."""
        with _ray_errors(self.address):
            try:
                return _known(self._client.get_job_info(submission_id))
            except RuntimeError as error:
                if "status code 404" in str(error):
                    return None
                raise

    def submit(
        self,
        submission_id: str,
        *,
        entrypoint: Sequence[str],
        runtime_env: Mapping[str, Any],
        metadata: Mapping[str, str],
    ) -> None:
        """Ship the runtime environment's folder and start a job.

        Raises:
            ClusterUnavailable: also where the id is taken; whether the job is there, `job` tells.
            InvalidJob: a file cannot be read, the folder is too large to ship, or Ray refuses the rest.
        """
        with _ray_errors(self.address):
            self._client.submit_job(
                entrypoint=shlex.join(entrypoint),
                submission_id=submission_id,
                runtime_env=dict(runtime_env),
                metadata=dict(metadata),
            )

    def stop(self, submission_id: str) -> bool:
        """Send SIGTERM to a job's driver, SIGKILL after its RAY_JOB_STOP_WAIT_TIME_S; False: it has ended."""
        with _ray_errors(self.address):
            return bool(self._client.stop_job(submission_id))

    def log(self, submission_id: str) -> str:
        """All that a job's driver has written to stdout and stderr, which Ray merges."""
        with _ray_errors(self.address):
            return str(self._client.get_job_logs(submission_id))

    def tail(self, submission_id: str) -> AsyncIterator[str]:
        """The same from its beginning, in chunks, as it comes; ends with the job, or with any error when it drops."""
        stream: AsyncIterator[str] = self._client.tail_job_logs(submission_id)
        return stream


def _known(job: Any) -> KnownJob:
    return KnownJob(
        submission_id=job.submission_id,
        status=job.status.value,
        driver_exit_code=job.driver_exit_code,
        message=job.message,
        metadata=dict(job.metadata or {}),
        started_at=job.start_time / 1000 if job.start_time else None,
        ended_at=job.end_time / 1000 if job.end_time else None,
    )


def _connect(address: str, headers: Mapping[str, str], request_timeout_s: float, max_package_bytes: int) -> Any:
    """A client whose every request ends, at this address whatever the environment names."""
    from ray.job_submission import JobSubmissionClient

    class BoundedClient(JobSubmissionClient):  # type: ignore[misc]  # Ray ships no types
        def _do_request(self, method: str, endpoint: str, **kwargs: Any) -> Any:
            # Ray's requests have no timeout: a silent server would hold us for ever.
            timeout_s = request_timeout_s
            if method == "PUT":
                _check_package(kwargs["data"], max_package_bytes)
                timeout_s = _UPLOAD_TIMEOUT_S
            return super()._do_request(method, endpoint, timeout=timeout_s, **kwargs)

    with _ray_errors(address), _named_in_environment(address):
        return BoundedClient(address, headers=dict(headers))


def _check_package(data: bytes, most: int) -> None:
    """Refuse a packed folder that the job server will not take, before it travels."""
    if len(data) <= most:
        return
    with zipfile.ZipFile(io.BytesIO(data)) as packed:
        sizes = {entry.filename: entry.compress_size for entry in packed.infolist()}
    raise _too_large(
        f": packed it has {len(data) / 2**20:,.0f} MiB, where Ray takes {MAX_PACKAGE_BYTES / 2**20:g}", sizes
    )


def _too_large(how: str, sizes: Mapping[str, int]) -> InvalidJob:
    hint = "name data and results in .gitignore, or keep them outside"
    if sizes:
        hint += f"; most of it: {', '.join(f'{name} ({size / 2**20:,.1f} MiB)' for name, size in heaviest(sizes))}"
    return InvalidJob(f"the working directory is too large to ship{how}", hint=hint)


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
        if "find an authentication token" in str(error):
            raise none_to_show(address) from error
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
        if "exceeds the maximum size" in str(error) or "Maximum request body size" in str(error):
            raise _too_large("", {}) from error
        if isinstance(error, ValueError):
            raise InvalidJob(f"Ray refused the submission: {error}") from error
        raise ClusterUnavailable(f"the cluster's job server failed: {_last_line(error)}", where=address) from error


def _last_line(error: Exception) -> str:
    """The telling line of an error: the job server answers with whole tracebacks."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[-1].strip() if lines else type(error).__name__
