"""`data.max_rows`: fewer rows of each set, by class in proportion, the same in each load."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from orchestrator.errors import InvalidJob
from orchestrator.planning.folds import draw_rows
from orchestrator.spec import identity, parse_job
from orchestrator.training.data import Dataset, make_dataset
from orchestrator.training.limit import limit_rows
from orchestrator.training.sources.load import load_job_data
from orchestrator.training.sources.stream import StreamedSplit, StreamReader

CLASSES = np.repeat([0, 1, 2, 3], [600, 300, 98, 2])


def dataset(y: Any = CLASSES, groups: Any = None) -> Dataset:
    rows = np.arange(len(y))[:, None]
    sets = {"train": (rows, y), "validation": (rows[::2], y[::2]), "test": (rows[::20], y[::20]), "groups": groups}
    return make_dataset(sets, "rows", validation_split=0, seed=0)


def numbers(split: Any) -> list[int]:
    return split.x[:, 0].tolist()  # type: ignore[no-any-return]


def test_each_set_has_at_most_so_many_rows_in_their_order_and_smaller_ones_stay_whole() -> None:
    full, few = dataset(), limit_rows(dataset(), 100, 7)

    assert [split.num_rows for _, split in few.splits()] == [100, 100, 50]
    assert all((np.diff(split.x[:, 0]) > 0).all() for _, split in few.splits())
    assert numbers(few.test) == numbers(full.test)
    np.testing.assert_array_equal(few.train.y, CLASSES[few.train.x[:, 0]])


def test_classes_keep_their_shares_and_rare_ones_two_rows() -> None:
    few = limit_rows(dataset(), 100, 7)

    assert np.abs(np.bincount(few.train.y) - [59, 29, 10, 2]).max() <= 1
    assert np.bincount(few.train.y)[3] == 2


def test_the_draw_depends_on_the_seed_and_nothing_else() -> None:
    assert numbers(limit_rows(dataset(), 100, 7).train) == numbers(limit_rows(dataset(), 100, 7).train)
    assert numbers(limit_rows(dataset(), 100, 7).train) != numbers(limit_rows(dataset(), 100, 8).train)
    told = {limit_rows(dataset(), most, seed).fingerprint for most, seed in ((100, 7), (100, 8), (99, 7), (None, 7))}
    assert len(told) == 4


def test_data_of_fewer_rows_is_the_same_data() -> None:
    full = dataset()
    assert limit_rows(full, 1000, 7) is full
    assert limit_rows(full, None, 7) is full


@pytest.mark.parametrize(
    "y", [np.random.default_rng(0).normal(size=1000), np.random.default_rng(0).normal(size=(1000, 3))]
)
def test_numbers_to_predict_are_drawn_without_regard_to_their_value(y: Any) -> None:
    assert limit_rows(dataset(y), 64, 7).train.num_rows == 64


def test_one_hot_rows_are_classes_too() -> None:
    few = limit_rows(dataset(np.eye(4, dtype=np.float32)[CLASSES]), 100, 7)
    assert few.train.y.sum(axis=0)[3] == 2


def test_groups_go_with_their_rows() -> None:
    groups = np.arange(1000) // 10
    few = limit_rows(dataset(groups=groups), 100, 7)

    assert few.groups is not None
    before = groups[few.train.x[:, 0]]
    assert few.groups.max() + 1 == len(np.unique(before))
    assert (np.diff(few.groups) == np.diff(np.unique(before, return_inverse=True)[1])).all()


def test_fewer_rows_than_classes_are_of_different_classes() -> None:
    classes = np.arange(1000) % 50
    assert len(set(classes[draw_rows(1000, 30, 7, classes=classes)].tolist())) == 30


def test_one_hot_labels_are_as_wide_as_with_all_rows(tmp_path: Path) -> None:
    np.savez(tmp_path / "rows.npz", x=np.arange(1000.0)[:, None], y=np.arange(1000) % 50)
    data = {"source": str(tmp_path / "rows.npz"), "max_rows": 20, "one_hot_labels": True, "validation_split": 0.1}
    found = load_job_data(parse_job({"name": "a", "model": "m:f", "data": data}))

    assert found.train.y.shape == (20, 50)
    assert found.validation is not None
    assert found.validation.num_rows == 20


def streamed(path: Path, **data: Any) -> Dataset:
    asked = {"source": str(path), "label": "y", "stream": True, **data}
    return load_job_data(parse_job({"name": "a", "model": "m:f", "data": asked}))


def test_streamed_rows_come_from_all_parts_of_the_file_and_validation_rows_are_none_of_them(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    pq.write_table(pa.table({"n": np.arange(1000), "y": np.arange(1000) % 2}), path, row_group_size=50)
    few = streamed(path, max_rows=100, validation_split=0.2)
    assert isinstance(few.train, StreamedSplit)
    reader = StreamReader(few.train.stream)
    reader.start(1, 1)
    first = [int(n) for start in range(0, 100, 30) for n in reader.rows(start, start + 30).x[:, 0]]
    reader.start(1, 1)
    again = [int(n) for n in reader.rows(0, 100).x[:, 0]]
    reader.close()
    assert few.validation is not None

    assert few.train.num_rows == len(set(first)) == 100
    assert first == again
    assert np.bincount(np.asarray(first) // 50, minlength=20).tolist() == [5] * 20
    assert few.validation.num_rows == 100
    assert not set(first) & set(few.validation.x[:, 0].astype(int).tolist())
    assert few.fingerprint != streamed(path, validation_split=0.2).fingerprint


def test_pieces_that_give_no_row_are_not_read(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    pq.write_table(pa.table({"n": np.arange(1000), "y": np.arange(1000) % 2}), path, row_group_size=10)
    few = streamed(path, max_rows=20, validation_split=0)
    assert isinstance(few.train, StreamedSplit)

    assert len([piece for window in few.train.stream.windows(1, 1) for piece in window]) == 20


def test_it_is_part_of_what_a_run_is_and_leaves_runs_without_it_as_they_were() -> None:
    def what(**data: Any) -> Any:
        return identity(parse_job({"name": "a", "model": "m:f", "data": {"source": "m:g", **data}}), "code")["data"]

    assert what(max_rows=9)["max_rows"] == 9
    assert "max_rows" not in what()


def test_fewer_rows_than_folds_are_refused() -> None:
    asked = {"name": "a", "model": "m:f", "data": {"source": "m:g", "max_rows": 4}, "members": {"folds": 5}}
    with pytest.raises(InvalidJob, match="at least the number of folds"):
        parse_job(asked)
