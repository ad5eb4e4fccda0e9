"""What a model is asked to tell: the four tasks, their targets in one canonical form, and predictions that fit them."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import Any

import numpy as np
import numpy.typing as npt

from orchestrator.errors import InvalidData, InvalidModel, OrchestratorError

Array = npt.NDArray[Any]
Indices = npt.NDArray[np.int64]
Float64 = npt.NDArray[np.float64]

EPSILON = 1e-7  # keras.config.epsilon(): where Keras clips probabilities before it takes their logarithm
_RANGE_TOLERANCE = 1e-6  # float32 rounding of a softmax


class TaskKind(StrEnum):
    """What a model is asked to tell: one class of C, yes or no, any of C labels, or numbers."""

    MULTICLASS = "multiclass"
    BINARY = "binary"
    MULTILABEL = "multilabel"
    REGRESSION = "regression"


class _Meaning(StrEnum):
    """What a loss takes labels for."""

    NUMBERS = "numbers"
    YES_NO = "yes or no"
    CLASSES = "classes"


_LOSSES = {
    **dict.fromkeys(("meansquarederror", "mse", "meanabsoluteerror", "mae", "huber"), _Meaning.NUMBERS),
    **dict.fromkeys(("meanabsolutepercentageerror", "mape", "logcosh", "poisson"), _Meaning.NUMBERS),
    **dict.fromkeys(("meansquaredlogarithmicerror", "msle"), _Meaning.NUMBERS),
    **dict.fromkeys(("binarycrossentropy", "bce", "binaryfocalcrossentropy"), _Meaning.YES_NO),
    **dict.fromkeys(("categoricalcrossentropy", "sparsecategoricalcrossentropy"), _Meaning.CLASSES),
    **dict.fromkeys(("categoricalfocalcrossentropy", "kldivergence", "kld"), _Meaning.CLASSES),
}
"""Keras' losses by name, without case and underscores. The others leave open what labels mean."""

_HINTS = {
    _Meaning.NUMBERS: "with a regression loss the last layer has one unit for each number in a row of labels",
    _Meaning.YES_NO: "with binary_crossentropy the last layer has one unit for labels [N], or one for each label of "
    "[N, C]; for one class out of several use sparse_categorical_crossentropy",
    _Meaning.CLASSES: "with a categorical loss the last layer has one unit for each class, labels are [N] or one-hot "
    "[N, C]; for yes or no use binary_crossentropy and one unit",
    None: "labels are [N] for classes, or [N, C] and then the last layer has C units; a loss of Keras' own tells what "
    "they mean",
}


def infer_task(
    labels_shape: Sequence[int],
    labels_dtype: npt.DTypeLike,
    output_shape: Sequence[int | None],
    loss: str | None = None,
) -> TaskKind:
    """The task that labels, model output and loss fit.

    The loss decides what shapes leave open: labels [N, C] for C outputs are several labels with `binary_crossentropy`,
    one-hot classes with `categorical_crossentropy`, and numbers with `mean_squared_error`. Without a loss that is known
    the type of the labels decides: floating-point labels as wide as the output are numbers, all others are classes.

    Args:
        labels_shape: [N], [N, 1] or [N, C].
        labels_dtype: NumPy type of the labels.
        output_shape: [N or None, C] of the model.
        loss: name of the model's loss as Keras knows it, in snake case, as a class name or an abbreviation (`mse`);
            None and names that are not Keras' own: unknown.

    Raises:
        InvalidData: labels that are not numbers, or shapes that fit no task.
    """
    dtype = np.dtype(labels_dtype)
    facts = f"labels of shape {tuple(labels_shape)} and type {dtype} for an output of shape {tuple(output_shape)}"
    if dtype.kind not in "biuf":
        raise InvalidData(f"{facts}: labels are not numbers", where="labels", hint="encode the classes as 0 … C − 1")
    width = output_shape[1] if len(output_shape) == 2 else None
    if width is None:
        raise InvalidData(f"{facts} cannot be scored", where="labels", hint="the model's output has to be [N, C]")
    meaning = _meaning(loss)
    task = _fitting_task(meaning, tuple(labels_shape), width, is_float=dtype.kind == "f")
    if task is None:
        told = "" if meaning is None else f" with the loss {loss}"
        raise InvalidData(f"{facts} cannot be scored{told}", where="labels", hint=_HINTS[meaning])
    return task


