"""Combining the members' predictions [M, N, C] into the ensemble's [N, C].

Sums run in float64, one member at a time and in member order: the result does not depend on how many workers there
were, and a thousand members need the memory of two.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from orchestrator.ensemble.tasks import EPSILON, Array, Float64, TaskKind, normalised
from orchestrator.errors import InvalidModel, OrchestratorError

How = Literal["mean", "logits"]


class Accumulator:
    """A weighted average that is fed one member at a time.

    Args:
        task: what the members tell.
        how: `mean` averages what the members predict. `logits` averages their logits (see `to_logits`) and turns the
            average into probabilities again: for multiclass the normalised geometric mean (a logarithmic opinion pool,
            Genest and Zidek 1986). Values of a regression have no logits: both are the mean.
    """

    def __init__(self, task: TaskKind, how: How = "mean") -> None:
        self._logits_of = task if how == "logits" and task is not TaskKind.REGRESSION else None
        self._members = MemberCheck()
        self._sum: Float64 | None = None
        self._weight: Float64 = np.zeros(())

    def add(self, prediction: Array, weight: float | Float64 = 1.0, *, name: str | None = None) -> None:
        """Add one member's prediction.

        Args:
            prediction: [N, C] real numbers.
            weight: relative to the other members'; the average divides by the sum of all. Also one for each row, [N].
            name: who predicted, for messages; by default `member` and its position.

        Raises:
            InvalidModel: not two axes, another shape than the members before, NaN or infinite.
        """
        values = self._members.check(prediction, name)
        if self._logits_of is not None:
            values = to_logits(self._logits_of, values)
        scale = _by_row(weight)
        share = np.multiply(values, scale, dtype=np.float64)
        if self._sum is None:
            self._sum = share
        else:
            self._sum += share
        self._weight = self._weight + scale

    def average(self) -> Float64:
        """The average [N, C] so far. Raises InvalidModel when no member was added or a row has no weight above 0."""
        if self._sum is None or not np.all(self._weight > 0):
            raise _nothing_left()
        average: Float64 = self._sum / self._weight
        return average if self._logits_of is None else from_logits(self._logits_of, average)


class Spread:
    """Mean and variance over the members of a regression's predictions, fed one member at a time.

    The recurrence of West 1979 ("Updating mean and variance estimates: an improved method"): exact where the values are
    large and their spread is small. The variance divides by the sum of the weights (ddof 0), as a mixture's does.

    Args:
        task: must be regression.

    Raises:
        OrchestratorError: another task; what members of a classification disagree on is told by `diversity`.
    """

    def __init__(self, task: TaskKind) -> None:
        if task is not TaskKind.REGRESSION:
            raise OrchestratorError(f"the spread of a {task} ensemble is not its variance", hint="see diversity.py")
        self._members = MemberCheck()
        self._mean: Float64 = np.zeros(())
        self._squares: Float64 = np.zeros(())
        self._weight: Float64 = np.zeros(())
        self._num_weighty = np.zeros((), dtype=np.int64)

    def add(self, prediction: Array, weight: float | Float64 = 1.0, *, name: str | None = None) -> None:
        """Add one member's prediction [N, D]; arguments and errors as for `Accumulator.add`."""
        values = self._members.check(prediction, name).astype(np.float64)
        scale = _by_row(weight)
        self._weight = self._weight + scale
        self._num_weighty = self._num_weighty + (scale > 0)
        # A member of weight 0 moves nothing, also where it is the first.
        share = np.divide(scale, self._weight, out=np.zeros_like(self._weight), where=self._weight > 0)
        step = values - self._mean
        self._mean = self._mean + share * step
        self._squares = self._squares + scale * step * (values - self._mean)

    def mean(self) -> Float64:
        """The weighted mean [N, D]. Raises InvalidModel when no member was added or a row has no weight above 0."""
        self._check_some()
        return self._mean

    def variance(self) -> Float64:
        """The weighted variance over members [N, D], ddof 0. Raises InvalidModel as `mean` does."""
        self._check_some()
        variance: Float64 = self._squares / self._weight
        return variance

    def of_several(self) -> bool:
        """Whether at least two members have weight in every row: a single one varies around nothing."""
        return bool(np.all(self._num_weighty >= 2))

    def _check_some(self) -> None:
        if self._mean.ndim == 0 or not np.all(self._weight > 0):
            raise _nothing_left()


def to_logits(task: TaskKind, probabilities: Array) -> Float64:
    """Logits [N, C] of probabilities [N, C]: log p for multiclass (up to a constant of each row), log p/(1 − p) else.

    Probabilities are clipped to [1e-7, 1 − 1e-7] (for multiclass from below alone, rows scaled to sum 1), as nll does:
    a softmax in float32 ends in exact zeros, and one member must not veto a class.

    Raises:
        OrchestratorError: a regression has no logits.
    """
    if task is TaskKind.REGRESSION:
        raise OrchestratorError("predicted values of a regression are no probabilities and have no logits")
    values = np.asarray(probabilities, dtype=np.float64)
    if task is TaskKind.MULTICLASS:
        return np.log(np.maximum(normalised(values), EPSILON))
    clipped = np.clip(values, EPSILON, 1 - EPSILON)
    logits: Float64 = np.log(clipped) - np.log1p(-clipped)
    return logits


def from_logits(task: TaskKind, logits: Float64) -> Float64:
    """Probabilities [N, C] of logits [N, C]: softmax over the last axis for multiclass, sigmoid else."""
    if task is not TaskKind.MULTICLASS:
        return np.exp(-np.logaddexp(0, -logits))  # no overflow, and exact for tiny probabilities too
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    probabilities: Float64 = powers / powers.sum(axis=-1, keepdims=True)
    return probabilities


class MemberCheck:
    """Looks at members' predictions as they come: [N, C], finite, and all of one shape."""

    def __init__(self) -> None:
        self._count = 0
        self._shape: tuple[int, ...] | None = None

    def check(self, prediction: Array, name: str | None) -> Array:
        """The prediction as an array. Raises InvalidModel, the member named."""
        name = name or f"member {self._count}"
        prediction = _checked(prediction, name)
        if self._shape is not None and prediction.shape != self._shape:
            raise InvalidModel(
                f"predictions have shape {prediction.shape}, those of the members before {self._shape}",
                where=name,
                hint="all members of an ensemble need the same output shape",
            )
        self._shape = prediction.shape
        self._count += 1
        return prediction


def _by_row(weight: float | Float64) -> Float64:
    """A weight, or one for each row [N], ready to multiply [N, C]."""
    scale = np.asarray(weight, dtype=np.float64)
    return scale[:, np.newaxis] if scale.ndim == 1 else scale


def _nothing_left() -> InvalidModel:
    return InvalidModel("there are no predictions to combine", hint="a member of weight above 0 has to be left")


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
