"""The score of a growing ensemble, against the same figure worked out at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from orchestrator.ensemble.crossfit import assign_folds, cross_fit_stacking, cross_fit_temperature
from orchestrator.ensemble.fitting import fit_weights
from orchestrator.ensemble.metrics import score
from orchestrator.ensemble.prefix import PrefixScores, watched
from orchestrator.ensemble.tasks import TaskKind
from orchestrator.ensemble.weights import by_accuracy
from orchestrator.errors import InvalidJob
from orchestrator.spec import EnsembleSpec

NUM_MEMBERS, NUM_ROWS, NUM_CLASSES = 5, 60, 3
SEED = 11


class Unread:
    """Predictions that nobody may ask for: running sums need none of the members before."""

    def __iter__(self) -> Any:
        raise AssertionError("the members were read again")


def make_members(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Targets [N] and predictions [M, N, C] float32 that lean towards them."""
    rng = np.random.default_rng(seed)
    targets = rng.integers(0, NUM_CLASSES, NUM_ROWS)
    noise = rng.dirichlet(np.ones(NUM_CLASSES), (NUM_MEMBERS, NUM_ROWS))
    return targets, (0.6 * noise + 0.4 * np.eye(NUM_CLASSES)[targets]).astype(np.float32)


def grow(targets: np.ndarray, members: np.ndarray, metric: str = "nll", **ensemble: Any) -> list[float | None]:
    scores = PrefixScores(TaskKind.MULTICLASS, targets, EnsembleSpec(**ensemble), metric, SEED)
    return [scores.add(i, member, members[: i + 1]) for i, member in enumerate(members)]


def figure(targets: np.ndarray, prediction: np.ndarray, metric: str = "nll") -> float:
    return float(getattr(score(TaskKind.MULTICLASS, targets, prediction), metric))


@pytest.mark.parametrize("metric", ["nll", "accuracy", "brier", "auc"])
def test_the_plain_average_is_a_running_sum(metric: str) -> None:
    targets, members = make_members()
    scores = PrefixScores(TaskKind.MULTICLASS, targets, EnsembleSpec(), metric, SEED)
    for k in range(1, NUM_MEMBERS + 1):
        mean = members[:k].astype(np.float64).mean(axis=0)
        assert scores.add(k - 1, members[k - 1], Unread()) == pytest.approx(figure(targets, mean, metric), rel=1e-12)


def test_the_average_of_logits_is_scored_as_one() -> None:
    targets, members = make_members()
    logs = np.log(members.astype(np.float64))
    for k, told in enumerate(grow(targets, members, combine="logits"), start=1):
        powers = np.exp(logs[:k].mean(axis=0))
        assert told == pytest.approx(figure(targets, powers / powers.sum(axis=1, keepdims=True)), rel=1e-9)


def test_given_weights_are_used_and_a_member_of_weight_zero_tells_nothing() -> None:
    targets, members = make_members()
    weights = (0.0, 2.0, 1.0, 0.0, 3.0)
    told = grow(targets, members, combine="weighted", weights=weights)
    assert [told[0], told[3]] == [None, None]
    for k in (2, 3, 5):
        expected = np.average(members[:k].astype(np.float64), axis=0, weights=weights[:k])
        assert told[k - 1] == pytest.approx(figure(targets, expected), rel=1e-12)


def test_given_weights_do_not_matter_where_the_plain_average_is_delivered() -> None:
    targets, members = make_members()
    assert grow(targets, members, weights=(0.0, 2.0, 1.0, 0.0, 3.0)) == grow(targets, members)


def cross_fitted_by_accuracy(targets: np.ndarray, members: np.ndarray) -> np.ndarray:
    folds = assign_folds(TaskKind.MULTICLASS, targets, seed=SEED)
    right = members.argmax(axis=2) == targets
    weights = np.array([by_accuracy(right[:, folds != fold].mean(axis=1).tolist()).values for fold in range(5)])
    average: np.ndarray = np.einsum("nm,mnc->nc", weights[folds], members.astype(np.float64))
    return average


