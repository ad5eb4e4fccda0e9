"""Stacking: the regressions are scikit-learn's, and what is stored gives the same predictions."""

from __future__ import annotations

import json

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression, Ridge

from orchestrator.ensemble.metrics import per_example
from orchestrator.ensemble.stacking import Stacking, fit_stacking
from orchestrator.ensemble.tasks import TaskKind
from orchestrator.errors import DamagedStore, InvalidJob, InvalidModel

MULTICLASS, BINARY, MULTILABEL, REGRESSION = TaskKind


def example(task: TaskKind, seed: int = 0, num_members: int = 3, num_rows: int = 200) -> tuple[np.ndarray, np.ndarray]:
    """Targets and predictions [M, N, C] that tell something about them."""
    rng = np.random.default_rng(seed)
    width = {MULTICLASS: 4, BINARY: 1, MULTILABEL: 3, REGRESSION: 2}[task]
    truth = rng.normal(size=(num_rows, width))
    heard = truth + rng.normal(size=(num_members, num_rows, width))
    if task is MULTICLASS:
        powers = np.exp(heard)
        return truth.argmax(axis=1), (powers / powers.sum(axis=2, keepdims=True)).astype(np.float32)
    if task is REGRESSION:
        return truth, heard.astype(np.float32)
    answers = (truth > 0).astype(np.int64)
    return answers[:, 0] if task is BINARY else answers, (1 / (1 + np.exp(-heard))).astype(np.float32)


def nll(task: TaskKind, targets: np.ndarray, prediction: np.ndarray) -> float:
    return float(per_example(task, targets, prediction)["nll"].mean())


@pytest.mark.parametrize("inverse_penalty", [1.0, 0.01])
def test_multiclass_stacking_is_a_multinomial_regression_on_log_probabilities(inverse_penalty: float) -> None:
    targets, predictions = example(MULTICLASS)
    columns = np.log(np.concatenate(list(predictions.astype(np.float64)), axis=1))
    oracle = LogisticRegression(C=inverse_penalty, max_iter=5000).fit(columns, targets)
    result = fit_stacking(MULTICLASS, targets, predictions, C=inverse_penalty).combine(predictions)
    np.testing.assert_allclose(result, oracle.predict_proba(columns), atol=1e-3)
    np.testing.assert_allclose(result.sum(axis=1), 1, rtol=1e-12)


@pytest.mark.parametrize("task", [BINARY, MULTILABEL])
def test_stacking_of_yes_or_no_is_a_logistic_regression_for_each_output(task: TaskKind) -> None:
    targets, predictions = example(task)
    result = fit_stacking(task, targets, predictions).combine(predictions)
    logits = np.log(predictions.astype(np.float64)) - np.log1p(-predictions.astype(np.float64))
    for output in range(predictions.shape[2]):
        answers = targets if task is BINARY else targets[:, output]
        oracle = LogisticRegression(max_iter=5000).fit(logits[:, :, output].T, answers)
        np.testing.assert_allclose(result[:, output], oracle.predict_proba(logits[:, :, output].T)[:, 1], atol=1e-5)


def test_stacking_of_a_regression_is_a_ridge_for_each_output() -> None:
    targets, predictions = example(REGRESSION)
    result = fit_stacking(REGRESSION, targets, predictions, C=0.1).combine(predictions)
    for output in range(2):
        columns = predictions[:, :, output].T.astype(np.float64)
        oracle = Ridge(alpha=targets[:, output].var() / 0.1).fit(columns, targets[:, output])
        np.testing.assert_allclose(result[:, output], oracle.predict(columns), rtol=1e-9)


@pytest.mark.parametrize("unit", [1e-4, 1e4])
def test_stacking_of_a_regression_does_not_depend_on_the_unit(unit: float) -> None:
    targets, predictions = example(REGRESSION)
    predictions = predictions.astype(np.float64)
    scaled = fit_stacking(REGRESSION, unit * targets, unit * predictions).combine(unit * predictions)
    plain = fit_stacking(REGRESSION, targets, predictions).combine(predictions)
    np.testing.assert_allclose(scaled, unit * plain, rtol=1e-9)


def test_targets_of_one_value_are_predicted_as_that_value() -> None:
    _, predictions = example(REGRESSION)
    result = fit_stacking(REGRESSION, np.full((200, 2), 7.0), predictions).combine(predictions)
    np.testing.assert_allclose(result, 7.0)


@pytest.mark.parametrize("task", [MULTICLASS, BINARY, MULTILABEL])
def test_stacking_mends_members_that_mix_up_classes_where_a_mean_cannot(task: TaskKind) -> None:
    targets, predictions = example(task, num_rows=2000)
    misled = np.roll(predictions, 1, axis=2) if task is MULTICLASS else 1 - predictions
    stacking = fit_stacking(task, targets[:1000], misled[:, :1000])
    on_others = nll(task, targets[1000:], stacking.combine(misled[:, 1000:]))
    assert on_others < nll(task, targets[1000:], predictions[:, 1000:].mean(axis=0))
    assert on_others < nll(task, targets[1000:], misled[:, 1000:].mean(axis=0)) - 0.5


