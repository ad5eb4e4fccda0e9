"""Metrics against closed forms and scikit-learn; labels and tasks that do not fit are refused."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.ensemble.metrics import (
    Scores,
    TaskKind,
    accuracy,
    infer_task,
    nll,
    score,
    to_class_indices,
)
from orchestrator.errors import InvalidData, InvalidModel


def multiclass(seed: int, num_rows: int = 40, num_classes: int = 4) -> tuple[np.ndarray, np.ndarray]:
    """Labels [N] with every class among them, float32 probabilities [N, C]."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(num_rows) % num_classes)
    return labels, rng.dirichlet(np.ones(num_classes), num_rows).astype(np.float32)


def binary(seed: int, num_rows: int = 40) -> tuple[np.ndarray, np.ndarray]:
    """Labels [N] of 0 and 1, float32 probabilities [N, 1]."""
    rng = np.random.default_rng(seed)
    return rng.permutation(np.arange(num_rows) % 2), rng.uniform(0.01, 0.99, (num_rows, 1)).astype(np.float32)


def test_uniform_probabilities_have_an_nll_of_log_c() -> None:
    assert nll(np.array([0, 1, 2]), np.full((3, 3), 1 / 3)) == pytest.approx(math.log(3), abs=1e-12)
    assert nll(np.array([0, 1]), np.full((2, 1), 0.5)) == pytest.approx(math.log(2), abs=1e-12)


def test_nll_by_hand() -> None:
    assert nll(np.array([0, 1]), np.array([[0.8, 0.2], [0.4, 0.6]])) == pytest.approx(
        -(math.log(0.8) + math.log(0.6)) / 2, abs=1e-12
    )
    assert nll(np.array([1, 0]), np.array([[0.8], [0.4]])) == pytest.approx(
        -(math.log(0.8) + math.log(0.6)) / 2, abs=1e-12
    )


@pytest.mark.parametrize("probabilities", [np.array([[1.0, 0.0]]), np.array([[0.0]])])
def test_certain_and_wrong_costs_what_keras_epsilon_says(probabilities: np.ndarray) -> None:
    assert nll(np.array([1]), probabilities) == pytest.approx(-math.log(1e-7), abs=1e-9)


@pytest.mark.parametrize("probabilities", [np.array([[1.0, 0.0]]), np.array([[0.0]])])
def test_certain_and_right_costs_almost_nothing(probabilities: np.ndarray) -> None:
    assert nll(np.array([0]), probabilities) == pytest.approx(1e-7, abs=1e-9)


@given(seed=st.integers(0, 10_000), num_classes=st.integers(2, 12))
@settings(max_examples=30, deadline=None)
def test_multiclass_scores_agree_with_scikit_learn(seed: int, num_classes: int) -> None:
    from sklearn.metrics import accuracy_score, log_loss

    labels, probabilities = multiclass(seed, num_classes=num_classes)
    normalised = probabilities.astype(np.float64) / probabilities.astype(np.float64).sum(axis=1, keepdims=True)
    scores = score(TaskKind.MULTICLASS, labels, probabilities)
    assert scores.accuracy == accuracy_score(labels, probabilities.argmax(axis=1))
    expected = log_loss(labels, np.clip(normalised, 1e-7, 1), labels=range(num_classes))
    assert scores.nll == pytest.approx(expected, abs=2e-6)
    assert scores.n == 40


@given(seed=st.integers(0, 10_000))
@settings(max_examples=30, deadline=None)
def test_binary_scores_agree_with_scikit_learn(seed: int) -> None:
    from sklearn.metrics import accuracy_score, log_loss

    labels, probabilities = binary(seed)
    scores = score(TaskKind.BINARY, labels, probabilities)
    assert scores.accuracy == accuracy_score(labels, probabilities[:, 0] > 0.5)
    assert scores.nll == pytest.approx(log_loss(labels, probabilities[:, 0].astype(np.float64)), abs=1e-9)


@pytest.mark.slow
def test_scores_agree_with_keras_losses_and_metrics() -> None:
    import keras

    labels, probabilities = multiclass(11, num_rows=200, num_classes=10)
    sparse = float(np.mean(keras.losses.sparse_categorical_crossentropy(labels, probabilities)))
    one_hot = float(np.mean(keras.losses.categorical_crossentropy(np.eye(10)[labels], probabilities)))
    hits = float(np.mean(keras.metrics.sparse_categorical_accuracy(labels, probabilities)))
    assert nll(labels, probabilities) == pytest.approx(sparse, abs=1e-6)
    assert nll(labels, probabilities) == pytest.approx(one_hot, abs=1e-6)
    assert accuracy(labels, probabilities) == pytest.approx(hits, abs=1e-7)

    yes, chance = binary(12, num_rows=200)
    loss = float(np.mean(keras.losses.binary_crossentropy(yes[:, None].astype("float32"), chance)))
    hits = float(np.mean(keras.metrics.binary_accuracy(yes[:, None], chance)))
    assert nll(yes, chance) == pytest.approx(loss, abs=1e-6)
    assert accuracy(yes, chance) == pytest.approx(hits, abs=1e-7)


def test_rows_are_scaled_to_sum_one_for_nll() -> None:
    labels, probabilities = multiclass(1)
    assert nll(labels, probabilities * 0.5) == pytest.approx(nll(labels, probabilities), abs=1e-9)


def test_ties_go_to_the_first_class_and_one_half_is_a_no() -> None:
    assert accuracy(np.array([0, 1]), np.array([[0.5, 0.5], [0.5, 0.5]])) == 0.5
    assert accuracy(np.array([0, 1]), np.array([[0.5], [0.5]])) == 0.5
    assert accuracy(np.array([0]), np.array([[0.5]])) == 1.0


