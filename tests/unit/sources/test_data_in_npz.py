"""Arrays in .npz files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from orchestrator.errors import InvalidData
from orchestrator.spec import parse_job
from orchestrator.training.data import Dataset
from orchestrator.training.sources.load import load_job_data

X, Y = np.arange(24, dtype=np.float32).reshape(6, 2, 2), np.arange(6) % 3


def load(source: Any) -> Dataset:
    data = {"source": source, "validation_split": 0}
    return load_job_data(parse_job({"name": "a", "model": "m:f", "data": data}))


def saved(folder: Path, name: str = "rows.npz", **arrays: Any) -> str:
    np.savez(folder / name, **arrays)
    return str(folder / name)


def test_x_y_and_w_are_training_rows(tmp_path: Path) -> None:
    dataset = load(saved(tmp_path, x=X, y=Y, w=np.ones(6)))

    np.testing.assert_array_equal(dataset.train.x, X)
    np.testing.assert_array_equal(dataset.train.y, Y)
    assert dataset.train.w is not None
    assert dataset.test is None


def test_arrays_as_keras_own_files_have_them_are_sets_of_rows(tmp_path: Path) -> None:
    dataset = load(saved(tmp_path, x_train=X, y_train=Y, x_test=X[:2], y_test=Y[:2], x_val=X[2:], y_val=Y[2:]))

    assert {name: split.num_rows for name, split in dataset.splits()} == {"train": 6, "validation": 4, "test": 2}


def test_each_set_may_have_a_file_of_its_own(tmp_path: Path) -> None:
    source = {"train": saved(tmp_path, x=X, y=Y), "test": saved(tmp_path, "test.npz", x=X[:3], y=Y[:3])}

    assert load(source).splits().__next__()[1].num_rows == 6
    with pytest.raises(InvalidData, match="holds the sets train, test, and is named for test"):
        load({**source, "test": saved(tmp_path, "both.npz", x_train=X, y_train=Y, x_test=X, y_test=Y)})


def test_what_is_no_npz_of_plain_arrays_is_refused_and_never_unpickled(tmp_path: Path) -> None:
    ran = tmp_path / "ran"

    class Payload:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (ran,)

    with pytest.raises(InvalidData, match=r"no \.npz of plain arrays"):
        load(saved(tmp_path, x=np.array([Payload()], dtype=object), y=Y))
    assert not ran.exists()
    (tmp_path / "text.npz").write_text("x")
    with pytest.raises(InvalidData, match=r"no \.npz of plain arrays"):
        load(str(tmp_path / "text.npz"))
    with (tmp_path / "one_array.npz").open("wb") as file:
        np.save(file, X)
    np.savez_compressed(tmp_path / "bits.npz", x=np.random.default_rng(0).normal(size=1000), y=np.arange(1000))
    damaged = bytearray((tmp_path / "bits.npz").read_bytes())
    damaged[60:400] = bytes(340)
    (tmp_path / "bits.npz").write_bytes(damaged)
    for name in ("one_array", "bits"):
        with pytest.raises(InvalidData, match=rf"{name}\.npz: is no \.npz of plain arrays") as caught:
            load(str(tmp_path / f"{name}.npz"))
        assert "pickle" not in str(caught.value)
    with pytest.raises(InvalidData, match="holds the arrays"):
        load(saved(tmp_path, images=X, labels=Y))
