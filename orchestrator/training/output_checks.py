"""What the preflight checks of each output of a model: its name, its labels, and what it tells."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from orchestrator.ensemble.asked import check_calibrated, deciding_output
from orchestrator.ensemble.crossfit import assign_folds, check_stackable
from orchestrator.ensemble.prefix import watched
from orchestrator.ensemble.tasks import TaskKind, infer_task, to_targets
from orchestrator.errors import InvalidData, InvalidJob, InvalidModel
from orchestrator.models.outputs import (
    Losses,
    Squash,
    as_predictions,
    loss_name,
    losses_by_name,
    outputs_by_name,
    squash_of,
)
from orchestrator.planning.folds import OUT_OF_FOLD
from orchestrator.planning.outputs import ONLY, part
from orchestrator.spec import Job
from orchestrator.storage.layout import check_key
from orchestrator.training.data import Array, Dataset


@dataclass(frozen=True)
class Told:
    """What an output tells: `width` is C of its predictions [N, C]."""

    task: TaskKind
    width: int

    @property
    def num_classes(self) -> int:
        """How many classes can have a name; 0 where it tells numbers."""
        return {TaskKind.REGRESSION: 0, TaskKind.BINARY: 2}.get(self.task, self.width)


LONGEST_NAME = 128
"""Bytes of an output's name: file systems take 255 for the name of a file, which has more than that in it."""

Tells = Mapping[str, Told]
"""By output name (`planning.outputs`), in the order of the model."""


def describe(tells: Tells) -> str:
    """In words, the same for the same outputs in any order."""
    return ", ".join(f"{name} {told.task} [{told.width}]".lstrip() for name, told in sorted(tells.items()))


def check_outputs(model: keras.Model, raw: Any, dataset: Dataset, where: str) -> Tells:
    """Check what a model gave for a batch against all labels, output by output.

    Args:
        model: compiled.
        raw: what its call returned for a batch of training rows.
        dataset: the rows.
        where: names the model in messages.

    Raises:
        InvalidModel, InvalidData: what is wrong, where, and how to mend it.
    """
    outputs = keras.tree.map_structure(keras.ops.convert_to_numpy, raw)
    named = outputs_by_name(model, outputs)
    _check_names(list(named), dataset, where)
    losses = losses_by_name(model, outputs)
    return {name: _check_output(name, model, named[name], losses[name], dataset, where) for name in named}


def _check_names(names: list[str], dataset: Dataset, where: str) -> None:
    labels = list(dataset.train.labels)
    if set(names) != set(labels):
        raise InvalidData(
            f"{_listed('the labels (y) have', labels)}, {_listed('the model has', names)}",
            where=where,
            hint="return y as a dictionary with one array for each output of the model, by its name",
        )
    for name in names:
        if name != ONLY and not _can_be_stored(name):
            raise InvalidModel(
                f"predictions cannot be stored under the name {name!r} of an output",
                where=where,
                hint=f"choose a name of up to {LONGEST_NAME} bytes without slashes that does not begin with a dot",
            )
    alike = {name.casefold(): name for name in names}
    for name in names:
        if alike[name.casefold()] != name:
            raise InvalidModel(
                f"the outputs {name!r} and {alike[name.casefold()]!r} differ in case alone, and some file systems "
                "would keep the predictions of both in one file",
                where=where,
                hint="give one of them another name",
            )


def _listed(whose: str, names: list[str]) -> str:
    return f"{whose} one output without a name" if names == [ONLY] else f"{whose} the outputs {sorted(names)}"


def _can_be_stored(name: str) -> bool:
    try:
        check_key(part("validation", f"{name}.parquet"))
    except ValueError:
        return False
    return "/" not in name and not name.startswith(".") and len(name.encode()) <= LONGEST_NAME


def _check_output(name: str, model: keras.Model, raw: Array, losses: Losses, dataset: Dataset, where: str) -> Told:
    place = f"{where}, output {name}" if name else where
    if not losses:
        raise InvalidModel(
            "the model is compiled without a loss for this output",
            where=place,
            hint="give it one, or leave the output out: it would not be trained",
        )
    squash = squash_of(losses)
    outputs = as_predictions(raw, squash, name)
    _check_logits(_activation(name, model), raw, squash, place)
    labels = {split: rows.labels[name] for split, rows in dataset.splits()}
    try:
        task = _task(labels["train"], outputs.shape[1], loss_name(losses))
    except InvalidData as error:
        raise InvalidData(error.what, where=f"labels of {name}" if name else error.where, hint=error.hint) from None
    told = Told(task, outputs.shape[1])
    _check_labels(told, labels, place)  # before the loss, which says less of a wrong label
    _check_values(told.task, outputs, place, in_16_bits=raw.dtype.itemsize == 2)
    return told


def _activation(name: str, model: keras.Model) -> Any:
    """Of the layer that makes an output; None where that cannot be told."""
    if name == ONLY:
        return getattr(model.layers[-1], "activation", None)
    graph = getattr(model, "_outputs_struct", None)
    if graph is None:
        return None
    return getattr(outputs_by_name(model, graph)[name]._keras_history.operation, "activation", None)


def _check_logits(activation: Any, raw: Array, squash: Squash | None, where: str) -> None:
    """Refuse a loss that takes logits over a model that gives probabilities: they would be squashed twice.

    Keras mends this in training by going back to what the last activation got; whoever reads the outputs cannot.
    """
    if squash is None or raw.ndim != 2:
        return
    if squash == "sigmoid" or raw.shape[1] == 1:
        squashed = activation is keras.activations.sigmoid
    else:
        squashed = bool(raw.min() >= 0 and np.abs(raw.sum(axis=1) - 1).max() < 1e-4)
    if squashed:
        raise InvalidModel(
            "the loss says from_logits=True, but the model's outputs are probabilities already",
            where=where,
            hint="end the model without softmax or sigmoid, or leave from_logits out of the loss",
        )


