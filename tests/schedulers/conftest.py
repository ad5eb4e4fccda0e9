"""Real schedulers, each installed in an environment of its own."""

from __future__ import annotations

import os
import subprocess
import time
import venv
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

ENVIRONMENTS = "ORCHESTRATOR_SCHEDULER_ENVS"
"""Environment variable: a folder where they stay, and are found by the next session. Default: made anew."""


@pytest.fixture(scope="session")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, Sequence[str]], Path]:
    """`environment(name, packages)` is the folder of an environment's commands, with these packages installed."""
    kept = os.environ.get(ENVIRONMENTS)
    base = Path(kept) if kept else tmp_path_factory.mktemp("environments")

    def make(name: str, packages: Sequence[str]) -> Path:
        folder, done = base / name, base / f"{name}.txt"
        if not done.exists() or done.read_text().split() != list(packages):
            began = time.monotonic()
            venv.create(folder, with_pip=True, clear=True)
            subprocess.run([folder / "bin" / "python", "-m", "pip", "install", "-q", *packages], check=True)
            done.write_text("\n".join(packages))
            print(f"installed {name} in {time.monotonic() - began:.0f} s")
        return folder / "bin"

    return make
