"""Weights: they sum to 1 and say on which data they were fitted."""

from __future__ import annotations

import dataclasses
import math

import pytest
from hypothesis import given as examples
from hypothesis import settings
from hypothesis import strategies as st

from orchestrator.ensemble.weights import Weights, by_accuracy, given, normalise
from orchestrator.errors import InvalidJob


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
