"""The curve of score over size: equal to ensembles put together by hand, and bounded in what it reads and holds."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.ensemble.combine import Accumulator, How
from orchestrator.ensemble.curve import MAX_ORDERS, CurvePoint, SizeCurve, sizes
from orchestrator.ensemble.tasks import TaskKind
from orchestrator.errors import InvalidModel, OrchestratorError

LABELS = np.random.default_rng(0).integers(0, 3, 40)


def members(seed: int, num_members: int) -> np.ndarray:
    """Random float32 probabilities [M, 40, 3] that lean towards the labels."""
    noise = np.random.default_rng(seed).dirichlet(np.ones(3), (num_members, 40))
    return (0.8 * noise + 0.2 * np.eye(3)[LABELS]).astype(np.float32)


def curve_of(
    task: TaskKind,
    targets: np.ndarray,
    predictions: Iterable[np.ndarray],
    num_members: int,
    seed: int,
    how: How = "mean",
) -> dict[str, tuple[CurvePoint, ...]]:
    growing = SizeCurve(task, targets, num_members, seed, how)
    for prediction in predictions:
        growing.add(prediction)
    return growing.result()


def accuracy_and_nll(predictions: np.ndarray, how: How = "mean") -> dict[str, float]:
    """Of the ensemble of these members, by hand."""
    total = Accumulator(TaskKind.MULTICLASS, how)
    for prediction in predictions:
        total.add(prediction)
    average = total.average()
    true = average[np.arange(40), LABELS] / average.sum(axis=1)
    return {"accuracy": float(np.mean(average.argmax(axis=1) == LABELS)), "nll": float(-np.log(true).mean())}


def check(point: CurvePoint, scores: list[float]) -> None:
    assert (point.mean, point.low, point.high) == pytest.approx((np.mean(scores), min(scores), max(scores)), abs=1e-9)
    assert point.orders == len(scores)


@pytest.mark.parametrize(
    ("num_members", "expected"),
    [
        (1, (1,)),
        (2, (1, 2)),
        (3, (1, 2, 3)),
        (5, (1, 2, 3, 4, 5)),
        (12, (1, 2, 3, 4, 6, 8, 12)),
        (13, (1, 2, 3, 4, 6, 8, 12, 13)),
        (100, (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 100)),
    ],
)
def test_sizes_grow_by_about_a_third_or_a_half_up_to_all_members(num_members: int, expected: tuple[int, ...]) -> None:
    assert sizes(num_members) == expected


def test_there_are_never_more_than_32_sizes() -> None:
    assert len(sizes(65_536)) == 32


@pytest.mark.parametrize("how", ["mean", "logits"])
@given(seed=st.integers(0, 10_000), order_seed=st.integers(0, 10_000))
@settings(max_examples=20, deadline=None)
def test_up_to_eight_members_are_each_first_once_and_each_left_out_once(how: How, seed: int, order_seed: int) -> None:
    predictions = members(seed, 4)
    points = curve_of(TaskKind.MULTICLASS, LABELS, predictions, 4, order_seed, how)
    alone = [accuracy_and_nll(predictions[[m]], how) for m in range(4)]
    left_out = [accuracy_and_nll(np.delete(predictions, m, axis=0), how) for m in range(4)]
    for metric in ("accuracy", "nll"):
        by_size = {point.members: point for point in points[metric]}
        check(by_size[1], [score[metric] for score in alone])
        check(by_size[3], [score[metric] for score in left_out])


@pytest.mark.parametrize("how", ["mean", "logits"])
def test_in_order_is_the_score_of_the_first_members_and_all_members_have_one_order(how: How) -> None:
    predictions = members(1, 11)
    points = curve_of(TaskKind.MULTICLASS, LABELS, predictions, 11, 0, how)
    assert list(points) == ["accuracy", "nll"]
    for metric in points:
        assert [point.members for point in points[metric]] == [1, 2, 3, 4, 6, 8, 11]
        for point in points[metric]:
            expected = accuracy_and_nll(predictions[: point.members], how)[metric]
            assert point.in_order == pytest.approx(expected, abs=1e-12)
            assert point.low <= point.mean <= point.high
        last = points[metric][-1]
        assert (last.mean, last.low, last.high, last.orders) == (*[last.in_order] * 3, 1)


@pytest.mark.parametrize("seed", range(5))
def test_each_score_is_that_of_as_many_different_members_as_it_says(seed: int) -> None:
    # Member m predicts 2**m, so that an average tells who is in it.
    points = curve_of(TaskKind.REGRESSION, np.zeros((1, 1)), (np.array([[2.0**m]]) for m in range(20)), 20, seed)
    assert list(points) == ["rmse"]
    for point in points["rmse"]:
        for score in (point.low, point.high, point.in_order):
            who = score * point.members
            assert who == pytest.approx(round(who), abs=1e-6)
            assert round(who).bit_count() == point.members
        if point.members < 20:
            assert point.orders == MAX_ORDERS
            assert point.low < point.high


def test_orders_follow_from_the_seed() -> None:
    predictions = members(2, 12)
    first, again, other = (curve_of(TaskKind.MULTICLASS, LABELS, predictions, 12, seed)["nll"] for seed in (1, 1, 2))
    assert first == again
    assert [point.mean for point in first] != [point.mean for point in other]
    assert [point.in_order for point in first] == [point.in_order for point in other]


@pytest.mark.parametrize("fitting", [0, 1, 3, 8, 100])
def test_there_are_as_many_orders_as_memory_allows(fitting: int) -> None:
    predictions = members(4, 16)
    one_order = 7 * 40 * 3 * 8  # sums up to the sizes 1, 2, 3, 4, 6, 8 and 12
    growing = SizeCurve(TaskKind.MULTICLASS, LABELS, 16, seed=0, max_bytes=fitting * one_order)
    for prediction in predictions:
        growing.add(prediction)
    *inner, last = growing.result()["nll"]
    assert {point.orders for point in inner} == {min(max(fitting, 1), MAX_ORDERS)}
    assert last.orders == 1
    if fitting == 0:
        assert all(point.mean == point.low == point.high == point.in_order for point in inner)


def test_binary_and_multilabel_have_curves_too() -> None:
    rng = np.random.default_rng(5)
    for task, truth, width in (
        (TaskKind.BINARY, rng.integers(0, 2, 9), 1),
        (TaskKind.MULTILABEL, rng.integers(0, 2, (9, 2)), 2),
    ):
        predictions = rng.uniform(0.1, 0.9, (2, 9, width))
        points = curve_of(task, truth, predictions, 2, 0)
        columns = truth.reshape(9, width)
        nlls = [-np.log(np.where(columns == 1, one, 1 - one)).mean() for one in predictions]
        check(points["nll"][0], nlls)


def test_one_member_is_a_curve_of_one_point() -> None:
    (point,) = curve_of(TaskKind.MULTICLASS, LABELS, members(6, 1), 1, 0)["accuracy"]
    assert point == CurvePoint(1, *[point.in_order] * 4, 1)


def test_another_number_of_members_than_announced_is_refused() -> None:
    growing = SizeCurve(TaskKind.MULTICLASS, LABELS, 3, seed=0)
    growing.add(members(7, 1)[0])
    with pytest.raises(OrchestratorError, match="1 predictions for a curve over 3 members"):
        growing.result()
    for prediction in members(7, 2):
        growing.add(prediction)
    with pytest.raises(OrchestratorError, match="too many for a curve over 3 members"):
        growing.add(members(7, 1)[0])


def test_a_prediction_of_another_shape_is_refused() -> None:
    (prediction,) = members(8, 1)
    with pytest.raises(InvalidModel, match="shape"):
        curve_of(TaskKind.MULTICLASS, LABELS, [prediction, prediction[1:]], 2, 0)
