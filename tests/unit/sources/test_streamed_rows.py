"""Rows that are read anew each epoch: each once, in an order of (seed, epoch) alone, in bounded memory."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from orchestrator.errors import InvalidData, OrchestratorError
from orchestrator.spec import parse_job
from orchestrator.training.data import Dataset
from orchestrator.training.sources import tables
from orchestrator.training.sources.load import load_job_data
from orchestrator.training.sources.stream import Stream, StreamedSplit, StreamReader

SEED = int(os.environ.get("ORCHESTRATOR_SEED") or secrets.randbelow(2**32))
ROWS, GROUP = 1000, 64
ROW_BYTES = 4 * 4 + 8
WINDOW_MB = 3 * GROUP * ROW_BYTES / 2**20
"""Three row groups."""


def write(folder: Path, name: str = "rows.parquet", rows: int = ROWS, **options: Any) -> Path:
    numbers = np.arange(rows)
    columns = {"n": numbers, "a": numbers / 7, "b": -numbers, "c": numbers % 5, "y": numbers % 3}
    path = folder / name
    pq.write_table(pa.table(columns), path, **{"row_group_size": GROUP, **options})
    return path


def load(source: Any, *, window_mb: float = WINDOW_MB, **data: Any) -> Dataset:
    asked = {"source": source if isinstance(source, dict) else str(source), "label": "y", "validation_split": 0}
    data = {**asked, "stream": {"window_mb": window_mb}, **data}
    return load_job_data(parse_job({"name": "a", "model": "m:f", "data": data}))


def stream_of(dataset: Dataset) -> Stream:
    assert isinstance(dataset.train, StreamedSplit)
    return dataset.train.stream


def epoch(reader: StreamReader, seed: int, number: int, batch: int = 37, **how: Any) -> list[int]:
    """The numbers of all rows in the order of an epoch, read in batches."""
    reader.start(seed, number, **how)
    read: list[int] = []
    for start in range(0, ROWS, batch):
        rows = reader.rows(start, start + batch)
        np.testing.assert_array_equal(np.asarray(rows.x)[:, 0] % 3, rows.y)
        read += np.asarray(rows.x)[:, 0].astype(int).tolist()
    return read


def test_each_epoch_has_every_row_once_in_an_order_of_seed_and_epoch_alone(tmp_path: Path) -> None:
    stream = stream_of(load(write(tmp_path)))
    first, second = StreamReader(stream), StreamReader(stream)

    orders = {(seed, number): epoch(first, seed, number) for seed in (1, SEED) for number in (1, 2, 3)}

    assert all(sorted(order) == list(range(ROWS)) for order in orders.values())
    assert len({tuple(order) for order in orders.values()}) == len(orders), f"ORCHESTRATOR_SEED={SEED}"
    assert epoch(second, SEED, 3, batch=256) == orders[SEED, 3]  # whatever was read before, in whatever batches
    first.close()
    second.close()


def test_rows_of_several_row_groups_are_mixed_and_row_groups_come_in_another_order(tmp_path: Path) -> None:
    stream = stream_of(load(write(tmp_path)))
    reader = StreamReader(stream)
    order = np.asarray(epoch(reader, SEED, 1)) // GROUP
    reader.close()

    windows = stream.windows(SEED, 1)
    assert [len(window) for window in windows[:-1]] == [3] * (len(windows) - 1)
    assert [*sum(windows, ())] != sorted(sum(windows, ()))
    first = sum(map(stream.rows_in, windows[0]))
    assert set(order[:first].tolist()) == set(windows[0])
    assert len(set(order[:GROUP].tolist())) == 3, f"ORCHESTRATOR_SEED={SEED}"


def test_without_shuffling_rows_come_as_they_are(tmp_path: Path) -> None:
    reader = StreamReader(stream_of(load(write(tmp_path))))
    assert epoch(reader, 1, 1, shuffle=False) == list(range(ROWS))
    reader.close()


def test_a_batch_may_be_asked_for_again(tmp_path: Path) -> None:
    reader = StreamReader(stream_of(load(write(tmp_path))))
    reader.start(1, 1)
    asked = [(0, 300), (300, 600), (0, 300), (900, 1000), (300, 600)]
    answers = [np.asarray(reader.rows(*each).x).tolist() for each in asked]
    reader.close()

    assert answers[0] == answers[2] != answers[1] == answers[4]
    assert [len(answer) for answer in answers] == [300, 300, 300, 100, 300]


def test_csv_files_are_streamed_too_and_give_the_same_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "CSV_PIECE_BYTES", 1024)
    lines = [f"{n},{n / 7},{-n},{n % 5},{n % 3}" for n in range(ROWS)]
    (tmp_path / "rows.csv").write_text("\n".join(["n,a,b,c,y", *lines]) + "\n", encoding="utf-8")

    streams = [stream_of(load(path)) for path in (tmp_path / "rows.csv", write(tmp_path))]
    readers = [StreamReader(stream) for stream in streams]
    rows = [epoch(reader, SEED, 1) for reader in readers]
    for reader in readers:
        reader.close()

    assert len(streams[0].pieces) > 5
    assert [sorted(each) for each in rows] == [list(range(ROWS))] * 2


def test_validation_rows_are_drawn_from_every_piece_and_never_train(tmp_path: Path) -> None:
    dataset = load(write(tmp_path), validation_split=0.2)
    reader = StreamReader(stream_of(dataset))
    reader.start(SEED, 1)
    train = np.asarray(reader.rows(0, ROWS).x)[:, 0].astype(int)
    reader.close()

    assert dataset.validation is not None
    held = np.asarray(dataset.validation.x)[:, 0].astype(int)
    assert dataset.loaded().rows == {"train": 800, "validation": 200}
    assert sorted([*train, *held]) == list(range(ROWS))
    assert set(held // GROUP) == set(range(-(-ROWS // GROUP)))
    again = load(tmp_path / "rows.parquet", validation_split=0.2)
    assert again.fingerprint == dataset.fingerprint != load(tmp_path / "rows.parquet").fingerprint


def test_sets_with_a_location_of_their_own_are_in_memory(tmp_path: Path) -> None:
    source = {"train": str(write(tmp_path)), "validation": str(write(tmp_path, "v.parquet", 50))}
    dataset = load(source, validation_split=0.2)

    assert dataset.loaded().rows == {"train": ROWS, "validation": 50}
    assert dataset.validation is not None
    assert dataset.validation.take(slice(3)).num_rows == 3


def test_the_sample_holds_the_smallest_and_the_largest_label_wherever_they_are(tmp_path: Path) -> None:
    labels = np.arange(5000) % 3
    labels[4000], labels[4500] = -7, 11
    pq.write_table(pa.table({"a": np.arange(5000.0), "y": labels}), tmp_path / "a.parquet", row_group_size=500)

    sample = load(tmp_path / "a.parquet", window_mb=1).train

    assert (sample.y.min(), sample.y.max()) == (-7, 11)
    assert len(sample.y) < 1100
    assert sample.num_rows == 5000
    with pytest.raises(OrchestratorError, match="by their numbers"):
        sample.take(np.arange(3))


def test_a_row_group_larger_than_a_window_is_refused_with_the_remedy(tmp_path: Path) -> None:
    path = write(tmp_path, row_group_size=ROWS)
    with pytest.raises(InvalidData, match=r"take 0\.0[1-9]\d* MiB.* holds 0\.0[0-9]*[1-9]") as caught:
        load(path)
    assert "window_mb" in str(caught.value.hint)


def test_rows_that_change_while_a_run_reads_them_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path)
    reader = StreamReader(stream_of(load(path)))
    table = pq.read_table(path)
    changed = table.set_column(1, "a", pa.array(np.ones(ROWS)))
    pq.write_table(changed, path, row_group_size=GROUP)
    tables.forget_files()

    reader.start(1, 1)
    with pytest.raises(InvalidData, match="have changed since the run loaded its data"):
        reader.rows(0, 32)
    reader.close()


def test_the_thread_that_reads_ahead_ends_with_the_reader(tmp_path: Path) -> None:
    reader = StreamReader(stream_of(load(write(tmp_path))))
    reader.start(1, 1)
    reader.rows(0, 10)
    ahead = [thread for thread in threading.enumerate() if thread.name.startswith("read-ahead")]
    assert ahead

    reader.close()

    assert not any(thread.is_alive() for thread in ahead)


MEASURE = """
import pathlib, sys
from orchestrator.spec import parse_job
from orchestrator.training.sources.load import load_job_data
from orchestrator.training.sources.stream import StreamReader


