"""Parquet codecs: what goes in comes out, and what is not ours is refused."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.errors import DamagedStore, InvalidData, InvalidModel, OrchestratorError
from orchestrator.storage.tables import (
    history_from_parquet,
    history_to_parquet,
    labels_from_parquet,
    labels_to_parquet,
    predictions_from_parquet,
    predictions_to_parquet,
)

HISTORY = [
    {"epoch": 1, "loss": 0.7, "accuracy": 0.5, "val_loss": 0.8},
    {"epoch": 2, "loss": 0.3, "accuracy": 0.9, "val_loss": 0.4},
]


def test_a_history_comes_back_with_its_epochs_as_whole_numbers() -> None:
    rows = history_from_parquet(history_to_parquet(HISTORY))
    assert rows == HISTORY
    assert all(type(row["epoch"]) is int for row in rows)


def test_a_historys_columns_are_epoch_then_the_metrics_sorted() -> None:
    (row, _) = history_from_parquet(history_to_parquet(HISTORY))
    assert list(row) == ["epoch", "accuracy", "loss", "val_loss"]


def test_other_tools_read_a_history() -> None:
    import io

    import pyarrow.parquet as pq

    table = pq.read_table(io.BytesIO(history_to_parquet(HISTORY)))
    assert table.column_names == ["epoch", "accuracy", "loss", "val_loss"]
    assert str(table.schema.field("epoch").type) == "int64"
    assert str(table.schema.field("loss").type) == "double"


def test_a_metric_may_be_absent_in_an_epoch_and_nan_is_kept() -> None:
    first, second = history_from_parquet(
        history_to_parquet([{"epoch": 1, "loss": math.nan}, {"epoch": 2, "loss": 0.5, "learning_rate": 0.1}])
    )
    assert math.isnan(first["loss"])
    assert "learning_rate" not in first
    assert second == {"epoch": 2, "loss": 0.5, "learning_rate": 0.1}


def test_an_empty_history_comes_back_empty() -> None:
    assert history_from_parquet(history_to_parquet([])) == []


@pytest.mark.parametrize("epochs", [[0], [2, 1], [1, 1]])
def test_epochs_that_do_not_ascend_from_one_are_refused(epochs: list[int]) -> None:
    with pytest.raises(OrchestratorError, match="do not ascend"):
        history_to_parquet([{"epoch": epoch, "loss": 1.0} for epoch in epochs])


def test_a_history_without_epochs_is_refused() -> None:
    with pytest.raises(OrchestratorError, match="do not ascend"):
        history_to_parquet([{"loss": 1.0}])


@given(seed=st.integers(0, 10_000), num_rows=st.integers(0, 20), num_classes=st.integers(1, 12))
@settings(max_examples=30, deadline=None)
def test_predictions_come_back_bit_for_bit(seed: int, num_rows: int, num_classes: int) -> None:
    bits = np.random.default_rng(seed).integers(0, 2**32, (num_rows, num_classes), dtype=np.uint32)
    predictions = bits.view(np.float32)  # any bits: NaN payloads, infinities and denormals among them
    result = predictions_from_parquet(predictions_to_parquet(predictions))
    assert result.dtype == np.float32
    assert result.flags["C_CONTIGUOUS"]
    np.testing.assert_array_equal(result.view(np.uint32), bits)


def test_more_than_ten_classes_keep_their_order() -> None:
    predictions = np.arange(36, dtype=np.float32).reshape(3, 12)
    np.testing.assert_array_equal(predictions_from_parquet(predictions_to_parquet(predictions)), predictions)


def test_half_precision_is_stored_without_loss() -> None:
    predictions = np.array([[0.1, 0.9]], dtype=np.float16)
    np.testing.assert_array_equal(predictions_from_parquet(predictions_to_parquet(predictions)), predictions)


def test_equal_values_give_equal_bytes() -> None:
    predictions = np.random.default_rng(0).random((10, 3)).astype(np.float32)
    assert predictions_to_parquet(predictions) == predictions_to_parquet(np.asfortranarray(predictions))
    assert history_to_parquet(HISTORY) == history_to_parquet([dict(reversed(row.items())) for row in HISTORY])


@pytest.mark.parametrize(
    "predictions",
    [np.zeros(3, np.float32), np.zeros((3, 0), np.float32), np.zeros((2, 2, 2), np.float32), np.zeros((2, 2))],
)
def test_predictions_that_cannot_be_stored_exactly_are_refused(predictions: np.ndarray) -> None:
    with pytest.raises(InvalidModel, match="cannot be stored"):
        predictions_to_parquet(predictions)


@given(seed=st.integers(0, 10_000), num_rows=st.integers(0, 20), width=st.integers(1, 12))
@settings(max_examples=30, deadline=None)
def test_labels_of_every_task_come_back_bit_for_bit(seed: int, num_rows: int, width: int) -> None:
    rng = np.random.default_rng(seed)
    bits = rng.integers(0, 2**63, (num_rows, width))
    for labels in (bits[:, 0], rng.integers(0, 2, (num_rows, width)), bits.view(np.float64)):  # classes, flags, numbers
        result = labels_from_parquet(labels_to_parquet(labels))
        assert (result.dtype, result.shape) == (labels.dtype, labels.shape)
        assert result.tobytes() == labels.tobytes()


@pytest.mark.parametrize(
    ("labels", "columns"),
    [
        (np.array([3, 1]), ["label"]),
        (np.array([[0, 1], [1, 1]]), ["l0", "l1"]),
        (np.array([[0.5, 1.5]]), ["y0", "y1"]),
    ],
)
def test_the_columns_of_labels_tell_what_they_mean(labels: np.ndarray, columns: list[str]) -> None:
    import io

    import pyarrow.parquet as pq

    assert pq.read_table(io.BytesIO(labels_to_parquet(labels))).column_names == columns


@pytest.mark.parametrize(
    "labels",
    [
        np.array([1.0]),
        np.array([1], np.int32),
        np.array([[1.0]], np.float32),
        np.zeros((2, 0)),
        np.zeros((2, 0), np.int64),
        np.zeros((1, 1, 1)),
    ],
)
def test_labels_that_are_no_targets_are_not_stored(labels: np.ndarray) -> None:
    with pytest.raises(InvalidData, match="cannot be stored"):
        labels_to_parquet(labels)


def test_labels_with_a_gap_or_of_another_type_are_refused() -> None:
    import io

    import pyarrow as pa
    import pyarrow.parquet as pq

    for column in (pa.array([1, None]), pa.array([1.5, 2.0]), pa.array([1, 2], pa.int32())):
        file = io.BytesIO()
        pq.write_table(pa.table({"label": column}), file)
        with pytest.raises(DamagedStore, match="label"):
            labels_from_parquet(file.getvalue())


@pytest.mark.parametrize("decode", [history_from_parquet, predictions_from_parquet, labels_from_parquet])
@pytest.mark.parametrize("body", [b"", b"PAR1 garbage PAR1", history_to_parquet(HISTORY)[:-20]])
def test_damaged_files_are_refused(decode: object, body: bytes) -> None:
    assert callable(decode)
    with pytest.raises(DamagedStore, match="not a readable Parquet file"):
        decode(body)


def test_one_kind_of_file_is_not_taken_for_the_other() -> None:
    with pytest.raises(DamagedStore):
        predictions_from_parquet(history_to_parquet(HISTORY))
    with pytest.raises(DamagedStore):
        labels_from_parquet(history_to_parquet(HISTORY))
    with pytest.raises(DamagedStore):
        history_from_parquet(predictions_to_parquet(np.zeros((2, 2), np.float32)))
