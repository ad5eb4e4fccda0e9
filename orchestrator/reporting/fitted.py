"""What is fitted to validation rows, honestly: the weights of an average, a stacking, a temperature.

Nothing is scored on rows that fitted it: on the rows on which weights, a stacking or a temperature were fitted, each
row is predicted by what the *other* folds gave (cross-fitting); the naive prediction stands beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from itertools import zip_longest
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from orchestrator.ensemble.calibration import apply_temperature, fit_temperature
from orchestrator.ensemble.combine import Spread
from orchestrator.ensemble.crossfit import (
    assign_folds,
    cross_fit_average,
    cross_fit_stacking,
    cross_fit_temperature,
    cross_fit_weights,
    row_weights,
)
from orchestrator.ensemble.fitting import Fitter, make_fitter
from orchestrator.ensemble.stacking import Stacking, fit_stacking
from orchestrator.ensemble.tasks import TaskKind
from orchestrator.ensemble.weights import Weights
from orchestrator.errors import OrchestratorError
from orchestrator.planning.folds import OUT_OF_FOLD
from orchestrator.reporting.members_pass import MembersPass
from orchestrator.reporting.scores import SplitName

Array = npt.NDArray[Any]
Float64 = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Rules:
    """How the members are combined and judged, as the selection has fixed it.

    Attributes:
        combine: `mean`, `logits`, `weighted` or `stacking`: which prediction is delivered.
        weights: of the weighted average, one for each member that counts; None: there is none.
        calibrate: what is delivered is scaled by a temperature that was fitted on validation rows; numbers never are.
        seed: root of the job's randomness.
        used_for: what else the rows of a split were used for, such as `early stopping`.
        decides: the split whose rows choose the best member and fit what is fitted; with folds `out_of_fold`.
        most_chosen: how many members a greedy selection may choose; None: any number.
    """

    combine: str = "mean"
    weights: Weights | None = None
    calibrate: bool = False
    seed: int = 0
    used_for: Mapping[str, Sequence[str]] = field(default_factory=dict)
    decides: SplitName = "validation"
    most_chosen: int | None = None

    @property
    def averaged(self) -> Literal["member", "configuration"]:
        """What is compared, weighted and averaged."""
        return "configuration" if self.decides == OUT_OF_FOLD else "member"

    @property
    def delivered(self) -> Literal["ensemble", "weighted"]:
        """The figure of the prediction that is delivered."""
        return "weighted" if self.combine in ("weighted", "stacking") else "ensemble"


@dataclass(frozen=True)
class Chosen:
    """What validation rows have decided. Test rows only use it: deciding again on them would flatter the figures."""

    best_member: int | None = None
    temperature: float | None = None
    stacking: Stacking | None = None


@dataclass(frozen=True)
class Prediction:
    """A prediction [N, C]; where it was cross-fitted, also the naive one, that was fitted on all these rows.

    `variance` is the members' [N, D], of regression; `fitted` says what these rows were used for besides; `without`
    gives the prediction in which no label of a fold had a part, where `values` were cross-fitted.
    """

    values: Float64
    naive: Float64 | None = None
    variance: Float64 | None = None
    fitted: tuple[str, ...] = ()
    without: Callable[[int], Float64] | None = None


@dataclass(frozen=True)
class Rows:
    """The rows of a split: what is true of them, and what each member predicts.

    Attributes:
        name: of the split.
        task: what the members tell.
        targets: as `orchestrator.ensemble.tasks.to_targets` gives them.
        predictions: [N, C] for each member, in the order of `indices`; gone through several times.
        indices: the members' indices.
        rules: how to combine.
        library: [N, C] for each trial among which the members were chosen by the weights that they have; None: these
            weights are of given members.
        groups: which rows belong together, [N] of 0 … G − 1; None: each is for itself.
    """

    name: SplitName
    task: TaskKind
    targets: Array
    predictions: Iterable[Array]
    indices: tuple[int, ...]
    rules: Rules
    library: Iterable[Array] | None = None
    groups: npt.NDArray[np.int64] | None = None

    @property
    def candidates(self) -> Iterable[Array]:
        """What weights are fitted to: the choice of the members is a part of the fit, where they chose them."""
        return self.predictions if self.library is None else self.library

    @cached_property
    def folds(self) -> npt.NDArray[np.int64] | None:
        """The fold of each row; None of a single row: there are no others to fit on, so nothing is cross-fitted."""
        if len(self.targets) < 2:
            return None
        return assign_folds(self.task, self.targets, seed=self.rules.seed, groups=self.groups)

    def members(self) -> Iterable[tuple[int, Array]]:
        """Index and prediction of each member.

        Raises:
            OrchestratorError: another number of predictions than of members.
        """
        for index, prediction in zip_longest(self.indices, self.predictions):
            if index is None or prediction is None:
                raise OrchestratorError(f"not one prediction for each of {len(self.indices)} members", where=self.name)
            yield index, prediction

    def fitter(self) -> Fitter | None:
        """What cross-fits the weights, to be shown every candidate; None unless these rows fitted them."""
        weights = self.rules.weights
        if self.folds is None or weights is None or weights.fitted_on != self.name:
            return None
        return make_fitter(weights.method, self.task, self.targets, self.folds, most=self.rules.most_chosen)


def combined(rows: Rows, seen: MembersPass, fitter: Fitter | None, chosen: Chosen) -> tuple[Prediction | None, Chosen]:
    """The weighted average, or the stacking; None where there is none. And what is decided now.

    Args:
        rows: to predict.
        seen: has seen all members.
        fitter: of `rows`; has seen all candidates.
        chosen: what the validation rows decided, for other rows.
    """
    if rows.rules.combine == "stacking":
        return _stacked(rows, chosen)
    return _weighted(rows, seen, fitter), chosen


def scaled(rows: Rows, delivered: Prediction, chosen: Chosen) -> tuple[Prediction | None, Chosen]:
    """What is delivered, scaled by a temperature; None of numbers and without rows to fit it on. And what is decided.

    Arguments as for `combined`.
    """
    costly = rows.rules.combine == "stacking" and not rows.rules.calibrate  # ten more fits, only to be told
    if rows.task is TaskKind.REGRESSION or costly:
        return None, chosen
    task, values = rows.task, delivered.values
    if rows.name == rows.rules.decides and rows.folds is not None and rows.folds.max() > 1:
        temperature = fit_temperature(task, rows.targets, values)
        after, _ = cross_fit_temperature(task, rows.targets, values, rows.folds, delivered.without)
        naive = apply_temperature(task, values if delivered.naive is None else delivered.naive, temperature)
        made = Prediction(after, naive, fitted=(*delivered.fitted, "temperature"))
        return made, replace(chosen, temperature=temperature)
    if chosen.temperature is None:
        return None, chosen
    return Prediction(apply_temperature(task, values, chosen.temperature)), chosen


def _weighted(rows: Rows, seen: MembersPass, fitter: Fitter | None) -> Prediction | None:
    if seen.weighted is None:
        return None
    average, variance = seen.weighted.average(), seen.variance(weighted=True)
    if rows.rules.weights is None or rows.rules.weights.fitted_on != rows.name:
        return Prediction(average, variance=variance)
    if fitter is None or rows.folds is None:
        return None
    without = partial(cross_fit_average, rows.task, fitter, rows.folds, rows.candidates)
    spread = None
    if rows.task is TaskKind.REGRESSION:
        by_fold, spread = cross_fit_weights(fitter, rows.folds), Spread(rows.task)
        for position, prediction in enumerate(rows.candidates):
            spread.add(prediction, row_weights(by_fold, rows.folds, position))
    variance = spread.variance() if spread is not None and spread.of_several() else None
    return Prediction(without(), average, variance, ("weights",), without)


def _stacked(rows: Rows, chosen: Chosen) -> tuple[Prediction | None, Chosen]:
    """All predictions in memory at once: what a stacking may take is bounded by its number of features."""
    if rows.name != rows.rules.decides or rows.folds is None:
        known = chosen.stacking
        return (None if known is None else Prediction(known.combine(rows.predictions))), chosen
    together = np.stack([prediction for _, prediction in rows.members()])
    stacking = fit_stacking(rows.task, rows.targets, together)
    without = partial(cross_fit_stacking, rows.task, rows.targets, together, rows.folds)
    made = Prediction(without(), stacking.combine(together), fitted=("stacking",), without=without)
    return made, replace(chosen, stacking=stacking)
