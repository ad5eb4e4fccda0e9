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
    folder = bench.scratch()
    path = folder / "job.yaml"
    path.write_text(json.dumps(job_of(task, folder / "runs", **train)))
    return run_job(path, folder / "runs", deadline_s=deadline_s)


def run_job(job: Path, storage: Path, *, deadline_s: float) -> Outcome:
    """Run a job file cold, with its runs in a new folder.

    Returns:
        Its seconds; accuracies, epochs, engines; and `training_s`, from the decision how to pack the members to the
        last published model.

    Raises:
        Failed: it did not succeed, or not in time.
    """
    command = [sys.executable, "-m", "orchestrator", "run", str(job), f"storage.url={storage}", "--json"]
    seconds, output = run_process(command, deadline_s=deadline_s)
    result = json.loads(output)
    if result["status"] != "succeeded":
        raise Failed(f"the run ended as {result['status']}")
    members, validation = result["members"], result["validation"]
    facts = {
        "accuracy": round(validation["ensemble"]["accuracy"], 4),
        "members_accuracy": round(validation["members_mean"]["accuracy"], 4),
        "epochs": sum(member["epochs"] for member in members),
        "engine": ",".join(sorted({str(member["engine"]) for member in members})),
        "training_s": round(_training_s(storage), 3),
    }
    return Outcome(seconds, facts)


def _training_s(storage: Path) -> float:
    """From the first `packed` record to the last `final` one, of the one run in this folder."""
    packed = [path.stat().st_mtime for path, record in _records(storage, "coord") if record["kind"] == "packed"]
    final = [record["body"]["at"] for _, record in _records(storage, "members/*") if record["kind"] == "final"]
    return float(max(final) - min(packed))


def _records(storage: Path, owner: str) -> list[tuple[Path, dict[str, Any]]]:
    return [(path, json.loads(path.read_text())) for path in storage.glob(f"*/*/{owner}/log/*.json")]
