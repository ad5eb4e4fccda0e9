"""Processes that tests start: all of a family ended, and what ran away from it found by the files it holds."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

RAY_OF_TESTS = {"RAY_worker_niceness": "0", "RAY_raylet_start_wait_time_s": "150"}
"""How tests start Ray. Its workers are no poorer than what runs beside them: at Ray's own niceness of 15 they get a
fortieth of a core while other tests compute, and waits of many seconds pass. A busy machine needs more than the 30 s
that Ray gives a node to start."""


def without_ray(environ: Mapping[str, str] | None = None) -> dict[str, str]:
    """An environment, of this process by default, that names no cluster and no token: for a process with a Ray of its
    own."""
    kept = os.environ if environ is None else environ
    return {**{name: value for name, value in kept.items() if not name.upper().startswith("RAY_")}, **RAY_OF_TESTS}


def family(pid: int) -> list[int]:
    """The children of a process, theirs, and so on."""
    parents: dict[int, int] = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with contextlib.suppress(OSError):
                # A name in brackets may hold anything; state and parent follow its last bracket.
                parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
    found, new = set[int](), {pid}
    while new:
        found |= new
        new = {child for child, parent in parents.items() if parent in new} - found
    return sorted(found - {pid})


def kill_all(pids: Sequence[int]) -> None:
    """Kill what lives of these."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def kill_what_holds(marker: str) -> None:
    """Kill all processes that hold files below the folder `marker`, whoever is their parent by now."""
    deadline = time.monotonic() + 10.0
    pause = threading.Event()
    while (left := _processes_of(marker)) and time.monotonic() < deadline:
        kill_all(left)
        pause.wait(0.05)
    if left:
        raise RuntimeError(f"processes that hold {marker} outlive their kill: {left}")


def _processes_of(marker: str) -> list[int]:
    """Live processes whose command line, working directory or open files name this folder."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit() and int(folder.name) != os.getpid():
            with contextlib.suppress(OSError):
                # Workers rename themselves, which overwrites their command line; their logs stay open.
                links = [folder / "cwd", *(folder / "fd").iterdir()]
                if marker.encode() in (folder / "cmdline").read_bytes() or any(marker in _target(x) for x in links):
                    found.append(int(folder.name))
    return found


def _target(link: Path) -> str:
    try:
        return str(link.readlink())
    except OSError:
        return ""
