"""The check on the first warm worker before any member starts: build, one batch, monitors, callbacks, labels."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import keras
import numpy as np

from orchestrator.ensemble.asked import check_rows
from orchestrator.ensemble.crossfit import assign_folds, check_stackable
from orchestrator.ensemble.prefix import watched
from orchestrator.ensemble.tasks import TaskKind, infer_task, to_targets
from orchestrator.errors import InvalidData, InvalidJob, InvalidModel
from orchestrator.models.build import build_member
from orchestrator.models.first_batch import call_first_batch, first_line, score_first_batch
from orchestrator.models.outputs import loss_name, predictions, squash_of
from orchestrator.planning.members import MemberPlan
from orchestrator.planning.packs import Architecture
from orchestrator.spec import Job, KerasObject, TrainSpec
from orchestrator.training.callback_state import take_states
from orchestrator.training.data import Dataset
from orchestrator.training.fused.architecture import layer_kinds, signature, why_not_fused
from orchestrator.training.made_callbacks import make_callbacks, make_checkpoint, make_early_stopping

MOST_CHECKED = 16
"""How many different models the preflight runs a batch through. Of further ones it sees whether they can be stacked;
what is wrong with their data, loss or metrics they show when their turn comes."""

_RATE = "optimizer.config.learning_rate"


@dataclass(frozen=True)
class Checked:
    """What the preflight found.

    Attributes:
        task: what the models are asked to tell.
        architectures: of the members whose models were looked at.
    """

    task: TaskKind
    architectures: Mapping[int, Architecture]


def check_before_training(job: Job, members: Sequence[MemberPlan], dataset: Dataset) -> Checked:
    """Check all that can be known without training, and look at what decides about packs.

    Raises:
        InvalidJob, InvalidModel, InvalidData: what is wrong, where, and how to mend it.
    """
    check_asked_for_rows(job, dataset)
    kinds: dict[str, str] = {}
    architectures: dict[int, Architecture] = {}
    alike = list(_distinct(members).values())
    for same in alike[:MOST_CHECKED]:
        member = same[0]
        train = member.train
        model = build_member(member.builder, member.kwargs, member.seed, train)
        where = f"{member.builder} (member {member.index})"
        batch = dataset.train.take(slice(0, train.batch_size))
        raw = call_first_batch(model, batch.x, where)
        plain = keras.ops.convert_to_numpy(raw) if hasattr(raw, "shape") else raw
        outputs = predictions(plain, squash_of(model))
        _check_logits(model, plain, where)
        task = _task(dataset.train.y, outputs.shape[1], loss_name(model))
        _check_labels(task, dataset, outputs.shape[1], where)  # before the loss, which says less of a wrong label
        _check_outputs(task, outputs, where)
        _check_calibrated(task, job)
        _check_class_names(task, job, outputs.shape[1])
        names = score_first_batch(model, batch.x, batch.y, raw, where)
        _check_monitors(train, names, has_validation=dataset.validation is not None)
        with TemporaryDirectory() as folder:
            callbacks = _check_callbacks(train, model, Path(folder), has_validation=dataset.validation is not None)
        kinds.setdefault(f"{task} {list(outputs.shape[1:])}", where)
        if len(kinds) > 1:
            told = " and ".join(f"{kind} ({place})" for kind, place in kinds.items())
            raise InvalidModel(f"members tell different things, which cannot be averaged: {told}")
        seen = _look_at(model, member, callbacks)
        architectures |= {each.index: seen for each in same}
    if job.train.engine != "solo":
        for same in alike[MOST_CHECKED:]:
            seen = _look_at(_built(same[0], dataset), same[0], callbacks)
            architectures |= {each.index: seen for each in same}
    _check_watched(task, job, dataset, outputs.shape[1])
    _check_stackable(task, job, dataset, len(members), outputs.shape[1])
    return Checked(task, architectures)


def check_asked_for_rows(job: Job, dataset: Dataset) -> None:
    """Refuse settings that need a validation or test set which the data does not have.

    Raises:
        InvalidJob: weights, a gate or a monitor asks for rows that are not there.
    """
    check_rows(job.ensemble, {name: split.num_rows for name, split in dataset.splits() if name != "train"})


def _check_watched(task: TaskKind, job: Job, dataset: Dataset, width: int) -> None:
    """Refuse a metric of `stop_when` or of the gate that cannot be told of its rows, whatever is predicted."""
    rule, gate, splits = job.ensemble.stop_when, job.ensemble.gate, dict(dataset.splits())
    asked: list[tuple[str, str, str]] = []
    if rule is not None:
        asked.append(("stop_when", "validation", rule.metric))
    if gate is not None:
        asked.append(("gate", gate.on, gate.metric))
    for key, split, metric in asked:
        targets = to_targets(task, splits[split].y)
        watched(metric, task, targets, np.full((len(targets), width), 1 / width), f"ensemble.{key}.metric")


def _check_stackable(task: TaskKind, job: Job, dataset: Dataset, num_members: int, width: int) -> None:
    """Refuse a stacking that could not be fitted at the end: by then the members have cost hours."""
    if job.ensemble.combine == "stacking" and dataset.validation is not None:
        targets = to_targets(task, dataset.validation.y)
        check_stackable(task, targets, assign_folds(task, targets, seed=job.seed), num_members, width)


def _distinct(members: Sequence[MemberPlan]) -> Mapping[object, Sequence[MemberPlan]]:
    """Members in groups that differ in nothing but seed, dropout rate and the learning rate that the job gives.

    Those without dropout are a group of their own: `if dropout: …` is how many builders leave the layer out.
    """
    groups: dict[object, list[MemberPlan]] = {}
    for member in members:
        others = repr(sorted((k, v) for k, v in member.kwargs.items() if k != "dropout"))
        settings = repr(sorted((k, v) for k, v in member.train_values.items() if k != _RATE))
        key = (member.builder, others, settings, bool(member.kwargs.get("dropout")))
        groups.setdefault(key, []).append(member)
    return groups


def _built(member: MemberPlan, dataset: Dataset) -> keras.Model:
    """The member's model with all its variables. Raises as `build_member`, and InvalidData."""
    model = build_member(member.builder, member.kwargs, member.seed, member.train)
    if not model.built:
        first = dataset.train.take(slice(0, member.train.batch_size))
        call_first_batch(model, first.x, f"{member.builder} (member {member.index})")
    return model


