"""Metrics against closed forms, scikit-learn, Keras and published examples."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.ensemble.calibration import reliability
from orchestrator.ensemble.metrics import (
    METRICS,
    Scores,
    auc,
    confusion_matrix,
    gaussian_nll,
    headline,
    per_class_recall,
    per_example,
    predicted_classes,
    r2,
    score,
    top_k_accuracy,
)
from orchestrator.ensemble.tasks import TaskKind
from orchestrator.errors import InvalidData, InvalidModel, OrchestratorError

MULTICLASS, BINARY, MULTILABEL, REGRESSION = TaskKind
SEEDS = st.integers(0, 10_000)
NUM_ROWS = 40


def example(task: TaskKind, seed: int, num_rows: int = NUM_ROWS, width: int = 4) -> tuple[np.ndarray, np.ndarray]:
    """Targets with every class (and, of every label, yes and no) among them, and float32 predictions."""
    rng = np.random.default_rng([seed, width])
    match task:
        case TaskKind.MULTICLASS:
            targets = rng.permutation(np.arange(num_rows) % width)
            return targets, rng.dirichlet(np.ones(width), num_rows).astype(np.float32)
        case TaskKind.BINARY:
            return rng.permutation(np.arange(num_rows) % 2), rng.uniform(0.01, 0.99, (num_rows, 1)).astype(np.float32)
        case TaskKind.MULTILABEL:
            targets = rng.permuted(np.tile(np.arange(num_rows)[:, None] % 2, width), axis=0)
            return targets, rng.uniform(0.01, 0.99, (num_rows, width)).astype(np.float32)
        case TaskKind.REGRESSION:
            targets = rng.normal(3, 2, (num_rows, width))
            return targets, (targets + rng.normal(0, 1, targets.shape)).astype(np.float32)


def scaled(probabilities: np.ndarray) -> np.ndarray:
    exact = probabilities.astype(np.float64)
    return exact / exact.sum(axis=1, keepdims=True)


def nll(task: TaskKind, targets: list[Any], predictions: list[list[float]]) -> float:
    return float(per_example(task, np.array(targets), np.array(predictions))["nll"].mean())


def accuracy(task: TaskKind, targets: list[Any], predictions: list[list[float]]) -> float:
    return float(per_example(task, np.array(targets), np.array(predictions))["accuracy"].mean())


def test_uniform_probabilities_have_an_nll_of_log_c() -> None:
    assert nll(MULTICLASS, [0, 1, 2], [[1 / 3] * 3] * 3) == pytest.approx(math.log(3), abs=1e-12)
    assert nll(BINARY, [0, 1], [[0.5]] * 2) == pytest.approx(math.log(2), abs=1e-12)
    assert nll(MULTILABEL, [[0, 1], [1, 1]], [[0.5, 0.5]] * 2) == pytest.approx(math.log(2), abs=1e-12)


def test_nll_by_hand() -> None:
    expected = -(math.log(0.8) + math.log(0.6)) / 2
    assert nll(MULTICLASS, [0, 1], [[0.8, 0.2], [0.4, 0.6]]) == pytest.approx(expected, abs=1e-12)
    assert nll(BINARY, [1, 0], [[0.8], [0.4]]) == pytest.approx(expected, abs=1e-12)
    assert nll(MULTILABEL, [[1, 0]], [[0.8, 0.4]]) == pytest.approx(expected, abs=1e-12)


WRONG = [(MULTICLASS, [1], [[1.0, 0.0]]), (BINARY, [1], [[0.0]]), (MULTILABEL, [[1, 1]], [[0.0, 0.0]])]
RIGHT = [(MULTICLASS, [0], [[1.0, 0.0]]), (BINARY, [0], [[0.0]]), (MULTILABEL, [[0, 1]], [[0.0, 1.0]])]


@pytest.mark.parametrize(("task", "targets", "predictions"), WRONG)
def test_certain_and_wrong_costs_what_keras_epsilon_says(
    task: TaskKind, targets: list[Any], predictions: list[list[float]]
) -> None:
    assert nll(task, targets, predictions) == pytest.approx(-math.log(1e-7), abs=1e-9)


@pytest.mark.parametrize(("task", "targets", "predictions"), RIGHT)
def test_certain_and_right_costs_almost_nothing(
    task: TaskKind, targets: list[Any], predictions: list[list[float]]
) -> None:
    assert nll(task, targets, predictions) == pytest.approx(1e-7, abs=1e-9)


@given(seed=SEEDS, width=st.integers(2, 12))
@settings(max_examples=30, deadline=None)
def test_multiclass_scores_agree_with_scikit_learn(seed: int, width: int) -> None:
    from sklearn import metrics

    targets, predictions = example(MULTICLASS, seed, width=width)
    shares, classes = scaled(predictions), np.arange(width)
    found = score(MULTICLASS, targets, predictions)
    assert found.n == NUM_ROWS
    assert found.accuracy == metrics.accuracy_score(targets, predictions.argmax(axis=1))
    assert found.nll == pytest.approx(metrics.log_loss(targets, np.clip(shares, 1e-7, 1), labels=classes), abs=2e-6)
    one_hot = np.eye(width)[targets]
    by_class = [metrics.roc_auc_score(one_hot[:, c], shares[:, c]) for c in classes]
    assert found.auc == pytest.approx(np.mean(by_class), abs=1e-12)
    if width > 2:  # with two classes scikit-learn wants one column
        expected = metrics.roc_auc_score(targets, shares, multi_class="ovr", average="macro")
        assert found.auc == pytest.approx(expected, abs=1e-12)
    if width > 5:
        expected = metrics.top_k_accuracy_score(targets, predictions, k=5, labels=classes)
        assert found.top_k == pytest.approx(expected, abs=1e-12)
    else:
        assert found.top_k is None
    np.testing.assert_array_equal(
        confusion_matrix(MULTICLASS, targets, predictions),
        metrics.confusion_matrix(targets, predictions.argmax(axis=1), labels=classes),
    )
    np.testing.assert_allclose(
        per_class_recall(MULTICLASS, targets, predictions),
        metrics.recall_score(targets, predictions.argmax(axis=1), labels=classes, average=None),
    )


@given(seed=SEEDS)
@settings(max_examples=30, deadline=None)
def test_binary_scores_agree_with_scikit_learn(seed: int) -> None:
    from sklearn import metrics

    targets, predictions = example(BINARY, seed)
    yes = predictions[:, 0].astype(np.float64)
    found = score(BINARY, targets, predictions)
    assert found.accuracy == metrics.accuracy_score(targets, yes > 0.5)
    assert found.nll == pytest.approx(metrics.log_loss(targets, yes), abs=1e-9)
    assert found.brier == pytest.approx(metrics.brier_score_loss(targets, yes), abs=1e-12)
    assert found.auc == pytest.approx(metrics.roc_auc_score(targets, yes), abs=1e-12)
    assert found.top_k is None
    np.testing.assert_array_equal(
        confusion_matrix(BINARY, targets, predictions), metrics.confusion_matrix(targets, yes > 0.5)
    )
    recall = per_class_recall(BINARY, targets, predictions)
    np.testing.assert_allclose(recall, metrics.recall_score(targets, yes > 0.5, average=None))


@given(seed=SEEDS, width=st.integers(1, 6))
@settings(max_examples=30, deadline=None)
def test_multilabel_scores_agree_with_scikit_learn_label_by_label(seed: int, width: int) -> None:
    from sklearn import metrics

    targets, predictions = example(MULTILABEL, seed, width=width)
    exact = predictions.astype(np.float64)
    columns = list(zip(targets.T, exact.T, strict=True))
    found = score(MULTILABEL, targets, predictions)
    expected = np.mean([metrics.accuracy_score(told, yes > 0.5) for told, yes in columns])
    assert found.accuracy == pytest.approx(expected, abs=1e-12)
    assert found.nll == pytest.approx(np.mean([metrics.log_loss(told, yes) for told, yes in columns]), abs=1e-9)
    brier = np.mean([metrics.brier_score_loss(told, yes) for told, yes in columns])
    assert found.brier == pytest.approx(brier, abs=1e-12)
    assert found.auc == pytest.approx(metrics.roc_auc_score(targets, exact, average="macro"), abs=1e-12)
    recall = [metrics.recall_score(told, yes > 0.5) for told, yes in columns]
    np.testing.assert_allclose(per_class_recall(MULTILABEL, targets, predictions), recall)


@given(seed=SEEDS, width=st.integers(1, 4))
@settings(max_examples=30, deadline=None)
def test_regression_scores_agree_with_scikit_learn(seed: int, width: int) -> None:
    from sklearn import metrics

    targets, predictions = example(REGRESSION, seed, width=width)
    found = score(REGRESSION, targets, predictions)
    assert found.rmse == pytest.approx(math.sqrt(metrics.mean_squared_error(targets, predictions)), rel=1e-9)
    assert found.mae == pytest.approx(metrics.mean_absolute_error(targets, predictions), rel=1e-9)
    assert found.r2 == pytest.approx(metrics.r2_score(targets, predictions), rel=1e-9)
    assert found.gaussian_nll is None


@given(seed=SEEDS, width=st.integers(1, 4))
@settings(max_examples=20, deadline=None)
def test_gaussian_nll_agrees_with_the_density_of_scipy(seed: int, width: int) -> None:
    from scipy.stats import norm

    targets, predictions = example(REGRESSION, seed, width=width)
    spread = np.random.default_rng(seed).uniform(0.1, 4, targets.shape)
    expected = -norm.logpdf(targets, loc=predictions, scale=np.sqrt(spread)).mean()
    assert score(REGRESSION, targets, predictions, spread=spread).gaussian_nll == pytest.approx(expected, rel=1e-9)


def test_members_that_agree_exactly_are_not_taken_for_certain() -> None:
    right = np.array([[1.0]])
    floor = 0.5 * math.log(2 * math.pi * 1e-6)
    assert gaussian_nll(right, right, np.zeros((1, 1))) == pytest.approx(floor)
    assert gaussian_nll(right, right + 0.001, np.zeros((1, 1))) == pytest.approx(floor + 0.5)


@pytest.mark.parametrize("spread", [np.full((2, 1), -1.0), np.full((2, 1), np.nan), np.ones((2, 2)), np.ones(2)])
def test_a_spread_that_is_none_is_refused(spread: np.ndarray) -> None:
    with pytest.raises(InvalidModel, match="variances"):
        score(REGRESSION, np.ones((2, 1)), np.ones((2, 1)), spread=spread)


def test_a_spread_belongs_to_regression_alone() -> None:
    with pytest.raises(OrchestratorError, match="no spread"):
        score(BINARY, np.array([1]), np.array([[0.5]]), spread=np.ones((1, 1)))


RAIN = [0.7, 0.9, 0.8, 0.4, 0.2, 0.0, 0.0, 0.0, 0.0, 0.1]
RAINED = [0, 1, 1, 1, 0, 0, 0, 0, 0, 0]


def test_brier_is_that_of_briers_own_example() -> None:
    """Brier 1950, "Verification of forecasts expressed in terms of probability", table 1: ten forecasts of rain."""
    targets, rain = np.array(RAINED), np.array(RAIN)[:, None]
    assert per_example(MULTICLASS, targets, np.hstack([1 - rain, rain]))["brier"].mean() == pytest.approx(0.19)
    assert per_example(BINARY, targets, rain)["brier"].mean() == pytest.approx(0.19 / 2)


def test_brier_is_0_when_certain_and_right_and_2_when_certain_and_wrong() -> None:
    rows = per_example(MULTICLASS, np.array([0, 1]), np.array([[1.0, 0.0, 0.0], [1.0, 0.0, 0.0]]))
    assert rows["brier"].tolist() == [0, 2]


@pytest.mark.parametrize("task", TaskKind)
def test_figures_are_the_means_of_what_rows_contribute(task: TaskKind) -> None:
    targets, predictions = example(task, 3)
    rows, found = per_example(task, targets, predictions), score(task, targets, predictions)
    assert all(values.shape == (NUM_ROWS,) and values.dtype == np.float64 for values in rows.values())
    if task is REGRESSION:
        assert found.rmse == math.sqrt(rows["squared_error"].mean())
        assert found.mae == rows["absolute_error"].mean()
    else:
        assert (found.accuracy, found.nll, found.brier) == tuple(
            rows[name].mean() for name in ("accuracy", "nll", "brier")
        )
        assert found.ece == reliability(task, targets, predictions).ece
    alone = [per_example(task, targets[[n]], predictions[[n]]) for n in range(NUM_ROWS)]
    for name, values in rows.items():
        np.testing.assert_allclose(values, [each[name][0] for each in alone], rtol=1e-12)


@pytest.mark.parametrize("task", TaskKind)
def test_predictions_and_targets_are_left_as_they_are(task: TaskKind) -> None:
    targets, predictions = example(task, 4)
    before = targets.copy(), predictions.astype(np.float64)
    exact = before[1].copy()
    score(task, targets, exact)
    np.testing.assert_array_equal(targets, before[0])
    np.testing.assert_array_equal(exact, before[1])


@pytest.mark.parametrize("task", TaskKind)
def test_exactly_the_metrics_of_the_task_are_told(task: TaskKind) -> None:
    targets, predictions = example(task, 5, width=6)
    spread = np.ones(targets.shape) if task is REGRESSION else None
    found = dataclasses.asdict(score(task, targets, predictions, spread=spread))
    assert found.pop("n") == NUM_ROWS
    assert set(found) == set(METRICS)
    assert {name for name, value in found.items() if value is not None} == {
        name for name, metric in METRICS.items() if task in metric.tasks
    }
    assert all(value is None or type(value) is float for value in found.values())
    assert task in METRICS[headline(task)].tasks


@pytest.mark.parametrize("task", TaskKind)
def test_each_metric_says_which_way_is_better(task: TaskKind) -> None:
    """Perfect predictions against those of nobody's choice."""
    targets, predictions = example(task, 6, width=7)
    spread = np.full(targets.shape, 0.5) if task is REGRESSION else None
    perfect = np.eye(7)[targets] if task is MULTICLASS else targets.reshape(predictions.shape).astype(np.float64)
    best = score(task, targets, perfect, spread=spread)
    other = score(task, targets, predictions, spread=spread)
    for name, metric in METRICS.items():
        if task in metric.tasks:
            a, b = getattr(best, name), getattr(other, name)
            assert a > b if metric.greater_is_better else a < b, name


