"""Data functions that return `tf.data` or a `PyDataset`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from orchestrator.errors import InvalidData
from orchestrator.training.data import Dataset, load_dataset
from orchestrator.training.sources.batches import take_over

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("device")]

X, Y = np.arange(40, dtype=np.float32).reshape(10, 4), np.arange(10) % 3
ONE_HOT = np.eye(3, dtype=np.float32)[Y]
W = np.linspace(0.5, 1, 10).astype(np.float32)


def load(returned: Any) -> Dataset:
    return load_dataset(lambda: returned, "m:load", validation_split=0, seed=0)


class Batches(keras.utils.PyDataset):  # type: ignore[misc]  # keras is untyped here
    def __init__(self, num_batches: int | None = 4) -> None:
        super().__init__()
        self.count = num_batches

    @property
    def num_batches(self) -> int | None:
        return self.count

    def __getitem__(self, number: int) -> Any:
        rows = slice(3 * number, 3 * number + 3)
        return {"a": X[rows], "b": Y[rows]}, Y[rows], W[rows]


def slices(*parts: Any) -> Any:
    return tf.data.Dataset.from_tensor_slices(parts)


MADE: dict[str, Callable[[], Any]] = {
    "batches": lambda: slices(X, Y).batch(3),
    "batches of one size": lambda: slices(X, Y).batch(5, drop_remainder=True),
    "rows": lambda: slices(X, Y),
    "one-hot rows": lambda: slices(X, ONE_HOT),
    "one-hot batches": lambda: slices(X, ONE_HOT).batch(4),
    "of unknown size": lambda: slices(X, Y).filter(lambda x, y: True).batch(3),
    "an end after repeat": lambda: slices(X, Y).repeat().take(10),
}


@pytest.mark.parametrize("kind", MADE)
def test_a_tf_data_set_is_taken_over_in_its_order(kind: str) -> None:
    dataset = load({"train": MADE[kind](), "test": (X[:2], ONE_HOT[:2] if "one-hot" in kind else Y[:2])})

    np.testing.assert_array_equal(dataset.train.x, X)
    np.testing.assert_array_equal(dataset.train.y, ONE_HOT if "one-hot" in kind else Y)


def test_a_py_dataset_gives_inputs_by_name_and_weights() -> None:
    train = load(Batches()).train

    np.testing.assert_array_equal(train.x["a"], X)
    np.testing.assert_array_equal(train.x["b"], Y)
    np.testing.assert_array_equal(train.w, W)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: slices(X, Y).batch(3).repeat(), "never ends"),
        (lambda: Batches(None), "has no end"),
        (lambda: slices(X).batch(3), "not \\(x, y\\)"),
        (lambda: slices((X, X), Y).batch(3), "part 0 of an element is a tuple"),
        (lambda: slices(X, Y).take(0), "has no elements"),
        (lambda: slices(X, Y).map(lambda x, y: (tf.debugging.check_numerics(x / 0, "bad"), y)), "the data set raised"),
    ],
)
def test_a_data_set_that_cannot_be_taken_over_is_refused(make: Callable[[], Any], said: str) -> None:
    with pytest.raises(InvalidData, match=said) as caught:
        load(make())
    assert "m:load train" in str(caught.value)


def test_a_data_set_that_does_not_say_that_it_never_ends_is_refused_by_its_size() -> None:
    endless = slices(X, Y).repeat().filter(lambda x, y: True).batch(3)
    assert int(endless.cardinality()) == tf.data.UNKNOWN_CARDINALITY
    with pytest.raises(InvalidData, match="may never end"):
        take_over(endless, "here", max_bytes=100_000)