def _look_at(model: keras.Model, member: MemberPlan, callbacks: Sequence[keras.callbacks.Callback]) -> Architecture:
    return Architecture(
        (signature(model) or f"like no other {id(model)}") + _shared_settings(member),
        layer_kinds(model),
        why_not_fused(model, member.train, callbacks),
        epochs=member.train.epochs,
        batch_size=member.train.batch_size,
    )


def _shared_settings(member: MemberPlan) -> str:
    """The member's own settings of `train` that all members of a pack have in common.

    Those of optimizer, loss and metrics are in the model's signature; those of callbacks are each member's own.
    """
    own = {"early_stopping", "checkpoint", "callbacks", "optimizer", "loss", "metrics"}
    shared = sorted((key, value) for key, value in member.train_values.items() if key.partition(".")[0] not in own)
    return f" {shared}" if shared else ""


def _check_logits(model: keras.Model, raw: Any, where: str) -> None:
    """Refuse a loss that takes logits over a model that gives probabilities: they would be squashed twice.

    Keras mends this in training by going back to what the last activation got; whoever reads the outputs cannot.
    """
    outputs = np.asarray(raw)
    squash = squash_of(model)
    if squash is None or outputs.ndim != 2:
        return
    if squash == "sigmoid" or outputs.shape[1] == 1:
        squashed = getattr(model.layers[-1], "activation", None) is keras.activations.sigmoid
    else:
        squashed = bool(outputs.min() >= 0 and np.abs(outputs.sum(axis=1) - 1).max() < 1e-4)
    if squashed:
        raise InvalidModel(
            "the loss says from_logits=True, but the model's outputs are probabilities already",
            where=where,
            hint="end the model without softmax or sigmoid, or leave from_logits out of the loss",
        )


def _task(labels: Any, width: int, loss: str | None) -> TaskKind:
    # Flags in floating point are flags, too: only a loss of Keras' own may say that they are numbers.
    are_flags = labels.ndim == 2 and labels.shape[1] > 1 and bool(np.isin(labels, (0, 1)).all())
    return infer_task(labels.shape, bool if are_flags else labels.dtype, (len(labels), width), loss)


def _check_labels(task: TaskKind, dataset: Dataset, width: int, where: str) -> None:
    if task is TaskKind.REGRESSION:
        return  # any number will do, and loading refuses what is none
    for name, split in dataset.splits():
        one_hot = task is TaskKind.MULTICLASS and split.y.ndim == 2 and split.y.shape[1] > 1
        limit = width if task is TaskKind.MULTICLASS and not one_hot else 2
        low, high = split.y.min(), split.y.max()
        if low < 0 or high >= limit or not np.array_equal(split.y, np.round(split.y)):
            raise InvalidData(
                f"labels of the {name} set go from {low:g} to {high:g}; the model's {width} outputs allow whole "
                f"numbers from 0 to {limit - 1}",
                where=where,
                hint="number the classes from 0, and give the model one output per class; for numbers to predict use "
                "a regression loss of Keras, such as mean_squared_error",
            )
        if one_hot and not (split.y.sum(axis=1) == 1).all():
            row = int(np.flatnonzero(split.y.sum(axis=1) != 1)[0])
            raise InvalidData(
                f"labels of the {name} set are not one-hot: row {row} does not have exactly one 1",
                where=where,
                hint="give every row exactly one class; for several at once use binary_crossentropy",
            )