def means_yes_or_no(loss: str | None) -> bool:
    """Whether a loss, named as for `infer_task`, takes each output for the probability or logit of a yes of its own."""
    return _meaning(loss) is _Meaning.YES_NO


def _meaning(loss: str | None) -> _Meaning | None:
    return None if loss is None else _LOSSES.get(loss.replace("_", "").lower())


def _fitting_task(meaning: _Meaning | None, labels: tuple[int, ...], width: int, *, is_float: bool) -> TaskKind | None:
    single = len(labels) == 1 or labels[1:] == (1,)
    as_wide = width == 1 if single else labels[1:] == (width,)
    yes_no = None if not as_wide else TaskKind.BINARY if width == 1 else TaskKind.MULTILABEL
    classes = TaskKind.MULTICLASS if width > 1 and (single or as_wide) else None
    numbers = TaskKind.REGRESSION if as_wide else None
    match meaning:
        case _Meaning.NUMBERS:
            return numbers
        case _Meaning.YES_NO:
            return yes_no
        case _Meaning.CLASSES:
            return classes
        case None if as_wide and is_float:
            return numbers
        case None:
            return classes or (yes_no if width == 1 else None)


def to_targets(task: TaskKind, labels: Array) -> Array:
    """Labels in the one form in which they are stored and scored.

    Args:
        task: what `infer_task` said.
        labels: for classes [N] or [N, 1] whole numbers of any numeric type, for multi-class one-hot [N, C] too; for
            several labels [N, C] of 0 and 1; for regression [N] or [N, D]. Its own results come back equal.

    Returns:
        int64 [N] for multi-class and binary, int64 [N, C] for multi-label, float64 [N, D] for regression.

    Raises:
        InvalidData: labels that are not numbers, of another shape, or of values that mean nothing for the task.
    """
    labels = np.asarray(labels)
    if labels.dtype.kind not in "biuf":
        raise InvalidData(
            f"labels of type {labels.dtype} are not numbers", where="labels", hint="encode the classes as 0 … C − 1"
        )
    flat = labels[:, 0] if labels.ndim == 2 and labels.shape[1] == 1 else labels
    match task:
        case TaskKind.REGRESSION:
            return _numbers(labels[:, None] if labels.ndim == 1 else labels)
        case TaskKind.MULTILABEL:
            return _flags(labels)
        case TaskKind.MULTICLASS if flat.ndim == 2:
            return _from_one_hot(flat)
    if flat.ndim != 1:
        hint = "use [N]" if task is TaskKind.BINARY else "use [N], or one-hot [N, C]"
        raise InvalidData(f"labels of shape {labels.shape} cannot be scored", where="labels", hint=hint)
    return _classes(flat, most=1 if task is TaskKind.BINARY else None)


def check_predictions(task: TaskKind, targets: Array, predictions: Array) -> Float64:
    """Predictions [N, C] in float64, looked at; values are left as they are.

    Args:
        task: what the model is asked to tell.
        targets: as `to_targets` returns them.
        predictions: [N, C] probabilities for multi-class and multi-label, [N, 1] probabilities of class 1 for binary,
            [N, D] values for regression.

    Raises:
        InvalidData: no rows, another number of them than of predictions, or classes that the model does not tell apart.
        InvalidModel: predictions that do not fit the task, are no probabilities (beyond float32 rounding), or are NaN
            or infinite.
        OrchestratorError: targets that `to_targets` did not make.
    """
    targets, values = np.asarray(targets), np.asarray(predictions, dtype=np.float64)
    if values.ndim != 2 or values.shape[1] == 0:
        raise InvalidModel(f"predictions of shape {values.shape} cannot be scored", hint="the output has to be [N, C]")
    _check_form(task, targets, values.shape[1])
    if len(targets) != len(values):
        raise InvalidData(f"{len(targets)} labels for {len(values)} predictions", where="labels")
    if len(targets) == 0:
        raise InvalidData("there are no rows to score", where="labels", hint="the set is empty: give it some rows")
    if task is TaskKind.REGRESSION:
        if not np.isfinite(values).all():
            raise InvalidModel(
                "predictions are NaN or infinite", hint="the member has diverged: lower its learning rate"
            )
        return values
    if not (values.min() >= -_RANGE_TOLERANCE and values.max() <= 1 + _RANGE_TOLERANCE):  # also False for NaN
        raise InvalidModel(
            f"predictions lie in [{values.min():g}, {values.max():g}]: they are no probabilities",
            hint="end the model with a softmax (for yes or no and for several labels: sigmoid) activation, not with "
            "logits",
        )
    classes = values.shape[1] if task is TaskKind.MULTICLASS else 2
    if targets.min() < 0 or targets.max() >= classes:
        raise InvalidData(
            f"labels name {int(targets.max()) + 1} classes, the model tells {classes} apart",
            where="labels",
            hint="classes count from 0; make the last layer as wide as there are classes",
        )
    return values


