"""Combining the members' predictions [M, N, C] into the ensemble's [N, C].

Sums run in float64, one member at a time and in member order: the result does not depend on how many workers there
were, and a thousand members need the memory of two.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from orchestrator.ensemble.weights import normalise
from orchestrator.errors import InvalidJob, InvalidModel

Array = npt.NDArray[Any]
Float64 = npt.NDArray[np.float64]


class Accumulator:
    """A weighted average that is fed one member at a time."""

    def __init__(self) -> None:
        self._sum: Float64 | None = None
        self._weights: list[float] = []

    def add(self, prediction: Array, weight: float = 1.0, *, name: str | None = None) -> None:
        """Add one member's prediction.

        Args:
            prediction: [N, C] real numbers.
            weight: relative to the others; the average divides by the sum of all.
            name: who predicted, for messages; by default `member` and its position.

        Raises:
            InvalidModel: not two axes, another shape than the members before, NaN or infinite.
        """
        name = name or f"member {len(self._weights)}"
        prediction = _checked(prediction, name)
        if self._sum is None:
            self._sum = np.zeros(prediction.shape, dtype=np.float64)
        elif prediction.shape != self._sum.shape:
            raise InvalidModel(
                f"predictions have shape {prediction.shape}, those of the members before {self._sum.shape}",
                where=name,
                hint="all members of an ensemble need the same output shape",
            )
        self._sum += np.multiply(prediction, weight, dtype=np.float64)
        self._weights.append(weight)

    def average(self) -> Float64:
        """The average [N, C] so far. Raises InvalidModel when no member was added or no weight is above 0."""
        total = math.fsum(self._weights)
        if self._sum is None or total <= 0:
            raise InvalidModel("there are no predictions to combine", hint="at least one member has to be left")
        average: Float64 = self._sum / total
        return average


def mean(predictions: Iterable[Array]) -> Float64:
    """The plain average of the members' predictions, [N, C] float64.

    Args:
        predictions: [M, N, C], or any iterable of M arrays [N, C] in member order; read once.

    Raises:
        InvalidModel: no members, shapes that differ, NaN or infinite values.
    """
    total = Accumulator()
    for prediction in predictions:
        total.add(prediction)
    return total.average()


def weighted(predictions: Iterable[Array], weights: Sequence[float]) -> Float64:
    """The weighted average of the members' predictions, [N, C] float64.

    Args:
        predictions: [M, N, C], or any iterable of M arrays [N, C] in member order; read once.
        weights: [M]; scaled to sum 1.

    Raises:
        InvalidJob: negative, non-finite or all-zero weights, or another number of them than of members.
        InvalidModel: shapes that differ, NaN or infinite values.
    """
    values = normalise(weights)
    total = Accumulator()
    count = 0
    for prediction in predictions:
        if count < len(values):
            total.add(prediction, values[count])
        count += 1
    if count != len(values):
        raise InvalidJob(
            f"{len(values)} weights for {count} members", where="weights", hint="give one weight for each member"
        )
    return total.average()


def _checked(prediction: Array, name: str) -> Array:
    """One member's prediction [N, C], looked at.

    Two axes are demanded, so that a single [N, C] passed for a list of members is not averaged over its examples.

    Raises:
        InvalidModel: not two axes of real numbers, NaN or infinite.
    """
    prediction = np.asarray(prediction)
    if prediction.ndim != 2 or prediction.dtype.kind not in "fiub":
        raise InvalidModel(
            f"predictions of shape {prediction.shape} and type {prediction.dtype} cannot be combined",
            where=name,
            hint="a model's output has the axes [examples, classes]",
        )
    bad = int(prediction.size - np.count_nonzero(np.isfinite(prediction)))
    if bad:
        raise InvalidModel(
            f"{bad} of {prediction.size} predicted values are NaN or infinite",
            where=name,
            hint="the member has diverged: lower its learning rate, or leave it out",
        )
    return prediction
