"""The same promises on Keras' JAX backend, in a process of its own: a process has one backend."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

HERE = Path(__file__).parent


LEFT_OUT = ("catches", "average", "again", "inputs")
"""What tells nothing of the backend, or little that the other cases do not: compiling takes JAX seconds for each."""


def test_packs_keep_their_promises_on_jax() -> None:
    tests = [str(HERE / f"test_fused_{part}.py") for part in ("oracle", "resume", "settings")]
    tests.append(str(HERE.parent / "support" / "fused_jax_cases.py"))
    environment = {**os.environ, "KERAS_BACKEND": "jax", "JAX_PLATFORMS": "cpu"}
    chosen = " and ".join(f"not {name}" for name in LEFT_OUT)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", chosen, *tests]
    ended = subprocess.run(
        command, env=environment, cwd=HERE.parents[1], capture_output=True, text=True, timeout=1800, check=False
    )
    assert ended.returncode == 0, ended.stdout[-4000:] + ended.stderr[-2000:]
    passed = re.search(r"(\d+) passed", ended.stdout)
    assert passed
    assert int(passed[1]) > 30
    assert "skipped" not in ended.stdout
