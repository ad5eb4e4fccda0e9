"""How far predicted probabilities can be taken at their word, and the one number that mends them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from orchestrator.ensemble.tasks import (
    EPSILON,
    Array,
    Float64,
    Indices,
    TaskKind,
    check_predictions,
    normalised,
)
from orchestrator.errors import InvalidJob, OrchestratorError

HOTTEST = 20.0
"""Temperatures are sought in [1 / HOTTEST, HOTTEST]: on separable rows the best one is 0."""


@dataclass(frozen=True, eq=False)
class Reliability:
    """Confidence and accuracy by bins of confidence: a reliability diagram.

    Attributes:
        edges: [B + 1], from 0 to 1, equally spaced; bin b holds confidences in (edges[b], edges[b + 1]], the first one
            0 too.
        count: [B] decisions in each bin.
        confidence: [B] mean confidence; NaN where the bin is empty.
        accuracy: [B] share that was right; NaN where the bin is empty.
    """

    edges: Float64
    count: Indices
    confidence: Float64
    accuracy: Float64

    @property
    def ece(self) -> float:
        """Expected calibration error: mean |accuracy − confidence| over decisions. In [0, 1]; 0 is calibrated."""
        filled = self.count > 0
        gaps = np.abs(self.accuracy[filled] - self.confidence[filled])
        return float(np.sum(gaps * self.count[filled]) / self.count.sum())


def reliability(task: TaskKind, targets: Array, probabilities: Array, num_bins: int = 15) -> Reliability:
    """Confidence against accuracy, after Guo et al. 2017, "On Calibration of Modern Neural Networks" (eq. 1–5).

    Bins are of equal width and open below, (lo, hi], as theirs; 15 of them, as theirs. With few rows the error is
    overestimated, for each bin's accuracy is noisy: compare it only between sets of about as many rows.

    Multi-class: a row is a decision, its confidence is the probability of the predicted class (rows scaled to sum 1).
    Binary: the same over the two classes, so confidences lie in [0.5, 1]. Multi-label: each of the N · C yes-or-no
    questions is one, its confidence is the probability of yes, and "accuracy" the share of yes among the answers.

    Args:
        task: not regression.
        targets: as `tasks.to_targets` returns them.
        probabilities: [N, C]; [N, 1] for binary.
        num_bins: B, at least 1.

    Raises:
        InvalidData, InvalidModel: what `tasks.check_predictions` refuses.
        OrchestratorError: a regression task, or fewer bins than one.
    """
    if task is TaskKind.REGRESSION or num_bins < 1:
        raise OrchestratorError(f"no reliability in {num_bins} bins for a {task} task", where="reliability")
    values = check_predictions(task, targets, probabilities)
    confidence, right = _decisions(task, np.asarray(targets), values)
    edges = np.arange(num_bins + 1) / num_bins  # not linspace: its rounding puts some edges beside b / B
    bins = np.clip(np.searchsorted(edges, confidence, side="left") - 1, 0, num_bins - 1)
    count = np.bincount(bins, minlength=num_bins)
    with np.errstate(invalid="ignore"):  # an empty bin has no mean: NaN
        mean_confidence = np.bincount(bins, confidence, num_bins) / count
        accuracy = np.bincount(bins, right, num_bins) / count
    return Reliability(edges, count.astype(np.int64), mean_confidence, accuracy)


def fit_temperature(task: TaskKind, targets: Array, probabilities: Array) -> float:
    """The temperature T that minimises the negative log-likelihood of `apply_temperature(task, probabilities, T)`.

    Guo et al. 2017, section 4.2: one number for all classes, so the predicted class stays what it was. Above 1 the
    probabilities were too sure of themselves, below 1 too cautious. The likelihood has one optimum, sought over log T.

    Args:
        task: not regression.
        targets: as `tasks.to_targets` returns them.
        probabilities: [N, C]; [N, 1] for binary.

    Returns:
        In [1/20, 20]; 1 where no other temperature is better.

    Raises:
        InvalidData, InvalidModel: what `tasks.check_predictions` refuses.
        InvalidJob: a regression task.
    """
    from scipy.optimize import minimize_scalar

    _refuse_regression(task)
    loss = _loss_of_log_temperature(task, np.asarray(targets), check_predictions(task, targets, probabilities))
    bound = math.log(HOTTEST)
    found = minimize_scalar(loss, bounds=(-bound, bound), method="bounded", options={"xatol": 1e-8})
    return math.exp(found.x) if found.fun < loss(0.0) else 1.0


def apply_temperature(task: TaskKind, probabilities: Array, temperature: float) -> Float64:
    """Probabilities at another temperature: softmax(log p / T), or sigmoid(logit(p) / T) for yes-or-no questions.

    Args:
        task: not regression.
        probabilities: [N, C], [N, 1] for binary; values below 1e-7 count as 1e-7, as in nll.
        temperature: above 0; 1 leaves the probabilities as they are (but for that, and for rows scaled to sum 1).

    Returns:
        float64 [N, C].

    Raises:
        InvalidJob: a regression task.
        OrchestratorError: a temperature that is not above 0.
    """
    _refuse_regression(task)
    if not 0 < temperature < math.inf:
        raise OrchestratorError(f"{temperature} is not a temperature", hint="it is a number above 0")
    scores = _scores(task, np.asarray(probabilities, dtype=np.float64)) / temperature
    if task is TaskKind.MULTICLASS:
        return normalised(np.exp(scores))
    yes: Float64 = 0.5 * (1 + np.tanh(0.5 * scores))
    return yes


def _decisions(task: TaskKind, targets: Array, values: Float64) -> tuple[Float64, Array]:
    """Confidence and whether it was right, one for each decision."""
    if task is TaskKind.MULTILABEL:
        return values.ravel(), targets.ravel()
    if task is TaskKind.BINARY:
        yes = values[:, 0]
        return np.maximum(yes, 1 - yes), (yes > 0.5) == targets
    return normalised(values).max(axis=1), values.argmax(axis=1) == targets


def _scores(task: TaskKind, probabilities: Float64) -> Float64:
    """What the softmax (shifted so that the largest is 0) or the sigmoid makes these probabilities of."""
    if task is TaskKind.MULTICLASS:
        logs: Float64 = np.log(np.maximum(normalised(probabilities), EPSILON))
        shifted: Float64 = logs - logs.max(axis=1, keepdims=True)
        return shifted
    clipped = np.clip(probabilities, EPSILON, 1 - EPSILON)
    return np.log(clipped) - np.log1p(-clipped)


def _loss_of_log_temperature(task: TaskKind, targets: Array, values: Float64) -> Callable[[float], float]:
    scores = _scores(task, values)
    if task is TaskKind.MULTICLASS:
        true = scores[np.arange(len(targets)), targets]

        def of_softmax(log_temperature: float) -> float:
            cold = math.exp(-log_temperature)
            return float(np.mean(np.log(np.exp(scores * cold).sum(axis=1)) - true * cold))

        return of_softmax
    against = np.where(targets.reshape(scores.shape) == 1, -scores, scores)
    return lambda log_temperature: float(np.mean(np.logaddexp(0, against * math.exp(-log_temperature))))


def _refuse_regression(task: TaskKind) -> None:
    if task is TaskKind.REGRESSION:
        raise InvalidJob(
            "there are no probabilities to calibrate in a regression task",
            where="ensemble.calibrate",
            hint="leave ensemble.calibrate out",
        )
