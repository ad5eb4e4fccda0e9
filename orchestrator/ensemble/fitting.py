"""Weights fitted to members that are fed one at a time: what each method must keep of them, and no more.

Each fitter can leave out the rows of folds, so that the same pass over the members serves the weights that are
delivered (fitted on all rows) and those of cross-fitting (`crossfit`).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from orchestrator.ensemble.metrics import per_example
from orchestrator.ensemble.tasks import TaskKind, normalised
from orchestrator.ensemble.weights import (
    Weights,
    by_accuracy,
    by_error,
    by_nll,
    by_squared_error,
    greedy,
    nll_losses,
    squared_error_losses,
)
from orchestrator.errors import InvalidJob

Array = npt.NDArray[Any]
Float64 = npt.NDArray[np.float64]


class Fitter(Protocol):
    """Sees every member once, in member order; then fits as often as it is asked."""

    def see(self, prediction: Array) -> None:
        """Take in the next member's prediction [N, C]."""

    def fit(self, *without_folds: int) -> Weights:
        """The weights of the members seen, fitted on all rows but those of these folds."""


def make_fitter(
    method: str, task: TaskKind, targets: Array, folds: npt.NDArray[np.int64], *, most: int | None = None
) -> Fitter:
    """The fitter of a method.

    Args:
        method: `accuracy` (regression: the inverse of the mean squared error, also called `error`), `nll`, `greedy`.
        task, targets: as for `per_example`.
        folds: [N] the fold of each row, from `crossfit.assign_folds`.
        most: of `greedy`, see there.

    Raises:
        InvalidJob: there is no such method.
    """
    if method in ("accuracy", "error"):
        return _ByScore(task, targets, folds)
    if method in ("nll", "greedy"):
        return _ByMixture(method, task, targets, folds, most)
    raise InvalidJob(f"there is no way to fit weights called {method!r}", where="ensemble.weights")


def fit_weights(
    method: str, task: TaskKind, targets: Array, predictions: Iterable[Array], *, most: int | None = None
) -> Weights:
    """The weights of members fitted on all rows.

    Args:
        method, task, targets, most: as for `make_fitter`.
        predictions: [N, C] of each member, in member order; read once.

    Raises:
        InvalidJob, InvalidData, InvalidModel: as the method's own function in `weights`.
    """
    fitter = make_fitter(method, task, targets, np.zeros(len(targets), dtype=np.int64), most=most)
    for prediction in predictions:
        fitter.see(prediction)
    return fitter.fit()


class _ByScore:
    """Keeps two numbers for each member and fold."""

    def __init__(self, task: TaskKind, targets: Array, folds: npt.NDArray[np.int64]) -> None:
        self._task, self._targets, self._folds = task, targets, folds
        self._metric = "squared_error" if task is TaskKind.REGRESSION else "accuracy"
        self._num_rows = np.bincount(folds)
        self._sums: list[Float64] = []

    def see(self, prediction: Array) -> None:
        values = per_example(self._task, self._targets, prediction)[self._metric]
        sums: Float64 = np.bincount(self._folds, weights=values).astype(np.float64)
        self._sums.append(sums)

    def fit(self, *without_folds: int) -> Weights:
        kept = ~np.isin(np.arange(len(self._num_rows)), without_folds)
        means = np.asarray(self._sums)[:, kept].sum(axis=1) / self._num_rows[kept].sum()
        if self._task is TaskKind.REGRESSION:
            return by_error(means.tolist())
        return by_accuracy(np.minimum(means, 1.0).tolist())  # a sum of shares may exceed 1 by a rounding


class _ByMixture:
    """Keeps what each member gave to the truth, [M, N] (regression: its values), which is all that the loss needs."""

    def __init__(
        self, method: str, task: TaskKind, targets: Array, folds: npt.NDArray[np.int64], most: int | None
    ) -> None:
        self._method, self._task, self._targets, self._folds, self._most = method, task, targets, folds, most
        self._seen: list[Array] = []

    def see(self, prediction: Array) -> None:
        kept = prediction if self._task is TaskKind.REGRESSION else likelihoods(self._task, self._targets, prediction)
        self._seen.append(np.asarray(kept, dtype=np.float32))

    def fit(self, *without_folds: int) -> Weights:
        rows = ~np.isin(self._folds, without_folds)
        members = np.stack([seen[rows] for seen in self._seen])
        regression = self._task is TaskKind.REGRESSION
        if self._method == "nll":
            return by_squared_error(members, self._targets[rows]) if regression else by_nll(members)
        losses_of = squared_error_losses(self._targets[rows]) if regression else nll_losses
        return greedy(members, losses_of, most=self._most)


def likelihoods(task: TaskKind, targets: Array, prediction: Array) -> Float64:
    """The probability that a prediction gave to what is true: [N]; for several labels [N, C].

    Args:
        task, targets, prediction: as for `per_example`; not regression.
    """
    values = np.asarray(prediction, dtype=np.float64)
    if task is TaskKind.MULTICLASS:
        chosen: Float64 = normalised(values)[np.arange(len(targets)), targets]
        return chosen
    return np.where(targets.reshape(values.shape) == 1, values, 1 - values)
