"""Calibration against its definition, a published example, closed forms and scikit-learn."""

from __future__ import annotations

import math

import numpy as np
import pytest
import sklearn
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.calibration import CalibratedClassifierCV
from sklearn.frozen import FrozenEstimator

from orchestrator.ensemble.calibration import HOTTEST, apply_temperature, fit_temperature, reliability
from orchestrator.ensemble.metrics import per_example, predicted_classes
from orchestrator.ensemble.tasks import TaskKind
from orchestrator.errors import InvalidJob, InvalidModel, OrchestratorError

MULTICLASS, BINARY, MULTILABEL, REGRESSION = TaskKind
CLASSIFICATION = (MULTICLASS, BINARY, MULTILABEL)


def drawn(task: TaskKind, seed: int, temperature: float, num_rows: int = 400) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities, and targets drawn from what they would be at the temperature."""
    rng = np.random.default_rng(seed)
    if task is MULTICLASS:
        probabilities = softmax(rng.normal(0, 2, (num_rows, 4)))
        chances = softmax(np.log(probabilities) / temperature)
        return (rng.random((num_rows, 1)) > chances.cumsum(axis=1)[:, :-1]).sum(axis=1), probabilities
    logits = rng.normal(0, 2, (num_rows, 1 if task is BINARY else 3))
    targets = (rng.random(logits.shape) < 1 / (1 + np.exp(-logits / temperature))).astype(np.int64)
    return targets[:, 0] if task is BINARY else targets, 1 / (1 + np.exp(-logits))


def softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits)
    return powers / powers.sum(axis=1, keepdims=True)


def mean_nll(task: TaskKind, targets: np.ndarray, probabilities: np.ndarray) -> float:
    return float(per_example(task, targets, probabilities)["nll"].mean())


def by_definition(confidence: np.ndarray, right: np.ndarray, num_bins: int) -> float:
    """ECE as Guo et al. 2017 write it: bins ((b − 1)/B, b/B], one after another."""
    total = 0.0
    for b in range(1, num_bins + 1):
        low, high = (b - 1) / num_bins, b / num_bins
        inside = [n for n, value in enumerate(confidence) if low < value <= high or (b == 1 and value == 0)]
        if inside:
            gap = np.mean([right[n] for n in inside]) - np.mean([confidence[n] for n in inside])
            total += len(inside) / len(confidence) * abs(gap)
    return total


@given(seed=st.integers(0, 10_000), num_bins=st.integers(1, 20))
@settings(max_examples=50, deadline=None)
def test_ece_is_what_its_definition_says(seed: int, num_bins: int) -> None:
    rng = np.random.default_rng(seed)
    yes = rng.integers(0, num_bins + 1, (30, 2)) / num_bins  # on the edges of bins, 0 and 1 among them
    yes[::3] = rng.random((10, 2))
    told = rng.integers(0, 2, (30, 2))
    found = reliability(MULTILABEL, told, yes, num_bins)
    assert found.ece == pytest.approx(by_definition(yes.ravel(), told.ravel(), num_bins), abs=1e-12)
    one = yes[:, :1]
    confidence = np.maximum(one, 1 - one)[:, 0]
    right = (one[:, 0] > 0.5) == told[:, 0]
    expected = by_definition(confidence, right, num_bins)
    assert reliability(BINARY, told[:, 0], one, num_bins).ece == pytest.approx(expected, abs=1e-12)


@given(seed=st.integers(0, 10_000))
@settings(max_examples=30, deadline=None)
def test_ece_of_several_classes_is_of_the_predicted_one(seed: int) -> None:
    rng = np.random.default_rng(seed)
    probabilities, targets = rng.dirichlet(np.ones(5), 60), rng.integers(0, 5, 60)
    expected = by_definition(probabilities.max(axis=1), probabilities.argmax(axis=1) == targets, 15)
    assert reliability(MULTICLASS, targets, probabilities).ece == pytest.approx(expected, abs=1e-9)


def test_ece_is_that_of_a_published_example() -> None:
    """M. Pavlovic, "Understanding model calibration", ICLR blogposts 2025: nine rows, five bins, ECE 0.10444."""
    first = [0.78, 0.36, 0.08, 0.58, 0.49, 0.85, 0.30, 0.63, 0.17]
    probabilities, targets = np.array([[p, 1 - p] for p in first]), np.array([0, 1, 0, 0, 0, 0, 1, 1, 1])
    assert reliability(MULTICLASS, targets, probabilities, 5).ece == pytest.approx(0.10444, abs=5e-6)
    assert reliability(BINARY, targets, probabilities[:, 1:], 5).ece == pytest.approx(0.10444, abs=5e-6)


def test_bins_are_open_below_and_closed_above_and_empty_ones_say_nothing() -> None:
    yes, told = np.array([[0.0], [0.25], [0.250001], [1.0]]), np.array([[0], [1], [1], [1]])
    found = reliability(MULTILABEL, told, yes, num_bins=4)
    assert found.edges.tolist() == [0, 0.25, 0.5, 0.75, 1]
    assert found.count.tolist() == [2, 1, 0, 1]
    np.testing.assert_array_equal(found.confidence, [0.125, 0.250001, np.nan, 1])
    np.testing.assert_array_equal(found.accuracy, [0.5, 1, np.nan, 1])
    assert found.ece == pytest.approx((2 * 0.375 + 0.749999 + 0) / 4)


def test_who_is_always_sure_is_off_by_how_often_he_is_wrong() -> None:
    targets = np.array([0, 0, 0, 1])
    assert reliability(MULTICLASS, targets, np.eye(2)[[0, 0, 0, 0]]).ece == 0.25
    assert reliability(BINARY, targets, np.zeros((4, 1))).ece == 0.25


@pytest.mark.parametrize("share", [0.55, 0.7, 0.9])
@pytest.mark.parametrize("told", [0.6, 0.8, 0.999])
def test_the_best_temperature_is_that_of_the_closed_form(share: float, told: float) -> None:
    """All rows say `told`, and `share` of them are right: the best T makes them say `share`."""
    num_rows, width = 2000, 4
    right = np.arange(num_rows) < share * num_rows
    binary = np.full((num_rows, 1), told)
    expected = math.log(told / (1 - told)) / math.log(share / (1 - share))
    expected = min(max(expected, 1 / HOTTEST), HOTTEST)
    assert fit_temperature(BINARY, right.astype(np.int64), binary) == pytest.approx(expected, rel=1e-5)
    calibrated = apply_temperature(BINARY, binary, expected)
    np.testing.assert_allclose(calibrated, 1 / (1 + (told / (1 - told)) ** (-1 / expected)), rtol=1e-9)

    classes = np.full((num_rows, width), (1 - told) / (width - 1))
    classes[:, 0] = told
    targets = np.where(right, 0, 1 + np.arange(num_rows) % (width - 1))
    odds = [math.log(p * (width - 1) / (1 - p)) for p in (told, share)]
    assert fit_temperature(MULTICLASS, targets, classes) == pytest.approx(odds[0] / odds[1], rel=1e-5)


@pytest.mark.parametrize("task", CLASSIFICATION)
@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_no_temperature_has_a_better_likelihood_than_the_fitted_one(task: TaskKind, temperature: float) -> None:
    targets, probabilities = drawn(task, 3, temperature)
    fitted = fit_temperature(task, targets, probabilities)
    assert fitted == pytest.approx(temperature, rel=0.25)
    best = mean_nll(task, targets, apply_temperature(task, probabilities, fitted))
    grid = np.geomspace(1 / HOTTEST, HOTTEST, 400)
    others = [mean_nll(task, targets, apply_temperature(task, probabilities, each)) for each in grid]
    assert best <= min(others) + 1e-9
    assert others[0] > best + 0.01, "the grid must leave the optimum, or nothing is shown"


@given(seed=st.integers(0, 10_000), task=st.sampled_from(CLASSIFICATION))
@settings(max_examples=30, deadline=None)
def test_a_fitted_temperature_never_harms_the_rows_it_was_fitted_on(seed: int, task: TaskKind) -> None:
    targets, probabilities = drawn(task, seed, temperature=2.0, num_rows=20)
    after = apply_temperature(task, probabilities, fit_temperature(task, targets, probabilities))
    assert mean_nll(task, targets, after) <= mean_nll(task, targets, probabilities) + 1e-6


class Stored(ClassifierMixin, BaseEstimator):  # type: ignore[misc]  # scikit-learn ships no types
    """A classifier, for scikit-learn, that says what is stored of its rows (x holds row numbers)."""

    def __init__(self, probabilities: np.ndarray) -> None:
        self.probabilities = probabilities
        self.classes_ = np.arange(probabilities.shape[1])

    def fit(self, x: np.ndarray, y: np.ndarray) -> Stored:
        return self

    def predict_proba(self, x: np.ndarray) -> np.ndarray:
        return self.probabilities[x[:, 0].astype(int)]

    def predict(self, x: np.ndarray) -> np.ndarray:
        return self.predict_proba(x).argmax(axis=1)


def test_temperature_scaling_agrees_with_scikit_learn() -> None:
    if tuple(map(int, sklearn.__version__.split(".")[:2])) < (1, 8):
        pytest.skip(f"scikit-learn {sklearn.__version__} has no temperature scaling: it came with 1.8")
    targets, probabilities = drawn(MULTICLASS, 5, temperature=2.5)
    rows = np.arange(len(targets))[:, None].astype(float)
    calibrated = CalibratedClassifierCV(FrozenEstimator(Stored(probabilities)), method="temperature").fit(rows, targets)
    found = apply_temperature(MULTICLASS, probabilities, fit_temperature(MULTICLASS, targets, probabilities))
    np.testing.assert_allclose(found, calibrated.predict_proba(rows), atol=1e-4)
    assert np.abs(found - probabilities).max() > 0.1, "both must have changed something"


@pytest.mark.parametrize("task", CLASSIFICATION)
def test_a_temperature_of_one_changes_nothing(task: TaskKind) -> None:
    _, probabilities = drawn(task, 1, temperature=1.0)
    np.testing.assert_allclose(apply_temperature(task, probabilities, 1.0), probabilities, rtol=1e-9)


@pytest.mark.parametrize("temperature", [0.05, 0.3, 5.0, 20.0])
def test_no_temperature_changes_the_predicted_class(temperature: float) -> None:
    for task in (MULTICLASS, BINARY):
        _, probabilities = drawn(task, 2, temperature=1.0)
        after = apply_temperature(task, probabilities, temperature)
        np.testing.assert_array_equal(predicted_classes(after), predicted_classes(probabilities))
    np.testing.assert_allclose(
        apply_temperature(MULTICLASS, probabilities=np.eye(3), temperature=temperature).sum(1), 1
    )


def test_where_every_temperature_is_as_good_it_stays_one() -> None:
    assert fit_temperature(MULTICLASS, np.array([0, 1, 2]), np.full((3, 3), 1 / 3)) == 1
    assert fit_temperature(BINARY, np.array([0, 1]), np.full((2, 1), 0.5)) == 1


def test_on_separable_and_on_hopeless_rows_it_ends_at_its_bounds() -> None:
    right, wrong = np.array([0, 1]), np.array([1, 0])
    probabilities = np.array([[0.6, 0.4], [0.4, 0.6]])
    assert fit_temperature(MULTICLASS, right, probabilities) == pytest.approx(1 / HOTTEST, rel=1e-4)
    assert fit_temperature(MULTICLASS, wrong, probabilities) == pytest.approx(HOTTEST, rel=1e-4)


def test_probabilities_of_zero_cost_no_more_than_in_nll() -> None:
    """One row that was certain and wrong must not decide alone, as it would if log 0 counted."""
    probabilities = np.vstack([np.tile([[0.8, 0.2]], (99, 1)), [[1.0, 0.0]]])
    targets = np.append(np.arange(99) % 5 == 0, True).astype(np.int64)
    assert fit_temperature(MULTICLASS, targets, probabilities) < 2


@pytest.mark.parametrize("temperature", [0.0, -1.0, math.nan, math.inf])
def test_what_is_no_temperature_is_refused(temperature: float) -> None:
    with pytest.raises(OrchestratorError, match="not a temperature"):
        apply_temperature(BINARY, np.array([[0.5]]), temperature)


def test_regression_has_nothing_to_calibrate() -> None:
    numbers = np.ones((2, 1))
    with pytest.raises(OrchestratorError, match="no reliability"):
        reliability(REGRESSION, numbers, numbers)
    with pytest.raises(InvalidJob, match="no probabilities"):
        fit_temperature(REGRESSION, numbers, numbers)
    with pytest.raises(InvalidJob, match="no probabilities"):
        apply_temperature(REGRESSION, numbers, 1.0)


def test_what_are_no_probabilities_is_not_calibrated() -> None:
    with pytest.raises(InvalidModel):
        fit_temperature(BINARY, np.array([1]), np.array([[2.0]]))
    with pytest.raises(OrchestratorError, match="no reliability in 0 bins"):
        reliability(BINARY, np.array([1]), np.array([[0.5]]), num_bins=0)
