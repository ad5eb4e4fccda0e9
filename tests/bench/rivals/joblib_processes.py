"""Processes by joblib, one for each core and one thread in each; loky keeps them warm. TASK REPORT."""

from __future__ import annotations

import sys
import tempfile

from joblib import Parallel, delayed, parallel_config

from tests.bench.rivals.common import NUM_WORKERS, fit_member, load, report
from tests.bench.tasks import Task


def limit_threads() -> None:
    """In each process, before its first member."""
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)


def main(task_path: str, report_path: str) -> None:
    task = Task.read(task_path)
    data = load(task)
    with (
        tempfile.TemporaryDirectory() as folder,
        parallel_config(backend="loky", inner_max_num_threads=1, initializer=limit_threads),
    ):
        results = Parallel(n_jobs=NUM_WORKERS)(
            delayed(fit_member)(task, i, data, folder) for i in range(len(task.seeds))
        )
    report(report_path, [predictions for predictions, _ in results], data[3], sum(epochs for _, epochs in results))


if __name__ == "__main__":
    main(*sys.argv[1:])
