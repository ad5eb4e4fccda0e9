"""Scratch goes with its block, and with the worker that was killed in it."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

import pytest

from orchestrator.training.scratch import scratch_folder, sweep_scratch


@pytest.fixture(autouse=True)
def _temporary_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


def dead_pid() -> int:
    """The id of a process that has ended and been reaped."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def left_behind(folder: Path, pid: int, *, touched_at: float) -> Path:
    left = folder / f"orchestrator-{pid}-abc"
    left.mkdir()
    (left / "best.keras").write_bytes(b"half")
    os.utime(left, (touched_at, touched_at))
    return left


def test_a_folder_goes_when_its_block_ends_even_by_an_error() -> None:
    with suppress(RuntimeError), scratch_folder() as folder:
        (folder / "best.keras").write_bytes(b"x")
        raise RuntimeError
    assert not folder.exists()


def test_what_a_killed_worker_left_an_hour_ago_is_swept(tmp_path: Path) -> None:
    left = left_behind(tmp_path, dead_pid(), touched_at=1_000.0)
    assert sweep_scratch(now=1_000.0 + 3_601) == [left]
    assert not left.exists()


def test_folders_of_the_living_of_the_last_hour_and_of_others_stay(tmp_path: Path) -> None:
    living = left_behind(tmp_path, os.getpid(), touched_at=1_000.0)
    fresh = left_behind(tmp_path, dead_pid(), touched_at=9_000.0)
    other = tmp_path / "orchestrator-notes-2026"
    other.mkdir()
    os.utime(other, (1_000.0, 1_000.0))
    assert sweep_scratch(now=10_000.0) == []
    assert living.exists()
    assert fresh.exists()
    assert other.exists()