def _task(labels: Array, width: int, loss: str | None) -> TaskKind:
    # Flags in floating point are flags, too: only a loss of Keras' own may say that they are numbers.
    are_flags = labels.ndim == 2 and labels.shape[1] > 1 and bool(np.isin(labels, (0, 1)).all())
    return infer_task(labels.shape, bool if are_flags else labels.dtype, (len(labels), width), loss)


def _check_labels(told: Told, labels: Mapping[str, Array], where: str) -> None:
    """Labels of each split, by its name."""
    if told.task is TaskKind.REGRESSION:
        return  # any number will do, and loading refuses what is none
    for name, y in labels.items():
        one_hot = told.task is TaskKind.MULTICLASS and y.ndim == 2 and y.shape[1] > 1
        limit = told.width if told.task is TaskKind.MULTICLASS and not one_hot else 2
        low, high = y.min(), y.max()
        if low < 0 or high >= limit or not np.array_equal(y, np.round(y)):
            raise InvalidData(
                f"labels of the {name} set go from {low:g} to {high:g}; the model's {told.width} outputs allow whole "
                f"numbers from 0 to {limit - 1}",
                where=where,
                hint="number the classes from 0, and give the model one output per class; for numbers to predict use "
                "a regression loss of Keras, such as mean_squared_error",
            )
        if one_hot and not (y.sum(axis=1) == 1).all():
            row = int(np.flatnonzero(y.sum(axis=1) != 1)[0])
            raise InvalidData(
                f"labels of the {name} set are not one-hot: row {row} does not have exactly one 1",
                where=where,
                hint="give every row exactly one class; for several at once use binary_crossentropy",
            )


def _check_values(task: TaskKind, outputs: Array, where: str, *, in_16_bits: bool) -> None:
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
            hint='give the last layer dtype="float32": in 16 bits probabilities do not add up to 1'
            if in_16_bits and not bad_range
            else "end with softmax (one output per class) or sigmoid (yes or no, and several labels), or compile with "
            "a loss that says from_logits=True",
        )


def check_asked_of_outputs(tells: Tells, job: Job, dataset: Dataset) -> None:
    """Check what the job asks for against what its models tell.

    Args:
        tells: of every member alike.
        job: the job.
        dataset: the rows.

    Raises:
        InvalidJob, InvalidData: what cannot be, and how to mend it.
    """
    check_calibrated(job.ensemble, {output: told.task for output, told in tells.items()})
    _check_class_names(tells, job)
    _check_watched(tells, job, dataset)
    _check_stackable(tells, job, dataset)


def _check_class_names(tells: Tells, job: Job) -> None:
    """Refuse names that are not one for each class, before anything is told under a wrong one."""
    given = job.data.class_names
    if given is None:
        return
    by_output = given if isinstance(given, Mapping) else {ONLY: given}
    if not set(by_output) <= set(tells):
        several = f"by output name: {', '.join(tells)}"
        raise InvalidJob(
            f"there are {_whose(list(by_output))}, and the models have {_whose(list(tells))}",
            where="data.class_names",
            hint="give a list, for there is one output" if list(tells) == [ONLY] else f"give lists {several}",
        )
    for output, names in by_output.items():
        num_classes = tells[output].num_classes
        if len(names) != num_classes:
            raise InvalidJob(
                f"there are {len(names)} names, and the models tell {num_classes or 'no'} classes",
                where=f"data.class_names.{output}" if output else "data.class_names",
                hint="give one name for each class, in the order of the labels" if num_classes else "leave it out",
            )


def _whose(outputs: list[str]) -> str:
    return "one output without a name" if outputs == [ONLY] else f"the outputs {sorted(outputs)}"


def _check_watched(tells: Tells, job: Job, dataset: Dataset) -> None:
    """Refuse a metric of `stop_when`, the gate or the search that cannot be told of its rows, whatever is predicted."""
    rule, gate = job.ensemble.stop_when, job.ensemble.gate
    splits = dataset.scored(held_out=job.members.folds is not None)
    asked: list[tuple[str, str, str]] = []
    if rule is not None:
        asked.append(("ensemble.stop_when", "validation", rule.metric))
    if gate is not None:
        asked.append(("ensemble.gate", gate.on, gate.metric))
    if job.search is not None and job.search.metric is not None:
        asked.append(("search", "validation", job.search.metric))
    output = deciding_output(job.ensemble, list(tells))
    told = tells[output]
    for key, split, metric in asked:
        targets = to_targets(told.task, splits[split].labels[output])
        anything = np.full((len(targets), told.width), 1 / told.width)
        watched(metric, told.task, targets, anything, f"{key}.metric")


def _check_stackable(tells: Tells, job: Job, dataset: Dataset) -> None:
    """Refuse a stacking that could not be fitted at the end: by then the members have cost hours."""
    rows, name = (dataset.validation, "validation") if job.members.folds is None else (dataset.train, OUT_OF_FOLD)
    if job.ensemble.combine == "stacking" and rows is not None:
        for output, told in tells.items():
            targets = to_targets(told.task, rows.labels[output])
            folds = assign_folds(told.task, targets, seed=job.seed, groups=dataset.groups_of(name))
            check_stackable(told.task, targets, folds, job.members.count, told.width)
