"""Class numbers become one-hot rows where the job asks for it, and what are no classes is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from orchestrator.errors import InvalidData, InvalidJob
from orchestrator.spec import parse_job
from orchestrator.training.data import Dataset, make_dataset
from orchestrator.training.labels import one_hot_labels

X = np.zeros((4, 2))


def dataset(train: Any, test: Any) -> Dataset:
    return make_dataset({"train": (X, train), "test": (X[:1], test)}, "here", validation_split=0, seed=0)


def test_every_set_gets_rows_as_wide_as_the_largest_class_of_any() -> None:
    found = one_hot_labels(dataset(np.array([0, 2, 1, 1]), np.array([3])), True)

    assert found.test is not None
    np.testing.assert_array_equal(found.train.y, np.eye(4, dtype="float32")[[0, 2, 1, 1]])
    np.testing.assert_array_equal(found.test.y, [[0, 0, 0, 1]])
    assert found.train.labels[""].dtype == np.float32


def test_of_several_outputs_those_that_are_named_are_converted() -> None:
    train, test = {"kind": [[0], [1], [1], [0]], "mass": [1.5, 2, 3, 4]}, {"kind": [[1]], "mass": [2.0]}

    found = one_hot_labels(dataset(train, test), ("kind",)).train.labels

    assert (found["kind"].shape, found["mass"].shape) == ((4, 2), (4,))


def test_without_a_word_labels_stay_as_they_are() -> None:
    given = dataset(np.array([0, 2, 1, 1]), np.array([3]))

    assert one_hot_labels(given, False) is given


@pytest.mark.parametrize(
    ("labels", "asked", "error", "match"),
    [
        (np.eye(4), True, InvalidData, "not one class for each row"),
        (np.array([0.5, 1, 1, 0]), True, InvalidData, "not classes"),
        (np.array([-1, 1, 1, 0]), True, InvalidData, "not classes"),
        (np.array([1, 1, 1, 0]), ("kind",), InvalidJob, "no labels of an output kind"),
    ],
)
def test_what_are_no_classes_is_refused(labels: Any, asked: Any, error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        one_hot_labels(dataset(labels, labels[:1]), asked)


def test_streamed_labels_are_refused_when_the_job_is_read() -> None:
    data = {"source": "rows.parquet", "label": "kind", "stream": True, "one_hot_labels": True}

    with pytest.raises(InvalidJob, match=r"one_hot_labels cannot be made of streamed rows"):
        parse_job({"name": "j", "model": "m:build", "data": data})
