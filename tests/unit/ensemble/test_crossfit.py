"""Cross-fitting: no row's own label reaches what is applied to it, and so the figure is not flattered."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.ensemble.calibration import apply_temperature, fit_temperature
from orchestrator.ensemble.combine import Accumulator
from orchestrator.ensemble.crossfit import (
    assign_folds,
    check_stackable,
    cross_fit_stacking,
    cross_fit_temperature,
    cross_fit_weights,
    row_weights,
)
from orchestrator.ensemble.fitting import Fitter, make_fitter
from orchestrator.ensemble.stacking import fit_stacking
from orchestrator.ensemble.tasks import TaskKind
from orchestrator.ensemble.weights import by_nll
from orchestrator.errors import InvalidData, InvalidJob, OrchestratorError

MULTICLASS, BINARY, MULTILABEL, REGRESSION = TaskKind


def example(seed: int, num_members: int = 4, num_rows: int = 60) -> tuple[np.ndarray, np.ndarray]:
    """Classes [N] and probabilities [M, N, 3]."""
    rng = np.random.default_rng(seed)
    targets = rng.integers(0, 3, num_rows)
    powers = np.exp(np.eye(3)[targets] + rng.normal(size=(num_members, num_rows, 3)))
    return targets, powers / powers.sum(axis=2, keepdims=True)


def having_seen(method: str, task: TaskKind, targets: np.ndarray, predictions: np.ndarray, folds: np.ndarray) -> Fitter:
    fitter = make_fitter(method, task, targets, folds)
    for prediction in predictions:
        fitter.see(prediction)
    return fitter


def likelihoods_of(targets: np.ndarray, predictions: np.ndarray) -> np.ndarray:
    return predictions[:, np.arange(len(targets)), targets]


def permuted_in(targets: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Targets with the labels of these rows moved round among them."""
    moved = targets.copy()
    moved[rows] = np.roll(targets[rows], 1)
    assert (moved != targets).any()
    return moved


@given(
    seed=st.integers(0, 1000),
    num_rows=st.integers(2, 80),
    num_classes=st.integers(1, 6),
    num_folds=st.integers(2, 10),
    task=st.sampled_from([MULTICLASS, BINARY]),
)
@settings(max_examples=100, deadline=None)
def test_folds_share_out_every_class_as_evenly_as_can_be(
    seed: int, num_rows: int, num_classes: int, num_folds: int, task: TaskKind
) -> None:
    targets = np.random.default_rng(seed).integers(0, num_classes, num_rows)
    folds = assign_folds(task, targets, num_folds, seed)
    assert (folds.dtype, folds.shape) == (np.int64, (num_rows,))
    for rows in (targets >= 0, *(targets == c for c in range(num_classes))):
        sizes = np.bincount(folds[rows], minlength=min(num_folds, num_rows))
        assert len(sizes) == min(num_folds, num_rows)
        assert sizes.max() - sizes.min() <= 1


@pytest.mark.parametrize("task", [MULTILABEL, REGRESSION])
def test_folds_of_other_targets_are_of_even_size_and_do_not_look_at_them(task: TaskKind) -> None:
    targets = np.arange(26).reshape(13, 2)
    folds = assign_folds(task, targets, 5, seed=1)
    assert sorted(np.bincount(folds)) == [2, 2, 3, 3, 3]
    np.testing.assert_array_equal(folds, assign_folds(task, targets[::-1], 5, seed=1))


def test_folds_are_a_function_of_their_arguments_and_of_the_seed() -> None:
    targets = np.random.default_rng(0).integers(0, 3, 50)
    np.testing.assert_array_equal(assign_folds(MULTICLASS, targets, 5, 7), assign_folds(MULTICLASS, targets, 5, 7))
    assert (assign_folds(MULTICLASS, targets, 5, 7) != assign_folds(MULTICLASS, targets, 5, 8)).any()


def test_folds_are_shuffled_so_that_sorted_data_does_not_show() -> None:
    folds = assign_folds(REGRESSION, np.zeros((1000, 1)), 5, 0)
    assert abs(np.corrcoef(folds, np.arange(1000))[0, 1]) < 0.1
    assert abs(np.corrcoef(folds[1:], folds[:-1])[0, 1]) < 0.1


