"""The orchestrator as a contestant: a whole cold process, as a user starts it."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from tests.bench.harness import Bench, Failed, Outcome, run_process
from tests.bench.tasks import Task, job_of


def run_cold(bench: Bench, task: Task, *, deadline_s: float, **train: Any) -> Outcome:
    """`python -m orchestrator run JOB --json` with local storage: everything from the start of Python to its end.

    Raises:
        Failed: it did not succeed, or not in time.
    """
    storage = bench.scratch()
    path = storage / "job.yaml"
    path.write_text(json.dumps(job_of(task, storage / "runs", **train)))
    seconds, facts = run_job(path, deadline_s=deadline_s)
    return Outcome(seconds, facts)


def run_job(path: Path, *overrides: str, deadline_s: float) -> tuple[float, dict[str, Any]]:
    """Run a job file cold: seconds, and what its result says of accuracy, engines and epochs.

    Raises:
        Failed: it did not succeed, or not in time.
    """
    command = [sys.executable, "-m", "orchestrator", "run", str(path), *overrides, "--json"]
    seconds, output = run_process(command, deadline_s=deadline_s)
    result = json.loads(output)
    if result["status"] != "succeeded":
        raise Failed(f"the run ended as {result['status']}")
    return seconds, facts_of(result)


def facts_of(result: dict[str, Any]) -> dict[str, Any]:
    """What is worth knowing of a result beside its seconds."""
    members = result["members"]
    return {
        "accuracy": round(result["validation"]["ensemble"]["accuracy"], 4),
        "members_accuracy": round(result["validation"]["members_mean"]["accuracy"], 4),
        "epochs": sum(member["epochs"] for member in members),
        "engine": ",".join(sorted({str(member["engine"]) for member in members})),
    }
