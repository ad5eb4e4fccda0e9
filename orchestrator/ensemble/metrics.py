"""Scores of predicted probabilities: accuracy and negative log-likelihood (nll), in float64.

Both follow Keras, so that the numbers agree with `model.evaluate`: the class is the first arg-max, or, with one
output, 1 where the probability is above (not at) 0.5; probabilities are clipped to [1e-7, 1 − 1e-7].
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
import numpy.typing as npt

from orchestrator.errors import InvalidData, InvalidModel

Array = npt.NDArray[Any]
Indices = npt.NDArray[np.int64]
Float64 = npt.NDArray[np.float64]

EPSILON = 1e-7  # keras.config.epsilon()
_RANGE_TOLERANCE = 1e-6  # float32 rounding of a softmax

_NOT_YET = "targets scored so far: one class of C (labels [N] or one-hot [N, C]) and yes/no (labels [N] of 0 and 1); "


class TaskKind(StrEnum):
    """What a model is asked to tell."""

    MULTICLASS = "multiclass"
    BINARY = "binary"


@dataclass(frozen=True)
class Scores:
    """Scores over `n` examples; `nll` in nats per example."""

    accuracy: float
    nll: float
    n: int


def infer_task(
    labels_shape: Sequence[int], labels_dtype: npt.DTypeLike, output_shape: Sequence[int | None]
) -> TaskKind:
    """The task that labels and model output fit.

    Args:
        labels_shape: [N], [N, 1] or one-hot [N, C].
        labels_dtype: NumPy type of the labels. With one output it must be an integer or boolean type: 0.0 and 1.0
            cannot be told from a regression target.
        output_shape: [N or None, C] of the model.

    Raises:
        InvalidData: anything else; regression and multi-label targets are not scored yet.
    """
    dtype = np.dtype(labels_dtype)
    facts = f"labels of shape {tuple(labels_shape)} and type {dtype} for an output of shape {tuple(output_shape)}"
    if dtype.kind not in "biuf":
        raise InvalidData(f"{facts}: labels are not numbers", where="labels", hint="encode the classes as 0 … C − 1")
    classes = output_shape[-1] if len(output_shape) == 2 else None
    single = len(labels_shape) == 1 or (len(labels_shape) == 2 and labels_shape[1] == 1)
    if classes is None:
        raise InvalidData(
            f"{facts} cannot be scored yet", where="labels", hint=_NOT_YET + "the model's output has to be [N, C]"
        )
    if classes == 1 and single:
        if dtype.kind == "f":
            raise InvalidData(
                f"{facts} look like regression, which is not scored yet",
                where="labels",
                hint=_NOT_YET + "for yes/no labels return integers: labels.astype('int64')",
            )
        return TaskKind.BINARY
    one_hot = len(labels_shape) == 2 and labels_shape[1] == classes
    if classes > 1 and (single or one_hot):
        return TaskKind.MULTICLASS
    raise InvalidData(
        f"{facts} cannot be scored yet",
        where="labels",
        hint=_NOT_YET + "multi-label and regression targets are not; otherwise make the last layer as wide as labels",
    )


def to_class_indices(labels: Array) -> Indices:
    """Labels as class indices [N].

    Args:
        labels: [N] or [N, 1] whole numbers of any numeric type, or one-hot [N, C].

    Raises:
        InvalidData: not numbers, not whole, negative, NaN, or rows [N, C] that are not one-hot.
    """
    labels = np.asarray(labels)
    if labels.dtype.kind not in "biuf":
        raise InvalidData(
            f"labels of type {labels.dtype} are not numbers", where="labels", hint="encode the classes as 0 … C − 1"
        )
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim == 2:
        return _from_one_hot(labels)
    if labels.ndim != 1:
        raise InvalidData(
            f"labels of shape {labels.shape} cannot be scored", where="labels", hint="use [N], or one-hot [N, C]"
        )
    wrong = np.flatnonzero(~(np.isfinite(labels) & (labels >= 0) & (labels == np.floor(labels))))
    if wrong.size:
        raise InvalidData(
            f"{labels[wrong[0]]} is not a class",
            where=f"labels[{wrong[0]}]",
            hint="classes are whole numbers from 0; regression targets are not scored yet",
        )
    indices: Indices = labels.astype(np.int64)
    return indices


def predicted_classes(probabilities: Array) -> Indices:
    """Classes [N] told from probabilities [N, C], C > 1 (first arg-max), or [N, 1] (1 where above 0.5)."""
    single = probabilities.shape[1] == 1
    classes: Array = probabilities[:, 0] > 0.5 if single else np.argmax(probabilities, axis=1)
    indices: Indices = classes.astype(np.int64)
    return indices


def accuracy(labels: Array, probabilities: Array) -> float:
    """Share of examples whose predicted class is right.

    Args:
        labels: as for `to_class_indices`.
        probabilities: [N, C], or [N, 1] of class 1.

    Raises:
        InvalidData: labels that do not fit, or no rows.
        InvalidModel: predictions that are no probabilities.
    """
    return _accuracy(*_checked(labels, probabilities))


def nll(labels: Array, probabilities: Array) -> float:
    """Mean negative log-likelihood of the true classes, in nats per example.

    Rows are scaled to sum 1 and clipped to [1e-7, 1 − 1e-7], as Keras' `categorical_crossentropy` and
    `binary_crossentropy` do on probabilities: equal within 1e-6. Three rounding effects of Keras are not copied: its
    sparse form scales after clipping (up to C · 1e-7 apart), 1 − p is 1.2e-7 in float32 where p is 1, and in `evaluate`
    the loss of a softmax layer is taken from its logits and is therefore not clipped.

    Args:
        labels: as for `to_class_indices`.
        probabilities: [N, C], or [N, 1] of class 1.

    Raises:
        InvalidData: labels that do not fit, or no rows.
        InvalidModel: predictions that are no probabilities.
    """
    return _nll(*_checked(labels, probabilities))


def score(task: TaskKind, labels: Array, probabilities: Array) -> Scores:
    """Accuracy and nll at once.

    Args:
        task: what `infer_task` said of the labels and the model's output.
        labels: as for `to_class_indices`.
        probabilities: [N, C] for multiclass, [N, 1] for binary.

    Raises:
        InvalidData: labels that do not fit, or no rows.
        InvalidModel: predictions that are no probabilities, or do not fit the task.
    """
    indices, checked = _checked(labels, probabilities)
    if (checked.shape[1] == 1) != (task is TaskKind.BINARY):
        raise InvalidModel(
            f"predictions of shape {checked.shape} do not fit a {task} task",
            hint="binary models have one output, multiclass models one for each class",
        )
    return Scores(accuracy=_accuracy(indices, checked), nll=_nll(indices, checked), n=len(indices))


def _accuracy(indices: Indices, probabilities: Float64) -> float:
    return float(np.mean(predicted_classes(probabilities) == indices))


def _nll(indices: Indices, probabilities: Float64) -> float:
    if probabilities.shape[1] == 1:
        ones = np.clip(probabilities[:, 0], EPSILON, 1 - EPSILON)
        return float(-np.mean(np.where(indices == 1, np.log(ones), np.log1p(-ones))))
    sums = np.maximum(probabilities.sum(axis=1), np.finfo(np.float64).tiny)
    true = probabilities[np.arange(len(indices)), indices] / sums
    return float(-np.mean(np.log(np.clip(true, EPSILON, 1 - EPSILON))))


def _from_one_hot(labels: Array) -> Indices:
    is_one = labels == 1
    wrong = np.flatnonzero((is_one.sum(axis=1) != 1) | ((labels != 0) & ~is_one).any(axis=1))
    if wrong.size:
        raise InvalidData(
            "a row of labels is not one-hot",
            where=f"labels[{wrong[0]}]",
            hint="exactly one 1 and otherwise 0; multi-label and soft targets are not scored yet",
        )
    indices: Indices = np.argmax(is_one, axis=1).astype(np.int64)
    return indices


def _checked(labels: Array, probabilities: Array) -> tuple[Indices, Float64]:
    labels, values = np.asarray(labels), np.asarray(probabilities, dtype=np.float64)
    if values.ndim != 2 or values.shape[1] == 0:
        raise InvalidModel(f"predictions of shape {values.shape} cannot be scored", hint="the output has to be [N, C]")
    indices = to_class_indices(labels)
    if len(indices) != len(values):
        raise InvalidData(f"{len(indices)} labels for {len(values)} predictions", where="labels")
    if len(indices) == 0:
        raise InvalidData("there are no rows to score", where="labels", hint="the set is empty: give it some rows")
    if not (values.min() >= -_RANGE_TOLERANCE and values.max() <= 1 + _RANGE_TOLERANCE):  # also False for NaN
        raise InvalidModel(
            f"predictions lie in [{values.min():g}, {values.max():g}]: they are no probabilities",
            hint="end the model with a softmax (or, with one output, sigmoid) activation, not with logits",
        )
    classes = max(values.shape[1], 2)
    one_hot = labels.ndim == 2 and labels.shape[1] > 1
    named = labels.shape[1] if one_hot else int(indices.max()) + 1
    if named > classes or (one_hot and named != values.shape[1]):
        raise InvalidData(
            f"labels name {named} classes, the model tells {classes} apart",
            where="labels",
            hint="classes count from 0; make the last layer as wide as there are classes",
        )
    return indices, values