@pytest.mark.parametrize("num_rows", [0, 1])
def test_too_few_rows_to_hold_any_out_are_refused(num_rows: int) -> None:
    with pytest.raises(InvalidData, match=f"{num_rows} rows are too few"):
        assign_folds(BINARY, np.zeros(num_rows, dtype=np.int64))


def test_one_fold_is_refused() -> None:
    with pytest.raises(OrchestratorError, match="1 folds"):
        assign_folds(BINARY, np.zeros(10, dtype=np.int64), num_folds=1)
    targets, predictions = example(0)
    folds = np.zeros(len(targets), dtype=np.int64)
    fitter = having_seen("nll", MULTICLASS, targets, predictions, folds)
    with pytest.raises(OrchestratorError, match="1 folds"):
        cross_fit_weights(fitter, folds)


def test_each_folds_weights_are_those_fitted_on_all_other_rows() -> None:
    targets, predictions = example(0)
    likelihoods = likelihoods_of(targets, predictions)
    folds = assign_folds(MULTICLASS, targets, 3, 0)
    found = cross_fit_weights(having_seen("nll", MULTICLASS, targets, predictions, folds), folds)
    assert found.shape == (3, 4)
    for fold in range(3):
        np.testing.assert_allclose(found[fold], by_nll(likelihoods[:, folds != fold]).values, atol=1e-4)


@pytest.mark.parametrize("method", ["accuracy", "nll", "greedy"])
def test_weights_of_a_fold_do_not_know_its_labels(method: str) -> None:
    targets, predictions = example(1, num_members=6, num_rows=200)
    folds = assign_folds(MULTICLASS, targets, 5, 0)

    def weights_of(labels: np.ndarray) -> np.ndarray:
        return cross_fit_weights(having_seen(method, MULTICLASS, labels, predictions, folds), folds)

    before = weights_of(targets)
    for fold in range(5):
        after = weights_of(permuted_in(targets, folds == fold))
        np.testing.assert_array_equal(after[fold], before[fold])
        assert (np.delete(after, fold, axis=0) != np.delete(before, fold, axis=0)).any(axis=1).all()


def test_stacked_predictions_of_a_fold_do_not_know_its_labels() -> None:
    targets, predictions = example(2, num_members=2)
    folds = assign_folds(MULTICLASS, targets, 3, 0)
    before = cross_fit_stacking(MULTICLASS, targets, predictions, folds)
    naive = fit_stacking(MULTICLASS, targets, predictions).combine(predictions)
    for fold in range(3):
        labels, rows = permuted_in(targets, folds == fold), folds == fold
        after = cross_fit_stacking(MULTICLASS, labels, predictions, folds)
        np.testing.assert_array_equal(after[rows], before[rows])
        assert (after[~rows] != before[~rows]).any()
        assert (fit_stacking(MULTICLASS, labels, predictions).combine(predictions)[rows] != naive[rows]).any()


@pytest.mark.parametrize(
    ("task", "targets", "message"),
    [
        (MULTICLASS, [0] * 9 + [1], "all answers are 0"),
        (BINARY, [1] * 10, "all answers are 1"),
        (MULTILABEL, [[0, 1], [1, 0], [0, 1], [0, 1], [0, 0], [0, 1]], "all answers of label 0 are 0"),
    ],
)
def test_rows_on_which_a_stacking_would_fail_at_the_end_are_refused_at_the_start(
    task: TaskKind, targets: list[Any], message: str
) -> None:
    rows = np.array(targets)
    folds = assign_folds(task, rows)
    with pytest.raises(InvalidJob, match=message):
        check_stackable(task, rows, folds, num_members=3, width=2)


def test_rows_on_which_a_stacking_can_be_fitted_pass_and_too_many_features_do_not() -> None:
    targets, predictions = example(7)
    folds = assign_folds(MULTICLASS, targets)
    check_stackable(MULTICLASS, targets, folds, num_members=4, width=3)
    cross_fit_stacking(MULTICLASS, targets, predictions, folds)
    check_stackable(REGRESSION, np.zeros((6, 1)), np.arange(6) % 2, num_members=4, width=1)
    with pytest.raises(InvalidJob, match="6000 features"):
        check_stackable(MULTICLASS, targets, folds, num_members=2000, width=3)


