"""Runs on a Ray cluster's head, through its job server.

Ray is imported inside the functions: what only plans answers at once.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from orchestrator.api.planned import plan
from orchestrator.errors import ClusterUnavailable, InvalidJob


def submit(
    job_path: str,
    *,
    address: str | None = None,
    overrides: Sequence[str] = (),
    run_id: str | None = None,
    extra: Sequence[str] = (),
    wait: bool = False,
    timeout_s: float | None = None,
    on_log: Callable[[str], None] = lambda line: None,
    root: str | None = None,
) -> tuple[str, int | None]:
    """Submit a job file to a Ray cluster through its job API; the job's folder is shipped.

    Args:
        job_path: the job file, inside `root`.
        address: `http://HEAD:8265`; default from RAY_API_SERVER_ADDRESS, else RAY_ADDRESS.
        overrides: `key=value` for the job.
        run_id: names the run; default as for `run`.
        extra: further options of `run`.
        wait: follow the driver's log until it ends.
        timeout_s: stop waiting after that long (TimedOut); the job goes on.
        on_log: gets warnings about the cluster, and each line of the driver's log.
        root: the folder to ship; default the working directory.

    Returns:
        The submission id, and with `wait` the driver's own exit code, else None.

    Raises:
        InvalidJob: the job is wrong, or outside the folder.
        ClusterUnavailable, AccessDenied: the cluster cannot be reached, or refuses.
    """
    from orchestrator.cluster import submission as jobs
    from orchestrator.cluster.authentication import find_token, read_means
    from orchestrator.cluster.door import cautions_at
    from orchestrator.cluster.submission_decisions import driver_command, resolve_address
    from orchestrator.spec import load_job

    root = root or str(Path.cwd())
    job = load_job(job_path, overrides)
    if "://" not in job.storage.url and not Path(job.storage.url).is_absolute():
        raise InvalidJob(
            f"the folder {job.storage.url!r} would lie in the job's own copy of the code, which Ray deletes",
            where="storage.url",
            hint="give s3://… or the absolute path of a folder that all nodes share",
        )
    planned = plan(job, run_id=run_id, root=root)
    where = resolve_address(address, os.environ)
    with suppress(OSError):  # what is out of reach is told by the submission
        for caution in cautions_at(where, read_means(os.environ)):
            on_log(f"warning: {caution}")
    entrypoint = driver_command(jobs.job_path_in(root, job_path), list(overrides), run_id, list(extra))
    submission: jobs.Submission | None = None
    for attempt in range(1, 1000):  # a used submission id is refused for ever, so each start gets the next number
        submission = jobs.submit_job(
            address=where,
            entrypoint=entrypoint,
            working_dir=root,
            submission_id=f"{planned.request.layout.run_key}-{attempt}",
            excludes=jobs.read_excludes(root),
            token=find_token(os.environ),
        )
        if submission.state != "finished":
            break
    if submission is None or submission.state == "finished":
        raise ClusterUnavailable("no free submission id", where=planned.request.run_id)
    if not wait:
        return submission.submission_id, None
    return submission.submission_id, jobs.wait_for(submission, timeout_s=timeout_s, on_log=on_log)
