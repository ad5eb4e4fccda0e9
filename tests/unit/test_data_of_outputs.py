"""Labels and sample weights by output name."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from orchestrator.errors import InvalidData
from orchestrator.planning.outputs import ONLY
from orchestrator.training.data import Dataset, load_dataset

MASS = np.linspace(3.0, 5.0, 60)
SPECIES = np.repeat([0, 1, 2], [30, 20, 10])
X = np.arange(60.0)[:, None]


def load(y: Any, *weights: Any, share: float = 0.0, x: Any = X) -> Dataset:
    return load_dataset(lambda: (x, y, *weights), "here", validation_split=share, seed=3)


def test_labels_by_output_name_keep_their_order_beside_an_array_of_inputs() -> None:
    train = load({"species": SPECIES, "mass": MASS}).train
    assert (list(train.labels), train.num_rows) == (["species", "mass"], 60)
    np.testing.assert_array_equal(train.labels["mass"], MASS)


def test_the_name_of_an_only_output_is_dropped() -> None:
    train = load({"mass": MASS}, {"mass": np.ones(60)}).train
    assert list(train.labels) == [ONLY]
    np.testing.assert_array_equal(train.y, MASS)
    np.testing.assert_array_equal(train.w, np.ones(60))


def test_rows_are_taken_from_all_inputs_labels_and_weights_alike() -> None:
    rows = np.array([5, 1, 5])
    train = load({"mass": MASS, "row": X[:, 0]}, {"mass": MASS, "row": X[:, 0]}, x={"a": X, "b": X[:, 0]}).train
    taken = train.take(rows)
    for arrays in (taken.x, taken.y, taken.w):
        assert isinstance(arrays, dict)
    assert [(name, array.reshape(3).tolist()) for name, array in taken.arrays()] == [
        *((name, [5.0, 1.0, 5.0]) for name in ("x['a']", "x['b']")),
        ("y['mass']", MASS[rows].tolist()),
        ("y['row']", [5.0, 1.0, 5.0]),
        ("sample weights['mass']", MASS[rows].tolist()),
        ("sample weights['row']", [5.0, 1.0, 5.0]),
    ]


@pytest.mark.parametrize("species", [SPECIES, np.eye(3)[SPECIES]])
def test_the_first_output_that_tells_classes_makes_the_strata(species: np.ndarray) -> None:
    two_numbers = np.stack([MASS, -MASS], axis=1)
    split = load({"numbers": two_numbers, "mass": MASS, "species": species}, share=0.2).validation
    assert split is not None
    labels = split.labels["species"]
    assert np.bincount(labels if labels.ndim == 1 else labels.argmax(axis=1)).tolist() == [6, 4, 2]


def test_without_classes_there_are_no_strata() -> None:
    split = load({"mass": MASS, "half": MASS / 2}, share=0.2).validation
    assert split is not None
    assert split.num_rows == 12


def test_fingerprint_and_digests_tell_outputs_apart() -> None:
    sets = [{"a": MASS, "b": SPECIES}, {"b": MASS, "a": SPECIES}, {"b": SPECIES, "a": MASS}]
    found = [load(y, share=0.0) for y in sets]
    assert found[0].fingerprint == found[2].fingerprint != found[1].fingerprint
    digests = [
        load_dataset(lambda y=y: {"train": (X, y), "test": (X, y)}, "here", validation_split=0, seed=0).row_digests()
        for y in sets
    ]
    assert digests[0] == digests[2] != digests[1]


@pytest.mark.parametrize(
    ("y", "weights", "told"),
    [
        ({}, (), "y is an empty dictionary"),
        ({"mass": MASS, "species": SPECIES[:50]}, (), r"y\['mass'\] 60, y\['species'\] 50"),
        ({"mass": MASS, "species": SPECIES * np.nan}, (), r"y\['species'\] holds NaN"),
        (
            {"mass": MASS, "species": SPECIES},
            ({"mass": MASS},),
            r"the names \['mass'\], the labels \['mass', 'species'\]",
        ),
        (MASS, ({"mass": MASS},), "the labels none"),
        ({"mass": MASS, "species": SPECIES}, ({"mass": MASS, "species": -MASS},), r"weights\['species'\] have shape"),
    ],
)
def test_labels_and_weights_that_cannot_be_used_are_refused(y: Any, weights: tuple[Any, ...], told: str) -> None:
    with pytest.raises(InvalidData, match=told):
        load(y, *weights)


def test_splits_with_other_outputs_are_refused() -> None:
    def returned() -> Any:
        return {"train": (X, {"a": MASS, "b": MASS}), "validation": (X, {"a": MASS, "c": MASS})}

    with pytest.raises(InvalidData, match="rows of the training set have shapes"):
        load_dataset(returned, "here", validation_split=0, seed=0)


@pytest.mark.parametrize("x", [[X, np.ones((60, 4))], [X, X]])
def test_a_list_of_inputs_is_refused_and_what_to_give_instead_is_told(x: Any) -> None:
    with pytest.raises(InvalidData) as caught:
        load({"mass": MASS, "species": SPECIES}, x=x)
    assert "a dictionary of arrays by name, not a list" in str(caught.value.hint)
