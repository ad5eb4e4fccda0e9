"""The validation rows that a run takes from its training rows."""

from __future__ import annotations

import numpy as np
import pytest

from orchestrator.errors import InvalidData
from orchestrator.training.data import Split, split_rows


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


def test_a_share_that_leaves_one_part_empty_is_refused() -> None:
    with pytest.raises(InvalidData, match="leaves one part empty"):
        parts(np.zeros(3), 0.1)
