"""Which examples are shown: the highest first, ties by row, and only what there is to show."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.ensemble.diversity import RowDiversity
from orchestrator.errors import DamagedStore
from orchestrator.reporting.examples import choose_examples


def classification(entropy: list[float], votes: list[float], information: list[float] | None = None) -> RowDiversity:
    return RowDiversity(
        vote_disagreement=np.array(votes),
        predictive_entropy=np.array(entropy),
        mean_entropy=np.zeros(len(votes)),
        mutual_information=np.zeros(len(votes)) if information is None else np.array(information),
    )


def test_the_most_uncertain_and_the_most_disputed_rows_come_first() -> None:
    rows = classification([0.1, 0.9, 0.5, 0.7], [0.6, 0.2, 0.4, 0.5])
    chosen = choose_examples(rows, np.arange(4), k=3)
    assert (chosen.uncertain.tolist(), chosen.disputed.tolist()) == ([1, 3, 2], [0, 3, 2])


def test_rows_that_cannot_be_shown_are_passed_over() -> None:
    rows = classification([0.1, 0.9, 0.5, 0.7], [0.6, 0.2, 0.4, 0.5])
    chosen = choose_examples(rows, np.array([0, 2]))
    assert (chosen.uncertain.tolist(), chosen.disputed.tolist()) == ([2, 0], [0, 2])


def test_ties_go_to_the_lower_row() -> None:
    rows = classification([0.5] * 6, [0.5] * 6)
    chosen = choose_examples(rows, np.array([5, 1, 4, 3]), k=3)
    assert (chosen.uncertain.tolist(), chosen.disputed.tolist()) == ([1, 3, 4], [1, 3, 4])


def test_among_rows_disputed_by_as_many_the_one_of_higher_mutual_information_comes_first() -> None:
    rows = classification([0.0] * 4, [0.5, 0.5, 0.6, 0.5], [0.1, 0.3, 0.0, 0.3])
    assert choose_examples(rows, np.arange(4)).disputed.tolist() == [2, 1, 3, 0]


def test_rows_that_all_are_sure_of_are_not_shown() -> None:
    chosen = choose_examples(classification([0.0, 0.2, 0.0], [0.0, 0.0, 0.3]), np.arange(3))
    assert (chosen.uncertain.tolist(), chosen.disputed.tolist()) == ([1], [2])


def test_a_regression_shows_where_its_members_spread() -> None:
    chosen = choose_examples(RowDiversity(spread=np.array([1.0, 30.0, 2.0])), np.arange(3), k=2)
    assert (chosen.uncertain.tolist(), chosen.disputed.tolist()) == ([1, 2], [])


@pytest.mark.parametrize("k", [0, 12])
def test_nothing_to_show_is_no_error(k: int) -> None:
    rows = classification([0.1], [0.1])
    chosen = choose_examples(rows, np.empty(0, np.int64) if k else np.arange(1), k)
    assert chosen.uncertain.size == chosen.disputed.size == 0


@pytest.mark.parametrize("row", [-1, 3])
def test_examples_of_another_split_are_refused(row: int) -> None:
    with pytest.raises(DamagedStore, match="the split has 3"):
        choose_examples(classification([0.1] * 3, [0.1] * 3), np.array([0, row]))


@given(
    values=st.lists(st.tuples(st.sampled_from([0.0, 0.1, 0.5]), st.sampled_from([0.0, 0.2, 0.4])), min_size=1),
    k=st.integers(0, 20),
    data=st.data(),
)
def test_the_choice_is_that_of_a_sort_by_value_and_row(
    values: list[tuple[float, float]], k: int, data: st.DataObject
) -> None:
    entropy, votes = (list(column) for column in zip(*values, strict=True))
    available = data.draw(st.sets(st.integers(0, len(values) - 1)))
    chosen = choose_examples(classification(entropy, votes), np.array(sorted(available), np.int64), k)
    for found, of_rows in ((chosen.uncertain, entropy), (chosen.disputed, votes)):
        ranked = sorted((-of_rows[row], row) for row in available if of_rows[row] > 0)
        assert found.tolist() == [row for _, row in ranked[:k]]
