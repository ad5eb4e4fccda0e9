"""Runs that are started on a Ray cluster, through its job server.

Ray is imported inside the functions: what only plans answers at once.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.api.awaited import SubmittedRun, Waiting, await_job, coordinates_now
from orchestrator.api.clock import SystemClock
from orchestrator.api.planned import RunPlan, plan
from orchestrator.api.running import keep_spec
from orchestrator.api.stored import open_at
from orchestrator.attach import Start, is_silent
from orchestrator.errors import AccessDenied, InvalidJob, MissingObject, TryAgain
from orchestrator.planning.recovery import read_run
from orchestrator.reporting.publish import finished_result
from orchestrator.reporting.result import Result
from orchestrator.spec import Job, identity_digest, load_job
from orchestrator.storage.log import Log
from orchestrator.storage.open import open_store_of

if TYPE_CHECKING:
    from orchestrator.cluster.jobs.submitted import KnownJob


def submit(
    job_path: str,
    *,
    address: str | None = None,
    headers: Sequence[str] = (),
    overrides: Sequence[str] = (),
    run_id: str | None = None,
    fresh: bool = False,
    smoke: bool = False,
    accept_code_change: bool = False,
    waiting: Waiting | None = None,
    on_note: Callable[[str], None] = lambda text: None,
    root: str | None = None,
) -> SubmittedRun:
    """Submit a job file to a Ray cluster through its job API; the job's folder is shipped.

    Again, it attaches to the run's live job, whoever submitted it; resumes a run that ended without a result; or
    returns the recorded result: from here and without a job where storage can be read from here, else by a driver that
    looks there.

    Args:
        job_path: the job file, inside `root`.
        address: `http://HEAD:8265`; default from RAY_API_SERVER_ADDRESS, else RAY_ADDRESS.
        headers: `NAME=VALUE`, for each request, besides those in RAY_JOB_HEADERS.
        overrides: `key=value` for the job.
        run_id, fresh, smoke, accept_code_change: as for `run`, but that a smoke run is never fresh.
        waiting: follow the job until it ends; None: only submit.
        on_note: gets what there is to know before the waiting.
        root: the folder to ship; default the working directory.

    Raises:
        InvalidJob: the job is wrong, or outside the folder, or too large.
        IdentityChanged: the run id stands for another job.
        ClusterUnavailable, AccessDenied: the cluster cannot be reached, or refuses.
        TimedOut, Interrupted: while waiting; Interrupted before it, too: then no job was submitted.
    """
    from orchestrator.cluster.jobs.decisions import driver_command, parse_headers, resolve_address
    from orchestrator.cluster.jobs.server import open_job_server
    from orchestrator.cluster.jobs.submission import job_path_in, submit_job
    from orchestrator.cluster.jobs.submitted import storage_in

    root = root or str(Path.cwd())
    job = load_job(job_path, overrides)
    check_place(job)
    if smoke and fresh:
        what = "the driver of a smoke run finds its run id by itself, and a fresh one is drawn here"
        raise InvalidJob(what, where="--fresh", hint="leave out one of the two")
    planned = plan(job, run_id=run_id, fresh=fresh, smoke=smoke, root=root)
    url = resolve_address(address, os.environ)
    named = planned.request.run_id if run_id is not None or fresh else None
    extra = [*(["--smoke"] if smoke else []), *(["--accept-code-change"] if accept_code_change else [])]
    entrypoint = driver_command(job_path_in(root, job_path), list(overrides), named, extra)
    last_term, result = _look_in_storage(planned, accept_code_change, on_note)
    run = (planned.request.run_id, planned.request.layout.run_key, url, planned.request.layout.root)
    if result is not None:
        on_note(f"run {planned.request.run_id} is finished: this is its recorded result")
        return SubmittedRun(*run, None, "recorded", result.exit_code, result=result)
    server = open_job_server(address, headers, os.environ)
    if not parse_headers(headers, os.environ):  # a door that opens to a header cannot be judged by who knocks without
        _warn_of(url, on_note)
    metadata = _metadata(planned)
    if waiting is not None and (error := waiting.interruption()):
        raise error  # whoever gave up while we looked around wants no job that goes on
    submission = submit_job(
        server,
        run_key=planned.request.layout.run_key,
        entrypoint=entrypoint,
        working_dir=root,
        last_term=last_term,
        metadata=metadata,
        accept_code_change=accept_code_change,
        is_frozen=functools.partial(_is_frozen, planned, on_note),
    )
    on_note(f"{submission.state}: job {submission.submission_id} on {url}")
    found = SubmittedRun(*run, submission.submission_id, submission.state)
    return found if waiting is None else await_job(server, found, storage_in(metadata), waiting)


def _is_frozen(planned: RunPlan, on_note: Callable[[str], None], job: KnownJob) -> bool:
    """Whether a live job's driver coordinates the run without a sign of life, so far as storage tells it here."""
    request, faults = planned.request, planned.request.job.faults
    try:
        store = open_store_of(request.job)
        log = Log.open(store, request.layout.coord_log)
        if not coordinates_now(job, log):
            return False
        start = Start(store, request.layout, request.run_id, faults.takeover_s, attach=True, claim={})
        silent = is_silent(start, log, clock=SystemClock())
    except (AccessDenied, InvalidJob, MissingObject, TryAgain):
        return False
    if silent:
        on_note(f"job {job.submission_id} has shown no sign of life for {faults.takeover_s:g} s: another takes over")
    return silent