@pytest.mark.parametrize("inverse_penalty", [1.0, 0.01])
def test_stacked_predictions_are_those_of_a_model_of_the_other_folds(inverse_penalty: float) -> None:
    targets, predictions = example(3)
    folds = assign_folds(MULTICLASS, targets, 3, 0)
    found = cross_fit_stacking(MULTICLASS, targets, predictions, folds, C=inverse_penalty)
    for fold in range(3):
        others = folds != fold
        model = fit_stacking(MULTICLASS, targets[others], predictions[:, others], C=inverse_penalty)
        np.testing.assert_array_equal(found[~others], model.combine(predictions[:, ~others]))


def test_a_folds_temperature_does_not_know_its_labels() -> None:
    targets, predictions = example(4, num_members=1)
    folds = assign_folds(MULTICLASS, targets, 4, 0)
    before, temperatures = cross_fit_temperature(MULTICLASS, targets, predictions[0], folds)
    assert temperatures.shape == (4,)
    for fold in range(4):
        rows = folds == fold
        expected = fit_temperature(MULTICLASS, targets[~rows], predictions[0][~rows])
        assert temperatures[fold] == expected
        np.testing.assert_array_equal(before[rows], apply_temperature(MULTICLASS, predictions[0][rows], expected))
        after, changed = cross_fit_temperature(MULTICLASS, permuted_in(targets, rows), predictions[0], folds)
        np.testing.assert_array_equal(after[rows], before[rows])
        assert changed[fold] == temperatures[fold]
        assert (np.delete(changed, fold) != np.delete(temperatures, fold)).all()


def test_row_weights_let_the_rows_fold_decide() -> None:
    targets, predictions = example(5)
    folds = assign_folds(MULTICLASS, targets, 3, 0)
    found = cross_fit_weights(having_seen("nll", MULTICLASS, targets, predictions, folds), folds)
    total = Accumulator(MULTICLASS)
    for member, prediction in enumerate(predictions):
        total.add(prediction, row_weights(found, folds, member))
    expected = [found[folds[row]] @ predictions[:, row] for row in range(len(targets))]
    np.testing.assert_allclose(total.average(), expected, rtol=1e-12)


def test_the_naive_figure_is_optimistic_and_the_cross_fitted_one_is_not() -> None:
    """Weights of 40 equally good members, fitted on 100 rows of a population of which nearly everything is known."""
    rng = np.random.default_rng(20)
    num_members, num_rows, num_lives = 40, 100, 40

    def draw(rows: int) -> np.ndarray:
        logits = rng.normal(1, 2, rows) + 1.5 * rng.normal(size=(num_members, rows))
        return 1 / (1 + np.exp(-logits))

    def nll(weights: np.ndarray, likelihoods: np.ndarray) -> float:
        return float(-np.log(weights @ likelihoods).mean())

    population = draw(10_000)
    naive_errors, cross_errors = [], []
    for life in range(num_lives):
        seen = draw(num_rows)
        yes = np.ones(num_rows, dtype=np.int64)
        folds = assign_folds(BINARY, yes, 5, seed=life)
        weights = np.array(by_nll(seen).values)
        of_folds = cross_fit_weights(having_seen("nll", BINARY, yes, seen[:, :, np.newaxis], folds), folds)
        cross = -np.log((of_folds[folds].T * seen).sum(axis=0)).mean()
        naive_errors.append(nll(weights, seen) - nll(weights, population))
        cross_errors.append(cross - np.mean([nll(one, population) for one in of_folds]))

    def in_standard_errors(errors: list[float]) -> float:
        return float(np.mean(errors) / (np.std(errors, ddof=1) / np.sqrt(num_lives)))

    assert in_standard_errors(naive_errors) < -4, np.mean(naive_errors)
    assert abs(in_standard_errors(cross_errors)) < 2.5, np.mean(cross_errors)
    assert np.mean(naive_errors) < -4 * abs(np.mean(cross_errors))