def normalised(probabilities: Float64) -> Float64:
    """Rows [N, C] scaled to sum 1, as Keras' `categorical_crossentropy` does; a row of zeros stays one."""
    shares: Float64 = probabilities / np.maximum(probabilities.sum(axis=1, keepdims=True), np.finfo(np.float64).tiny)
    return shares


def _check_form(task: TaskKind, targets: Array, width: int) -> None:
    one_axis = task in (TaskKind.MULTICLASS, TaskKind.BINARY)
    if targets.ndim != (1 if one_axis else 2) or targets.dtype.kind not in (
        "f" if task is TaskKind.REGRESSION else "iu"
    ):
        raise OrchestratorError(
            f"targets of shape {targets.shape} and type {targets.dtype} are not those of a {task} task",
            where="targets",
            hint="make them with to_targets",
        )
    fits = {
        TaskKind.MULTICLASS: width > 1,
        TaskKind.BINARY: width == 1,
        TaskKind.MULTILABEL: targets.shape[1:] == (width,),
        TaskKind.REGRESSION: targets.shape[1:] == (width,),
    }
    if not fits[task]:
        raise InvalidModel(
            f"predictions with {width} columns do not fit the targets of shape {targets.shape} of a {task} task",
            hint="binary models have one output, all others one for each class, label or number",
        )


def _classes(labels: Array, most: int | None) -> Indices:
    allowed = np.isfinite(labels) & (labels >= 0) & (labels == np.floor(labels))
    if most is not None:
        allowed &= labels <= most
    wrong = np.flatnonzero(~allowed)
    if wrong.size:
        raise InvalidData(
            f"{labels[wrong[0]]} is not a class",
            where=f"labels[{wrong[0]}]",
            hint="classes are whole numbers from 0" if most is None else "yes or no is told by 1 and 0",
        )
    indices: Indices = labels.astype(np.int64)
    return indices


def _from_one_hot(labels: Array) -> Indices:
    is_one = labels == 1
    wrong = np.flatnonzero((is_one.sum(axis=1) != 1) | ((labels != 0) & ~is_one).any(axis=1))
    if wrong.size:
        raise InvalidData(
            "a row of labels is not one-hot",
            where=f"labels[{wrong[0]}]",
            hint="exactly one 1 and otherwise 0; where several labels may hold at once, use binary_crossentropy; soft "
            "targets are not scored",
        )
    indices: Indices = np.argmax(is_one, axis=1).astype(np.int64)
    return indices


def _flags(labels: Array) -> Indices:
    if labels.ndim != 2:
        raise InvalidData(
            f"labels of shape {labels.shape} cannot be scored", where="labels", hint="several labels are [N, C]"
        )
    wrong = np.argwhere((labels != 0) & (labels != 1))
    if wrong.size:
        row, label = wrong[0]
        raise InvalidData(
            f"{labels[row, label]} is neither 0 nor 1",
            where=f"labels[{row}, {label}]",
            hint="1 where the label holds, else 0",
        )
    flags: Indices = labels.astype(np.int64)
    return flags


def _numbers(labels: Array) -> Float64:
    if labels.ndim != 2 or labels.shape[1] == 0:
        raise InvalidData(
            f"labels of shape {labels.shape} cannot be scored",
            where="labels",
            hint="numbers to predict are [N] or [N, D]",
        )
    wrong = np.flatnonzero(~np.isfinite(labels).all(axis=1))
    if wrong.size:
        raise InvalidData("a label is NaN or infinite", where=f"labels[{wrong[0]}]", hint="drop or fill such rows")
    numbers: Float64 = labels.astype(np.float64)
    return numbers
