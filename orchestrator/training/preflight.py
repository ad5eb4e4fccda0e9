"""The check on the first warm worker before any member starts: build, one batch, monitors, callbacks, labels."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import keras
import numpy as np

from orchestrator.ensemble.metrics import TaskKind, infer_task
from orchestrator.errors import InvalidData, InvalidJob, InvalidModel
from orchestrator.models.build import build_member
from orchestrator.models.first_batch import call_first_batch, first_line, score_first_batch
from orchestrator.models.outputs import probabilities, uses_logits
from orchestrator.planning.members import MemberPlan
from orchestrator.planning.packs import Architecture
from orchestrator.spec import Job, KerasObject
from orchestrator.training.callback_state import take_states
from orchestrator.training.data import Dataset
from orchestrator.training.device import Device
from orchestrator.training.fused.architecture import layer_kinds, signature, why_not_fused
from orchestrator.training.made_callbacks import make_callbacks, make_checkpoint, make_early_stopping

MOST_BUILDS = 16
"""How many different models the preflight builds; further ones show their errors when their turn comes."""


@dataclass(frozen=True)
class Checked:
    """What the preflight found.

    Attributes:
        task: what the models are asked to tell.
        architectures: of the members whose models were looked at.
    """

    task: TaskKind
    architectures: Mapping[int, Architecture]


def check_before_training(job: Job, members: Sequence[MemberPlan], dataset: Dataset, device: Device) -> Checked:
    """Check all that can be known without training, and look at what decides about packs.

    Raises:
        InvalidJob, InvalidModel, InvalidData: what is wrong, where, and how to mend it.
    """
    check_asked_for_rows(job, dataset)
    shapes: dict[tuple[int, ...], str] = {}
    architectures: dict[int, Architecture] = {}
    for same in islice(_distinct(members).values(), MOST_BUILDS):
        member = same[0]
        model = build_member(member.builder, member.kwargs, member.seed, job.train)
        where = f"{member.builder} (member {member.index})"
        batch = dataset.train.take(slice(0, job.train.batch_size))
        raw = call_first_batch(model, batch.x, where)
        plain = keras.ops.convert_to_numpy(raw) if hasattr(raw, "shape") else raw
        outputs = probabilities(plain, from_logits=uses_logits(model))
        _check_logits(model, plain, where)
        task = _check_labels(dataset, outputs, where)  # before the loss, which says less of a wrong label
        names = score_first_batch(model, batch.x, batch.y, raw, where)
        _check_monitors(job, names, has_validation=dataset.validation is not None)
        with TemporaryDirectory() as folder:
            _check_callbacks(job, model, Path(folder), has_validation=dataset.validation is not None)
        shapes.setdefault(outputs.shape[1:], where)
        if len(shapes) > 1:
            told = " and ".join(f"{list(shape)} ({place})" for shape, place in shapes.items())
            raise InvalidModel(f"members have outputs of different shapes, which cannot be averaged: {told}")
        seen = _look_at(model, job, device)
        architectures |= {each.index: seen for each in same}
    return Checked(task, architectures)


def check_asked_for_rows(job: Job, dataset: Dataset) -> None:
    """Refuse settings that need a validation or test set which the data does not have.

    Raises:
        InvalidJob: weights, a gate or a monitor asks for rows that are not there.
    """
    there = {name for name, _ in dataset.splits()}
    gate = job.ensemble.gate
    if gate is not None and gate.on not in there:
        raise InvalidJob(
            f"the gate is on the {gate.on} set, and there is none",
            where="ensemble.gate",
            hint=f"return a {gate.on} set from the data function, or remove the gate",
        )
    if job.ensemble.weights == "accuracy" and "validation" not in there:
        raise InvalidJob(
            "weights by accuracy are fitted on the validation set, and there is none",
            where="ensemble.weights",
            hint="set data.validation_split, or give the weights as a list",
        )


def _distinct(members: Sequence[MemberPlan]) -> Mapping[object, Sequence[MemberPlan]]:
    """Members in groups that differ in nothing but seed and dropout."""
    groups: dict[object, list[MemberPlan]] = {}
    for member in members:
        key = (member.builder, repr(sorted((k, v) for k, v in member.kwargs.items() if k != "dropout")))
        groups.setdefault(key, []).append(member)
    return groups


def _look_at(model: keras.Model, job: Job, device: Device) -> Architecture:
    return Architecture(
        signature(model) or f"like no other {id(model)}",
        layer_kinds(model),
        why_not_fused(model, job.train, device.kind),
    )


def _check_logits(model: keras.Model, raw: Any, where: str) -> None:
    """Refuse a loss that takes logits over a model that gives probabilities: they would be squashed twice.

    Keras mends this in training by going back to what the last activation got; whoever reads the outputs cannot.
    """
    outputs = np.asarray(raw)
    if not uses_logits(model) or outputs.ndim != 2:
        return
    if outputs.shape[1] == 1:
        squashed = getattr(model.layers[-1], "activation", None) is keras.activations.sigmoid
    else:
        squashed = bool(outputs.min() >= 0 and np.abs(outputs.sum(axis=1) - 1).max() < 1e-4)
    if squashed:
        raise InvalidModel(
            "the loss says from_logits=True, but the model's outputs are probabilities already",
            where=where,
            hint="end the model without softmax or sigmoid, or leave from_logits out of the loss",
        )


def _check_labels(dataset: Dataset, outputs: Any, where: str) -> TaskKind:
    num_classes = outputs.shape[1]
    for name, split in dataset.splits():
        task = infer_task(split.y.shape, split.y.dtype, (split.num_rows, num_classes))
        one_hot = split.y.ndim == 2 and split.y.shape[1] > 1
        limit = 2 if task is TaskKind.BINARY or one_hot else num_classes
        low, high = split.y.min(), split.y.max()
        if low < 0 or high >= limit or not np.array_equal(split.y, np.round(split.y)):
            raise InvalidData(
                f"labels of the {name} set go from {low:g} to {high:g}; the model's {num_classes} outputs allow whole "
                f"numbers from 0 to {limit - 1}",
                where=where,
                hint="number the classes from 0, and give the model one output per class",
            )
        if one_hot and not (split.y.sum(axis=1) == 1).all():
            row = int(np.flatnonzero(split.y.sum(axis=1) != 1)[0])
            raise InvalidData(
                f"labels of the {name} set are not one-hot: row {row} does not have exactly one 1",
                where=where,
                hint="give every row exactly one class",
            )
    slack = 1e-3
    bad_range = not np.isfinite(outputs).all() or outputs.min() < -slack or outputs.max() > 1 + slack
    bad_sum = num_classes > 1 and not bad_range and np.abs(outputs.sum(axis=1) - 1).max() > slack
    if bad_range or bad_sum:
        raise InvalidModel(
            "the model's outputs are no probabilities",
            where=where,
            hint="end with softmax (one output per class) or sigmoid (one output), or compile with a loss that says "
            "from_logits=True",
        )
    return task


def _check_monitors(job: Job, names: list[str], *, has_validation: bool) -> None:
    known = names + ([f"val_{name}" for name in names] if has_validation else [])
    for key, monitor in _monitors(job):
        if monitor not in known:
            raise InvalidJob(
                f"there is nothing called {monitor!r} to monitor",
                where=key,
                hint=f"there are: {', '.join(known)}"
                + ("" if has_validation else "; without a validation set there is nothing that begins with val_"),
            )
    checkpoint = job.train.checkpoint
    at_batches = checkpoint.save_freq != "epoch" and checkpoint.save_best_only
    if at_batches and (checkpoint.monitor or ("val_loss" if has_validation else "loss")).startswith("val_"):
        raise InvalidJob(
            "save_freq counts batches, but validation figures are known only at the end of an epoch",
            where="train.checkpoint.save_freq",
            hint="use save_freq: epoch, or a monitor of the training data such as loss",
        )


def _monitors(job: Job) -> Iterator[tuple[str, Any]]:
    """What the job asks to watch, by the key that says so."""
    for key, settings in (("early_stopping", job.train.early_stopping), ("checkpoint", job.train.checkpoint)):
        if settings is not None and settings.monitor is not None:
            yield f"train.{key}.monitor", settings.monitor
    for number, asked in enumerate(job.train.callbacks):
        if isinstance(asked, KerasObject) and asked.class_name == "ReduceLROnPlateau" and "monitor" in asked.config:
            yield f"train.callbacks.{number}.config.monitor", asked.config["monitor"]


def _check_callbacks(job: Job, model: keras.Model, folder: Path, *, has_validation: bool) -> None:
    """Make them all, let those that watch something say whether more of it is better, and take their first state."""
    callbacks = make_callbacks(job.train, folder / "files", has_validation=has_validation)
    take_states(callbacks)
    watching = {f"train.callbacks.{number}": callback for number, callback in enumerate(callbacks)}
    with _refused_by_keras("train.checkpoint"):
        watching["train.checkpoint"] = make_checkpoint(job.train, folder, has_validation=has_validation)
    with _refused_by_keras("train.early_stopping"):
        watching["train.early_stopping"] = make_early_stopping(job.train, has_validation=has_validation)
    for key, callback in watching.items():
        if hasattr(callback, "_set_monitor_op"):
            with _refused_by_keras(key):
                callback.set_model(model)
                callback._set_monitor_op()


@contextmanager
def _refused_by_keras(key: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        raise InvalidJob(f"Keras refuses these settings: {first_line(error)}", where=key) from error