def _warn_of(url: str, on_note: Callable[[str], None]) -> None:
    from orchestrator.cluster.authentication import read_means
    from orchestrator.cluster.door import cautions_at

    with suppress(OSError):  # what is out of reach is told by the submission
        for caution in cautions_at(url, read_means(os.environ)):
            on_note(f"warning: {caution}")


def _metadata(planned: RunPlan) -> dict[str, str]:
    from orchestrator.cluster.jobs.submitted import metadata_of

    request = planned.request
    return metadata_of(
        request.run_id,
        job=request.layout.job,
        identity=identity_digest({**planned.identity, "code": None}),
        code=request.code_digest,
        storage=request.job.storage.url,
        endpoint_url=request.job.storage.endpoint_url,
        region=request.job.storage.region,
        version=version("orchestrator"),
    )


def check_place(job: Job) -> None:
    """Refuse, as InvalidJob, a storage folder that a submitted job would have where nobody looks for it."""
    if "://" not in job.storage.url and not Path(job.storage.url).is_absolute():
        raise InvalidJob(
            f"the folder {job.storage.url!r} would lie in the job's own copy of the code, which Ray deletes",
            where="storage.url",
            hint="give s3://… or the absolute path of a folder that all nodes share",
        )


def _look_in_storage(
    planned: RunPlan, accept_code_change: bool, on_note: Callable[[str], None]
) -> tuple[int | None, Result | None]:
    """The last term in the run's log, 0 where it has none, and its result where it has one; None where nobody can tell.

    Raises:
        IdentityChanged, DamagedStore: as for `run`.
    """
    request = planned.request
    where = request.job.storage
    if "://" not in where.url and not Path(where.url).is_dir():
        return None, None  # a folder of the cluster's own, or one that nobody has written to
    try:
        store = open_at(where.url, where.endpoint_url, where.region)
        store.list(request.layout.control)  # first contact, without the log's patience
        log = Log.open(store, request.layout.coord_log)
        if log.last is None:
            return 0, None
        keep_spec(store, planned, must_exist=True, accept_code_change=accept_code_change)
        memory = read_run(log.records())
        return log.term, None if memory.done is None else finished_result(store, request.layout, memory)
    except (AccessDenied, MissingObject, TryAgain) as error:
        on_note(f"storage cannot be read from here, so the driver looks whether there is a result: {error.what}")
        return None, None
