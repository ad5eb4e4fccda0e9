"""Weights of an ensemble's members, and on which data they were fitted."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from orchestrator.ensemble.simplex import least_squares, likeliest_mixture
from orchestrator.ensemble.tasks import EPSILON, Array, Float64
from orchestrator.errors import InvalidData, InvalidJob, InvalidModel

Method = Literal["given", "accuracy", "error", "nll", "greedy"]
FittedOn = Literal["validation", "out_of_fold", "given"]

LossesOf = Callable[[Float64], Float64]
"""Losses [K] of K candidate averages [K, …]."""

_TIE = 1e-12  # relative: sums in another order differ by less, and no member is better by so little
_BLOCK_NUMBERS = 250_000  # 2 MB of candidates at a time: they stay in the cache, four times as fast
_LOGGED_TOGETHER = 32  # (1e-7)^32 is still a normal number


@dataclass(frozen=True)
class Weights:
    """One weight a member, in member order.

    Attributes:
        values: [M], none negative, summing to 1.
        method: how they were found: `given`, in proportion to `accuracy` or to 1 / mean squared `error`, the optimum of
            `nll` (for regression: of the mean squared error), or `greedy`.
        fitted_on: the rows they were fitted on: a figure on the same rows is optimistic.
    """

    values: tuple[float, ...]
    method: Method
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
    return _fitted(proportions, "accuracy")


def by_error(squared_errors: Sequence[float]) -> Weights:
    """Weights in proportion to 1 / mean squared error; members without any error share all the weight.

    The best weights of unbiased members whose errors are independent (Bates and Granger 1969, "The combination of
    forecasts"). Errors of networks on the same rows are not: `by_squared_error` takes that into account.

    Args:
        squared_errors: [M], each member's mean squared error on the validation rows.

    Raises:
        InvalidJob: there are none, or one is negative, NaN or infinite.
    """
    for position, value in enumerate(squared_errors):
        if not 0 <= value < math.inf:
            raise InvalidJob(
                f"{value} is no mean squared error", where=f"squared_errors[{position}]", hint="it is at least 0"
            )
    least = min(squared_errors, default=0.0)
    return _fitted([1.0 if value == least else least / value for value in squared_errors], "error")


def by_nll(likelihoods: Array) -> Weights:
    """The weights of lowest negative log-likelihood: they minimise the mean of −log Σ_m w_m p_m[n] on the simplex.

    The problem is convex, so these are the best there are on these rows, which is why a figure on the same rows
    flatters them: see `crossfit`. Solved to 1e-8 nats per row (`simplex.likeliest_mixture`); a member that adds nothing
    gets exactly 0. Likelihoods below 1e-7 count as 1e-7, about where `metrics.nll` clips the average.

    Args:
        likelihoods: [M, N], what each member gave to what happened: the probability of the true class, or of the true
            answer. Multi-label: [M, N, C], one for each label.

    Raises:
        InvalidData: there are no rows.
        InvalidModel: there are no members, or a likelihood is negative, NaN or infinite.
    """
    return _fitted(likeliest_mixture(np.maximum(_by_member(likelihoods, least=0), EPSILON)), "nll")


def by_squared_error(predictions: Array, targets: Array) -> Weights:
    """The weights of least squares on the simplex: the regression counterpart of `by_nll`, and its method is `nll`.

    Least squares is the likeliest average under Gaussian noise of one fixed variance. Breiman 1996 ("Stacked
    regressions") shows why the weights must not be negative.

    Args:
        predictions: [M, N, D].
        targets: [N, D].

    Raises:
        InvalidData: there are no rows.
        InvalidModel: there are no members, or a difference is NaN or infinite.
    """
    residuals = np.asarray(predictions, dtype=np.float64) - np.asarray(targets, dtype=np.float64)
    return _fitted(least_squares(_by_member(residuals, least=-math.inf)), "nll")


def greedy(members: Array, losses_of: LossesOf, num_steps: int = 50, most: int | None = None) -> Weights:
    """Members chosen one after another, with replacement: each time the one that lowers the average's loss most.

    Caruana, Niculescu-Mizil, Crew and Ksikes 2004, "Ensemble selection from libraries of models". A weight is in
    proportion to how often a member was chosen. Ties (to a relative 1e-12) go to members already used, then to the
    lower index; of all steps the first best one is kept, so `num_steps` is only the most there may be.

    Args:
        members: [M, …], what is averaged: likelihoods [M, N] with `nll_losses`, or predictions [M, N, D] with
            `squared_error_losses(targets)`.
        losses_of: losses [K] of K candidate averages [K, …]; called for a few candidates at a time.
        num_steps: at least 1.
        most: different members that may be chosen, at least 1; None: any number.

    Raises:
        InvalidData: there are no rows.
        InvalidModel: there are no members, or a value is NaN or infinite.
        InvalidJob: fewer steps than one.
    """
    if num_steps < 1:
        raise InvalidJob(f"{num_steps} greedy steps choose no member", where="num_steps", hint="at least 1")
    members = np.asarray(members, dtype=np.float64)
    _by_member(members, least=-math.inf)
    block = max(1, _BLOCK_NUMBERS // members[0].size)
    chosen, total = np.zeros(len(members), dtype=np.int64), np.zeros(members.shape[1:])
    best, kept = math.inf, chosen
    for step in range(1, num_steps + 1):
        starts = range(0, len(members), block)
        losses = np.concatenate([losses_of((total + members[start : start + block]) / step) for start in starts])
        if most is not None and np.count_nonzero(chosen) >= most:
            losses = np.where(chosen > 0, losses, np.inf)
        tied = np.flatnonzero(losses <= losses.min() + _TIE * abs(losses.min()))
        member = int(min(tied, key=lambda index: (chosen[index] == 0, index)))
        chosen[member] += 1
        total += members[member]
        if losses[member] < best - _TIE * abs(losses[member]):
            best, kept = float(losses[member]), chosen.copy()
    return _fitted(kept, "greedy")


def nll_losses(averages: Float64) -> Float64:
    """Negative log-likelihoods [K], in nats per row, of averaged likelihoods [K, N] or [K, N, C], clipped at 1e-7."""
    rows = np.maximum(averages.reshape(len(averages), -1), EPSILON)
    # A logarithm costs as much as some ten multiplications.
    products = np.multiply.reduceat(rows, np.arange(0, rows.shape[1], _LOGGED_TOGETHER), axis=1)
    losses: Float64 = -np.log(products).sum(axis=1) / rows.shape[1]
    return losses


def squared_error_losses(targets: Array) -> LossesOf:
    """Mean squared errors [K] of averages [K, N, D] against targets [N, D], for `greedy`."""
    aims = np.asarray(targets, dtype=np.float64)

    def losses_of(averages: Float64) -> Float64:
        losses: Float64 = np.square(averages - aims).reshape(len(averages), -1).mean(axis=1)
        return losses

    return losses_of


def _fitted(values: Sequence[float] | Array, method: Method) -> Weights:
    return Weights(normalise(list(values)), method=method, fitted_on="validation")


def _by_member(values: Array, least: float) -> Float64:
    """Values [M, …] as [M, N], looked at: something there, finite, and none below `least`."""
    values = np.asarray(values, dtype=np.float64)
    if len(values) == 0:
        raise InvalidModel("there are no members to weigh", where="weights", hint="at least one member has to be left")
    if values.size == 0:
        raise InvalidData("there are no rows to fit weights on", where="weights", hint="the set is empty: give it rows")
    if not (values.min() >= least and np.isfinite(values).all()):
        wrong = [index for index, row in enumerate(values) if not (row.min() >= least and np.isfinite(row).all())]
        raise InvalidModel(
            f"values of member {wrong[0]} are negative, NaN or infinite",
            where="weights",
            hint="the member has diverged: lower its learning rate, or leave it out",
        )
    return values.reshape(len(values), -1)


def _shown(values: Sequence[float], most: int = 8) -> str:
    text = ", ".join(f"{value:g}" for value in values[:most])
    return f"[{text}, …]" if len(values) > most else f"[{text}]"
