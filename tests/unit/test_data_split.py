"""The validation rows that a run takes from its training rows."""

from __future__ import annotations

import math

import numpy as np
import pytest

from orchestrator.errors import InvalidData
from orchestrator.training.data import Split, load_dataset, split_rows


def parts(labels: np.ndarray, share: float = 0.2) -> tuple[np.ndarray, np.ndarray]:
    """Numbers of the rows that training keeps and that validation gets."""
    rows = np.arange(len(labels))
    train, validation = split_rows(Split(rows[:, None], labels, None), share, 7, "test")
    np.testing.assert_array_equal(train.y, labels[train.x[:, 0]])
    np.testing.assert_array_equal(validation.y, labels[validation.x[:, 0]])
    return train.x[:, 0], validation.x[:, 0]


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
        kept, taken = split_rows(Split(np.arange(97)[:, None], labels), share, 7, "test", "last")
        first = math.floor(97 * (1.0 - share))  # keras/src/trainers/data_adapters/array_slicing.py
        assert kept.x[:, 0].tolist() == list(range(first))
        assert taken.x[:, 0].tolist() == list(range(first, 97))


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
