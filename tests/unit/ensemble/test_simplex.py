"""Weights on the simplex: optimal by their own certificate, and equal to what slower, general solvers find."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

from orchestrator.ensemble.simplex import least_squares, likeliest_mixture


def likelihoods(seed: int, num_members: int, num_rows: int, skill: float = 0.1) -> np.ndarray:
    """[M, N] of members that find the same rows hard and differ in skill and by chance."""
    rng = np.random.default_rng(seed)
    logits = (
        rng.normal(2, 2, num_rows) + rng.normal(0, skill, (num_members, 1)) + rng.normal(size=(num_members, num_rows))
    )
    return 1 / (1 + np.exp(-logits))


def gains(weights: np.ndarray, values: np.ndarray) -> np.ndarray:
    return (values / (weights @ values)).mean(axis=1)


def assert_likeliest(weights: np.ndarray, values: np.ndarray, tolerance: float = 1e-7) -> None:
    """The Karush–Kuhn–Tucker conditions, which for a convex problem only the optimum meets."""
    assert weights.min() >= 0
    assert weights.sum() == pytest.approx(1, abs=1e-12)
    found = gains(weights, values)
    assert found.max() <= 1 + tolerance
    np.testing.assert_allclose(found[weights > 0], 1, atol=tolerance)


def by_slsqp(loss: object, num_members: int) -> np.ndarray:
    start = np.full(num_members, 1 / num_members)
    sums_to_one = {"type": "eq", "fun": lambda w: w.sum() - 1}
    found = minimize(
        loss,
        start,
        method="SLSQP",
        bounds=[(0, 1)] * num_members,
        constraints=[sums_to_one],
        options={"ftol": 1e-14, "maxiter": 1000},
    )
    assert found.success, found.message
    return found.x


@pytest.mark.parametrize(
    ("num_members", "num_rows", "skill"),
    [(1, 5, 0.1), (2, 1, 0.1), (5, 40, 0.1), (40, 1000, 0.0), (150, 600, 0.02), (300, 60, 0.0), (200, 2000, 0.0)],
)
def test_likeliest_mixture_meets_the_conditions_of_the_optimum(num_members: int, num_rows: int, skill: float) -> None:
    for seed in range(3):
        values = likelihoods(seed, num_members, num_rows, skill)
        assert_likeliest(likeliest_mixture(values), values)


@given(
    seed=st.integers(0, 10_000),
    num_members=st.integers(1, 40),
    num_rows=st.integers(1, 60),
    power=st.sampled_from([0.1, 1, 5]),
)
@settings(max_examples=100, deadline=None)
def test_likeliest_mixture_meets_them_for_any_likelihoods(
    seed: int, num_members: int, num_rows: int, power: float
) -> None:
    values = np.maximum(np.random.default_rng(seed).random((num_members, num_rows)) ** power, 1e-7)
    assert_likeliest(likeliest_mixture(values), values, tolerance=1e-6)


def test_likeliest_mixture_equals_that_of_a_general_solver() -> None:
    values = likelihoods(11, 6, 200)
    expected = by_slsqp(lambda w: -np.mean(np.log(w @ values)), 6)
    np.testing.assert_allclose(likeliest_mixture(values), expected, atol=1e-4)


def test_likeliest_mixture_of_two_members_by_hand() -> None:
    # w = share of member 0; derivative 3·(.9 − .1)/(.1 + .8 w) = (.9 − .1)/(.9 − .8 w) gives w = 0.8125
    values = np.array([[0.9, 0.9, 0.9, 0.1], [0.1, 0.1, 0.1, 0.9]])
    np.testing.assert_allclose(likeliest_mixture(values), [0.8125, 0.1875], rtol=1e-7)


def test_a_member_below_another_everywhere_gets_nothing() -> None:
    good = likelihoods(1, 1, 50)
    np.testing.assert_array_equal(likeliest_mixture(np.concatenate([good * 0.9, good])), [0, 1])


def test_copies_of_a_member_share_its_weight() -> None:
    one, two = likelihoods(2, 2, 200, skill=0)
    alone, copied = likeliest_mixture(np.stack([one, two])), likeliest_mixture(np.stack([one, two, one, one]))
    assert alone.min() > 0.1
    np.testing.assert_allclose(copied, [alone[0] / 3, alone[1], alone[0] / 3, alone[0] / 3], atol=1e-6)
    np.testing.assert_allclose(likeliest_mixture(np.stack([one] * 5)), [0.2] * 5, atol=1e-6)


def test_extreme_likelihoods_are_weighed_too() -> None:
    rng = np.random.default_rng(3)
    values = np.where(rng.random((50, 300)) < 0.3, 1e-7, 1 - 1e-7)
    assert_likeliest(likeliest_mixture(values), values, tolerance=1e-6)


def test_the_same_likelihoods_give_the_same_bits() -> None:
    values = likelihoods(4, 60, 300, skill=0)
    assert likeliest_mixture(values).tobytes() == likeliest_mixture(values.copy()).tobytes()


def assert_least(weights: np.ndarray, residuals: np.ndarray) -> None:
    """The same conditions for least squares: no member's residuals are less in line with the average's than its own."""
    assert weights.min() >= 0
    assert weights.sum() == pytest.approx(1, abs=1e-12)
    average = weights @ residuals
    slopes, own = residuals @ average, average @ average
    scale = np.square(residuals).sum() / len(residuals)
    assert slopes.min() >= own - 1e-6 * scale
    np.testing.assert_allclose(slopes[weights > 0], own, atol=1e-6 * scale)


@pytest.mark.parametrize(("num_members", "num_rows"), [(1, 5), (2, 1), (5, 40), (60, 30), (100, 1000), (200, 50)])
def test_least_squares_meets_the_conditions_of_the_optimum(num_members: int, num_rows: int) -> None:
    for seed in range(3):
        rng = np.random.default_rng(seed)
        residuals = rng.normal(size=num_rows) + rng.normal(size=(num_members, num_rows))
        assert_least(least_squares(residuals), residuals)


def test_least_squares_equals_that_of_a_general_solver() -> None:
    residuals = np.random.default_rng(5).normal(size=(6, 100)) + np.random.default_rng(6).normal(size=100)
    expected = by_slsqp(lambda w: np.mean(np.square(w @ residuals)), 6)
    np.testing.assert_allclose(least_squares(residuals), expected, atol=1e-4)


def test_least_squares_of_independent_errors_is_in_proportion_to_their_inverse_variance() -> None:
    residuals = np.array([[1.0, 1, 0, 0], [0, 0, 2, 2]])  # orthogonal: mean squares 1/2 and 2
    np.testing.assert_allclose(least_squares(residuals), [0.8, 0.2], rtol=1e-7)


def test_least_squares_of_a_perfect_member_takes_it_alone_and_shares_among_copies() -> None:
    noise = np.random.default_rng(7).normal(size=30)
    np.testing.assert_allclose(least_squares(np.stack([noise, np.zeros(30)])), [0, 1], atol=1e-8)
    np.testing.assert_allclose(least_squares(np.zeros((4, 30))), [0.25] * 4)
    np.testing.assert_allclose(least_squares(np.stack([noise] * 4)), [0.25] * 4, atol=1e-5)


@pytest.mark.parametrize("scale", [1e-8, 1e8])
def test_least_squares_does_not_depend_on_the_unit(scale: float) -> None:
    residuals = np.random.default_rng(8).normal(size=(5, 50))
    np.testing.assert_allclose(least_squares(scale * residuals), least_squares(residuals), atol=1e-9)