@pytest.mark.parametrize("weights", [None, "accuracy"])
def test_fitted_weights_are_cross_fitted_for_each_ensemble(weights: str | None) -> None:
    targets, members = make_members()
    for k, told in enumerate(grow(targets, members, combine="weighted", weights=weights), start=1):
        assert told == pytest.approx(figure(targets, cross_fitted_by_accuracy(targets, members[:k])), rel=1e-9)


def test_stacking_is_cross_fitted() -> None:
    targets, members = make_members()
    folds = assign_folds(TaskKind.MULTICLASS, targets, seed=SEED)
    told = grow(targets, members, combine="stacking")
    for k in (1, NUM_MEMBERS):
        expected = cross_fit_stacking(TaskKind.MULTICLASS, targets, members[:k], folds)
        assert told[k - 1] == pytest.approx(figure(targets, expected), rel=1e-9)


def test_what_is_delivered_calibrated_is_scored_calibrated_out_of_fold() -> None:
    targets, members = make_members()
    folds = assign_folds(TaskKind.MULTICLASS, targets, seed=SEED)
    for k, told in enumerate(grow(targets, members, calibrate=True), start=1):
        mean = members[:k].astype(np.float64).mean(axis=0)
        scaled, _ = cross_fit_temperature(TaskKind.MULTICLASS, targets, mean, folds)
        assert told == pytest.approx(figure(targets, scaled), rel=1e-9)


def weighted_average(members: np.ndarray, weights: Sequence[float]) -> np.ndarray:
    return np.tensordot(np.asarray(weights), members.astype(np.float64), axes=1)


@pytest.mark.parametrize("weights", ["nll", "greedy"])
def test_noise_does_not_improve_a_cross_fitted_score_for_ever(weights: str) -> None:
    """Weights fitted to random members: the naive score is better than knowing nothing, the cross-fitted one is not."""
    rng = np.random.default_rng(5)
    targets = rng.integers(0, NUM_CLASSES, 40)
    noise = rng.dirichlet(np.full(NUM_CLASSES, 0.3), (20, 40)).astype(np.float32)
    uniform = np.full((1, 40, NUM_CLASSES), 1 / NUM_CLASSES, np.float32)
    members = np.concatenate([uniform, noise])
    naive = weighted_average(members, fit_weights(weights, TaskKind.MULTICLASS, targets, members).values)
    assert figure(targets, naive) < np.log(NUM_CLASSES) - 0.02
    told = grow(targets, members, combine="weighted", weights=weights)
    assert told[0] == pytest.approx(np.log(NUM_CLASSES))
    assert all(value is not None for value in told)
    assert min(value for value in told if value is not None) > np.log(NUM_CLASSES) - 0.02


def test_a_regression_is_scored_by_its_errors() -> None:
    rng = np.random.default_rng(2)
    targets = rng.normal(size=(20, 2))
    members = (targets + rng.normal(size=(3, 20, 2))).astype(np.float32)
    scores = PrefixScores(TaskKind.REGRESSION, targets, EnsembleSpec(), "rmse", SEED)
    for k in range(1, 4):
        errors = members[:k].astype(np.float64).mean(axis=0) - targets
        assert scores.add(k - 1, members[k - 1], Unread()) == pytest.approx(np.sqrt(np.mean(errors**2)))


@pytest.mark.parametrize(("metric", "targets"), [("rmse", [0, 1, 2]), ("top_k", [0, 1, 2]), ("auc", [1, 1, 1])])
def test_a_metric_that_cannot_be_told_of_the_rows_is_refused_with_its_key(metric: str, targets: list[int]) -> None:
    with pytest.raises(InvalidJob, match=metric) as caught:
        watched(metric, TaskKind.MULTICLASS, np.array(targets), np.full((3, 3), 1 / 3))
    assert caught.value.where == "ensemble.stop_when.metric"
