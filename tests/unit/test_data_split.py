"""The validation rows that a run takes from its training rows."""

from __future__ import annotations

import math

import numpy as np
import pytest

from orchestrator.errors import InvalidData
from orchestrator.training.data import Dataset, Split, draw_validation, load_dataset


def parts(labels: np.ndarray, share: float = 0.2) -> tuple[np.ndarray, np.ndarray]:
    """Numbers of the rows that training keeps and that validation gets."""
    rows = np.arange(len(labels))
    drawn = draw_validation(Split(rows[:, None], labels, None), share, 7, "test")
    return rows[~drawn], rows[drawn]


RNG = np.random.default_rng(0)
CLASSES = np.repeat([0, 1, 2], [50, 30, 20])
FLAGS = np.stack([np.ones(100), np.arange(100) % 2], axis=1)
LABELS = {
    "classes": CLASSES,
    "one_hot": np.eye(3)[CLASSES],
    "flags": FLAGS,
    "numbers": RNG.normal(size=100),
    "several_numbers": RNG.normal(size=(100, 3)),
    "whole_numbers_that_seldom_repeat": RNG.permutation(442) // 2,
    "whole_numbers_that_never_repeat": RNG.permutation(300).astype(np.float32),
}


@pytest.mark.parametrize("kind", LABELS)
def test_every_row_goes_into_one_part_and_validation_gets_its_share(kind: str) -> None:
    labels = LABELS[kind]
    train, validation = parts(labels)
    assert np.sort(np.concatenate([train, validation])).tolist() == list(range(len(labels)))
    assert len(validation) == pytest.approx(0.2 * len(labels), abs=2)
    assert (np.diff(train) > 0).all()
    assert (np.diff(validation) > 0).all()


@pytest.mark.parametrize("kind", ["classes", "one_hot"])
def test_each_class_is_in_both_parts_in_proportion(kind: str) -> None:
    _, validation = parts(LABELS[kind])
    assert np.bincount(CLASSES[validation]).tolist() == [10, 6, 4]


def test_the_last_rows_are_those_that_keras_takes() -> None:
    labels = np.arange(97) % 3
    for share in (0.1, 0.2, 1 / 3, 0.29):
        drawn = draw_validation(Split(np.arange(97)[:, None], labels), share, 7, "test", "last")
        first = math.floor(97 * (1.0 - share))  # keras/src/trainers/data_adapters/array_slicing.py
        assert np.flatnonzero(drawn).tolist() == list(range(first, 97))


def test_a_share_that_leaves_one_part_empty_is_refused() -> None:
    with pytest.raises(InvalidData, match="leaves one part empty"):
        parts(np.zeros(3), 0.1)


def test_the_same_test_rows_have_the_same_digest_whatever_the_seed_and_the_share() -> None:
    rng = np.random.default_rng(7)
    train, test = (rng.normal(size=(60, 2)), np.arange(60) % 3), (rng.normal(size=(9, 2)), np.arange(9) % 3)
    sets = [
        load_dataset(lambda: {"train": train, "test": test}, "here", validation_split=share, seed=seed)
        for share, seed in ((0.2, 0), (0.2, 1), (0.4, 0))
    ]
    digests = [each.row_digests() for each in sets]
    assert [set(each) for each in digests] == [{"validation", "test"}] * 3
    assert len({each["test"] for each in digests}) == 1
    assert len({each["validation"] for each in digests}) == 3
    assert len({each.fingerprint for each in sets}) == 3


def test_rows_have_one_digest_as_validation_and_as_test_set_and_another_in_another_order() -> None:
    rows, train = (np.arange(6.0).reshape(3, 2), np.arange(3)), (np.ones((3, 2)), np.arange(3))
    turned = tuple(array[::-1] for array in rows)

    def digests(**sets: object) -> dict[str, str]:
        return load_dataset(lambda: {"train": train, **sets}, "here", validation_split=0, seed=0).row_digests()

    assert digests(validation=rows)["validation"] == digests(test=rows)["test"]
    assert digests(test=turned)["test"] != digests(test=rows)["test"]
    assert digests() == {}


def grouped(groups: object, share: float = 0.0) -> Dataset:
    rows = np.arange(40)
    returned = {"train": (rows[:, None], rows % 2), "groups": groups}
    return load_dataset(lambda: returned, "here", validation_split=share, seed=3)


def test_groups_are_numbered_in_the_order_of_their_names_and_part_of_what_the_data_is() -> None:
    named = grouped(np.array(["b", "a", "c", "a"] * 10))
    assert named.groups is not None
    assert named.groups.tolist() == [1, 0, 2, 0] * 10
    assert named.fingerprint == grouped(np.array([5, 2, 9, 2] * 10)).fingerprint
    assert named.fingerprint != grouped(np.array([5, 2, 2, 2] * 10)).fingerprint
    assert grouped(None).groups is None


def test_no_group_is_split_between_training_and_validation() -> None:
    groups = np.arange(40) // 4
    data = grouped(groups, share=0.3)
    assert data.validation is not None
    kept, taken = (set(groups[split.x[:, 0]]) for split in (data.train, data.validation))  # type: ignore[call-overload, index]  # arrays in these tests
    assert (len(kept), len(taken), kept & taken) == (7, 3, set())
    assert data.groups is not None
    assert data.groups.tolist() == np.repeat(np.arange(7), 4).tolist()
    told = data.groups_of("validation")
    assert told is not None
    assert told.tolist() == np.repeat(np.arange(3), 4).tolist(), "cross-fitting leaves these whole, too"
    assert grouped(groups, share=0.1).groups_of("validation") is None, "all of one group: each row is for itself"
    assert data.groups_of("test") is None
    returned = {"train": (np.arange(40)[:, None], np.arange(40) % 2), "groups": np.arange(40) // 5}
    with pytest.raises(InvalidData, match="begin within a group"):
        load_dataset(lambda: returned, "here", validation_split=0.3, seed=3, take="last")


@pytest.mark.parametrize("groups", [np.arange(39), np.zeros((40, 1), int), np.linspace(0, 1, 40)])
def test_groups_that_do_not_name_one_for_each_row_are_refused(groups: np.ndarray) -> None:
    with pytest.raises(InvalidData, match="groups have shape"):
        grouped(groups)


def test_training_rows_that_are_held_out_are_scored_and_looked_at() -> None:
    data = grouped(None)
    assert list(data.scored(held_out=True)) == ["out_of_fold"]
    assert set(data.row_digests(held_out=True)) == {"out_of_fold"}
    assert data.row_digests() == {}
