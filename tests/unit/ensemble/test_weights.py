"""Weights: they sum to 1 and say on which data they were fitted."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given as examples
from hypothesis import settings
from hypothesis import strategies as st

from orchestrator.ensemble.weights import (
    Weights,
    by_accuracy,
    by_error,
    by_nll,
    by_squared_error,
    given,
    greedy,
    nll_losses,
    normalise,
    squared_error_losses,
)
from orchestrator.errors import InvalidData, InvalidJob, InvalidModel

# Likelihoods of three members on two rows: the third is middling on both, the others each know one row.
A, B, C = [0.9, 0.1], [0.1, 0.9], [0.4, 0.4]


def test_given_weights_of_all_members_stay_what_they_are() -> None:
    assert given([0.5, 0.25, 0.1, 0.15], [0, 1, 2, 3]) == Weights((0.5, 0.25, 0.1, 0.15), "given", "given")


def test_given_weights_are_renormalised_over_the_members_that_are_left() -> None:
    assert given([0.5, 0.25, 0.1, 0.15], [0, 1]).values == pytest.approx((2 / 3, 1 / 3))


def test_given_weights_refuse_a_member_without_a_weight() -> None:
    with pytest.raises(InvalidJob, match="2 weights are given, but there is a member 2"):
        given([1, 1], [0, 2])


def test_given_weights_refuse_when_only_members_of_weight_zero_are_left() -> None:
    with pytest.raises(InvalidJob, match="sum to 0"):
        given([1, 0, 0], [1, 2])


def test_accuracy_weights_are_in_proportion_and_say_where_they_were_fitted() -> None:
    weights = by_accuracy([0.9, 0.6, 0.0])
    assert weights.values == pytest.approx((0.6, 0.4, 0.0))
    assert (weights.method, weights.fitted_on) == ("accuracy", "validation")


def test_accuracies_that_are_all_zero_give_equal_weights() -> None:
    assert by_accuracy([0, 0, 0, 0]).values == (0.25, 0.25, 0.25, 0.25)


@pytest.mark.parametrize("accuracies", [[math.nan], [-0.1], [1.1], [math.inf], []])
def test_what_is_no_accuracy_is_refused(accuracies: list[float]) -> None:
    with pytest.raises(InvalidJob):
        by_accuracy(accuracies)


@pytest.mark.parametrize("weights", [[-1.0, 2.0], [math.nan], [math.inf], [0.0, 0.0], []])
def test_normalising_refuses_unusable_weights(weights: list[float]) -> None:
    with pytest.raises(InvalidJob):
        normalise(weights)


@examples(st.lists(st.floats(0, 1), min_size=1, max_size=50))
@settings(max_examples=100, deadline=None)
def test_weights_sum_to_one_and_none_is_negative(accuracies: list[float]) -> None:
    values = by_accuracy(accuracies).values
    assert math.fsum(values) == pytest.approx(1, abs=1e-12)
    assert min(values) >= 0
    assert len(values) == len(accuracies)


def test_weights_are_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        by_accuracy([1.0]).method = "other"  # type: ignore[misc]


def test_error_weights_are_in_proportion_to_the_inverse_of_the_mean_squared_error() -> None:
    weights = by_error([1.0, 2.0, 4.0])
    assert weights.values == pytest.approx((4 / 7, 2 / 7, 1 / 7))
    assert (weights.method, weights.fitted_on) == ("error", "validation")


@pytest.mark.parametrize(
    ("errors", "expected"),
    [([0.0, 1.0, 0.0], (0.5, 0, 0.5)), ([5e-324, 1e300], (1, 0)), ([1e300, 1e300], (0.5, 0.5))],
)
def test_error_weights_of_members_without_error_and_of_extreme_errors(
    errors: list[float], expected: tuple[float, ...]
) -> None:
    assert by_error(errors).values == pytest.approx(expected)


@pytest.mark.parametrize("errors", [[-0.1], [math.nan], [1.0, math.inf], []])
def test_what_is_no_squared_error_is_refused(errors: list[float]) -> None:
    with pytest.raises(InvalidJob):
        by_error(errors)


def test_nll_weights_are_the_best_there_are() -> None:
    rng = np.random.default_rng(0)
    likelihoods = rng.random((6, 80))
    weights = by_nll(likelihoods)
    assert (weights.method, weights.fitted_on) == ("nll", "validation")
    assert math.fsum(weights.values) == pytest.approx(1, abs=1e-12)
    (best,) = nll_losses(np.array([np.array(weights.values) @ likelihoods]))
    others = rng.dirichlet(np.full(6, 0.3), size=2000)
    assert nll_losses(others @ likelihoods).min() > best
    near = 0.99 * np.array(weights.values) + 0.01 * others
    assert nll_losses(near @ likelihoods).min() > best


def test_nll_weights_take_impossible_events_as_very_unlikely() -> None:
    """Rows to which no member, or all but one, gave any probability at all."""
    weights = by_nll(np.array([[0.0, 0.0, 0.5], [0.0, 0.8, 0.4]]))
    assert weights.values == pytest.approx((0, 1), abs=1e-6)


def test_nll_weights_of_several_labels_are_those_of_all_their_answers() -> None:
    likelihoods = np.random.default_rng(1).random((4, 30, 3))
    assert by_nll(likelihoods) == by_nll(likelihoods.reshape(4, 90))


def test_squared_error_weights_make_the_best_average() -> None:
    rng = np.random.default_rng(2)
    targets = rng.normal(size=(60, 2))
    predictions = targets + 0.3 * rng.normal(size=(60, 2)) + rng.normal(size=(5, 60, 2))
    weights = by_squared_error(predictions, targets)
    assert (weights.method, weights.fitted_on) == ("nll", "validation")
    losses_of = squared_error_losses(targets)
    (best,) = losses_of(np.einsum("m,mnd->nd", weights.values, predictions)[np.newaxis])
    others = rng.dirichlet(np.full(5, 0.5), size=2000)
    assert losses_of(np.einsum("km,mnd->knd", others, predictions)).min() > best


def test_nll_losses_are_the_mean_negative_logarithms_of_any_number_of_rows() -> None:
    for num_rows in (1, 31, 32, 33, 1000):
        likelihoods = np.random.default_rng(num_rows).random((3, num_rows))
        likelihoods[0] = 0  # clipped at 1e-7
        expected = -np.log(np.maximum(likelihoods, 1e-7)).mean(axis=1)
        np.testing.assert_allclose(nll_losses(likelihoods), expected, rtol=1e-12)


@pytest.mark.parametrize(
    ("num_steps", "counts"),
    [
        (1, (0, 0, 1)),  # products of the two likelihoods: A and B .09, C .16
        (2, (1, 0, 1)),  # C + A .1625, C + B the same: the lower index; C + C .16
        (3, (1, 1, 1)),  # + B .2178
        (4, (1, 1, 1)),  # + A or + B .2156: the third step stays the best
        (5, (2, 2, 1)),  # + A + B .48²
        (6, (2, 2, 1)),  # .2292 < .2304
    ],
)
def test_greedy_chooses_step_by_step_as_by_hand(num_steps: int, counts: tuple[int, ...]) -> None:
    weights = greedy(np.array([A, B, C]), nll_losses, num_steps)
    assert weights.values == pytest.approx(tuple(count / sum(counts) for count in counts))
    assert (weights.method, weights.fitted_on) == ("greedy", "validation")


@pytest.mark.parametrize("unit", [1.0, 0.1])
def test_greedy_gives_ties_to_a_member_already_used(unit: float) -> None:
    """At the second step 3 − 1 and −1 − 1 are equally far from 0; in tenths they differ by a rounding error."""
    members = unit * np.array([[[3.0]], [[-1.0]], [[-2.0]]])
    assert greedy(members, squared_error_losses(np.zeros((1, 1))), 3).values == pytest.approx((1 / 3, 2 / 3, 0))


def test_greedy_keeps_the_first_of_equally_good_steps() -> None:
    assert greedy(np.array([[[1.0]], [[-1.0]]]), squared_error_losses(np.zeros((1, 1))), 4).values == (0.5, 0.5)
    assert greedy(np.array([B, B, [0.05, 0.9]]), nll_losses, 50).values == (1, 0, 0)


def test_greedy_looks_at_many_members_in_blocks_and_misses_none() -> None:
    members = np.full((50, 30_000), 0.5)  # seven blocks
    members[47] = 0.6
    assert np.flatnonzero(greedy(members, nll_losses, 2).values).tolist() == [47]


def test_greedy_comes_close_to_the_optimum_and_never_beats_it() -> None:
    likelihoods = np.random.default_rng(4).random((8, 100))
    losses = nll_losses(
        np.array([by_nll(likelihoods).values, greedy(likelihoods, nll_losses, 200).values]) @ likelihoods
    )
    assert losses[0] <= losses[1] <= losses[0] + 1e-3


def test_greedy_without_a_step_is_refused() -> None:
    with pytest.raises(InvalidJob, match="0 greedy steps"):
        greedy(np.array([A, B]), nll_losses, 0)


@pytest.mark.parametrize("value", [math.nan, math.inf, -0.1])
def test_unusable_likelihoods_are_refused_and_the_member_named(value: float) -> None:
    with pytest.raises(InvalidModel, match="member 1"):
        by_nll(np.array([A, [0.5, value], C]))


def test_no_members_and_no_rows_are_refused() -> None:
    for fit in (by_nll, lambda members: greedy(members, nll_losses)):
        with pytest.raises(InvalidModel, match="no members"):
            fit(np.zeros((0, 3)))
        with pytest.raises(InvalidData, match="no rows"):
            fit(np.zeros((3, 0)))
    with pytest.raises(InvalidModel, match="member 0"):
        by_squared_error(np.full((1, 2, 1), np.nan), np.zeros((2, 1)))
