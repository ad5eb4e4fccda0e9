"""A worker's program without TensorFlow: it tells the same events as the real one, and what it sees of its place."""

from __future__ import annotations

import os
from collections.abc import Callable

from orchestrator.planning import commands as cmd
from orchestrator.planning import events as ev
from orchestrator.planning.outputs import ONLY
from orchestrator.training.data import Dataset
from orchestrator.training.setup import WorkerSetup

BATCH_S = 0.02


class LightProgram:
    """Takes the place of `training.program.Program`; an epoch is one short wait.

    The logs of its epochs tell what a test wants to know of the worker: `gpu` (the first device that Ray gave it, −1
    for none), `num_gpus` (how many it sees) and, for the training inputs that it received, whether they are `owned`
    copies and `writeable`.
    """

    def __init__(self, setup: WorkerSetup, emit: Callable[[ev.Event], None], on_batch: Callable[[], None]) -> None:
        self._setup = setup
        self._emit = emit
        self._on_batch = on_batch

    def start(self) -> None:
        """Nothing to get ready."""

    def interrupt(self, command: cmd.SaveNow) -> None:
        """There is nothing to save."""
        self._emit(ev.Saved(self._setup.worker))

    def handle(self, command: cmd.WorkerCommand, dataset: Dataset) -> None:
        """Tell what the real program would tell of such a command."""
        import threading

        name = self._setup.worker
        match command:
            case cmd.Preflight():
                self._emit(ev.PreflightPassed(name, {ONLY: "multiclass"}, "cpu", True, {}, {}))
            case cmd.TrainPack(members=(member,), predict=predict):
                for published in predict:
                    self._emit(ev.MemberPredicted(name, published, {}))
                epochs = self._setup.job.train.epochs
                for epoch in range(1, epochs + 1):
                    threading.Event().wait(BATCH_S)
                    self._on_batch()
                    self._emit(ev.EpochEnded(name, member, epoch, epochs, _seen(dataset)))
                self._emit(ev.MemberTrained(name, member))
            case cmd.Predict(member=member):
                self._emit(ev.MemberPredicted(name, member, {}))
        self._emit(ev.WorkerIdle(name))


def _seen(dataset: Dataset) -> dict[str, float]:
    flags = dataset.train.x.flags  # type: ignore[union-attr]  # one array in these tests
    gpus = [float(index) for index in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if index]
    return {
        "gpu": gpus[0] if gpus else -1.0,
        "num_gpus": float(len(set(gpus))),
        "owned": float(flags.owndata),
        "writeable": float(flags.writeable),
    }