@pytest.mark.slow
def test_scores_agree_with_keras_losses_and_metrics() -> None:
    import keras

    targets, predictions = example(MULTICLASS, 11, num_rows=200, width=10)
    found = score(MULTICLASS, targets, predictions)
    sparse = float(np.mean(keras.losses.sparse_categorical_crossentropy(targets, predictions)))
    one_hot = float(np.mean(keras.losses.categorical_crossentropy(np.eye(10)[targets], predictions)))
    hits = float(np.mean(keras.metrics.sparse_categorical_accuracy(targets, predictions)))
    top = float(np.mean(keras.metrics.sparse_top_k_categorical_accuracy(targets, predictions, k=5)))
    assert found.nll == pytest.approx(sparse, abs=1e-6)
    assert found.nll == pytest.approx(one_hot, abs=1e-6)
    assert (found.accuracy, found.top_k) == pytest.approx((hits, top), abs=1e-7)

    for task in (BINARY, MULTILABEL):
        targets, predictions = example(task, 12, num_rows=200)
        told, found = targets.reshape(predictions.shape).astype("float32"), score(task, targets, predictions)
        loss = float(np.mean(keras.losses.binary_crossentropy(told, predictions)))
        hits = float(np.mean(keras.metrics.binary_accuracy(told, predictions)))
        assert found.nll == pytest.approx(loss, abs=1e-6)
        assert found.accuracy == pytest.approx(hits, abs=1e-7)

    targets, predictions = example(REGRESSION, 13, num_rows=200)
    found = score(REGRESSION, targets, predictions)
    squared = float(np.mean(keras.losses.mean_squared_error(targets, predictions)))
    assert found.rmse == pytest.approx(math.sqrt(squared), rel=1e-5)


