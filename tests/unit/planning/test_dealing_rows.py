"""Rows dealt into folds: the properties that scikit-learn's splitters have, and what cannot be dealt."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.model_selection import GroupKFold, StratifiedKFold

from orchestrator.errors import InvalidData
from orchestrator.planning.folds import classes_of, deal_rows, draw_share
from orchestrator.planning.seeds import fold_seed, inner_seed

CLASSES = np.random.default_rng(0).permutation(np.repeat([0, 1, 2], [53, 31, 19]))
GROUPS = np.unique(np.random.default_rng(1).integers(0, 23, len(CLASSES)), return_inverse=True)[1]


def spread(of: np.ndarray, num_folds: int) -> int:
    counts = np.bincount(of, minlength=num_folds)
    return int(counts.max() - counts.min())


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("num_folds", [2, 5, 7])
def test_every_fold_has_its_share_of_all_rows_and_of_each_class(num_folds: int, seed: int) -> None:
    folds = deal_rows(len(CLASSES), num_folds, seed, classes=CLASSES)
    theirs = np.empty(len(CLASSES), dtype=int)
    splitter = StratifiedKFold(num_folds, shuffle=True, random_state=seed)
    for fold, (_, held_out) in enumerate(splitter.split(CLASSES, CLASSES)):
        theirs[held_out] = fold
    for of in (folds, theirs):
        assert all(spread(of[rows], num_folds) <= 1 for rows in (c == CLASSES for c in range(3)))
    assert spread(folds, num_folds) <= 1


@pytest.mark.parametrize("seed", range(20))
def test_without_classes_only_the_sizes_are_even(seed: int) -> None:
    assert spread(deal_rows(104, 5, seed), 5) == 1


@pytest.mark.parametrize("seed", range(20))
def test_no_group_is_split_and_folds_are_as_even_as_scikit_learns(seed: int) -> None:
    folds = deal_rows(len(GROUPS), 4, seed, groups=GROUPS)
    assert len(set(zip(GROUPS, folds, strict=True))) == GROUPS.max() + 1
    theirs = [len(held_out) for _, held_out in GroupKFold(4).split(GROUPS, groups=GROUPS)]
    assert sorted(np.bincount(folds)) == sorted(theirs)


@pytest.mark.parametrize("seed", range(20))
def test_groups_are_dealt_so_that_classes_are_spread_over_folds(seed: int) -> None:
    classes = np.repeat([0, 1], [60, 20])
    groups = np.arange(80) // 4  # each of one class: 15 and 5
    folds = deal_rows(80, 5, seed, classes=classes, groups=groups)
    assert [np.bincount(folds[classes == c], minlength=5).tolist() for c in (0, 1)] == [[12] * 5, [4] * 5]


def test_the_same_seed_deals_the_same_and_another_one_something_else() -> None:
    dealt = [deal_rows(103, 5, fold_seed(0, repeat), classes=CLASSES) for repeat in (0, 0, 1)]
    assert np.array_equal(dealt[0], dealt[1])
    assert not np.array_equal(dealt[0], dealt[2])
    assert len({fold_seed(root, repeat) for root in (0, 1) for repeat in range(3)}) == 6
    assert len({inner_seed(0, repeat, fold) for repeat in range(3) for fold in range(5)}) == 15


@pytest.mark.parametrize(
    ("num_rows", "num_folds", "classes", "groups", "what"),
    [
        (4, 5, None, None, "4 rows cannot be dealt into 5 folds"),
        (8, 4, np.repeat([0, 1], [5, 3]), None, "class 1 has 3 rows, fewer than the 4 folds"),
        (8, 4, np.repeat([3, 8], [7, 1]), None, "class 8 has 1 row, fewer than the 4 folds"),
        (8, 3, None, np.repeat([0, 1], 4), "2 groups cannot be dealt into 3 folds"),
    ],
    ids=["rows", "rows_of_a_class", "class_by_its_label", "groups"],
)
def test_what_cannot_be_dealt_is_refused(
    num_rows: int, num_folds: int, classes: np.ndarray | None, groups: np.ndarray | None, what: str
) -> None:
    with pytest.raises(InvalidData, match=what):
        deal_rows(num_rows, num_folds, 0, classes=classes, groups=groups)


@pytest.mark.parametrize(
    ("num_rows", "num_folds", "classes", "groups"),
    [
        (5, 5, None, None),
        (10, 5, np.repeat([0, 1], 5), None),
        (9, 3, None, np.repeat([0, 1, 2], [7, 1, 1])),
        (9, 3, np.repeat([0, 1, 2], 3), np.repeat([0, 1, 2], 3)),
    ],
    ids=["a_row_each", "a_row_of_each_class", "a_group_each", "a_class_is_a_group"],
)
def test_what_can_just_be_dealt_leaves_no_fold_empty(
    num_rows: int, num_folds: int, classes: np.ndarray | None, groups: np.ndarray | None
) -> None:
    folds = deal_rows(num_rows, num_folds, 0, classes=classes, groups=groups)
    assert sorted(set(folds)) == list(range(num_folds))


CLASS_LABELS = {
    "classes": CLASSES,
    "as_a_column": CLASSES[:, None],
    "in_floating_point": CLASSES.astype(np.float32),
    "one_hot": np.eye(3)[CLASSES],
    "among_outputs": {"mass": np.linspace(0, 1, 103), "species": CLASSES},
}
OTHER_LABELS = {
    "numbers": np.linspace(0, 1, 103),
    "whole_numbers_that_seldom_repeat": np.arange(103) // 4,
    "several_labels_at_once": np.eye(3)[CLASSES] + np.array([1, 0, 0]) * (CLASSES[:, None] > 0),
    "several_numbers": np.random.default_rng(0).normal(size=(103, 2)),
}


@pytest.mark.parametrize("kind", CLASS_LABELS)
def test_labels_that_tell_classes_are_told_as_classes(kind: str) -> None:
    found = classes_of(CLASS_LABELS[kind], 5)
    assert found is not None
    assert np.array_equal(found, CLASSES)


@pytest.mark.parametrize("kind", OTHER_LABELS)
def test_labels_that_are_no_classes_are_not_stratified(kind: str) -> None:
    assert classes_of(OTHER_LABELS[kind], 5) is None


@pytest.mark.parametrize("share", [0.1, 0.25, 0.5])
def test_a_share_is_drawn_of_each_class(share: float) -> None:
    drawn = draw_share(103, share, 3, classes=CLASSES)
    assert [int(drawn[c == CLASSES].sum()) for c in range(3)] == [round(share * n) for n in (53, 31, 19)]


@pytest.mark.parametrize("seed", range(10))
def test_a_share_of_grouped_rows_is_drawn_in_whole_groups_and_leaves_one(seed: int) -> None:
    drawn = draw_share(len(GROUPS), 0.3, seed, groups=GROUPS)
    assert all(len(set(drawn[group == GROUPS])) == 1 for group in range(GROUPS.max() + 1))
    assert abs(drawn.mean() - 0.3) < 0.1
    few = draw_share(6, 0.9, seed, groups=np.repeat([0, 1], 3))
    assert few.sum() == 3
