"""What `ray up` needs on the machine where it is called: what it copies to the nodes, and its node provider's code."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path, PurePosixPath

from orchestrator.cluster.launcher.rules import Config, Finding, token_path


def check_here(config: Config) -> Iterator[Finding]:
    """What is not there yet. Looks at files, imports no provider, and starts nothing.

    Args:
        config: the launcher file with Ray's defaults filled in. Relative paths are, as for Ray, looked for in the
            working directory.
    """
    token = token_path(config)
    for remote, local in (config.get("file_mounts") or {}).items():
        source, where = Path(local).expanduser(), f"file_mounts.{remote}"
        if not source.exists():
            what = f"{local} is not there: `ray up` would start a head, and fail at copying it"
            hint = "make it first; a relative path begins in the folder where `ray up` is called"
            yield Finding("warning", where, what, hint)
        elif token is not None and not _copies(source, remote, token):
            what = f"there is no {PurePosixPath(token).name} in {local}, and no process starts without its token"
            yield Finding("warning", where, what, "once: ray get-auth-token --generate")
    provider = config["provider"]
    if provider["type"] == "external" and not _is_there(str(provider.get("module", ""))):
        what = f"the module of {provider.get('module', 'no class')!r} is not found, and `ray up` calls it"
        yield Finding("error", "provider.module", what, "name module and class, and install it here and on the head")


def _copies(source: Path, remote: str, token: str) -> bool:
    """Whether the token is there, if this is the mount that brings it."""
    path = PurePosixPath(token)
    return not path.is_relative_to(remote) or (source / path.relative_to(remote)).exists()


def _is_there(class_path: str) -> bool:
    """Whether there is such a module; whether it has the class is left to Ray."""
    try:
        return find_spec(class_path.rpartition(".")[0]) is not None
    except (ImportError, ValueError):
        return False
