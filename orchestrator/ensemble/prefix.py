"""The score of an ensemble as it grows member by member: what `ensemble.stop_when` watches."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial

import numpy as np

from orchestrator.ensemble.combine import Accumulator
from orchestrator.ensemble.crossfit import (
    assign_folds,
    cross_fit_average,
    cross_fit_stacking,
    cross_fit_temperature,
)
from orchestrator.ensemble.fitting import make_fitter
from orchestrator.ensemble.metrics import score
from orchestrator.ensemble.tasks import Array, Float64, Indices, TaskKind
from orchestrator.errors import InvalidJob
from orchestrator.spec import EnsembleSpec


class PrefixScores:
    """Scores the ensemble of one member, then that with one more, and so on; as it would be delivered.

    Averages with weights that nothing was fitted to are running sums. Fitted weights, stacking and temperatures are
    cross-fitted anew for each ensemble, for which all its members are read again: a naive score flatters itself more
    with each member that it is fitted to, and would never stop improving.

    Args:
        task: what the members tell.
        targets: of the validation rows, as `tasks.to_targets` returns them.
        ensemble: how members are combined.
        metric: of `metrics.METRICS`.
        seed: the job's root seed, from which the folds come.
        groups: as for `crossfit.assign_folds`.
    """

    def __init__(
        self,
        task: TaskKind,
        targets: Array,
        ensemble: EnsembleSpec,
        metric: str,
        seed: int,
        groups: Indices | None = None,
    ) -> None:
        self._task, self._targets, self._metric = task, targets, metric
        self._given = ensemble.weights if ensemble.combine == "weighted" else None
        self._stacked = ensemble.combine == "stacking"
        self._calibrated = ensemble.calibrate and task is not TaskKind.REGRESSION
        is_fitted = ensemble.combine == "weighted" and not isinstance(self._given, tuple)
        needs_folds = is_fitted or self._stacked or self._calibrated
        self._folds = np.zeros(len(targets), dtype=np.int64)
        if needs_folds:
            self._folds = assign_folds(task, targets, seed=seed, groups=groups)
        self._fitter = make_fitter(str(self._given or "accuracy"), task, targets, self._folds) if is_fitted else None
        self._sum = Accumulator(task, "logits" if ensemble.combine == "logits" else "mean")

    def add(self, index: int, prediction: Array, members: Iterable[Array]) -> float | None:
        """The score with one more member; None where that weighs nothing.

        Args:
            index: of the member; indices ascend.
            prediction: what it predicts, [N, C].
            members: all predictions so far, this one included; gone through only where something is fitted, then
                several times.

        Raises:
            InvalidJob: the metric cannot be told of these rows.
            InvalidData, InvalidModel: predictions that cannot be scored, combined or fitted.
        """
        if self._fitter is not None:
            self._fitter.see(prediction)
        combined = self._combine(index, prediction, members)
        if combined is None:
            return None
        if self._calibrated:
            is_fitted = self._stacked or self._fitter is not None
            without = partial(self._cross_fitted, members) if is_fitted else None
            combined, _ = cross_fit_temperature(self._task, self._targets, combined, self._folds, without)
        return watched(self._metric, self._task, self._targets, combined)

    def _combine(self, index: int, prediction: Array, members: Iterable[Array]) -> Float64 | None:
        if self._stacked or self._fitter is not None:
            return self._cross_fitted(members)
        weight = self._given[index] if isinstance(self._given, tuple) else 1.0
        if weight == 0:
            return None
        self._sum.add(prediction, weight, name=f"member {index}")
        return self._sum.average()

    def _cross_fitted(self, members: Iterable[Array], without_fold: int | None = None) -> Float64:
        if self._fitter is not None:
            return cross_fit_average(self._task, self._fitter, self._folds, members, without_fold)
        return cross_fit_stacking(self._task, self._targets, np.stack(list(members)), self._folds, without_fold)


def watched(
    metric: str, task: TaskKind, targets: Array, prediction: Array, where: str = "ensemble.stop_when.metric"
) -> float:
    """One figure of a prediction.

    Args:
        metric: of `metrics.METRICS`.
        task, targets, prediction: as for `metrics.score`.
        where: the job's key that names it, for the message.

    Raises:
        InvalidJob: it is not told for this task, or not of these rows.
        InvalidData, InvalidModel: as `metrics.score`.
    """
    value: float | None = getattr(score(task, targets, prediction), metric)
    if value is None:
        raise InvalidJob(
            f"{metric} cannot be told of these {len(targets)} rows of a {task} task",
            where=where,
            hint="name rmse, mae or r2 for regression, else nll, accuracy or brier; auc needs rows of every class, "
            "top_k more than 5 classes",
        )
    return value
