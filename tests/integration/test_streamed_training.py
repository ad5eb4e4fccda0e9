"""Members that learn from rows read anew each epoch: interrupted = uninterrupted, and what goes wrong is told."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sklearn.datasets import load_digits

from orchestrator.errors import InvalidData
from orchestrator.models.preprocess_fit import to_json
from orchestrator.planning.members import MemberPlan
from orchestrator.reporting.progress import SilentProgress
from orchestrator.spec import TrainSpec, parse_job
from orchestrator.training.checkpoint import Snapshot
from orchestrator.training.data import Dataset
from orchestrator.training.device import Device
from orchestrator.training.prepared import prepare
from orchestrator.training.publish import weights_digest
from orchestrator.training.rows import member_rows
from orchestrator.training.solo import train_solo
from orchestrator.training.sources import tables
from orchestrator.training.sources.load import load_job_data
from orchestrator.training.trained import Trained
from tests.support.in_process import run_in_process
from tests.support.program_life import Killed as ProcessKilled
from tests.support.program_life import Life
from tests.support.tiny_jobs import TinyProject

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("device")]

SEED = int(os.environ.get("ORCHESTRATOR_SEED") or secrets.randbelow(2**32))
ROWS, BATCH, GROUP = 480, 32, 40
STREAM = {"window_mb": 4 * GROUP * 24 / 2**20}
TRAIN = TrainSpec(epochs=4, batch_size=BATCH)


def build(dropout: float) -> keras.Model:
    layers = [keras.layers.Dense(8, "relu"), keras.layers.Dropout(dropout), keras.layers.Dense(3, "softmax")]
    model = keras.Sequential([keras.Input((4,)), *layers])
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def write(path: Path, seed: int = 0) -> Path:
    x = np.random.default_rng(seed).normal(size=(ROWS, 4)).astype("float32")
    y = x[:, :3].argmax(axis=1)
    pq.write_table(pa.table({**{f"x{i}": x[:, i] for i in range(4)}, "y": y}), path, row_group_size=GROUP)
    return path


def load(path: Path, **data: Any) -> Dataset:
    asked = {"source": str(path), "label": "y", "stream": STREAM, **data}
    return load_job_data(parse_job({"name": "a", "model": "m:f", "data": asked}))


def digits(folder: Path) -> Path:
    """A folder with 600 handwritten digits."""
    x, y = load_digits(return_X_y=True)
    pixels = pa.FixedSizeListArray.from_arrays((x[:600] / 16).astype("float32").ravel(), 64)
    path = folder / "digits"
    path.mkdir()
    pq.write_table(pa.table({"pixels": pixels, "y": y[:600]}), path / "part-0.parquet", row_group_size=100)
    return path


MEMBER = MemberPlan(index=0, seed=7, builder=f"{__name__}:build", kwargs={"dropout": 0.3}, train=TRAIN)


class Told(SilentProgress):
    """What people are told."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


class Killed(BaseException):
    """Stands for the death of the process."""


def train(
    dataset: Dataset,
    folder: Path,
    device: Device,
    *,
    member: MemberPlan = MEMBER,
    start_from: Snapshot | None = None,
    keep: Callable[[Snapshot], None] = lambda snapshot: None,
    check: Callable[[], None] = lambda: None,
) -> Trained:
    folder.mkdir()
    quiet: Any = lambda *told: None  # noqa: E731
    return train_solo(member, dataset, folder, device, quiet, quiet, start_from=start_from, keep=keep, check=check)


def test_a_member_killed_anywhere_ends_with_the_same_bits(tmp_path: Path, device: Device) -> None:
    dataset = load(write(tmp_path / "rows.parquet"))
    straight = train(dataset, tmp_path / "straight", device)
    kept: list[Snapshot] = []
    looks = int(np.random.default_rng(SEED).integers(1, 3 * (dataset.train.num_rows // BATCH)))

    def die() -> None:
        nonlocal looks
        looks -= 1
        if looks == 0:
            raise Killed

    with pytest.raises(Killed):
        train(dataset, tmp_path / "first", device, keep=kept.append, check=die)
    went_on = train(dataset, tmp_path / "second", device, start_from=kept[-1] if kept else None)

    assert weights_digest(went_on.model) == weights_digest(straight.model), f"ORCHESTRATOR_SEED={SEED}"
    assert went_on.history == straight.history


def test_a_worker_that_dies_while_it_streams_rows_is_followed_by_one_that_ends_with_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, device: Device
) -> None:
    """The whole of a worker's program: claims, checkpoints in storage, publication; preprocessing is fitted anew."""
    data = {"source": str(digits(tmp_path)), "features": "pixels", "label": "y", "stream": {"window_mb": 0.1}}

    def worker(name: str) -> Life:
        folder = tmp_path / name
        folder.mkdir()
        monkeypatch.syspath_prepend(str(folder))
        return Life(folder, 3, data={**data, "preprocess": ["standardize"]})

    def die(life: Life, epoch: int, batch: int) -> None:
        if batch == 0 and epoch > 1:
            life.save_now()
        if (epoch, batch) == (3, 2):
            raise ProcessKilled

    straight, killed = worker("straight"), worker("killed")
    straight.train()
    with pytest.raises(ProcessKilled):
        killed.train(die)
    killed.train()
    same = ("weights_sha256", "epochs", "best_epoch", "at_best")
    assert {name: killed.final()[name] for name in same} == {name: straight.final()[name] for name in same}
    assert killed.final()["resumed_from"] == 2


def test_rows_that_change_in_mid_run_end_the_member_in_words_of_ours(tmp_path: Path, device: Device) -> None:
    path = write(tmp_path / "rows.parquet")
    dataset = load(path)

    def change(snapshot: Snapshot) -> None:
        write(path, seed=1)
        tables.forget_files()

    with pytest.raises(InvalidData, match="have changed since the run loaded its data") as caught:
        train(dataset, tmp_path / "life", device, keep=change)
    assert "rows.parquet" in str(caught.value)


def test_preprocessing_learns_the_same_from_streamed_rows_as_from_the_same_rows_in_memory(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.parquet")
    job = parse_job({"name": "a", "model": "m:f", "data": {"source": "m:f", "preprocess": ["min_max", "standardize"]}})
    member = MemberPlan(index=0, seed=7, builder="m:f", kwargs={}, preprocess=job.data.preprocess)
    streamed, in_memory = (load(path, validation_split=0, stream=stream) for stream in (STREAM, False))

    fitted = [prepare(member, member_rows(dataset, member).train) for dataset in (streamed, in_memory)]

    assert fitted[0] is not None
    assert fitted[1] is not None
    assert to_json(fitted[0]) == to_json(fitted[1])


def test_a_run_on_streamed_rows_trains_one_by_one_and_says_why(project: TinyProject, tmp_path: Path) -> None:
    data = {"source": str(digits(tmp_path)), "features": "pixels", "label": "y", "stream": {"window_mb": 0.1}}

    told = Told()

    result = run_in_process(project.job(data=data, train={"epochs": 4, "engine": "fused"}), tmp_path, progress=told)

    assert result.status == "succeeded"
    assert [member.engine for member in result.members] == ["solo", "solo"]
    assert "its training rows are streamed (data.stream)" in " ".join(told.notes)
    assert result.validation is not None
    assert result.validation.ensemble.accuracy > 0.5
