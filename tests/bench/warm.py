"""Our engines as a contestant that is warm: training alone, in one process. ENGINE BACKEND TASK REPORT.

`solo` has one thread, as a worker of a solo run has; `fused` has all cores.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.bench.tasks import Task, job_of

if TYPE_CHECKING:
    from orchestrator.planning.members import MemberPlan
    from orchestrator.spec import Job
    from orchestrator.training.data import Dataset
    from orchestrator.training.device import Device
    from orchestrator.training.solo import Trained

OnEpoch = Callable[[int, int, Mapping[str, float]], None]
OnEnd = Callable[[int, "Trained"], None]


@dataclass(frozen=True)
class Warm:
    """A process like a worker's: Keras imported, threads set, data loaded, members planned."""

    job: Job
    members: tuple[MemberPlan, ...]
    dataset: Dataset
    device: Device

    @classmethod
    def start(cls, task: Task, num_cpus: int, *, num_gpus: float = 0, **train: Any) -> Warm:
        """Make this process one. Nothing here needs Ray, or with the JAX backend TensorFlow."""
        from orchestrator.models.user_code import import_function
        from orchestrator.planning.plan import make_plan
        from orchestrator.spec import parse_job
        from orchestrator.training.data import load_dataset
        from orchestrator.training.device import prepare_backend, start_backend

        job = parse_job(job_of(task, "unused", **train))
        prepare_backend(job.train, num_cpus, num_gpus)
        device = start_backend(job.train, num_cpus)
        source = job.data.source
        dataset = load_dataset(import_function(source), source, validation_split=0, seed=0)
        members = make_plan(job, {job.model.builder: bool(task.dropouts)}).members
        return cls(job, members, dataset, device)

    def train(self, engine: str, on_epoch: OnEpoch, on_end: OnEnd = lambda member, trained: None) -> None:
        """Train all members, one after another or as one pack.

        Args:
            engine: `solo` or `fused`.
            on_epoch: gets member, epoch (1-based) and logs.
            on_end: gets member and what its training gave.
        """
        with tempfile.TemporaryDirectory() as folder:
            if engine == "fused":
                self._fused(Path(folder), on_epoch, on_end)
            else:
                for member in self.members:
                    on_end(member.index, self.solo(member, on_epoch, Path(folder, str(member.index))))

    def solo(self, member: MemberPlan, on_epoch: OnEpoch, folder: Path) -> Trained:
        """Train one member by `fit`, in a folder that is made for it."""
        from orchestrator.training.solo import train_solo

        folder.mkdir()

        def tell(epoch: int, logs: Mapping[str, float]) -> None:
            on_epoch(member.index, epoch, logs)

        return train_solo(member, self.dataset, folder, self.device, tell, lambda: None)

    def _fused(self, folder: Path, on_epoch: OnEpoch, on_end: OnEnd) -> None:
        from orchestrator.training.fused.seat import Seat
        from orchestrator.training.fused.train import train_fused

        seats = []
        for member in self.members:
            at = folder / str(member.index)
            at.mkdir()

            def tell(epoch: int, logs: Mapping[str, float], index: int = member.index) -> None:
                on_epoch(index, epoch, logs)

            seats.append(Seat(member=member, folder=at, start_from=None, finished=False, on_epoch=tell))

        def done(seat: int, trained: Any) -> None:
            if isinstance(trained, BaseException):
                raise trained
            on_end(seats[seat].member.index, trained)

        train_fused(seats, self.dataset, self.device, lambda: None, done=done)


def main(engine: str, backend: str, task_path: str, report_path: str) -> None:
    """Report when each epoch of all members ended, and how long the whole training took."""
    task = Task.read(task_path)
    warm = Warm.start(task, 1 if engine == "solo" else os.cpu_count() or 1, backend=backend)
    ends: list[float] = []
    logs_at_end: dict[int, Mapping[str, float]] = {}

    def on_epoch(member: int, epoch: int, logs: Mapping[str, float]) -> None:
        logs_at_end[member] = dict(logs)
        if engine == "solo" or len(ends) < epoch:
            ends.append(0.0)
        ends[-1] = time.perf_counter()

    began = time.perf_counter()
    warm.train(engine, on_epoch)
    seconds = time.perf_counter() - began
    facts = {
        "train_s": seconds,
        "epoch_s": [after - before for before, after in zip([began, *ends], ends, strict=False)],
        "members_accuracy": round(sum(logs["val_accuracy"] for logs in logs_at_end.values()) / len(logs_at_end), 4),
    }
    Path(report_path).write_text(json.dumps(facts))


if __name__ == "__main__":
    main(*sys.argv[1:])