def _check_outputs(task: TaskKind, outputs: Any, where: str) -> None:
    finite = bool(np.isfinite(outputs).all())
    if task is TaskKind.REGRESSION:
        if not finite:
            raise InvalidModel(
                "the model's outputs are NaN or infinite before training",
                where=where,
                hint="scale the inputs, or look for a division by 0 in the model",
            )
        return
    slack = 1e-3
    bad_range = not finite or outputs.min() < -slack or outputs.max() > 1 + slack
    one_of_many = task is TaskKind.MULTICLASS and not bad_range
    if bad_range or (one_of_many and np.abs(outputs.sum(axis=1) - 1).max() > slack):
        raise InvalidModel(
            "the model's outputs are no probabilities",
            where=where,
            hint="end with softmax (one output per class) or sigmoid (yes or no, and several labels), or compile with "
            "a loss that says from_logits=True",
        )


def _check_calibrated(task: TaskKind, job: Job) -> None:
    """Refuse the calibration of what are no probabilities."""
    if task is TaskKind.REGRESSION and job.ensemble.calibrate:
        raise InvalidJob(
            "there are no probabilities to calibrate: the models tell regression",
            where="ensemble.calibrate",
            hint="leave ensemble.calibrate out",
        )


def _check_class_names(task: TaskKind, job: Job, width: int) -> None:
    """Refuse names that are not one for each class, before anything is told under a wrong one."""
    names = job.data.class_names
    num_classes = {TaskKind.REGRESSION: 0, TaskKind.BINARY: 2}.get(task, width)
    if names is not None and len(names) != num_classes:
        raise InvalidJob(
            f"there are {len(names)} names, and the models tell {num_classes or 'no'} classes",
            where="data.class_names",
            hint="give one name for each class, in the order of the labels" if num_classes else "leave it out",
        )


def _check_monitors(train: TrainSpec, names: list[str], *, has_validation: bool) -> None:
    known = names + ([f"val_{name}" for name in names] if has_validation else [])
    for key, monitor in _monitors(train):
        if monitor not in known:
            raise InvalidJob(
                f"there is nothing called {monitor!r} to monitor",
                where=key,
                hint=f"there are: {', '.join(known)}"
                + ("" if has_validation else "; without a validation set there is nothing that begins with val_"),
            )
    checkpoint = train.checkpoint
    at_batches = checkpoint.save_freq != "epoch" and checkpoint.save_best_only
    if at_batches and (checkpoint.monitor or ("val_loss" if has_validation else "loss")).startswith("val_"):
        raise InvalidJob(
            "save_freq counts batches, but validation figures are known only at the end of an epoch",
            where="train.checkpoint.save_freq",
            hint="use save_freq: epoch, or a monitor of the training data such as loss",
        )


def _monitors(train: TrainSpec) -> Iterator[tuple[str, Any]]:
    """What the job asks to watch, by the key that says so."""
    for key, settings in (("early_stopping", train.early_stopping), ("checkpoint", train.checkpoint)):
        if settings is not None and settings.monitor is not None:
            yield f"train.{key}.monitor", settings.monitor
    for number, asked in enumerate(train.callbacks):
        if isinstance(asked, KerasObject) and asked.class_name == "ReduceLROnPlateau" and "monitor" in asked.config:
            yield f"train.callbacks.{number}.config.monitor", asked.config["monitor"]


def _check_callbacks(
    train: TrainSpec, model: keras.Model, folder: Path, *, has_validation: bool
) -> Sequence[keras.callbacks.Callback]:
    """Make them all, let those that watch something say whether more of it is better, and take their first state."""
    callbacks = make_callbacks(train, folder / "files", has_validation=has_validation)
    take_states(callbacks)
    watching = {f"train.callbacks.{number}": callback for number, callback in enumerate(callbacks)}
    with _refused_by_keras("train.checkpoint"):
        watching["train.checkpoint"] = make_checkpoint(train, folder, has_validation=has_validation)
    with _refused_by_keras("train.early_stopping"):
        watching["train.early_stopping"] = make_early_stopping(train, has_validation=has_validation)
    for key, callback in watching.items():
        if hasattr(callback, "_set_monitor_op"):
            with _refused_by_keras(key):
                callback.set_model(model)
                callback._set_monitor_op()
    return callbacks


@contextmanager
def _refused_by_keras(key: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        raise InvalidJob(f"Keras refuses these settings: {first_line(error)}", where=key) from error