def test_rows_are_scaled_to_sum_one() -> None:
    targets, predictions = example(MULTICLASS, 1)
    whole, half = per_example(MULTICLASS, targets, predictions), per_example(MULTICLASS, targets, predictions * 0.5)
    for name, values in whole.items():
        np.testing.assert_allclose(half[name], values, atol=1e-9)
    assert auc(MULTICLASS, targets, predictions * 0.5) == auc(MULTICLASS, targets, predictions)


def test_ties_go_to_the_first_class_and_one_half_is_a_no() -> None:
    assert accuracy(MULTICLASS, [0, 1], [[0.5, 0.5], [0.5, 0.5]]) == 0.5
    assert accuracy(BINARY, [0, 1], [[0.5], [0.5]]) == 0.5
    assert accuracy(BINARY, [0], [[0.5]]) == 1.0
    assert accuracy(MULTILABEL, [[0, 1]], [[0.5, 0.5]]) == 0.5
    assert predicted_classes(np.array([[0.2, 0.4, 0.4]])).tolist() == [1]
    assert predicted_classes(np.array([[0.5], [0.6]])).tolist() == [0, 1]


@given(seed=SEEDS, width=st.integers(2, 8), k=st.integers(1, 9))
@settings(max_examples=50, deadline=None)
def test_top_k_is_a_stable_sort_and_top_1_is_accuracy(seed: int, width: int, k: int) -> None:
    rng = np.random.default_rng(seed)
    targets, predictions = rng.integers(0, width, 20), rng.integers(0, 4, (20, width)) / 4  # many ties
    first = np.argsort(-predictions, axis=1, kind="stable")[:, :k]
    assert top_k_accuracy(targets, predictions, k) == np.mean((first == targets[:, None]).any(axis=1))
    hits = per_example(MULTICLASS, targets, predictions)["accuracy"].mean()
    assert top_k_accuracy(targets, predictions, 1) == hits


