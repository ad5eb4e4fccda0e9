"""Combining members: equal to the formula, independent of order, strict about what it is given."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.ensemble.combine import mean, weighted
from orchestrator.errors import InvalidJob, InvalidModel


def members(seed: int, num_members: int, num_rows: int = 5, num_classes: int = 3) -> np.ndarray:
    """Random float32 probabilities [M, N, C]."""
    raw = np.random.default_rng(seed).random((num_members, num_rows, num_classes)) + 1e-3
    return (raw / raw.sum(axis=2, keepdims=True)).astype(np.float32)


def test_mean_is_the_average_over_members_in_float64() -> None:
    predictions = members(0, 7)
    result = mean(predictions)
    assert result.dtype == np.float64
    np.testing.assert_allclose(result, predictions.astype(np.float64).mean(axis=0), rtol=0, atol=1e-15)


def test_weighting_four_members_equals_the_formula_by_hand() -> None:
    a, b, c, d = members(1, 4).astype(np.float64)
    expected = 0.5 * a + 0.25 * b + 0.1 * c + 0.15 * d
    np.testing.assert_allclose(weighted([a, b, c, d], [0.5, 0.25, 0.1, 0.15]), expected, rtol=0, atol=1e-15)


def test_weights_are_scaled_to_sum_one() -> None:
    predictions = members(2, 3)
    np.testing.assert_allclose(
        weighted(predictions, [10, 20, 10]), weighted(predictions, [0.25, 0.5, 0.25]), atol=1e-15
    )


def test_members_are_read_once_and_one_at_a_time() -> None:
    alive: list[int] = []

    def stream() -> Iterator[np.ndarray]:
        for index in range(1000):
            alive.append(index)
            yield np.full((2, 2), index, dtype=np.float32)

    np.testing.assert_array_equal(mean(stream()), np.full((2, 2), 499.5))
    assert alive == list(range(1000))


def test_the_members_arrays_are_left_untouched() -> None:
    predictions = members(3, 2)
    before = predictions.copy()
    mean(predictions)
    weighted(predictions, [1, 3])
    np.testing.assert_array_equal(predictions, before)


@given(seed=st.integers(0, 10_000), num_members=st.integers(1, 12))
@settings(max_examples=50, deadline=None)
def test_the_mean_of_identical_members_is_the_member(seed: int, num_members: int) -> None:
    (one,) = members(seed, 1)
    np.testing.assert_allclose(mean([one] * num_members), one, rtol=1e-14)


@given(seed=st.integers(0, 10_000), num_members=st.integers(2, 12), data=st.data())
@settings(max_examples=50, deadline=None)
def test_permuting_members_with_their_weights_changes_nothing(seed: int, num_members: int, data: st.DataObject) -> None:
    predictions = members(seed, num_members)
    weights = data.draw(st.lists(st.floats(1e-3, 1e3), min_size=num_members, max_size=num_members))
    order = data.draw(st.permutations(range(num_members)))
    permuted = weighted(predictions[list(order)], [weights[i] for i in order])
    np.testing.assert_allclose(permuted, weighted(predictions, weights), rtol=0, atol=1e-12)


@given(seed=st.integers(0, 10_000), num_members=st.integers(1, 12))
@settings(max_examples=50, deadline=None)
def test_averages_of_probabilities_are_probabilities(seed: int, num_members: int) -> None:
    result = mean(members(seed, num_members))
    np.testing.assert_allclose(result.sum(axis=1), 1, atol=1e-6)
    assert (result >= 0).all()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_refused_and_the_member_named(value: float) -> None:
    predictions = members(4, 3)
    predictions[2, 1, 0] = value
    with pytest.raises(InvalidModel, match="member 2: 1 of 15 predicted values"):
        mean(predictions)


def test_a_member_of_weight_zero_must_be_finite_too() -> None:
    predictions = members(4, 2)
    predictions[1] = np.nan
    with pytest.raises(InvalidModel, match="NaN"):
        weighted(predictions, [1, 0])


def test_another_shape_is_refused_and_the_member_named() -> None:
    with pytest.raises(InvalidModel, match=r"member 1: predictions have shape \(4, 3\)"):
        mean([np.zeros((5, 3)), np.zeros((4, 3))])


def test_a_single_prediction_is_not_averaged_over_its_examples() -> None:
    with pytest.raises(InvalidModel, match="cannot be combined"):
        mean(np.zeros((5, 3)))


def test_no_members_is_an_error() -> None:
    with pytest.raises(InvalidModel, match="no predictions"):
        mean([])


@pytest.mark.parametrize("weights", [[0, 0], [1, -1], [1, np.nan], [np.inf, 1], []])
def test_unusable_weights_are_refused(weights: list[float]) -> None:
    with pytest.raises(InvalidJob):
        weighted(members(5, 2), weights)


@pytest.mark.parametrize("weights", [[1], [1, 1, 1]])
def test_another_number_of_weights_than_members_is_refused(weights: list[float]) -> None:
    with pytest.raises(InvalidJob, match=f"{len(weights)} weights for 2 members"):
        weighted(members(6, 2), weights)
