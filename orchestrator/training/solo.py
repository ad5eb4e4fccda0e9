"""The solo engine: one member, trained by Keras' own `fit`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras

from orchestrator.errors import InvalidModel
from orchestrator.models.build import build_member
from orchestrator.models.first_batch import run_first_batch
from orchestrator.planning.members import MemberPlan
from orchestrator.spec import TrainSpec
from orchestrator.training.callbacks import (
    SeedEachEpoch,
    StopOnDivergence,
    TellEpochs,
    make_checkpoint,
    make_early_stopping,
    stopped_epoch,
)
from orchestrator.training.data import Dataset
from orchestrator.training.device import Device
from orchestrator.training.feed import Feed, choose_steps_per_execution

VALIDATION_BATCH = 1024


@dataclass(frozen=True)
class Trained:
    """What training a member gave.

    Attributes:
        model: holds the best model's weights.
        path: the best model as a `.keras` file in local scratch.
        history: one row per epoch: `epoch` (1-based) and what Keras reported.
        best_epoch: the epoch (1-based) whose weights the best model has.
        stopped_epoch: the epoch (1-based) at which training stopped early, or None.
    """

    model: keras.Model
    path: Path
    history: tuple[Mapping[str, float], ...]
    best_epoch: int
    stopped_epoch: int | None


def train_solo(
    member: MemberPlan,
    train: TrainSpec,
    dataset: Dataset,
    folder: Path,
    device: Device,
    on_epoch: Callable[[int, Mapping[str, float]], None],
    on_batch: Callable[[], None],
) -> Trained:
    """Train one member and leave its best model in `folder`.

    Args:
        member: which one.
        train: the job's `train:` settings.
        dataset: the rows; shared and read-only.
        folder: empty local scratch.
        device: what is trained on.
        on_epoch: called after each epoch with its 1-based number and logs.
        on_batch: called for each batch, as a sign of life.

    Raises:
        Diverged: the loss became NaN or infinite.
        InvalidModel: the build function fails, or `ModelCheckpoint` kept no model.
    """
    model = build_member(member.builder, member.kwargs, member.seed, train)
    feed = Feed(dataset.train, train.batch_size, member.seed, on_batch)
    batch = dataset.train.take(slice(0, train.batch_size))
    run_first_batch(model, batch.x, batch.y, f"{member.builder} (member {member.index})")
    _tune(model, train, device, len(feed))
    has_validation = dataset.validation is not None
    checkpoint = make_checkpoint(train, folder, has_validation=has_validation)
    early_stopping = make_early_stopping(train, has_validation=has_validation)
    history: list[Mapping[str, float]] = []
    kept = _KeptEpoch(checkpoint)

    def tell(epoch: int, logs: dict[str, float]) -> None:
        history.append({"epoch": epoch, **logs})
        kept.look(epoch)
        on_epoch(epoch, logs)

    model.fit(
        feed,
        epochs=train.epochs,
        validation_data=_validation_arrays(dataset),
        validation_batch_size=VALIDATION_BATCH if has_validation else None,
        shuffle=False,  # the feed has its own order
        verbose=0,
        callbacks=[
            SeedEachEpoch(feed, member.seed),
            StopOnDivergence(),
            checkpoint,
            *([early_stopping] if early_stopping else []),
            TellEpochs(tell),
        ],
    )
    path = _best_model(model, train, checkpoint, folder)
    stopped = stopped_epoch(early_stopping)
    if checkpoint.save_best_only:
        best_epoch = kept.epoch
    elif early_stopping is not None and early_stopping.restore_best_weights:  # at the end of fit, stopped or not
        best_epoch = int(early_stopping.best_epoch) + 1
    else:
        best_epoch = len(history)
    return Trained(model, path, tuple(history), best_epoch, stopped)


class _KeptEpoch:
    """The epoch that `ModelCheckpoint` last found to be the best."""

    def __init__(self, checkpoint: keras.callbacks.ModelCheckpoint) -> None:
        self._checkpoint = checkpoint
        self._best = checkpoint.best
        self.epoch = 1

    def look(self, epoch: int) -> None:
        if self._checkpoint.best != self._best:
            self._best = self._checkpoint.best
            self.epoch = epoch


def _tune(model: keras.Model, train: TrainSpec, device: Device, num_steps: int) -> None:
    """Settings of speed that leave the numbers alone. XLA loses on a CPU with small models, so `auto` is off there."""
    if train.steps_per_execution == "auto":
        model.steps_per_execution = choose_steps_per_execution(num_steps, train.epochs)
    else:
        model.steps_per_execution = train.steps_per_execution
    if train.jit_compile != "auto":
        model.jit_compile = train.jit_compile
    elif device.kind == "cpu":
        model.jit_compile = False


def _validation_arrays(dataset: Dataset) -> tuple[Any, ...] | None:
    split = dataset.validation
    if split is None:
        return None
    return (split.x, split.y) if split.w is None else (split.x, split.y, split.w)


def _best_model(
    model: keras.Model, train: TrainSpec, checkpoint: keras.callbacks.ModelCheckpoint, folder: Path
) -> Path:
    """One `.keras` file: what `ModelCheckpoint` kept if `save_best_only`, else the weights after fit."""
    kept = Path(checkpoint.filepath)
    published = folder / "best.keras"
    if not train.checkpoint.save_best_only:
        model.save(published)
        return published
    if not kept.exists():
        raise InvalidModel(
            f"ModelCheckpoint kept no model: {checkpoint.monitor} never went beyond initial_value_threshold "
            f"{train.checkpoint.initial_value_threshold}",
            where="train.checkpoint",
            hint="change initial_value_threshold, or train for more epochs",
        )
    model.load_weights(kept)
    if train.checkpoint.save_weights_only:
        model.save(published)
    return published
