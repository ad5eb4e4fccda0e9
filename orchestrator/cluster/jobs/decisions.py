"""Decisions of a submission, all pure: where to, which command, what is shipped, what the end of a job means."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import urlsplit

from orchestrator.cluster.authentication import TOKEN_HINT
from orchestrator.errors import InvalidJob

STOP_WAIT_S = 30
"""Seconds between SIGTERM and SIGKILL when a job is stopped; Ray's own 3 s are too few to end workers cleanly."""

NEVER_SHIPPED = (
    *(".git", ".venv", "/runs", "__pycache__"),
    *(".env", ".env.*", ".aws", ".azure", ".docker", ".gnupg", ".kube", ".ray", ".ssh"),
    *(".git-credentials", ".netrc", ".pypirc", "id_rsa", "id_ed25519", "*.key", "*.pem", "*.p12", "*.pfx"),
)
"""Excluded whatever `.gitignore` says: history, environments, results, and the usual places of secrets.

Ray itself reads the `.gitignore` of the shipped folder and of all folders below it, each for what lies below; no `!` in
one of them brings back what is named here.
"""

_SECRET_NAME = re.compile(r"SECRET|TOKEN|PASSW|CREDENTIAL|KEY(_|$)", re.IGNORECASE)
_SIGNALS = {2: "SIGINT", 9: "SIGKILL", 15: "SIGTERM"}
_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_HEADER_VALUE = re.compile(r"[^\x00-\x1f\x7f]*")
_MEMBERS = re.compile(r"\[members? ([0-9, –-]+)\]")


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


def parse_headers(given: Sequence[str], environ: Mapping[str, str]) -> dict[str, str]:
    """HTTP headers for each request to a job server: those given, and before them RAY_JOB_HEADERS, as Ray reads it.

    Args:
        given: `NAME=VALUE` texts. No message repeats one: it may hold a secret.
        environ: RAY_JOB_HEADERS is a JSON object of texts.

    Raises:
        InvalidJob: one is not a header.
    """
    try:
        found = json.loads(environ.get("RAY_JOB_HEADERS") or "{}")
    except ValueError:
        found = None
    if not isinstance(found, dict) or not all(isinstance(value, str) for value in found.values()):
        raise InvalidJob("it is no JSON object of texts", where="RAY_JOB_HEADERS", hint='such as {"X-Team": "vision"}')
    named = [(name, value, "RAY_JOB_HEADERS") for name, value in found.items()]
    for number, text in enumerate(given, start=1):
        name, _, value = text.partition("=")
        named.append((name.strip(), value.strip(), f"--header, number {number}"))
    headers: dict[str, str] = {}
    for name, value, where in named:
        if not value or not _HEADER_NAME.fullmatch(name) or not _HEADER_VALUE.fullmatch(value):
            raise InvalidJob("it is no HTTP header", where=where, hint="write NAME=VALUE, such as X-Team=vision")
        headers = {known: text for known, text in headers.items() if known.lower() != name.lower()} | {name: value}
    return headers


def with_token(headers: Mapping[str, str], token: str | None) -> dict[str, str]:
    """The headers, and the cluster's token where there is one and no header of the user's own stands in its place."""
    own = any(name.lower() == "authorization" for name in headers)
    return {**({"Authorization": f"Bearer {token}"} if token and not own else {}), **headers}


def heaviest(sizes: Mapping[str, int], most: int = 5) -> list[tuple[str, int]]:
    """The folders that make a package large, and their bytes: of the files' sizes, by top folder or file at the top.

    A folder that holds nearly all is taken apart, so that the answer names what can be left out.
    """
    tops: dict[str, int] = {}
    for name, size in sizes.items():
        top, slash, _ = name.partition("/")
        tops[top + slash] = tops.get(top + slash, 0) + size
    found = sorted(tops.items(), key=lambda item: (-item[1], item[0]))
    if found and found[0][0].endswith("/") and found[0][1] > 0.9 * sum(tops.values()):
        first = found[0][0]
        inside = {name.removeprefix(first): size for name, size in sizes.items() if name.startswith(first)}
        if len({name.partition("/")[0] for name in inside}) > 1:
            found = [(first + name, size) for name, size in heaviest(inside, most)]
    return found[:most]


def driver_answer(line: str) -> dict[str, Any] | None:
    """The result, or the error, with which a driver's `run --json` ends, if this line of its log is that."""
    if not line.startswith("{"):
        return None
    try:
        found = json.loads(line)
    except ValueError:
        return None
    return (
        found if isinstance(found, dict) and "exit_code" in found and ("schema" in found or "error" in found) else None
    )


def is_of_member(line: str, member: int) -> bool:
    """Whether a line of a driver's log is about a member: it begins with `[member 3]`, or `[members 0–7]`."""
    match = _MEMBERS.match(line)
    if match is None:
        return False
    for part in match[1].split(","):
        first, _, last = part.strip().replace("–", "-").partition("-")
        if first.isdecimal() and int(first) <= member <= (int(last) if last.isdecimal() else int(first)):
            return True
    return False
