"""How much the members differ, and what their disagreement says: diversity, uncertainty, selective prediction.

What is added up over members is fed one member at a time and holds a few arrays of one prediction's size, whatever the
number of members. What looks at pairs of members takes 64 of them at most.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from orchestrator.ensemble.combine import Accumulator, Spread
from orchestrator.ensemble.metrics import per_example
from orchestrator.ensemble.tasks import TaskKind, check_predictions
from orchestrator.errors import InvalidModel, OrchestratorError

Array = npt.NDArray[Any]
Float64 = npt.NDArray[np.float64]

MOST_MEMBERS = 64
"""Members whose pairs are looked at: 2,016 pairs, and a table that can still be read."""

COVERAGES = (0.5, 0.6, 0.7, 0.8, 0.9, 1.0)


@dataclass(frozen=True)
class RowDiversity:
    """What `Diversity` is the mean of, row by row: arrays [N] float64, None where the task has none."""

    vote_disagreement: Float64 | None = None
    predictive_entropy: Float64 | None = None
    mean_entropy: Float64 | None = None
    mutual_information: Float64 | None = None
    spread: Float64 | None = None


@dataclass(frozen=True)
class Diversity:
    """How much the members differ: means over the rows; None where the task has none.

    Entropies are in nats; of several yes/no labels everything is the mean over the labels.

    Attributes:
        num_members: how many there are. One member disagrees with nobody: 0.
        disagreement: mean over pairs of members of the share of rows (multilabel: of labels) that they decide
            differently, rightly or wrongly (as Fort, Hu and Lakshminarayanan 2019).
        predictive_entropy: entropy of the members' mean, the total uncertainty.
        mean_entropy: mean of the members' entropies, the part that is in the data (aleatoric).
        mutual_information: their difference, the part that more data could remove (epistemic): the information that a
            label would give on which member is right (Houlsby et al. 2011; Depeweg et al. 2018). Never below 0.
        spread: regression: standard deviation over the members (ddof 0), in the target's unit; mean over targets.
        rows: the same for each row.
    """

    num_members: int
    rows: RowDiversity
    disagreement: float | None = None
    predictive_entropy: float | None = None
    mean_entropy: float | None = None
    mutual_information: float | None = None
    spread: float | None = None


class DiversityAccumulator:
    """Diversity of members that are fed one at a time.

    Pairs are never formed: of M votes, v of them for a class, v · (v − 1) ordered pairs agree on it.

    Args:
        task: what the members tell.
    """

    def __init__(self, task: TaskKind) -> None:
        self._task = task
        self._num_members = 0
        self._mean = Accumulator(task)
        self._spread = Spread(task) if task is TaskKind.REGRESSION else None
        self._entropies: Float64 = np.zeros(())
        self._votes: npt.NDArray[np.int64] = np.zeros((), dtype=np.int64)

    def add(self, prediction: Array) -> None:
        """Add one member's prediction.

        Args:
            prediction: [N, C] probabilities (binary: [N, 1] of class 1), or values [N, D].

        Raises:
            InvalidModel: not two axes, another shape than the members before, NaN or infinite.
        """
        if self._spread is not None:
            self._spread.add(prediction)
        else:
            self._mean.add(prediction)  # also refuses what cannot be combined
            probabilities = _clipped(prediction)
            self._votes = self._votes + _votes(self._task, probabilities)
            self._entropies = self._entropies + _entropy(self._task, probabilities)
        self._num_members += 1

    def result(self) -> Diversity:
        """The diversity of the members so far. Raises InvalidModel when there are none."""
        if self._num_members == 0:
            raise _no_members()
        rows = self._rows()
        means = {name: None if values is None else float(np.mean(values)) for name, values in vars(rows).items()}
        return Diversity(self._num_members, rows, disagreement=means.pop("vote_disagreement"), **means)

    def _rows(self) -> RowDiversity:
        if self._spread is not None:
            return RowDiversity(spread=np.sqrt(self._spread.variance()).mean(axis=1))
        total = _entropy(self._task, _clipped(self._mean.average()))
        expected = self._entropies / self._num_members
        return RowDiversity(
            vote_disagreement=_disagreeing_pairs(self._task, self._votes, self._num_members),
            predictive_entropy=total,
            mean_entropy=expected,
            mutual_information=np.maximum(total - expected, 0),  # below 0 by rounding alone: entropy is concave
        )


def pairwise_disagreement(task: TaskKind, predictions: Iterable[Array], most: int = MOST_MEMBERS) -> Float64:
    """The share of rows (multilabel: of labels) that each two members decide differently.

    Args:
        task: not regression, where nothing is decided.
        predictions: [N, C] for each member, in member order; no more than `most` are read.
        most: members to look at, the first ones.

    Returns:
        [m, m] symmetric with a diagonal of 0, where m is at most `most`.

    Raises:
        InvalidModel: there are no members.
        OrchestratorError: a regression task.
    """
    _refuse_regression(task, "pairs of members agree or not")
    decisions = _stack([_decisions(task, prediction).ravel() for prediction in islice(predictions, most)])
    return np.stack([(decisions != one).mean(axis=1) for one in decisions])


def member_correlation(
    task: TaskKind, targets: Array, predictions: Iterable[Array], most: int = MOST_MEMBERS
) -> Float64:
    """Pearson's correlation of the members' errors: the lower, the more their average gains.

    The errors of a classifier are 1 where it is wrong and 0 where it is right (the ρ of Kuncheva and Whitaker 2003; for
    multilabel the share of a row's labels that are wrong); those of a regression are its residuals (Ueda and Nakano
    1996), the correlation being the mean over the targets.

    Args:
        task, targets: as for `per_example`.
        predictions: [N, C] for each member, in member order; no more than `most` are read.
        most: members to look at, the first ones.

    Returns:
        [m, m] symmetric, where m is at most `most`; NaN for a member whose errors are all alike: it has none.

    Raises:
        InvalidData, InvalidModel: targets and predictions that do not fit, or no members.
    """
    if task is TaskKind.REGRESSION:
        errors = _stack([check_predictions(task, targets, one) - targets for one in islice(predictions, most)])
    else:
        wrong = [1 - per_example(task, targets, one)["accuracy"] for one in islice(predictions, most)]
        errors = _stack(wrong)[:, :, None]
    correlations: Float64 = np.mean([_pearson(errors[:, :, target]) for target in range(errors.shape[2])], axis=0)
    return correlations


class Covered(NamedTuple):
    """Accuracy where only the most confident share of the rows, `coverage` in (0, 1], has to be told."""

    coverage: float
    accuracy: float


def selective_prediction(
    task: TaskKind, targets: Array, predictions: Array, coverages: Sequence[float] = COVERAGES
) -> tuple[Covered, ...]:
    """Accuracy when the model may decline the rows it is least sure of (Geifman and El-Yaniv 2017).

    A row's confidence is the accuracy that its probabilities promise: that of the predicted class; for multilabel the
    mean over the labels. Of equally confident rows each counts with their mean, as if they came in a random order.

    Args:
        task, targets: as for `per_example`; not regression.
        predictions: [N, C] probabilities of one model or ensemble.
        coverages: shares of the rows to tell; each is rounded to whole rows, at least one.

    Raises:
        InvalidData, InvalidModel: targets and predictions that do not fit.
        OrchestratorError: a regression task.
    """
    right = np.cumsum(_accuracy_by_confidence(task, targets, predictions))
    kept = [max(1, round(coverage * len(right))) for coverage in coverages]
    return tuple(Covered(coverage, float(right[k - 1] / k)) for coverage, k in zip(coverages, kept, strict=True))


def aurc(task: TaskKind, targets: Array, predictions: Array) -> float:
    """Area under the risk-coverage curve: the error rate of the k most confident rows, averaged over k = 1 … N.

    0 is best: no error at any coverage (Geifman, Uziel and El-Yaniv 2019). Arguments and errors as
    `selective_prediction`.
    """
    right = np.cumsum(_accuracy_by_confidence(task, targets, predictions))
    return float(np.mean(1 - right / np.arange(1, len(right) + 1)))


def _accuracy_by_confidence(task: TaskKind, targets: Array, predictions: Array) -> Float64:
    """Each row's accuracy [N], the most confident row first; equally confident rows have their mean."""
    _refuse_regression(task, "selective prediction orders rows by their probabilities")
    accuracies = per_example(task, targets, predictions)["accuracy"]
    probabilities = np.asarray(predictions, dtype=np.float64)
    if task is TaskKind.MULTICLASS:
        confidence = probabilities.max(axis=1)
    else:
        confidence = np.maximum(probabilities, 1 - probabilities).mean(axis=1)
    _, group, sizes = np.unique(-confidence, return_inverse=True, return_counts=True)
    means: Float64 = np.bincount(group, weights=accuracies) / sizes
    return np.repeat(means, sizes)


