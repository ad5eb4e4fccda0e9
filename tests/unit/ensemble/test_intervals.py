"""The paired bootstrap: equal to scipy's and to closed forms, paired, and the same at every call."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from scipy import stats

from orchestrator.ensemble.intervals import Resamples, interval, metric_samples
from orchestrator.ensemble.metrics import score
from orchestrator.ensemble.tasks import TaskKind
from orchestrator.errors import InvalidData, OrchestratorError

MULTICLASS, BINARY, MULTILABEL, REGRESSION = TaskKind


def example(task: TaskKind, seed: int, num_rows: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    if task is MULTICLASS:
        powers = np.exp(3 * rng.normal(size=(num_rows, 4)))
        return rng.integers(0, 4, num_rows), powers / powers.sum(axis=1, keepdims=True)
    if task is REGRESSION:
        targets = 1e4 + rng.normal(size=(num_rows, 2))
        return targets, targets + rng.normal(size=(num_rows, 2))
    width = 1 if task is BINARY else 3
    answers = rng.integers(0, 2, (num_rows, width))
    return answers[:, 0] if task is BINARY else answers, rng.random((num_rows, width))


def test_the_interval_of_a_mean_is_that_of_scipy() -> None:
    values = np.random.default_rng(0).exponential(size=150)
    low, high = interval(Resamples(150, seed=0, num_resamples=20_000).means(values[:, None])[:, 0])
    oracle = stats.bootstrap(
        (values,), np.mean, n_resamples=20_000, method="percentile", rng=np.random.default_rng(1)
    ).confidence_interval
    tolerance = 0.05 * values.std() / np.sqrt(150)
    assert (low, high) == (pytest.approx(oracle.low, abs=tolerance), pytest.approx(oracle.high, abs=tolerance))


@pytest.mark.parametrize("level", [0.8, 0.95])
def test_the_interval_of_an_accuracy_is_near_the_normal_approximation(level: float) -> None:
    right = np.arange(1000) < 900
    low, high = interval(Resamples(1000, seed=1, num_resamples=10_000).means(right[:, None])[:, 0], level)
    half = stats.norm.ppf((1 + level) / 2) * np.sqrt(0.9 * 0.1 / 1000)
    assert (low, high) == (pytest.approx(0.9 - half, abs=0.05 * half), pytest.approx(0.9 + half, abs=0.05 * half))


def test_resampled_means_vary_as_much_as_theory_says() -> None:
    values = np.random.default_rng(2).normal(size=(400, 3)) * [1, 10, 0.1]
    means = Resamples(400, seed=2, num_resamples=10_000).means(values)
    assert means.shape == (10_000, 3)
    np.testing.assert_allclose(means.std(axis=0), values.std(axis=0) / 20, rtol=0.03)
    np.testing.assert_allclose(means.mean(axis=0), values.mean(axis=0), atol=5 * means.std(axis=0).max() / 100)


def test_draws_cut_into_blocks_are_those_of_one_block() -> None:
    num_rows, num_resamples = 20_000, 150  # 72 MB of draws: three blocks
    values = np.random.default_rng(3).normal(size=(num_rows, 2))
    rng = np.random.default_rng(np.random.SeedSequence(9, spawn_key=(2, 2)))
    rows = rng.integers(0, num_rows, size=(num_resamples, num_rows))
    expected = np.array([values[drawn].mean(axis=0) for drawn in rows])
    np.testing.assert_allclose(Resamples(num_rows, 9, num_resamples).means(values), expected, atol=1e-12)


def test_each_resample_has_as_many_rows_as_there_are() -> None:
    counts = 30 * Resamples(30, seed=4, num_resamples=50).means(np.eye(30))
    np.testing.assert_allclose(counts, counts.round(), atol=1e-9)
    np.testing.assert_allclose(counts.sum(axis=1), 30)
    assert len(np.unique(counts.round(), axis=0)) == 50


def test_a_seed_replays_its_draws_at_every_call_and_another_seed_does_not() -> None:
    values = np.random.default_rng(5).normal(size=(100, 2))
    resamples = Resamples(100, seed=5)
    first = resamples.means(values)
    assert first.shape == (1000, 2)
    assert resamples.means(values).tobytes() == first.tobytes() == Resamples(100, seed=5).means(values).tobytes()
    assert (Resamples(100, seed=6).means(values) != first).any()


def test_the_difference_of_two_figures_is_paired() -> None:
    """What makes a row hard for both cancels, as it would not if each figure had draws of its own."""
    rng = np.random.default_rng(6)
    one = rng.exponential(size=(500, 1))
    other = one + 0.05 * rng.normal(size=(500, 1))
    paired = Resamples(500, seed=0).means(one) - Resamples(500, seed=0).means(other)
    unpaired = Resamples(500, seed=0).means(one) - Resamples(500, seed=1).means(other)
    assert paired.var() == pytest.approx((one - other).var() / 500, rel=0.2)
    assert paired.var() < unpaired.var() / 100


@pytest.mark.parametrize("task", list(TaskKind))
def test_metrics_of_each_resample_are_those_of_scoring_its_rows(task: TaskKind) -> None:
    num_rows, num_resamples = 40, 25
    targets, predictions = example(task, 7, num_rows)
    resamples = Resamples(num_rows, seed=7, num_resamples=num_resamples)
    samples = metric_samples(resamples, task, targets, predictions)
    names = {"rmse", "mae", "r2"} if task is REGRESSION else {"accuracy", "nll", "brier", "ece"}
    assert samples.keys() == names
    counts = np.rint(num_rows * resamples.means(np.eye(num_rows))).astype(np.int64)
    for draw in range(num_resamples):
        rows = np.repeat(np.arange(num_rows), counts[draw])
        expected = dataclasses.asdict(score(task, targets[rows], predictions[rows]))
        for name, values in samples.items():
            assert values[draw] == pytest.approx(expected[name], rel=1e-7), name


def test_confidences_on_the_edge_of_a_bin_are_binned_as_in_the_score() -> None:
    targets = np.arange(30) % 2
    predictions = np.repeat(np.linspace(0, 1, 16), 2)[:30, None].astype(np.float32)
    samples = metric_samples(Resamples(30, seed=0, num_resamples=1000), BINARY, targets, predictions)
    counts = np.rint(30 * Resamples(30, seed=0, num_resamples=1000).means(np.eye(30))).astype(np.int64)
    rows = np.repeat(np.arange(30), counts[17])
    assert samples["ece"][17] == pytest.approx(score(BINARY, targets[rows], predictions[rows]).ece)


def test_a_resample_of_one_value_has_no_r2_and_leaves_the_interval_to_the_others() -> None:
    targets = np.array([[1e6], [1e6 + 1]])
    samples = metric_samples(Resamples(2, seed=0), REGRESSION, targets, targets + 0.5)
    undefined = np.isnan(samples["r2"])
    assert 0.4 < undefined.mean() < 0.6
    np.testing.assert_allclose(samples["r2"][~undefined], 0, atol=1e-9)
    assert interval(samples["r2"]) == pytest.approx((0, 0), abs=1e-9)


def test_an_interval_holds_its_share_of_the_samples() -> None:
    samples = np.arange(1001.0)[::-1]
    assert interval(samples, 0.9) == pytest.approx((50, 950))
    assert np.isnan(interval(np.full(3, np.nan))).all()


@pytest.mark.parametrize("level", [0, 1, 95, -0.5, float("nan")])
def test_what_is_no_level_is_refused(level: float) -> None:
    with pytest.raises(OrchestratorError, match="no level"):
        interval(np.arange(5.0), level)


def test_what_cannot_be_resampled_is_refused() -> None:
    with pytest.raises(InvalidData, match="no rows"):
        Resamples(0, seed=0)
    with pytest.raises(OrchestratorError, match="0 resamples"):
        Resamples(5, seed=0, num_resamples=0)
    for values in (np.zeros((4, 1)), np.zeros(5)):
        with pytest.raises(OrchestratorError, match="do not fit resamples of 5 rows"):
            Resamples(5, seed=0).means(values)