def load(path, stream):
    data = {"source": path, "label": "y", "validation_split": 0, "stream": stream}
    return load_job_data(parse_job({"name": "a", "model": "m:f", "data": data}))


def peak_mib():
    status = pathlib.Path("/proc/self/status").read_text()  # `getrusage` would tell of the process that started this
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


small, large = sys.argv[1:]
load(small, True)  # what the libraries take is there before the measurement
before = peak_mib()
dataset = load(large, {"window_mb": 8})
reader = StreamReader(dataset.train.stream)
for epoch in (1,):
    reader.start(0, epoch)
    for start in range(0, dataset.train.num_rows, 1024):
        reader.rows(start, start + 1024)
reader.close()
streamed = peak_mib() - before
load(large, False)
assert not {"tensorflow", "keras", "ray"} & set(sys.modules), "the reader needs none of them"
print(dataset.train.stream.row_bytes * dataset.train.num_rows / 2**20, streamed, peak_mib() - before)
"""


def write_numbers(path: Path, groups: int) -> str:
    rng = np.random.default_rng(0)
    schema = pa.schema([*((f"c{i}", pa.float32()) for i in range(64)), ("y", pa.int64())])
    with pq.ParquetWriter(path, schema, compression="none", use_dictionary=False) as writer:
        for _ in range(groups):
            columns = [rng.random(8192, dtype=np.float32) for _ in range(64)]
            writer.write_table(pa.table([*columns, np.arange(8192) % 3], schema=schema))
    return str(path)


@pytest.mark.slow
def test_memory_stays_within_a_few_windows_however_large_the_file(tmp_path: Path) -> None:
    """49 MiB of rows through windows of 8 MiB: two windows, a piece of 2 as written and as arrays, and arrow's own."""
    files = [write_numbers(tmp_path / f"{groups}.parquet", groups) for groups in (1, 24)]
    command = [sys.executable, "-c", MEASURE, *files]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    rows_mib, streamed_mib, in_memory_mib = map(float, done.stdout.split())
    assert rows_mib > 49
    assert streamed_mib < 32, f"{streamed_mib:.0f} MiB"
    assert in_memory_mib > 45  # what is measured is what the rows take