def _decisions(task: TaskKind, probabilities: Array) -> Array:
    """What is told of each row: classes [N], or yes and no [N, C]."""
    return np.argmax(probabilities, axis=1) if task is TaskKind.MULTICLASS else np.asarray(probabilities) > 0.5


def _votes(task: TaskKind, probabilities: Array) -> npt.NDArray[np.int64]:
    """One member's votes [N, C]: 1 for the predicted class, or for each label that is a yes."""
    decisions = _decisions(task, probabilities)
    if task is TaskKind.MULTICLASS:
        decisions = decisions[:, None] == np.arange(probabilities.shape[1])
    return decisions.astype(np.int64)


def _disagreeing_pairs(task: TaskKind, votes: npt.NDArray[np.int64], num_members: int) -> Float64:
    """The share [N] of pairs of members that decide differently, from the counts of votes [N, C]."""
    if num_members == 1:
        return np.zeros(len(votes))
    if task is TaskKind.MULTICLASS:
        alike = (votes**2).sum(axis=1)
    else:
        alike = (votes**2 + (num_members - votes) ** 2).mean(axis=1)
    share: Float64 = (num_members**2 - alike) / (num_members * (num_members - 1))
    return share


def _entropy(task: TaskKind, probabilities: Float64) -> Float64:
    """Entropy [N] in nats of probabilities [N, C]; of yes/no labels the mean over the labels."""
    entropy: Float64 = (
        _plogp(probabilities).sum(axis=1)
        if task is TaskKind.MULTICLASS
        else (_plogp(probabilities) + _plogp(1 - probabilities)).mean(axis=1)
    )
    return entropy


