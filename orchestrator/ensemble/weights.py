"""Weights of an ensemble's members, and on which data they were fitted."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from orchestrator.errors import InvalidJob

FittedOn = Literal["validation", "given"]


@dataclass(frozen=True)
class Weights:
    """One weight a member, in member order.

    Attributes:
        values: [M], none negative, summing to 1.
        method: how they were found: `given` or `accuracy`.
        fitted_on: the rows they were fitted on: a figure on the same rows is optimistic.
    """

    values: tuple[float, ...]
    method: str
    fitted_on: FittedOn


def normalise(weights: Sequence[float]) -> tuple[float, ...]:
    """Weights [M] scaled to sum 1.

    Raises:
        InvalidJob: there are none, one is negative, NaN or infinite, or all are zero.
    """
    values = [float(weight) for weight in weights]
    for position, value in enumerate(values):
        if not math.isfinite(value) or value < 0:
            raise InvalidJob(
                f"weight {value} cannot be used",
                where=f"weights[{position}]",
                hint="give one finite number of at least 0 for each member",
            )
    total = math.fsum(values)
    if total == 0 or not math.isfinite(total):
        raise InvalidJob(
            f"the weights {_shown(values)} sum to {total}",
            where="weights",
            hint="at least one member that is left needs a weight above 0",
        )
    return tuple(value / total for value in values)


def given(weights: Sequence[float], indices: Sequence[int]) -> Weights:
    """The job's own weights, restricted to the members that are left, and renormalised.

    Args:
        weights: one weight for each planned member, [M planned].
        indices: indices of the members that are left, in member order, [M].

    Raises:
        InvalidJob: a member has no weight, or nothing of positive weight is left.
    """
    absent = [index for index in indices if not 0 <= index < len(weights)]
    if absent:
        raise InvalidJob(
            f"{len(weights)} weights are given, but there is a member {absent[0]}",
            where="weights",
            hint="give one weight for each member of the plan, in member order",
        )
    return Weights(normalise([weights[index] for index in indices]), method="given", fitted_on="given")


def by_accuracy(accuracies: Sequence[float]) -> Weights:
    """Weights in proportion to each member's validation accuracy; equal ones when every accuracy is 0.

    Args:
        accuracies: [M], each in [0, 1], of the validation rows.

    Raises:
        InvalidJob: there are none, or one is outside [0, 1].
    """
    for position, value in enumerate(accuracies):
        if not 0 <= value <= 1:
            raise InvalidJob(f"{value} is not an accuracy", where=f"accuracies[{position}]", hint="it lies in [0, 1]")
    proportions = list(accuracies) if any(accuracies) else [1.0] * len(accuracies)
    return Weights(normalise(proportions), method="accuracy", fitted_on="validation")


def _shown(values: Sequence[float], most: int = 8) -> str:
    text = ", ".join(f"{value:g}" for value in values[:most])
    return f"[{text}, …]" if len(values) > most else f"[{text}]"
