"""Reading a result or a plan must not wait for the heavy libraries."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = ("tensorflow", "keras", "ray", "pyarrow", "scipy", "sklearn", "s3fs", "matplotlib")


@pytest.mark.parametrize(
    "modules",
    [
        "orchestrator.ensemble.combine, orchestrator.ensemble.weights, orchestrator.ensemble.metrics",
        "orchestrator.ensemble.tasks, orchestrator.ensemble.calibration",
        "orchestrator.reporting.evaluate, orchestrator.reporting.tables, orchestrator.reporting.progress",
        "orchestrator.reporting.status, orchestrator.reporting.prune, orchestrator.reporting.attempts",
        "orchestrator.reporting.compare, orchestrator.reporting.compare_text",
        "orchestrator.storage.tables",
    ],
)
def test_importing_loads_no_heavy_library(modules: str) -> None:
    code = f"import sys, {modules}; print(sorted(set({HEAVY!r}) & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=180, check=False)
    assert (done.stdout.strip(), done.stderr) == ("[]", "")