def test_one_hot_labels_score_like_indices() -> None:
    labels, probabilities = multiclass(2)
    one_hot = np.eye(4, dtype=np.float32)[labels]
    assert score(TaskKind.MULTICLASS, one_hot, probabilities) == score(TaskKind.MULTICLASS, labels, probabilities)


@pytest.mark.parametrize(
    "labels",
    [
        np.array([2, 0, 1], dtype=np.uint8),
        np.array([[2], [0], [1]]),
        np.array([2.0, 0.0, 1.0], dtype=np.float32),
        np.array([[0, 0, 1], [1, 0, 0], [0, 1, 0]], dtype=np.float64),
        np.array([[0, 0, 1], [1, 0, 0], [0, 1, 0]], dtype=bool),
    ],
)
def test_labels_become_class_indices(labels: np.ndarray) -> None:
    indices = to_class_indices(labels)
    assert indices.dtype == np.int64
    assert indices.tolist() == [2, 0, 1]


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.array([0, 1.5]), r"labels\[1\]: 1.5 is not a class"),
        (np.array([0, -1]), "-1 is not a class"),
        (np.array([np.nan, 0]), "nan is not a class"),
        (np.array([[1, 1], [0, 1]]), r"labels\[0\]: a row of labels is not one-hot"),
        (np.array([[0.0, 1.0], [0.0, 0.0]]), r"labels\[1\]: a row of labels is not one-hot"),
        (np.array([[0.1, 0.9]]), "not one-hot"),
        (np.array(["cat", "dog"]), "not numbers"),
        (np.zeros((2, 2, 2)), "cannot be scored"),
    ],
)
def test_labels_that_are_no_classes_are_refused(labels: np.ndarray, message: str) -> None:
    with pytest.raises(InvalidData, match=message):
        to_class_indices(labels)


@pytest.mark.parametrize(
    ("labels", "probabilities", "message"),
    [
        (np.array([0, 3]), np.full((2, 3), 1 / 3), "labels name 4 classes, the model tells 3 apart"),
        (np.array([0, 2]), np.full((2, 1), 0.5), "labels name 3 classes, the model tells 2 apart"),
        (np.eye(2), np.full((2, 3), 1 / 3), "the model tells 3 apart"),
        (np.array([0]), np.full((2, 3), 1 / 3), "1 labels for 2 predictions"),
        (np.zeros(0), np.zeros((0, 3)), "no rows"),
    ],
)
def test_labels_that_do_not_fit_the_predictions_are_refused(
    labels: np.ndarray, probabilities: np.ndarray, message: str
) -> None:
    with pytest.raises(InvalidData, match=message):
        accuracy(labels, probabilities)


@pytest.mark.parametrize("probabilities", [[[2.0, -1.0]], [[np.nan, 1.0]], [0.5, 0.5], np.zeros((1, 0))])
def test_predictions_that_are_no_probabilities_are_refused(probabilities: object) -> None:
    with pytest.raises(InvalidModel):
        nll(np.array([0]), np.asarray(probabilities))


def test_logits_are_refused_with_the_remedy() -> None:
    with pytest.raises(InvalidModel, match="softmax"):
        score(TaskKind.MULTICLASS, np.array([0]), np.array([[3.0, -2.0]]))


@pytest.mark.parametrize(("task", "width"), [(TaskKind.BINARY, 3), (TaskKind.MULTICLASS, 1)])
def test_predictions_must_fit_the_task(task: TaskKind, width: int) -> None:
    with pytest.raises(InvalidModel, match="do not fit"):
        score(task, np.array([0]), np.full((1, width), 1 / width))


def test_scores_are_plain_numbers() -> None:
    scores = score(TaskKind.BINARY, np.array([1]), np.array([[0.5]], dtype=np.float32))
    assert scores == Scores(accuracy=0.0, nll=pytest.approx(math.log(2)), n=1)
    assert type(scores.accuracy) is float
    assert type(scores.nll) is float


@pytest.mark.parametrize(
    ("labels_shape", "dtype", "output_shape", "task"),
    [
        ((360,), "int64", (None, 10), TaskKind.MULTICLASS),
        ((360, 1), "uint8", (360, 10), TaskKind.MULTICLASS),
        ((360,), "float32", (None, 10), TaskKind.MULTICLASS),
        ((360, 10), "float32", (None, 10), TaskKind.MULTICLASS),
        ((360,), "int32", (None, 2), TaskKind.MULTICLASS),
        ((360,), "int64", (None, 1), TaskKind.BINARY),
        ((360, 1), "bool", (None, 1), TaskKind.BINARY),
    ],
)
def test_the_task_is_told_from_labels_and_output(
    labels_shape: tuple[int, ...], dtype: str, output_shape: tuple[int | None, ...], task: TaskKind
) -> None:
    assert infer_task(labels_shape, dtype, output_shape) is task


@pytest.mark.parametrize(
    ("labels_shape", "dtype", "output_shape", "message"),
    [
        ((360,), "float32", (None, 1), "regression"),
        ((360, 3), "int64", (None, 1), "cannot be scored yet"),
        ((360, 4), "int64", (None, 10), "multi-label and regression"),
        ((360, 7), "int64", (None, 7, 10), "output has to be"),
        ((360,), "U5", (None, 10), "encode the classes"),
        ((), "int64", (None, 10), "cannot be scored yet"),
    ],
)
def test_tasks_that_are_not_scored_yet_are_refused_with_a_hint(
    labels_shape: tuple[int, ...], dtype: str, output_shape: tuple[int | None, ...], message: str
) -> None:
    with pytest.raises(InvalidData, match=message) as caught:
        infer_task(labels_shape, dtype, output_shape)
    assert caught.value.hint
