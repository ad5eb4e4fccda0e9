"""Local scratch of a worker: where callbacks write and downloads land, and nothing that must last."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_PREFIX = "orchestrator-"
_OLD_S = 3600.0


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """A fresh folder that goes when the block ends; its name begins with this process' id."""
    folder = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def sweep_scratch(now: float | None = None) -> list[Path]:
    """Remove what killed workers left on this machine: folders of dead processes that nobody touched for an hour.

    The hour protects processes of a container that shares the folder but not the process ids.

    Args:
        now: UTC epoch seconds; default the time of this machine, whose file system sets the other times.

    Returns:
        The folders removed.
    """
    now = time.time() if now is None else now
    removed = []
    for folder in Path(tempfile.gettempdir()).glob(f"{_PREFIX}[0-9]*-*"):
        owner = folder.name.removeprefix(_PREFIX).partition("-")[0]
        try:
            old = now - folder.stat().st_mtime > _OLD_S
        except OSError:  # another worker sweeps too
            continue
        if old and owner.isdecimal() and not _alive(int(owner)):
            shutil.rmtree(folder, ignore_errors=True)
            removed.append(folder)
    return removed


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # somebody else's
        return True
    return True
