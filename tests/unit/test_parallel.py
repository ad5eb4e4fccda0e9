"""Requests at the same time: in order, bounded, and over when somebody gives up."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from orchestrator.storage.parallel import in_order

DEADLINE_S = 30.0


def test_results_come_in_the_order_of_the_items_however_they_end() -> None:
    ended = {k: threading.Event() for k in range(4)}

    def do(k: int) -> int:  # the last one ends first
        if k < 3:
            assert ended[k + 1].wait(DEADLINE_S)
        ended[k].set()
        return k * k

    assert list(in_order(do, range(4), at_once=4)) == [0, 1, 4, 9]


@pytest.mark.parametrize(("at_once", "num_bytes", "most"), [(3, 0, 3), (8, 40, 2), (8, 1000, 1)])
def test_no_more_is_held_than_allowed_while_nobody_takes_it(at_once: int, num_bytes: int, most: int) -> None:
    taken_from: list[int] = []

    def items() -> Iterator[int]:
        for k in range(20):
            taken_from.append(k)
            yield k

    results = in_order(lambda k: k, items(), at_once=at_once, num_bytes=lambda k: num_bytes, max_bytes=100)
    for k in range(20):
        assert next(results) == k
        assert len(taken_from) <= k + most + 1  # the one behind, which waits for room
    assert next(results, None) is None


def test_several_are_at_work_at_the_same_time() -> None:
    together = threading.Barrier(5, timeout=DEADLINE_S)
    assert len(list(in_order(lambda k: together.wait(), range(10), at_once=5))) == 10


def test_an_error_comes_in_its_turn_and_what_was_not_begun_is_not_begun() -> None:
    begun = []

    def do(k: int) -> int:
        begun.append(k)
        if k == 2:
            raise KeyError(k)
        return k

    results = in_order(do, range(100), at_once=4)
    assert [next(results), next(results)] == [0, 1]
    with pytest.raises(KeyError):
        next(results)
    assert max(begun) < 10


def test_who_stops_taking_leaves_no_thread_behind() -> None:
    before = threading.active_count()
    results = in_order(lambda k: k, range(100), at_once=4)
    assert next(results) == 0
    results.close()  # type: ignore[attr-defined]  # a generator
    assert threading.active_count() == before
