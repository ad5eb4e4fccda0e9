"""The solo engine: one member, trained by Keras' own `fit`, from its beginning or from a checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import keras

from orchestrator.models.build import build
from orchestrator.models.first_batch import run_first_batch
from orchestrator.models.outputs import in_models_form
from orchestrator.models.stages import enter_stage
from orchestrator.planning.members import MemberPlan
from orchestrator.planning.stages import STAGE, StagePlan, stages_of
from orchestrator.spec import TrainSpec
from orchestrator.training.callback_state import take_states
from orchestrator.training.callbacks import KeepStates, SeedEachEpoch, StopOnDivergence, TellEpochs, Watch
from orchestrator.training.checkpoint import Snapshot
from orchestrator.training.class_weight import weigh_classes, weights_of_classes
from orchestrator.training.data import Dataset
from orchestrator.training.device import Device
from orchestrator.training.feed import Feed, choose_steps_per_execution, choose_validation_batch, fit_arguments
from orchestrator.training.made_callbacks import (
    in_order,
    make_callbacks,
    make_checkpoint,
    make_early_stopping,
    stopped_epoch,
)
from orchestrator.training.prepared import prepare
from orchestrator.training.rows import member_rows
from orchestrator.training.trained import Trained, best_epoch_of, save_best
from orchestrator.training.variables import copies, restore_variables


def train_solo(
    member: MemberPlan,
    dataset: Dataset,
    folder: Path,
    device: Device,
    on_epoch: Callable[[int, Mapping[str, float]], None],
    on_batch: Callable[[], None],
    *,
    start_from: Snapshot | None = None,
    keep: Callable[[Snapshot], None] = lambda snapshot: None,
    check: Callable[[], None] = lambda: None,
) -> Trained:
    """Train one member, or go on with it, and leave its best model in `folder`.

    A member that goes on ends with the same bits as one that was never interrupted, on a CPU in deterministic mode:
    each epoch starts from (member seed, epoch) and from what the snapshot holds.

    A stage begins with the weights that `fit` of the one before it ended with, as in Keras: those of its best epoch if
    its EarlyStopping has `restore_best_weights`, else the last ones. Optimizer and callbacks begin anew.

    Args:
        member: which one; its stages may change its `train:` settings.
        dataset: the run's rows, of which the member gets its own; shared and read-only.
        folder: empty local scratch; callbacks write below `files`.
        device: what is trained on.
        on_epoch: called after each epoch with its 1-based number and logs.
        on_batch: called for each batch, as a sign of life.
        start_from: the state after an earlier epoch; None: the beginning.
        keep: gets the state after each epoch, in arrays of its own.
        check: called between batches; what it raises ends the training and reaches the caller unchanged.

    Raises:
        Diverged: the loss became NaN or infinite.
        InvalidModel: the build function fails, the snapshot does not fit, or `ModelCheckpoint` kept no model.
        InvalidData, StoreUnavailable: streamed rows have changed, or cannot be read.
        InvalidJob: a stage freezes layers that the base does not have.
    """
    solo = _Solo(member, dataset, folder, device, on_epoch, on_batch, start_from, keep, check)
    for stage in solo.stages:
        if start_from is None or stage.number >= start_from.stage:
            solo.fit(stage)
    return solo.end()


def make_late(member: MemberPlan, dataset: Dataset, snapshot: Snapshot, folder: Path, device: Device) -> Trained:
    """The best model so far of a member that will train no more: what `fit` would end with, had it ended there."""
    stopped = replace(snapshot, stopped=True)
    solo = _Solo(member, dataset, folder, device, lambda epoch, logs: None, lambda: None, stopped)
    solo.fit(next(stage for stage in solo.stages if stage.number == snapshot.stage))
    return solo.end()


class _Solo:
    """One member in training, and what lasts from stage to stage: the model's weights, the history, the best model.

    Arguments are those of `train_solo`.
    """

    _early_stopping: keras.callbacks.EarlyStopping | None
    _stage: StagePlan

    def __init__(
        self,
        member: MemberPlan,
        dataset: Dataset,
        folder: Path,
        device: Device,
        on_epoch: Callable[[int, Mapping[str, float]], None],
        on_batch: Callable[[], None],
        start_from: Snapshot | None,
        keep: Callable[[Snapshot], None] = lambda snapshot: None,
        check: Callable[[], None] = lambda: None,
    ) -> None:
        train = member.train
        self.stages = stages_of(train, member.stages, member.best_over)
        self._member, self._folder, self._device = member, folder, device
        self._on_epoch, self._on_batch, self._keep, self._check = on_epoch, on_batch, keep, check
        self._start_from = start_from
        self._own = member_rows(dataset, member)
        self._preprocessing = prepare(member, self._own.train)
        self._built = build(member.builder, member.kwargs, member.seed, train, self._preprocessing, member.base)
        self._rows: list[Mapping[str, float]] = [] if start_from is None else list(start_from.history)
        self._has_validation = self._own.validation is not None
        self._checkpoint = make_checkpoint(train, folder, has_validation=self._has_validation)

    def fit(self, stage: StagePlan) -> None:
        """Train for one stage, or for what is left of it. Epochs are counted on through all stages."""
        self._enter(stage)
        model, member, train = self._built.model, self._member, stage.train
        form = partial(in_models_form, model)
        weigh = partial(weigh_classes, weights=weights_of_classes(train.class_weight, self._own.train))
        rows = self._own.train
        feed = Feed(rows, train.batch_size, member.seed, self._on_batch, form, weigh, shuffle=train.shuffle)
        _tune(model, train, self._device, len(feed))
        before = sum(row.get(STAGE, 0) < stage.number for row in self._rows)
        stateful = self._make_callbacks(stage, before)
        validation = self._own.validation

        def keep(epoch: int, logs: Mapping[str, float]) -> None:
            self._keep(self._snapshot(stateful, epoch, logs))

        last = done = before + train.epochs
        resumed = self._start_from if self._start_from and self._start_from.stage == stage.number else None
        if resumed is None:
            done = before
        else:
            restore_variables(model, resumed, where=f"member {member.index}")
            self._checkpoint.best_model = resumed.best
            done = last if resumed.stopped else min(resumed.epoch, last)

        with feed:
            model.fit(
                feed,
                epochs=last,
                initial_epoch=done,
                validation_data=None if validation is None else fit_arguments(validation.all(), form),
                validation_batch_size=None if validation is None else choose_validation_batch(validation.num_rows),
                shuffle=False,  # the feed has its own order
                verbose=train.verbose,
                callbacks=[
                    SeedEachEpoch(feed, member.seed),
                    StopOnDivergence(),
                    *stateful,
                    TellEpochs(self._tell),
                    Watch(self._check, self._on_batch),
                    KeepStates(stateful, resumed, keep),
                ],
            )

    def end(self) -> Trained:
        """Leave the best model in the folder: of the stage that was trained last, or of all."""
        best_epoch = best_epoch_of(self._checkpoint, self._early_stopping) or len(self._rows)
        stage = next(each for each in self.stages if each.number == self._rows[best_epoch - 1].get(STAGE, 0))
        if stage != self._stage:  # the optimizer that goes with the best weights is that of their stage
            self._enter(stage)
        path = save_best(self._built.model, stage.train, self._checkpoint, self._folder)
        return Trained(
            self._built.model,
            path,
            tuple(self._rows),
            best_epoch,
            stopped_epoch(self._early_stopping),
            self._preprocessing,
        )

    def _enter(self, stage: StagePlan) -> None:
        enter_stage(self._built, stage, self._member.builder)
        batch = self._own.train.take(slice(0, stage.train.batch_size))
        where = f"{self._member.builder} (member {self._member.index})"
        run_first_batch(self._built.model, batch.x, batch.y, where)
        self._stage = stage

    def _make_callbacks(self, stage: StagePlan, before: int) -> list[keras.callbacks.Callback]:
        """Fresh ones for each stage; but one `ModelCheckpoint` where the best model is sought over all of them."""
        train, has_validation = stage.train, self._has_validation
        if self._member.best_over == "last":
            self._checkpoint = make_checkpoint(train, self._folder, has_validation=has_validation)
        self._early_stopping = make_early_stopping(train, has_validation=has_validation)
        if self._early_stopping is not None:
            self._early_stopping.start_from_epoch += before
        files = self._folder / "files"
        if stage.number:
            files = files / f"stage-{stage.number}"  # a `CSVLogger` would begin the file of the stage before anew
        further = make_callbacks(train, files, has_validation=has_validation)
        return [*in_order(self._checkpoint, self._early_stopping, further), keras.callbacks.History()]

    def _tell(self, epoch: int, logs: dict[str, float]) -> None:
        place = {STAGE: self._stage.number} if self._stage.number else {}
        self._rows.append({"epoch": epoch, **place, **logs})
        self._on_epoch(epoch, logs)

    def _snapshot(
        self, stateful: Sequence[keras.callbacks.Callback], epoch: int, logs: Mapping[str, float]
    ) -> Snapshot:
        model, member = self._built.model, self._member
        return Snapshot(
            member=member.index,
            seed=member.seed,
            epoch=epoch,
            variables=copies(model.variables),
            optimizer=copies(model.optimizer.variables),
            callbacks=take_states(stateful),
            history=tuple(self._rows),
            logs=dict(logs),
            stopped=bool(model.stop_training),
            best=self._checkpoint.best_model,
            stage=self._stage.number,
        )


def _tune(model: keras.Model, train: TrainSpec, device: Device, num_steps: int) -> None:
    """Settings of speed that leave the numbers alone.

    TensorFlow's XLA loses on a CPU with small models, so `auto` is off there; JAX knows nothing else.
    """
    if train.steps_per_execution == "auto":
        model.steps_per_execution = choose_steps_per_execution(num_steps, train.epochs)
    else:
        model.steps_per_execution = train.steps_per_execution
    if train.jit_compile != "auto":
        model.jit_compile = train.jit_compile
    elif device.backend == "tensorflow" and device.kind == "cpu":
        model.jit_compile = False
