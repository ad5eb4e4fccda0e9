"""The loop that everybody writes first: one member after another. TASK STEPS_PER_EXECUTION REPORT."""

from __future__ import annotations

import sys
import tempfile

from tests.bench.rivals.common import fit_member, load, report
from tests.bench.tasks import Task


def main(task_path: str, steps_per_execution: str, report_path: str) -> None:
    task = Task.read(task_path)
    data = load(task)
    with tempfile.TemporaryDirectory() as folder:
        results = [fit_member(task, i, data, folder, int(steps_per_execution)) for i in range(len(task.seeds))]
    report(report_path, [predictions for predictions, _ in results], data[3], sum(epochs for _, epochs in results))


if __name__ == "__main__":
    main(*sys.argv[1:])
