"""Bare Ray actors, one for each core, that take one member after another from a pool. TASK REPORT."""

from __future__ import annotations

import sys
import tempfile
from typing import Any

import ray
from ray.util import ActorPool

from tests.bench.rivals.common import NUM_WORKERS, fit_member, load, report
from tests.bench.tasks import Task


@ray.remote(num_cpus=1)
class Trainer:
    def __init__(self, task: Task, data: tuple[Any, Any, Any, Any]) -> None:
        import tensorflow as tf

        tf.config.threading.set_intra_op_parallelism_threads(1)
        tf.config.threading.set_inter_op_parallelism_threads(1)
        self.task, self.data = task, data

    def train(self, index: int) -> tuple[Any, int]:
        with tempfile.TemporaryDirectory() as folder:
            return fit_member(self.task, index, self.data, folder)


def main(task_path: str, report_path: str) -> None:
    task = Task.read(task_path)
    data = load(task)
    ray.init(address="local", include_dashboard=False, log_to_driver=False)
    shared = ray.put(data)
    pool = ActorPool([Trainer.remote(task, shared) for _ in range(min(NUM_WORKERS, len(task.seeds)))])
    results = list(pool.map(lambda actor, index: actor.train.remote(index), range(len(task.seeds))))
    report(report_path, [predictions for predictions, _ in results], data[3], sum(epochs for _, epochs in results))
    ray.shutdown()


if __name__ == "__main__":
    main(*sys.argv[1:])
