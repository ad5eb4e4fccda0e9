"""The solo engine: one member, trained by Keras' own `fit`, from its beginning or from a checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

import keras

from orchestrator.models.build import build_member
from orchestrator.models.first_batch import run_first_batch
from orchestrator.models.outputs import in_models_form
from orchestrator.planning.members import MemberPlan
from orchestrator.spec import TrainSpec
from orchestrator.training.callback_state import take_states
from orchestrator.training.callbacks import KeepStates, SeedEachEpoch, StopOnDivergence, TellEpochs, Watch
from orchestrator.training.checkpoint import Best, CallbackState, Snapshot
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
    train: TrainSpec,
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

    Args:
        member: which one.
        train: the job's `train:` settings.
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
    """
    own = member_rows(dataset, member)
    preprocessing = prepare(member, own.train)
    model = build_member(member.builder, member.kwargs, member.seed, train, preprocessing)
    form = partial(in_models_form, model)
    weigh = partial(weigh_classes, weights=weights_of_classes(train.class_weight, own.train.split))
    feed = Feed(own.train, train.batch_size, member.seed, on_batch, form, weigh, shuffle=train.shuffle)
    batch = own.train.take(slice(0, train.batch_size))
    run_first_batch(model, batch.x, batch.y, f"{member.builder} (member {member.index})")
    _tune(model, train, device, len(feed))
    has_validation = own.validation is not None
    checkpoint = make_checkpoint(train, folder, has_validation=has_validation)
    early_stopping = make_early_stopping(train, has_validation=has_validation)
    history = keras.callbacks.History()
    rows: list[Mapping[str, float]] = []

    def tell(epoch: int, logs: dict[str, float]) -> None:
        rows.append({"epoch": epoch, **logs})
        on_epoch(epoch, logs)

    stateful = [
        *in_order(checkpoint, early_stopping, make_callbacks(train, folder / "files", has_validation=has_validation)),
        history,
    ]
    done = 0
    if start_from is not None:
        restore_variables(model, start_from, where=f"member {member.index}")
        checkpoint.best_model = start_from.best
        rows += start_from.history
        done = train.epochs if start_from.stopped else min(start_from.epoch, train.epochs)

    def keep_state(epoch: int, logs: Mapping[str, float]) -> None:
        state = take_states(stateful)
        keep(_snapshot(member, model, epoch, tuple(rows), logs, state, checkpoint.best_model))

    with feed:
        model.fit(
            feed,
            epochs=train.epochs,
            initial_epoch=done,
            validation_data=None if own.validation is None else fit_arguments(own.validation.all(), form),
            validation_batch_size=None if own.validation is None else choose_validation_batch(own.validation.num_rows),
            shuffle=False,  # the feed has its own order
            verbose=train.verbose,
            callbacks=[
                SeedEachEpoch(feed, member.seed),
                StopOnDivergence(),
                *stateful,
                TellEpochs(tell),
                Watch(check, on_batch),
                KeepStates(stateful, start_from, keep_state),
            ],
        )
    path = save_best(model, train, checkpoint, folder)
    best_epoch = best_epoch_of(checkpoint, early_stopping) or len(rows)
    return Trained(model, path, tuple(rows), best_epoch, stopped_epoch(early_stopping), preprocessing)


def _snapshot(
    member: MemberPlan,
    model: keras.Model,
    epoch: int,
    rows: tuple[Mapping[str, float], ...],
    logs: Mapping[str, float],
    callbacks: tuple[CallbackState, ...],
    best: Best | None,
) -> Snapshot:
    return Snapshot(
        member=member.index,
        seed=member.seed,
        epoch=epoch,
        variables=copies(model.variables),
        optimizer=copies(model.optimizer.variables),
        callbacks=callbacks,
        history=rows,
        logs=dict(logs),
        stopped=bool(model.stop_training),
        best=best,
    )


def make_late(
    member: MemberPlan, train: TrainSpec, dataset: Dataset, snapshot: Snapshot, folder: Path, device: Device
) -> Trained:
    """The best model so far of a member that will train no more: what `fit` would end with, had it ended there."""
    stopped = replace(snapshot, stopped=True)
    return train_solo(
        member, train, dataset, folder, device, lambda epoch, logs: None, lambda: None, start_from=stopped
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
