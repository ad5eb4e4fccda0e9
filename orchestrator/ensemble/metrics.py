"""Figures of predictions, in float64; each function names its source.

Accuracy and negative log-likelihood (nll) follow Keras, so that they agree with `model.evaluate`: the class is the
first arg-max, a yes is a probability above (not at) 0.5; probabilities are clipped to [1e-7, 1 − 1e-7]. Throughout,
targets are as `tasks.to_targets` returns them, predictions [N, C] as `tasks.check_predictions` wants them, and all
functions raise what that raises.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from orchestrator.ensemble.calibration import reliability
from orchestrator.ensemble.tasks import (
    EPSILON,
    Array,
    Float64,
    Indices,
    TaskKind,
    check_predictions,
    normalised,
)
from orchestrator.errors import InvalidModel, OrchestratorError

TOP_K = 5
"""`Scores.top_k` is told where there are more classes."""

MIN_VARIANCE = 1e-6
"""Below it a predicted variance counts as this: members that agree exactly would otherwise claim to be certain."""

_CLASSIFICATION = frozenset({TaskKind.MULTICLASS, TaskKind.BINARY, TaskKind.MULTILABEL})
_REGRESSION = frozenset({TaskKind.REGRESSION})


@dataclass(frozen=True)
class Scores:
    """Figures over `n` examples; None where a figure does not apply.

    Attributes:
        n: examples.
        accuracy: share of right classes; multi-label: of right labels.
        nll: nats per example; multi-label: per label.
        brier: see `per_example`.
        ece: see `calibration.reliability`, 15 bins.
        auc: see `auc`.
        top_k: see `top_k_accuracy`, k = 5.
        rmse: root of the mean squared error over rows and outputs, in the unit of the targets.
        mae: mean absolute error over rows and outputs, in the unit of the targets.
        r2: see `r2`.
        gaussian_nll: see `gaussian_nll`.
    """

    n: int
    accuracy: float | None = None
    nll: float | None = None
    brier: float | None = None
    ece: float | None = None
    auc: float | None = None
    top_k: float | None = None
    rmse: float | None = None
    mae: float | None = None
    r2: float | None = None
    gaussian_nll: float | None = None


@dataclass(frozen=True)
class Metric:
    """A figure of `Scores`: which way is better, and for which tasks it is told."""

    name: str
    greater_is_better: bool
    tasks: frozenset[TaskKind]


METRICS: Mapping[str, Metric] = {
    name: Metric(name, greater_is_better, tasks)
    for name, greater_is_better, tasks in (
        ("accuracy", True, _CLASSIFICATION),
        ("nll", False, _CLASSIFICATION),
        ("brier", False, _CLASSIFICATION),
        ("ece", False, _CLASSIFICATION),
        ("auc", True, _CLASSIFICATION),
        ("top_k", True, frozenset({TaskKind.MULTICLASS})),
        ("rmse", False, _REGRESSION),
        ("mae", False, _REGRESSION),
        ("r2", True, _REGRESSION),
        ("gaussian_nll", False, _REGRESSION),
    )
}


def headline(task: TaskKind) -> str:
    """The metric by which members and ensembles are compared first."""
    return "rmse" if task is TaskKind.REGRESSION else "accuracy"


def per_example(task: TaskKind, targets: Array, predictions: Array) -> dict[str, Float64]:
    """What each row contributes: arrays [N] whose means are the metrics.

    Classification:
        accuracy: 1 where the class is right; multi-label: share of the row's labels that are.
        nll: negative log-likelihood in nats; multi-label: mean over labels. Rows are scaled to sum 1 and clipped to
            [1e-7, 1 − 1e-7], as Keras' `categorical_crossentropy` and `binary_crossentropy` do on probabilities: equal
            within 1e-6. Three rounding effects of Keras are not copied: its sparse form scales after clipping (up to
            C · 1e-7 apart), 1 − p is 1.2e-7 in float32 where p is 1, and in `evaluate` the loss of a softmax layer is
            taken from its logits and is therefore not clipped.
        brier: multi-class Σ_c (p_c − y_c)², in [0, 2] (Brier 1950, as he wrote it); binary and, mean over labels,
            multi-label (p − y)², in [0, 1]. So scikit-learn's `brier_score_loss` has it.
    Regression, mean over the row's D numbers:
        squared_error, absolute_error.
    """
    values = check_predictions(task, targets, predictions)
    match task:
        case TaskKind.MULTICLASS:
            rows, shares = np.arange(len(values)), normalised(values)
            true = shares[rows, targets]
            shares[rows, targets] -= 1
            return {
                "accuracy": (predicted_classes(values) == targets).astype(np.float64),
                "nll": -np.log(np.clip(true, EPSILON, 1 - EPSILON)),
                "brier": np.square(shares).sum(axis=1),
            }
        case TaskKind.BINARY | TaskKind.MULTILABEL:
            told = targets.reshape(values.shape)
            yes = np.clip(values, EPSILON, 1 - EPSILON)
            return {
                "accuracy": ((values > 0.5) == told).mean(axis=1),
                "nll": -np.where(told == 1, np.log(yes), np.log1p(-yes)).mean(axis=1),
                "brier": np.square(values - told).mean(axis=1),
            }
        case TaskKind.REGRESSION:
            errors = values - targets
            return {
                "squared_error": np.square(errors).mean(axis=1),
                "absolute_error": np.abs(errors).mean(axis=1),
            }


def score(task: TaskKind, targets: Array, predictions: Array, *, spread: Float64 | None = None) -> Scores:
    """All figures at once. Ranking rows for `auc` takes most of the time: many members are cheaper by `per_example`.

    Args:
        task: what `tasks.infer_task` said.
        targets: as `tasks.to_targets` returns them.
        predictions: [N, C]; [N, 1] for binary.
        spread: [N, D] predictive variances, of regression only.

    Raises:
        InvalidData, InvalidModel: what `tasks.check_predictions` refuses.
        OrchestratorError: a spread that does not belong to the task.
    """
    means = {name: float(values.mean()) for name, values in per_example(task, targets, predictions).items()}
    if task is TaskKind.REGRESSION:
        return Scores(
            n=len(targets),
            rmse=math.sqrt(means["squared_error"]),
            mae=means["absolute_error"],
            r2=r2(targets, predictions),
            gaussian_nll=None if spread is None else gaussian_nll(targets, predictions, spread),
        )
    if spread is not None:
        raise OrchestratorError(f"a {task} task has no spread", where="score", hint="pass it for regression only")
    ranked = task is TaskKind.MULTICLASS and predictions.shape[1] > TOP_K
    return Scores(
        n=len(targets),
        **means,
        ece=reliability(task, targets, predictions).ece,
        auc=auc(task, targets, predictions),
        top_k=top_k_accuracy(targets, predictions) if ranked else None,
    )


def predicted_classes(probabilities: Array) -> Indices:
    """Classes [N] told from probabilities [N, C], C > 1 (first arg-max), or [N, 1] (1 where above 0.5)."""
    single = probabilities.shape[1] == 1
    classes: Array = probabilities[:, 0] > 0.5 if single else np.argmax(probabilities, axis=1)
    indices: Indices = classes.astype(np.int64)
    return indices


def top_k_accuracy(targets: Array, predictions: Array, k: int = TOP_K) -> float:
    """Share of rows whose true class is among the k most probable ones (multi-class).

    Among equally probable classes the lower index comes first, as in `predicted_classes`; so k = 1 is accuracy.
    scikit-learn's `top_k_accuracy_score` takes the higher index first, Keras' metric counts all that are equal.
    """
    values = check_predictions(TaskKind.MULTICLASS, targets, predictions)
    true = np.take_along_axis(values, targets[:, None], axis=1)
    is_before = (values > true) | ((values == true) & (np.arange(values.shape[1]) < targets[:, None]))
    return float(np.mean(is_before.sum(axis=1) < k))


def auc(task: TaskKind, targets: Array, predictions: Array) -> float | None:
    """Area under the ROC curve: the chance that a random yes is ranked above a random no, ties counting half.

    Hanley & McNeil 1982 (the Mann–Whitney statistic). Multi-class: mean over classes, each against the rest (rows
    scaled to sum 1); multi-label: mean over labels. So scikit-learn's `roc_auc_score` with `multi_class="ovr"` has it.

    Args:
        task: not regression.
        targets: as `tasks.to_targets` returns them.
        predictions: [N, C]; [N, 1] for binary.

    Returns:
        In [0, 1]; None where a class, or a label's yes or no, is absent from the targets.

    Raises:
        OrchestratorError: a regression task.
    """
    values = check_predictions(task, targets, predictions)
    match task:
        case TaskKind.MULTICLASS:
            values, is_yes = normalised(values), targets[:, None] == np.arange(values.shape[1])
        case TaskKind.BINARY | TaskKind.MULTILABEL:
            is_yes = targets.reshape(values.shape) == 1
        case TaskKind.REGRESSION:
            raise OrchestratorError("a regression task has no AUC", where="auc")
    areas = [_area(is_yes[:, c], values[:, c]) for c in range(values.shape[1])]
    told = [area for area in areas if area is not None]
    return math.fsum(told) / len(told) if len(told) == len(areas) else None


def confusion_matrix(task: TaskKind, targets: Array, predictions: Array) -> Indices:
    """How often each class was taken for which: int64 [C, C], rows are true, columns predicted classes; 2×2 for binary.

    Raises:
        OrchestratorError: a multi-label or regression task, which has no classes.
    """
    if task not in (TaskKind.MULTICLASS, TaskKind.BINARY):
        raise OrchestratorError(f"a {task} task has no confusion matrix", where="confusion_matrix")
    values = check_predictions(task, targets, predictions)
    classes = max(values.shape[1], 2)
    pairs = np.bincount(targets * classes + predicted_classes(values), minlength=classes * classes)
    matrix: Indices = pairs.reshape(classes, classes).astype(np.int64)
    return matrix


def per_class_recall(task: TaskKind, targets: Array, predictions: Array) -> Float64:
    """Share of each class's rows that were told to be of it: [C], NaN for classes without rows.

    Multi-class and binary: the diagonal of the confusion matrix over its row sums. Multi-label: for each label, the
    share of the rows where it holds that were given it.

    Raises:
        OrchestratorError: a regression task.
    """
    if task is TaskKind.MULTILABEL:
        given = (check_predictions(task, targets, predictions) > 0.5) & (targets == 1)
        right, rows = given.sum(axis=0), targets.sum(axis=0)
    else:
        matrix = confusion_matrix(task, targets, predictions)
        right, rows = np.diagonal(matrix), matrix.sum(axis=1)
    recall = np.full(len(rows), np.nan)
    np.divide(right, rows, out=recall, where=rows > 0)
    return recall


def r2(targets: Array, predictions: Array) -> float | None:
    """Coefficient of determination: 1 − Σ(y − ŷ)² / Σ(y − ȳ)², mean over outputs, as scikit-learn's `r2_score`.

    Returns:
        At most 1; 0 is what always predicting the mean gives; None where an output's targets are all the same.
    """
    values = check_predictions(TaskKind.REGRESSION, targets, predictions)
    total = np.square(targets - targets.mean(axis=0)).sum(axis=0)
    if not (np.ptp(targets, axis=0) > 0).all():
        return None
    return float(np.mean(1 - np.square(values - targets).sum(axis=0) / total))


def gaussian_nll(targets: Array, means: Array, variances: Float64) -> float:
    """Mean negative log-likelihood of regression targets under normal distributions, in nats per number.

    Lakshminarayanan et al. 2017, eq. 1, with its constant ½ log 2π: ½ (log 2πσ² + (y − μ)² / σ²). Variances below 1e-6
    count as 1e-6, as in PyTorch's `GaussianNLLLoss`: scale targets whose own variance is not far above that.

    Args:
        targets: [N, D].
        means: [N, D] predictions.
        variances: [N, D], none negative.

    Raises:
        InvalidModel: variances of another shape, negative, NaN or infinite.
    """
    values = check_predictions(TaskKind.REGRESSION, targets, means)
    if variances.shape != values.shape or not (np.isfinite(variances) & (variances >= 0)).all():
        raise InvalidModel(
            f"variances of shape {variances.shape} do not fit predictions of shape {values.shape}",
            hint="one finite number of at least 0 for each predicted number",
        )
    spread = np.maximum(variances, MIN_VARIANCE)
    return float(np.mean(0.5 * (np.log(2 * np.pi * spread) + np.square(targets - values) / spread)))


def _area(is_yes: Array, values: Float64) -> float | None:
    yes, no = values[is_yes], np.sort(values[~is_yes])
    if not (len(yes) and len(no)):
        return None
    twice_above = np.searchsorted(no, yes, side="left") + np.searchsorted(no, yes, side="right")
    return int(twice_above.sum()) / (2 * len(yes) * len(no))