@pytest.mark.parametrize("seen", [(0, 2), (0, 1, 3)])
def test_a_class_without_rows_gets_probability_zero_and_the_others_are_told_apart(seen: tuple[int, ...]) -> None:
    targets, predictions = example(MULTICLASS, num_rows=400)
    rows = np.isin(targets, seen)
    columns = np.log(np.concatenate(list(predictions.astype(np.float64)), axis=1))
    oracle = LogisticRegression(max_iter=5000).fit(columns[rows], targets[rows])
    result = fit_stacking(MULTICLASS, targets[rows], predictions[:, rows]).combine(predictions)
    np.testing.assert_allclose(result[:, list(seen)], oracle.predict_proba(columns), atol=1e-3)
    absent = sorted(set(range(4)) - set(seen))
    np.testing.assert_array_equal(result[:, absent], 0)


@pytest.mark.parametrize("task", list(TaskKind))
def test_members_are_combined_one_after_another(task: TaskKind) -> None:
    targets, predictions = example(task)
    stacking = fit_stacking(task, targets, predictions)
    np.testing.assert_array_equal(stacking.combine(iter(predictions)), stacking.combine(predictions))


@pytest.mark.parametrize("task", list(TaskKind))
def test_what_is_stored_predicts_the_same_bits(task: TaskKind) -> None:
    targets, predictions = example(task)
    stacking = fit_stacking(task, targets, predictions)
    again = Stacking.from_json(stacking.to_json())
    assert again.combine(predictions).tobytes() == stacking.combine(predictions).tobytes()
    assert again.to_json() == stacking.to_json()


@pytest.mark.parametrize(
    "change",
    [
        {"task": "guessing"},
        {"coefficients": [[1.0, 2.0]]},
        {"coefficients": [[[1.0], [2.0, 3.0]]]},
        {"coefficients": []},
        {"coefficients": None},
        {"outputs": [0, 0, 1, 2]},
        {"outputs": [0, 1, 2, 4]},
        {"outputs": [0, 1]},
        {"outputs": [10**30]},
        {"intercepts": [0.0, 0.0, 0.0, float("nan")]},
        {"intercepts": [0.0]},
    ],
)
def test_a_damaged_model_is_refused(change: dict[str, object]) -> None:
    stored = json.loads(Stacking(MULTICLASS, np.arange(4), np.ones((4, 3, 4)), np.zeros(4)).to_json())
    Stacking.from_json(json.dumps(stored))
    with pytest.raises(DamagedStore, match="no stacking model"):
        Stacking.from_json(json.dumps({**stored, **change}))


@pytest.mark.parametrize("text", ["", "[]", "{}", "null", b"\xff"])
def test_what_is_no_model_at_all_is_refused(text: str | bytes) -> None:
    with pytest.raises(DamagedStore, match="no stacking model"):
        Stacking.from_json(text)


def test_more_features_than_can_be_fitted_are_refused_with_a_hint() -> None:
    predictions = np.full((1025, 2, 4), 0.25)
    with pytest.raises(InvalidJob, match="4100 features: more than 4096") as refused:
        fit_stacking(MULTICLASS, np.array([0, 1]), predictions)
    assert refused.value.hint


def test_rows_of_one_class_are_refused() -> None:
    targets, predictions = example(MULTICLASS)
    with pytest.raises(InvalidJob, match="all rows are of class 0"):
        fit_stacking(MULTICLASS, np.zeros_like(targets), predictions)
    answers, predictions = example(MULTILABEL)
    answers[:, 1] = 1
    with pytest.raises(InvalidJob, match="all rows of output 1 are 1"):
        fit_stacking(MULTILABEL, answers, predictions)


@pytest.mark.parametrize("task", list(TaskKind))
def test_other_members_than_were_fitted_are_refused(task: TaskKind) -> None:
    targets, predictions = example(task)
    stacking = fit_stacking(task, targets, predictions)
    wider = np.concatenate([predictions, predictions], axis=2)
    for others in (predictions[:2], np.concatenate([predictions, predictions[:1]]), wider, predictions[:0]):
        with pytest.raises(InvalidModel, match="fitted on 3 members"):
            stacking.combine(others)


def test_predictions_without_members_or_axes_are_refused() -> None:
    for shape in ((0, 5, 3), (5, 3)):
        with pytest.raises(InvalidModel, match="cannot be stacked"):
            fit_stacking(MULTICLASS, np.arange(5) % 3, np.zeros(shape))
