"""Combining members: equal to the formula, independent of order, strict about what it is given."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.ensemble.combine import Accumulator, Spread, from_logits, to_logits
from orchestrator.ensemble.tasks import TaskKind
from orchestrator.errors import InvalidModel, OrchestratorError

MULTICLASS, BINARY, MULTILABEL, REGRESSION = TaskKind


def members(seed: int, num_members: int, num_rows: int = 5, num_classes: int = 3) -> np.ndarray:
    """Random float32 probabilities [M, N, C]."""
    raw = np.random.default_rng(seed).random((num_members, num_rows, num_classes)) + 1e-3
    return (raw / raw.sum(axis=2, keepdims=True)).astype(np.float32)


def combined(
    predictions: Iterable[np.ndarray],
    weights: Iterable[float | np.ndarray] | None = None,
    task: TaskKind = MULTICLASS,
    how: str = "mean",
) -> np.ndarray:
    total = Accumulator(task, how)  # type: ignore[arg-type]
    if weights is None:
        for prediction in predictions:
            total.add(prediction)
    else:
        for prediction, weight in zip(predictions, weights, strict=True):
            total.add(prediction, weight)
    return total.average()


def softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits)
    return powers / powers.sum(axis=-1, keepdims=True)


def test_mean_is_the_average_over_members_in_float64() -> None:
    predictions = members(0, 7)
    result = combined(predictions)
    assert result.dtype == np.float64
    np.testing.assert_allclose(result, predictions.astype(np.float64).mean(axis=0), rtol=0, atol=1e-15)


def test_weighting_four_members_equals_the_formula_by_hand() -> None:
    a, b, c, d = members(1, 4).astype(np.float64)
    expected = 0.5 * a + 0.25 * b + 0.1 * c + 0.15 * d
    np.testing.assert_allclose(combined([a, b, c, d], [0.5, 0.25, 0.1, 0.15]), expected, rtol=0, atol=1e-15)


def test_weights_are_scaled_to_sum_one() -> None:
    predictions = members(2, 3)
    np.testing.assert_allclose(
        combined(predictions, [10, 20, 10]), combined(predictions, [0.25, 0.5, 0.25]), atol=1e-15
    )


def test_a_weight_for_each_row_weighs_rows_apart() -> None:
    predictions = members(3, 3, num_rows=4)
    weights = np.random.default_rng(3).random((3, 4))
    expected = [np.average(predictions[:, n], axis=0, weights=weights[:, n]) for n in range(4)]
    np.testing.assert_allclose(combined(predictions, list(weights)), expected, rtol=1e-12)


def test_as_many_rows_as_classes_do_not_confuse_a_weight_for_each_row() -> None:
    predictions = members(4, 2, num_rows=3, num_classes=3)
    result = combined(predictions, [np.array([1.0, 0, 1]), np.array([0.0, 1, 0])])
    np.testing.assert_array_equal(result, [predictions[0, 0], predictions[1, 1], predictions[0, 2]])


def test_members_are_read_one_at_a_time_and_a_thousand_add_up() -> None:
    alive: list[int] = []

    def stream() -> Iterator[np.ndarray]:
        for index in range(1000):
            alive.append(index)
            yield np.full((2, 2), index, dtype=np.float32)

    np.testing.assert_array_equal(combined(stream()), np.full((2, 2), 499.5))
    assert alive == list(range(1000))


@pytest.mark.parametrize("how", ["mean", "logits"])
def test_the_members_arrays_are_left_untouched(how: str) -> None:
    predictions = members(3, 2).astype(np.float64)
    before = predictions.copy()
    combined(predictions, how=how)
    combined(predictions, [1, 3], how=how)
    np.testing.assert_array_equal(predictions, before)


@given(seed=st.integers(0, 10_000), num_members=st.integers(1, 12), how=st.sampled_from(["mean", "logits"]))
@settings(max_examples=50, deadline=None)
def test_the_mean_of_identical_members_is_the_member(seed: int, num_members: int, how: str) -> None:
    (one,) = members(seed, 1).astype(np.float64)
    np.testing.assert_allclose(combined([one] * num_members, how=how), one, rtol=1e-6)


@given(seed=st.integers(0, 10_000), num_members=st.integers(2, 12), data=st.data())
@settings(max_examples=50, deadline=None)
def test_permuting_members_with_their_weights_changes_nothing(seed: int, num_members: int, data: st.DataObject) -> None:
    predictions = members(seed, num_members)
    weights = data.draw(st.lists(st.floats(1e-3, 1e3), min_size=num_members, max_size=num_members))
    order = data.draw(st.permutations(range(num_members)))
    permuted = combined(predictions[list(order)], [weights[i] for i in order])
    np.testing.assert_allclose(permuted, combined(predictions, weights), rtol=0, atol=1e-12)


@given(seed=st.integers(0, 10_000), num_members=st.integers(1, 12), how=st.sampled_from(["mean", "logits"]))
@settings(max_examples=50, deadline=None)
def test_averages_of_probabilities_are_probabilities(seed: int, num_members: int, how: str) -> None:
    result = combined(members(seed, num_members), how=how)
    np.testing.assert_allclose(result.sum(axis=1), 1, atol=1e-6)
    assert (result >= 0).all()


def test_mean_of_logits_is_the_softmax_of_the_members_mean_logits() -> None:
    logits = np.random.default_rng(5).normal(size=(4, 6, 3))
    weights = [0.4, 0.3, 0.2, 0.1]
    expected = softmax(np.average(logits, axis=0, weights=weights))
    np.testing.assert_allclose(combined(softmax(logits), weights, how="logits"), expected, rtol=1e-12)


def test_mean_of_logits_of_two_members_by_hand() -> None:
    # geometric means √(.9 · .4) = .6 and √(.1 · .6) = √.06
    both = combined([np.array([[0.9, 0.1]]), np.array([[0.4, 0.6]])], how="logits")
    np.testing.assert_allclose(both, [[0.6 / (0.6 + 0.06**0.5), 0.06**0.5 / (0.6 + 0.06**0.5)]], rtol=1e-12)


@pytest.mark.parametrize("task", [BINARY, MULTILABEL])
def test_mean_of_logits_of_yes_or_no_is_the_sigmoid_of_the_mean_logit(task: TaskKind) -> None:
    logits = np.random.default_rng(6).normal(size=(3, 5, 1 if task is BINARY else 4))
    result = combined(1 / (1 + np.exp(-logits)), task=task, how="logits")
    np.testing.assert_allclose(result, 1 / (1 + np.exp(-logits.mean(axis=0))), rtol=1e-12)


def test_values_of_a_regression_have_no_logits_and_are_averaged() -> None:
    values = np.array([[[-3.0]], [[5.0]]])
    np.testing.assert_array_equal(combined(values, task=REGRESSION, how="logits"), [[1.0]])
    with pytest.raises(OrchestratorError, match="no logits"):
        to_logits(REGRESSION, values[0])


def test_an_exact_zero_of_one_member_does_not_veto_a_class() -> None:
    sure, other = np.array([[1.0, 0.0]]), np.array([[1e-7, 1 - 1e-7]])
    np.testing.assert_allclose(combined([sure, other], how="logits"), [[0.5, 0.5]], atol=1e-6)
    np.testing.assert_allclose(combined([1 - sure[:, 1:], other[:, :1]], task=BINARY, how="logits"), [[0.5]], atol=1e-6)


@given(st.lists(st.floats(1e-6, 1 - 1e-6), min_size=1, max_size=8))
@settings(max_examples=50, deadline=None)
def test_logits_lead_back_to_their_probabilities(values: list[float]) -> None:
    yes = np.array(values)[:, None]
    np.testing.assert_allclose(from_logits(BINARY, to_logits(BINARY, yes)), yes, rtol=1e-9)
    both = np.concatenate([yes, 1 - yes], axis=1)
    np.testing.assert_allclose(from_logits(MULTICLASS, to_logits(MULTICLASS, both)), both, rtol=1e-9)


def test_huge_logits_do_not_overflow() -> None:
    with np.errstate(all="raise", under="ignore"):
        np.testing.assert_array_equal(from_logits(BINARY, np.array([[-1e4], [1e4]])), [[0], [1]])
        np.testing.assert_array_equal(from_logits(MULTICLASS, np.array([[-1e4, 1e4]])), [[0, 1]])


def test_spread_is_the_weighted_mean_and_variance_over_members() -> None:
    values = np.random.default_rng(7).normal(size=(6, 5, 2)).astype(np.float32)
    weights = np.random.default_rng(8).random((6, 5))
    plain, weighted = Spread(REGRESSION), Spread(REGRESSION)
    for member, weight in zip(values, weights, strict=True):
        plain.add(member)
        weighted.add(member, weight)
    wide = np.broadcast_to(weights[:, :, None], values.shape)
    mean = np.average(values, axis=0, weights=wide)
    np.testing.assert_allclose(plain.mean(), values.astype(np.float64).mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(plain.variance(), values.astype(np.float64).var(axis=0), rtol=1e-12)
    np.testing.assert_allclose(weighted.mean(), mean, rtol=1e-12)
    np.testing.assert_allclose(weighted.variance(), np.average((values - mean) ** 2, axis=0, weights=wide), rtol=1e-12)


def test_spread_keeps_the_digits_of_large_values_close_together() -> None:
    spread = Spread(REGRESSION)
    for value in (1e9, 1e9 + 1, 1e9 + 2):
        spread.add(np.array([[value]]))
    np.testing.assert_allclose(spread.variance(), [[2 / 3]], rtol=1e-9)


def test_a_spread_is_of_several_where_two_members_have_weight_in_every_row() -> None:
    spread = Spread(REGRESSION)
    assert not spread.of_several()
    for value, weight, several in ((1.0, [1.0, 1.0], False), (2.0, [0.0, 1.0], False), (3.0, [0.5, 0.0], True)):
        spread.add(np.full((2, 1), value), np.array(weight))
        assert spread.of_several() is several


def test_a_member_of_weight_zero_leaves_the_spread_as_it_is_even_as_the_first() -> None:
    spread = Spread(REGRESSION)
    for value, weight in ((7.0, 0.0), (1.0, 1.0), (3.0, 1.0), (9.0, 0.0)):
        spread.add(np.array([[value]]), weight)
    assert (spread.mean().tolist(), spread.variance().tolist()) == ([[2.0]], [[1.0]])


def test_spread_is_for_regression_alone() -> None:
    with pytest.raises(OrchestratorError, match="spread of a multiclass"):
        Spread(MULTICLASS)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_refused_and_the_member_named(value: float) -> None:
    predictions = members(4, 3)
    predictions[2, 1, 0] = value
    with pytest.raises(InvalidModel, match="member 2: 1 of 15 predicted values"):
        combined(predictions)


def test_a_member_of_weight_zero_must_be_finite_too() -> None:
    predictions = members(4, 2)
    predictions[1] = np.nan
    with pytest.raises(InvalidModel, match="NaN"):
        combined(predictions, [1, 0])


@pytest.mark.parametrize("make", [lambda: Accumulator(MULTICLASS), lambda: Spread(REGRESSION)])
def test_another_shape_is_refused_and_the_member_named(make: type[Spread]) -> None:
    total = make()
    total.add(np.zeros((5, 3)))
    with pytest.raises(InvalidModel, match=r"the late one: predictions have shape \(4, 3\)"):
        total.add(np.zeros((4, 3)), name="the late one")


def test_a_single_prediction_is_not_averaged_over_its_examples() -> None:
    with pytest.raises(InvalidModel, match="cannot be combined"):
        combined(np.zeros((5, 3)))


def test_no_members_is_an_error() -> None:
    with pytest.raises(InvalidModel, match="no predictions"):
        combined([])
    with pytest.raises(InvalidModel, match="no predictions"):
        Spread(REGRESSION).mean()


def test_a_row_without_weight_is_an_error() -> None:
    weight = np.array([1.0, 0.0])
    with pytest.raises(InvalidModel, match="no predictions"):
        combined([np.ones((2, 1))], [weight], task=REGRESSION)
    spread = Spread(REGRESSION)
    spread.add(np.ones((2, 1)), weight)
    with pytest.raises(InvalidModel, match="no predictions"):
        spread.variance()
