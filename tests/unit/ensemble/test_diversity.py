"""Diversity: equal to loops over pairs and rows, to closed forms, and to SciPy's entropies."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations

import numpy as np
import pytest
import scipy.special
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.ensemble.diversity import (
    Diversity,
    DiversityAccumulator,
    aurc,
    member_correlation,
    pairwise_disagreement,
    selective_prediction,
)
from orchestrator.ensemble.tasks import TaskKind
from orchestrator.errors import InvalidModel, OrchestratorError

CLASSIFICATION = (TaskKind.MULTICLASS, TaskKind.BINARY, TaskKind.MULTILABEL)


def members(task: TaskKind, seed: int, num_members: int, num_rows: int = 7, width: int = 4) -> np.ndarray:
    """Random float32 predictions [M, N, C] of the task; binary ones have one column."""
    rng = np.random.default_rng(seed)
    if task is TaskKind.MULTICLASS:
        return rng.dirichlet(np.full(width, 0.5), (num_members, num_rows)).astype(np.float32)
    width = 1 if task is TaskKind.BINARY else width
    if task is TaskKind.REGRESSION:
        return rng.normal(size=(num_members, num_rows, width)).astype(np.float32)
    return rng.beta(0.5, 0.5, (num_members, num_rows, width)).astype(np.float32)


def targets(task: TaskKind, seed: int, num_rows: int = 7, width: int = 4) -> np.ndarray:
    """Random targets as `to_targets` gives them."""
    rng = np.random.default_rng([seed, 1])
    if task is TaskKind.REGRESSION:
        return rng.normal(size=(num_rows, width))
    if task is TaskKind.MULTILABEL:
        return rng.integers(0, 2, (num_rows, width))
    return rng.integers(0, 2 if task is TaskKind.BINARY else width, num_rows)


def decided(task: TaskKind, prediction: np.ndarray) -> list[tuple[int, ...]]:
    """What a prediction decides, row by row: a tuple of one class, or of a yes or no for each label."""
    if task is TaskKind.MULTICLASS:
        return [(int(row.argmax()),) for row in prediction]
    return [tuple(int(value > 0.5) for value in row) for row in prediction]


def differing(task: TaskKind, one: np.ndarray, other: np.ndarray) -> list[float]:
    """Row by row, the share of decisions that differ."""
    pairs = zip(decided(task, one), decided(task, other), strict=True)
    return [sum(a != b for a, b in zip(left, right, strict=True)) / len(left) for left, right in pairs]


def diversity_of(task: TaskKind, predictions: np.ndarray) -> Diversity:
    accumulator = DiversityAccumulator(task)
    for prediction in predictions:
        accumulator.add(prediction)
    return accumulator.result()


@pytest.mark.parametrize("task", CLASSIFICATION)
@given(seed=st.integers(0, 10_000), num_members=st.integers(2, 9))
@settings(max_examples=30, deadline=None)
def test_disagreement_is_the_mean_over_all_pairs(task: TaskKind, seed: int, num_members: int) -> None:
    predictions = members(task, seed, num_members)
    by_pair = np.array([differing(task, one, other) for one, other in combinations(predictions, 2)])
    result = diversity_of(task, predictions)
    assert result.rows.vote_disagreement is not None
    np.testing.assert_allclose(result.rows.vote_disagreement, by_pair.mean(axis=0), atol=1e-12)
    assert result.disagreement == pytest.approx(by_pair.mean(), abs=1e-12)


@given(seed=st.integers(0, 10_000), num_members=st.integers(1, 9))
@settings(max_examples=50, deadline=None)
def test_entropies_of_classes_are_scipys(seed: int, num_members: int) -> None:
    predictions = members(TaskKind.MULTICLASS, seed, num_members).astype(np.float64)
    predictions /= predictions.sum(axis=2, keepdims=True)
    result = diversity_of(TaskKind.MULTICLASS, predictions)
    total = scipy.stats.entropy(predictions.mean(axis=0), axis=1)
    expected = scipy.stats.entropy(predictions, axis=2).mean(axis=0)
    np.testing.assert_allclose(result.rows.predictive_entropy, total, atol=1e-12)
    np.testing.assert_allclose(result.rows.mean_entropy, expected, atol=1e-12)
    assert result.predictive_entropy == pytest.approx(total.mean())
    assert result.mean_entropy == pytest.approx(expected.mean())


@given(seed=st.integers(0, 10_000), num_members=st.integers(1, 9))
@settings(max_examples=50, deadline=None)
def test_mutual_information_is_the_mean_divergence_of_members_from_their_mean(seed: int, num_members: int) -> None:
    predictions = members(TaskKind.MULTICLASS, seed, num_members).astype(np.float64)
    divergence = scipy.special.rel_entr(predictions, predictions.mean(axis=0)).sum(axis=2).mean(axis=0)
    result = diversity_of(TaskKind.MULTICLASS, predictions)
    np.testing.assert_allclose(result.rows.mutual_information, divergence, atol=1e-9)
    assert result.mutual_information == pytest.approx(divergence.mean(), abs=1e-9)


@given(seed=st.integers(0, 10_000), num_members=st.integers(1, 9))
@settings(max_examples=30, deadline=None)
def test_yes_and_no_count_as_two_classes_and_labels_are_averaged(seed: int, num_members: int) -> None:
    labels = members(TaskKind.MULTILABEL, seed, num_members, width=3).astype(np.float64)
    whole = diversity_of(TaskKind.MULTILABEL, labels)
    alone = [diversity_of(TaskKind.BINARY, labels[:, :, [label]]) for label in range(3)]
    as_classes = [
        diversity_of(TaskKind.MULTICLASS, np.stack([1 - labels[:, :, label], labels[:, :, label]], axis=2))
        for label in range(3)
    ]
    for name in ("disagreement", "predictive_entropy", "mean_entropy", "mutual_information"):
        by_label = [getattr(one, name) for one in alone]
        assert getattr(whole, name) == pytest.approx(np.mean(by_label), abs=1e-12)
        assert by_label == pytest.approx([getattr(one, name) for one in as_classes], abs=1e-12)


def test_a_uniform_prediction_has_the_entropy_log_c() -> None:
    result = diversity_of(TaskKind.MULTICLASS, np.full((3, 5, 7), 1 / 7))
    assert result.predictive_entropy == pytest.approx(np.log(7))
    assert result.mean_entropy == pytest.approx(np.log(7))
    assert (result.disagreement, result.mutual_information) == (0, pytest.approx(0, abs=1e-15))


def test_members_each_sure_of_another_class_differ_by_all_of_the_means_entropy() -> None:
    sure = np.eye(4)[[[0, 0], [1, 1], [2, 2]]]  # three members, two rows
    result = diversity_of(TaskKind.MULTICLASS, sure)
    assert result.predictive_entropy == pytest.approx(np.log(3))
    assert result.mutual_information == pytest.approx(np.log(3))
    assert (result.mean_entropy, result.disagreement) == (0, 1)


def test_identical_members_have_no_diversity() -> None:
    for task in CLASSIFICATION:
        result = diversity_of(task, np.repeat(members(task, 3, 1, 50), 6, axis=0))
        assert (result.disagreement, result.num_members) == (0, 6)
        assert result.mutual_information == pytest.approx(0, abs=1e-15)
        assert result.mutual_information is not None
        assert result.mutual_information >= 0


@pytest.mark.parametrize("task", CLASSIFICATION)
def test_one_member_disagrees_with_nobody(task: TaskKind) -> None:
    result = diversity_of(task, members(task, 0, 1))
    assert (result.disagreement, result.mutual_information) == (0, 0)
    assert result.predictive_entropy == result.mean_entropy != 0


@given(seed=st.integers(0, 10_000), data=st.data())
@settings(max_examples=30, deadline=None)
def test_the_order_of_members_changes_nothing(seed: int, data: st.DataObject) -> None:
    predictions = members(TaskKind.MULTICLASS, seed, 6)
    order = data.draw(st.permutations(range(6)))
    one, other = (diversity_of(TaskKind.MULTICLASS, chosen) for chosen in (predictions, predictions[list(order)]))
    assert one.disagreement == other.disagreement
    for name in ("predictive_entropy", "mean_entropy", "mutual_information"):
        np.testing.assert_allclose(getattr(one.rows, name), getattr(other.rows, name), atol=1e-12)


def test_probabilities_beyond_one_by_a_rounding_stay_numbers() -> None:
    rounded = np.array([[[1 + 1e-7, -1e-8, 0]]] * 2, dtype=np.float32)
    result = diversity_of(TaskKind.MULTICLASS, rounded)
    assert (result.predictive_entropy, result.mean_entropy, result.mutual_information) == (0, 0, 0)
    yes = diversity_of(TaskKind.BINARY, rounded[:, :, :1])
    assert (yes.predictive_entropy, yes.mutual_information) == (0, 0)


@pytest.mark.parametrize("num_members", [1, 5])
def test_a_regression_has_the_spread_of_its_members_alone(num_members: int) -> None:
    predictions = members(TaskKind.REGRESSION, 1, num_members).astype(np.float64)
    result = diversity_of(TaskKind.REGRESSION, predictions)
    np.testing.assert_allclose(result.rows.spread, predictions.std(axis=0).mean(axis=1), atol=1e-12)
    assert result.spread == pytest.approx(predictions.std(axis=0).mean(), abs=1e-12)
    assert result.disagreement is result.predictive_entropy is result.mutual_information is None
    assert result.rows.vote_disagreement is None


@pytest.mark.parametrize("task", list(TaskKind))
def test_without_members_there_is_no_diversity(task: TaskKind) -> None:
    with pytest.raises(InvalidModel, match="no predictions"):
        DiversityAccumulator(task).result()


@pytest.mark.parametrize("task", list(TaskKind))
def test_what_cannot_be_combined_is_refused(task: TaskKind) -> None:
    accumulator = DiversityAccumulator(task)
    accumulator.add(members(task, 0, 1)[0])
    with pytest.raises(InvalidModel, match="shape"):
        accumulator.add(members(task, 0, 1, num_rows=6)[0])
    with pytest.raises(InvalidModel, match="NaN"):
        accumulator.add(np.full_like(members(task, 0, 1)[0], np.nan))


@pytest.mark.parametrize("task", CLASSIFICATION)
def test_pairs_are_compared_decision_by_decision(task: TaskKind) -> None:
    predictions = members(task, 5, 5, num_rows=40)
    matrix = pairwise_disagreement(task, predictions)
    brute = [[np.mean(differing(task, one, other)) for other in predictions] for one in predictions]
    np.testing.assert_allclose(matrix, brute, atol=1e-12)
    off_diagonal = matrix[~np.eye(5, dtype=bool)]
    assert diversity_of(task, predictions).disagreement == pytest.approx(off_diagonal.mean(), abs=1e-12)


@pytest.mark.parametrize("most", [3, 64])
def test_no_more_members_are_read_than_are_compared(most: int) -> None:
    predictions = members(TaskKind.MULTICLASS, 0, 70)
    read: list[int] = []

    def stream() -> Iterator[np.ndarray]:
        for member, prediction in enumerate(predictions):
            read.append(member)
            yield prediction

    labels = targets(TaskKind.MULTICLASS, 0)
    assert pairwise_disagreement(TaskKind.MULTICLASS, stream(), most).shape == (most, most)
    assert member_correlation(TaskKind.MULTICLASS, labels, stream(), most).shape == (most, most)
    assert read == [*range(most), *range(most)]


@pytest.mark.parametrize("task", CLASSIFICATION)
def test_correlation_is_pearsons_of_what_members_get_wrong(task: TaskKind) -> None:
    predictions, labels = members(task, 7, 4, num_rows=60), targets(task, 7, num_rows=60)
    right = labels if labels.ndim == 2 else labels[:, None]
    wrong = np.array([(np.array(decided(task, one)) != right).mean(axis=1) for one in predictions])
    np.testing.assert_allclose(member_correlation(task, labels, predictions), np.corrcoef(wrong), atol=1e-12)


def test_correlation_of_a_regression_is_that_of_its_residuals_averaged_over_targets() -> None:
    predictions = members(TaskKind.REGRESSION, 8, 3, num_rows=30, width=2) * np.array([1, 100])
    truth = targets(TaskKind.REGRESSION, 8, num_rows=30, width=2) + np.array([0, 1000])
    by_target = [np.corrcoef(predictions[:, :, d] - truth[:, d]) for d in range(2)]
    matrix = member_correlation(TaskKind.REGRESSION, truth, predictions)
    np.testing.assert_allclose(matrix, np.mean(by_target, axis=0), atol=1e-9)


def test_errors_that_cancel_have_a_correlation_of_minus_one() -> None:
    truth, error = np.zeros((5, 1)), np.arange(5.0)[:, None]
    matrix = member_correlation(TaskKind.REGRESSION, truth, [error, -2 * error, 3 * error])
    np.testing.assert_allclose(matrix, [[1, -1, 1], [-1, 1, -1], [1, -1, 1]], atol=1e-12)


def test_a_member_that_is_never_wrong_has_no_correlation() -> None:
    labels = np.array([0, 1, 2, 0])
    perfect, other = np.eye(3)[labels], np.eye(3)[[0, 1, 2, 1]]
    matrix = member_correlation(TaskKind.MULTICLASS, labels, [perfect, other])
    np.testing.assert_array_equal(matrix, [[np.nan, np.nan], [np.nan, 1]])


def test_pairs_of_no_members_are_refused() -> None:
    with pytest.raises(InvalidModel, match="no predictions"):
        pairwise_disagreement(TaskKind.BINARY, [])
    with pytest.raises(InvalidModel, match="no predictions"):
        member_correlation(TaskKind.BINARY, np.array([0, 1]), [])


def test_a_worked_example_of_selective_prediction() -> None:
    confidence = [0.9, 0.6, 0.8, 0.7, 0.95]  # in the order of confidence: rows 4, 0, 2, 3, 1
    probabilities = np.array([[1 - p, p] for p in confidence])
    labels = np.array([1, 0, 1, 0, 1])  # so right, right, right, wrong, wrong
    points = selective_prediction(TaskKind.MULTICLASS, labels, probabilities, (0.2, 0.6, 0.8, 1.0))
    assert points == ((0.2, 1.0), (0.6, 1.0), (0.8, 0.75), (1.0, 0.6))
    assert aurc(TaskKind.MULTICLASS, labels, probabilities) == pytest.approx((0 + 0 + 0 + 1 / 4 + 2 / 5) / 5)
    as_binary = selective_prediction(TaskKind.BINARY, labels, probabilities[:, 1:], (0.2, 0.6, 0.8, 1.0))
    assert as_binary == points


@pytest.mark.parametrize("task", CLASSIFICATION)
@given(seed=st.integers(0, 10_000))
@settings(max_examples=30, deadline=None)
def test_selective_prediction_scores_the_rows_of_highest_confidence(task: TaskKind, seed: int) -> None:
    prediction, labels = members(task, seed, 1, num_rows=20)[0].astype(np.float64), targets(task, seed, num_rows=20)
    right = labels if labels.ndim == 2 else labels[:, None]
    accuracies = (np.array(decided(task, prediction)) == right).mean(axis=1)

    def promised(row: np.ndarray) -> float:
        return float(max(row) if task is TaskKind.MULTICLASS else np.mean([max(p, 1 - p) for p in row]))

    ranked = sorted(range(20), key=lambda n: -promised(prediction[n]))
    points = selective_prediction(task, labels, prediction)
    assert [coverage for coverage, _ in points] == [0.5, 0.6, 0.7, 0.8, 0.9, 1.0]
    for coverage, accuracy in points:
        assert accuracy == pytest.approx(accuracies[ranked[: round(20 * coverage)]].mean(), abs=1e-12)
    errors = [1 - accuracies[ranked[:k]].mean() for k in range(1, 21)]
    assert aurc(task, labels, prediction) == pytest.approx(np.mean(errors), abs=1e-12)


def test_equally_confident_rows_count_with_their_mean_in_whatever_order_they_come() -> None:
    labels = np.array([1] * 60 + [0] * 40)
    alike = np.array([[0.3, 0.7], [0.2, 0.8]] * 50)  # 30 right of 50 at 0.8, and at 0.7
    errors = []
    for order in (np.arange(100), np.arange(100)[::-1]):
        points = selective_prediction(TaskKind.MULTICLASS, labels[order], alike[order], (0.25, 0.5, 0.75))
        assert [accuracy for _, accuracy in points] == pytest.approx([0.6, 0.6, 0.6])
        errors.append(aurc(TaskKind.MULTICLASS, labels[order], alike[order]))
    assert errors == pytest.approx([0.4, 0.4])


def test_a_coverage_means_whole_rows_and_at_least_one() -> None:
    labels = np.array([1] * 28 + [0] * 72)
    falling = np.linspace(0.99, 0.6, 100)[:, None]
    assert 0.29 * 100 < 29  # in floating point
    assert selective_prediction(TaskKind.BINARY, labels, falling, (0.29, 0.3)) == ((0.29, 28 / 29), (0.3, 28 / 30))
    assert selective_prediction(TaskKind.BINARY, np.array([1, 0]), np.array([[0.6], [0.9]]), (0.01,)) == ((0.01, 0.0),)


def test_the_figures_of_decisions_do_not_exist_for_regression() -> None:
    values = np.zeros((3, 1))
    with pytest.raises(OrchestratorError, match="regression"):
        pairwise_disagreement(TaskKind.REGRESSION, [values])
    with pytest.raises(OrchestratorError, match="regression"):
        selective_prediction(TaskKind.REGRESSION, values, values)
    with pytest.raises(OrchestratorError, match="regression"):
        aurc(TaskKind.REGRESSION, values, values)
