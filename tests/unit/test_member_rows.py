"""Whose rows are whose: what a member learns from, is watched on and is held out from."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from orchestrator.errors import InvalidData
from orchestrator.planning.folds import FoldPlan
from orchestrator.planning.members import MemberPlan
from orchestrator.training.data import Dataset, Split
from orchestrator.training.rows import SplitRows, check_classes, member_rows, pack_rows

NUM_ROWS = 60
TRAIN = Split(np.arange(NUM_ROWS)[:, None], np.arange(NUM_ROWS) % 3)
VALIDATION = Split(np.arange(100, 110)[:, None], np.arange(10) % 3)
DATASET = Dataset(TRAIN, None, None, "fingerprint")
FOLD = FoldPlan(configuration=0, repeat=0, fold=2, num_folds=5, seed=7, inner_seed=8)


def member(fold: FoldPlan | None) -> MemberPlan:
    return MemberPlan(0, 1, "jobs.digits:build_model", {}, fold=fold)


def numbers(rows: SplitRows | None) -> list[int]:
    assert rows is not None
    return [int(value) for value in rows.all().x[:, 0]]  # type: ignore[call-overload, index]  # an array in these tests


def test_without_folds_a_member_has_the_run_s_own_rows_and_no_copy() -> None:
    rows = member_rows(replace(DATASET, validation=VALIDATION), member(None))
    assert rows.train.all() is TRAIN
    assert rows.validation is not None
    assert rows.validation.all() is VALIDATION
    assert rows.held_out is None
    assert member_rows(DATASET, member(None)).validation is None


def test_a_member_learns_from_all_folds_but_its_own_and_is_watched_on_that() -> None:
    each = [member_rows(DATASET, member(replace(FOLD, fold=fold))) for fold in range(5)]
    assert sorted(row for rows in each for row in numbers(rows.held_out)) == list(range(NUM_ROWS))
    for rows in each:
        assert sorted(numbers(rows.train) + numbers(rows.held_out)) == list(range(NUM_ROWS))
        assert rows.validation is rows.held_out
        assert np.bincount(rows.train.all().y).tolist() == [16, 16, 16]


def test_all_members_of_a_repeat_share_folds_and_another_repeat_has_others() -> None:
    first, other = (member_rows(DATASET, member(replace(FOLD, configuration=c))) for c in (0, 1))
    assert first.train.same_as(other.train)
    again = member_rows(DATASET, member(replace(FOLD, repeat=1, seed=99)))
    assert not first.train.same_as(again.train)


def test_a_validation_set_of_the_run_is_watched_instead_of_the_held_out_fold() -> None:
    rows = member_rows(replace(DATASET, validation=VALIDATION), member(FOLD))
    assert numbers(rows.validation) == list(range(100, 110))
    assert len(numbers(rows.held_out)) == 12


@pytest.mark.parametrize("validation", [None, VALIDATION])
def test_inner_validation_rows_come_from_the_rows_that_are_left_and_are_watched_first_of_all(
    validation: Split | None,
) -> None:
    rows = member_rows(replace(DATASET, validation=validation), member(replace(FOLD, inner_validation=0.25)))
    parts = [numbers(rows.train), numbers(rows.validation), numbers(rows.held_out)]
    assert sorted(row for part in parts for row in part) == list(range(NUM_ROWS))
    assert [len(part) for part in parts] == [36, 12, 12]


def test_no_group_is_split_between_the_three_parts() -> None:
    groups = np.arange(NUM_ROWS) // 3
    rows = member_rows(replace(DATASET, groups=groups), member(replace(FOLD, inner_validation=0.25)))
    parts = [{groups[row] for row in numbers(each)} for each in (rows.train, rows.validation, rows.held_out)]
    assert [len(part) for part in parts] == [12, 4, 4]
    assert len(set.union(*parts)) == 20


def test_an_inner_validation_that_leaves_one_part_empty_is_refused() -> None:
    with pytest.raises(InvalidData, match="inner_validation"):
        member_rows(DATASET, member(replace(FOLD, inner_validation=0.01)))


def test_rows_are_counted_among_a_members_own() -> None:
    rows = SplitRows(TRAIN, np.array([3, 5, 8]))
    assert rows.take(np.array([2, 0])).x.tolist() == [[8], [3]]  # type: ignore[union-attr]  # an array in these tests
    assert rows.in_split(np.array([2, 0])).tolist() == [8, 3]
    assert rows.num_rows == 3


def test_a_class_that_some_members_could_not_learn_is_refused_before_any_member_starts() -> None:
    labels = np.repeat([0, 1, 2], [28, 28, 4])
    dataset = replace(DATASET, train=Split(TRAIN.x, labels), groups=np.repeat(np.arange(15), 4))
    members = [replace(member(replace(FOLD, fold=fold)), index=fold) for fold in range(5)]
    with pytest.raises(InvalidData, match="class 2 is nowhere in the rows that member"):
        check_classes(dataset, members, labels, "labels")
    check_classes(DATASET, members, TRAIN.y, "labels")


def test_packs_are_of_one_fold_or_of_as_many_rows_where_all_are_watched_on_one_set() -> None:
    members = [
        replace(member(replace(FOLD, configuration=c, fold=f)), index=2 * c + f) for c in range(2) for f in range(2)
    ]
    own = pack_rows(DATASET, members)
    assert own[0] == own[2] != own[1] == own[3]
    assert own[0].num_rows == 48
    assert len(set(pack_rows(replace(DATASET, validation=VALIDATION), members).values())) == 1
    assert pack_rows(DATASET, [member(None)]) == {}
