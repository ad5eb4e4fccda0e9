"""Decisions of a submission, all pure: where to, which command, what is shipped, what the end of a job means."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from urllib.parse import urlsplit

from orchestrator.cluster.authentication import TOKEN_HINT
from orchestrator.errors import InvalidJob

STOP_WAIT_S = 30
"""Seconds between SIGTERM and SIGKILL when a job is stopped; Ray's own 3 s are too few to end workers cleanly."""

NEVER_SHIPPED = (".git", ".venv", "/runs", "__pycache__", ".env", ".env.*", ".aws", ".ssh", "*.pem")
"""Excluded whatever `.gitignore` says: history, environments, results, and the usual places of secrets."""

_SECRET_NAME = re.compile(r"SECRET|TOKEN|PASSW|CREDENTIAL|KEY(_|$)", re.IGNORECASE)
_SIGNALS = {2: "SIGINT", 9: "SIGKILL", 15: "SIGTERM"}


@dataclass(frozen=True)
class Decision:
    """What an ended job means for the one who waits: the exit code and the reason for it."""

    exit_code: int
    reason: str


def resolve_address(address: str | None, environ: Mapping[str, str]) -> str:
    """The job server's URL: the argument, else RAY_API_SERVER_ADDRESS, else RAY_ADDRESS if it is http(s).

    Raises:
        InvalidJob: there is none, it is no http(s) URL, or it carries `user:password@`.
    """
    ray_address = environ.get("RAY_ADDRESS", "")
    found = (
        address
        or environ.get("RAY_API_SERVER_ADDRESS")
        or (ray_address if ray_address.startswith(("http://", "https://")) else None)
    )
    hint = "give the dashboard's URL, such as http://HEAD:8265, by --address or RAY_API_SERVER_ADDRESS"
    if not found:
        raise InvalidJob("no cluster is named to submit to", hint=hint)
    parts = urlsplit(found)
    if "@" in parts.netloc:
        raise InvalidJob("the cluster's address carries credentials", where=f"host {parts.hostname}", hint=TOKEN_HINT)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise InvalidJob("the cluster's address is not an http(s) URL", where=found, hint=hint)
    return found.rstrip("/")


def driver_command(job_path: str, overrides: Sequence[str], run_id: str | None, extra: Sequence[str]) -> list[str]:
    """The driver's command line, as arguments; `submit_job` quotes them for the shell.

    Args:
        job_path: the job file, relative to the working directory, `/`-joined.
        overrides: `key=value` settings for the job.
        run_id: the run's id, None for the default one.
        extra: further options of `orchestrator run`.

    Raises:
        InvalidJob: the job file lies outside of the working directory, or an override names `ray.address`, which
            belongs to the submission: the driver uses the cluster that it runs on.
    """
    path = PurePosixPath(job_path)
    if path.is_absolute() or ".." in path.parts:
        raise outside_of_working_dir(job_path)
    if any(override.split("=", 1)[0].strip() == "ray.address" for override in overrides):
        raise InvalidJob(
            "`ray.address` cannot be set for a submitted job", hint="name the cluster by --address instead"
        )
    shown = f"./{path}" if str(path).startswith("-") else str(path)
    command = ["python", "-m", "orchestrator", "run", shown, "ray.address=auto", *overrides, "--json"]
    return [*command, *(["--run-id", run_id] if run_id is not None else []), *extra]


def outside_of_working_dir(job: str) -> InvalidJob:
    """The error for a job file that would not be shipped."""
    return InvalidJob(
        "the job file lies outside of the working directory, so it would not reach the cluster",
        where=job,
        hint="submit from the project's root, with a job file below it",
    )


def excludes_of(gitignore: str) -> tuple[str, ...]:
    """Ray's `excludes` from the text of a `.gitignore`: its patterns, then `NEVER_SHIPPED`, which no `!` undoes."""
    lines = (line.rstrip("\r\n") for line in gitignore.splitlines())
    return (*(line for line in lines if line.strip() and not line.startswith("#")), *NEVER_SHIPPED)


def shippable_env(env_vars: Mapping[str, str]) -> dict[str, str]:
    """Environment variables for the driver. Everyone who reaches the jobs endpoint can read them: no secrets.

    Raises:
        InvalidJob: a name looks like a secret's (paths of credentials, `*_FILE` and `*_PATH`, are fine), or a value
            carries `user:password@`.
    """
    for name, value in env_vars.items():
        by_reference = name.upper().endswith(("_FILE", "_PATH"))
        if (_SECRET_NAME.search(name) and not by_reference) or re.search(r"://[^/\s]*:[^/\s]*@", value):
            raise InvalidJob(
                "this variable may hold a secret, and a job's variables can be read through the cluster's job server",
                where=name,
                hint="give the nodes a role or a credentials file, and pass its name or path (AWS_PROFILE, *_FILE)",
            )
    return {"RAY_JOB_STOP_WAIT_TIME_S": str(STOP_WAIT_S), **env_vars}


def exit_code_of(status: str, driver_exit_code: int | None, message: str | None) -> Decision:
    """What the end of a job means (`ray job submit` would turn 75 into 1 and a stopped job into 0).

    Args:
        status: Ray's status of an ended job: SUCCEEDED, STOPPED or FAILED.
        driver_exit_code: the driver's code; negative or 128 + n: ended by signal n; None: it did not end by itself.
        message: Ray's explanation.

    Returns:
        The driver's own code; 143 when stopped; 75 when the cluster failed the job or the driver was killed.

    Raises:
        ValueError: the job has not ended.
    """
    if status == "SUCCEEDED":
        return Decision(0, "the driver ended well")
    if status == "STOPPED":
        return Decision(143, "the job was stopped")
    if status != "FAILED":
        raise ValueError(f"a job in status {status} has not ended")
    if not driver_exit_code:
        return Decision(75, f"the cluster failed the job: {(message or 'no reason given').strip()[:500]}")
    number = -driver_exit_code if driver_exit_code < 0 else driver_exit_code - 128
    if number == 9:
        return Decision(75, "the driver was killed (SIGKILL): out of memory, or its node was taken")
    if number in _SIGNALS:
        return Decision(128 + number, f"the driver was ended by {_SIGNALS[number]}")
    return Decision(128 + number if driver_exit_code < 0 else driver_exit_code, f"the driver exited {driver_exit_code}")
