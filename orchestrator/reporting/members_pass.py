"""One pass over the members' predictions of a split: their scores, their averages, how they differ."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from orchestrator.ensemble.calibration import reliability
from orchestrator.ensemble.combine import Accumulator, Spread
from orchestrator.ensemble.curve import SizeCurve
from orchestrator.ensemble.diversity import DiversityAccumulator
from orchestrator.ensemble.intervals import Resamples
from orchestrator.ensemble.metrics import Scores, per_example
from orchestrator.ensemble.tasks import TaskKind
from orchestrator.ensemble.weights import Weights

Array = npt.NDArray[Any]
Float64 = npt.NDArray[np.float64]

_AT_ONCE = 32
"""Members whose squared errors are resampled together."""


class MembersPass:
    """Takes one member at a time, in member order; memory does not grow with their number.

    Args:
        task: what the members tell.
        targets: as `orchestrator.ensemble.tasks.to_targets` gives them.
        num_members: how many there will be.
        combine: how the plain average is formed.
        weights: of the weighted average, one for each member; None: there is none.
        resamples: of the rows, for intervals.
        seed: of the random orders of the curve over the ensemble's size.

    Attributes:
        plain, weighted: the averages.
        diversity: how the members differ.
        curve: the plain average's score over its size.
        scores: each member's, in order.
    """

    def __init__(
        self,
        task: TaskKind,
        targets: Array,
        *,
        num_members: int,
        combine: Literal["mean", "logits"],
        weights: Weights | None,
        resamples: Resamples,
        seed: int,
    ) -> None:
        self.plain = Accumulator(task, combine)
        self.weighted = None if weights is None else Accumulator(task)
        self.diversity = DiversityAccumulator(task)
        self.curve = SizeCurve(task, targets, num_members, seed, combine)
        self.scores: list[Scores] = []
        self._task = task
        self._targets = targets
        self._weights = weights
        self._resamples = resamples
        self._regression = task is TaskKind.REGRESSION
        self._spread = Spread(task) if self._regression else None
        self._weighted_spread = Spread(task) if self._regression and weights is not None else None
        self._contributions: dict[str, Float64] = {}
        self._squared: list[Float64] = []
        self._rmse_samples: Float64 | None = None

    def add(self, prediction: Array, name: str) -> None:
        """Add the next member's prediction [N, C]; `name` is for messages.

        Raises:
            InvalidData, InvalidModel: labels or predictions that cannot be scored or combined.
        """
        position = len(self.scores)
        self.plain.add(prediction, name=name)
        contributions = per_example(self._task, self._targets, prediction)
        for metric, values in contributions.items():
            before = self._contributions.get(metric)
            self._contributions[metric] = values.copy() if before is None else before + values
        self.scores.append(cheap_scores(self._task, self._targets, prediction, contributions))
        self.diversity.add(prediction)
        self.curve.add(prediction)
        if self._spread is not None:
            self._spread.add(prediction)
            self._squared.append(contributions["squared_error"])
            self._flush(at_least=_AT_ONCE)
        if self._weights is not None and self.weighted is not None:
            self.weighted.add(prediction, self._weights.values[position], name=name)
            if self._weighted_spread is not None:
                self._weighted_spread.add(prediction, self._weights.values[position])

    def variance(self, *, weighted: bool = False) -> Float64 | None:
        """The members' variance [N, D] around their average, of regression; None unless several members have weight."""
        spread = self._weighted_spread if weighted else self._spread
        return spread.variance() if spread is not None and spread.of_several() else None

    def mean_samples(self) -> dict[str, Float64]:
        """The members' mean score on each resample [B], by metric: those whose mean over members is one over rows."""
        count = len(self.scores)
        if self._regression:
            self._flush(at_least=1)
            assert self._rmse_samples is not None
            errors = self._resamples.means(self._contributions["absolute_error"][:, None] / count)[:, 0]
            return {"rmse": self._rmse_samples / count, "mae": errors}
        names = list(self._contributions)
        means = self._resamples.means(np.stack([self._contributions[name] for name in names], axis=1) / count)
        return {name: means[:, column] for column, name in enumerate(names)}

    def _flush(self, at_least: int) -> None:
        if len(self._squared) < at_least:
            return
        roots = np.sqrt(self._resamples.means(np.stack(self._squared, axis=1))).sum(axis=1)
        self._rmse_samples = roots if self._rmse_samples is None else self._rmse_samples + roots
        self._squared.clear()


def cheap_scores(
    task: TaskKind, targets: Array, prediction: Array, contributions: Mapping[str, Float64] | None = None
) -> Scores:
    """What is cheap enough for each of a thousand members.

    Args:
        task, targets, prediction: as for `per_example`.
        contributions: what that gives, where it is at hand.
    """
    told = per_example(task, targets, prediction) if contributions is None else contributions
    means = {name: float(np.mean(values)) for name, values in told.items()}
    n = len(targets)
    if task is TaskKind.REGRESSION:
        return Scores(n=n, rmse=float(np.sqrt(means["squared_error"])), mae=means["absolute_error"])
    return Scores(n=n, **means, ece=reliability(task, targets, prediction).ece)


def mean_scores(scores: list[Scores]) -> Scores:
    """The members' mean of each metric that all of them have."""
    names = [name for name, value in vars(scores[0]).items() if name != "n" and value is not None]
    means = {name: float(np.mean([getattr(each, name) for each in scores])) for name in names}
    return Scores(n=scores[0].n, **means)