def _plogp(probabilities: Float64) -> Float64:
    """−p log p of p in [0, 1], which is 0 at p = 0."""
    return np.abs(probabilities * np.log(np.where(probabilities > 0, probabilities, 1)))


def _clipped(prediction: Array) -> Float64:
    """Probabilities in float64, within [0, 1] where a softmax in float32 left them by a rounding."""
    return np.clip(np.asarray(prediction, dtype=np.float64), 0, 1)


def _pearson(errors: Float64) -> Float64:
    """Correlations [m, m] of the rows of errors [m, N]; NaN where a row is constant."""
    centred = errors - errors.mean(axis=1, keepdims=True)
    norms = np.sqrt((centred**2).sum(axis=1, keepdims=True))
    scaled = centred / np.where(errors.max(axis=1, keepdims=True) > errors.min(axis=1, keepdims=True), norms, np.nan)
    correlations: Float64 = np.clip(scaled @ scaled.T, -1, 1)
    return correlations


def _stack(members: list[Array]) -> Array:
    if not members:
        raise _no_members()
    return np.stack(members)


def _no_members() -> InvalidModel:
    return InvalidModel("there are no predictions to compare", hint="at least one member has to be left")


def _refuse_regression(task: TaskKind, why: str) -> None:
    if task is TaskKind.REGRESSION:
        raise OrchestratorError(f"{why}: there is no such figure for regression")