@given(seed=SEEDS)
@settings(max_examples=50, deadline=None)
def test_auc_counts_pairs_and_half_of_the_ties(seed: int) -> None:
    rng = np.random.default_rng(seed)
    targets, predictions = rng.permutation(np.arange(14) % 2), rng.integers(0, 4, (14, 1)) / 4
    yes, no = predictions[targets == 1], predictions[targets == 0]
    pairs = (yes > no.T) + 0.5 * (yes == no.T)
    assert auc(BINARY, targets, predictions) == pytest.approx(pairs.mean(), abs=1e-12)


@pytest.mark.parametrize(
    ("task", "targets", "width"),
    [
        (BINARY, [1, 1], 1),
        (MULTICLASS, [0, 1], 3),
        (MULTILABEL, [[1, 0], [1, 1]], 2),
    ],
)
def test_without_rows_of_a_class_there_is_no_auc(task: TaskKind, targets: list[Any], width: int) -> None:
    assert auc(task, np.array(targets), np.full((2, width), 1 / width)) is None
    assert score(task, np.array(targets), np.full((2, width), 1 / width)).auc is None


def test_classes_without_rows_have_no_recall_and_a_row_of_zeros() -> None:
    targets, predictions = np.array([0, 0, 2]), np.eye(3)[[0, 1, 2]]
    assert confusion_matrix(MULTICLASS, targets, predictions).tolist() == [[1, 1, 0], [0, 0, 0], [0, 0, 1]]
    np.testing.assert_array_equal(per_class_recall(MULTICLASS, targets, predictions), [0.5, np.nan, 1.0])
    labels = np.array([[1, 0], [1, 0]])
    np.testing.assert_array_equal(
        per_class_recall(MULTILABEL, labels, np.array([[1.0, 1.0], [0.0, 0.0]])), [0.5, np.nan]
    )


def test_targets_that_do_not_vary_have_no_r2() -> None:
    assert r2(np.ones((3, 1)), np.array([[1.0], [1.0], [2.0]])) is None
    assert r2(np.array([[1.0, 1.0], [2.0, 1.0]]), np.ones((2, 2))) is None
    assert r2(np.array([[1.0], [3.0]]), np.array([[2.0], [2.0]])) == 0


def test_what_a_task_does_not_have_is_refused() -> None:
    numbers = np.ones((2, 1))
    with pytest.raises(OrchestratorError, match="no AUC"):
        auc(REGRESSION, numbers, numbers)
    for task, targets in ((REGRESSION, numbers), (MULTILABEL, np.ones((2, 1), np.int64))):
        with pytest.raises(OrchestratorError, match="no confusion matrix"):
            confusion_matrix(task, targets, numbers)


@pytest.mark.parametrize("task", TaskKind)
def test_no_figure_is_made_of_predictions_that_do_not_fit(task: TaskKind) -> None:
    targets, predictions = example(task, 7)
    other_width = predictions[:, :1] if task is MULTICLASS else np.repeat(predictions, 2, axis=1)
    for wrong in (other_width, predictions * np.nan):
        with pytest.raises(InvalidModel):
            score(task, targets, wrong)
    with pytest.raises(InvalidData):
        score(task, targets[1:], predictions)


def test_scores_are_plain_numbers() -> None:
    found = score(BINARY, np.array([1]), np.array([[0.5]], dtype=np.float32))
    assert found == Scores(n=1, accuracy=0.0, nll=pytest.approx(math.log(2)), brier=0.25, ece=0.5)
