"""Parquet codecs for what members leave behind: their history and predictions, and the labels.

pyarrow is imported on first use: reading a plan or a status does not need it.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from orchestrator.errors import DamagedStore, InvalidModel, OrchestratorError


def history_to_parquet(rows: Sequence[Mapping[str, float]]) -> bytes:
    """A member's history as a Parquet file: column `epoch`, then the metrics by name.

    Args:
        rows: one mapping for each epoch with `epoch` (1-based, ascending) and the metrics of that epoch; a metric may
            be absent in some epochs, and NaN is kept.

    Raises:
        OrchestratorError: a row without `epoch`, or epochs that do not ascend from 1.
    """
    import pyarrow as pa

    epochs = [int(row.get("epoch", 0)) for row in rows]
    if any(later <= earlier for earlier, later in zip([0, *epochs], epochs, strict=False)):
        raise OrchestratorError(f"epochs {epochs} do not ascend from 1", where="history")
    columns: dict[str, Any] = {"epoch": pa.array(epochs, pa.int64())}
    for name in sorted({name for row in rows for name in row} - {"epoch"}):
        values = [None if row.get(name) is None else float(row[name]) for row in rows]
        columns[name] = pa.array(values, pa.float64())
    return _write(pa.table(columns))


def history_from_parquet(body: bytes) -> list[dict[str, float]]:
    """What `history_to_parquet` was given; `epoch` is an int. Raises DamagedStore when it is not such a file."""
    table = _read(body, "history")
    if table.column_names[:1] != ["epoch"]:
        raise DamagedStore("the first column is not `epoch`", where="history", hint="the file was not written by us")
    return [{name: value for name, value in row.items() if value is not None} for row in table.to_pylist()]


def predictions_to_parquet(predictions: npt.NDArray[Any]) -> bytes:
    """Predictions as a Parquet file with the columns `p0` … `p<C−1>`; values come back bit for bit.

    Args:
        predictions: [N, C] float32 (or a type that fits into it without loss, such as float16).

    Raises:
        InvalidModel: other axes, no classes, or a type that float32 cannot hold.
    """
    import pyarrow as pa

    if predictions.ndim != 2 or predictions.shape[1] == 0 or not np.can_cast(predictions.dtype, np.float32):
        raise InvalidModel(
            f"predictions of shape {predictions.shape} and type {predictions.dtype} cannot be stored",
            hint="a model's output has the axes [examples, classes] in float32",
        )
    values = predictions.astype(np.float32, copy=False)
    columns = {f"p{c}": pa.array(np.ascontiguousarray(values[:, c]), pa.float32()) for c in range(values.shape[1])}
    return _write(pa.table(columns))


def predictions_from_parquet(body: bytes) -> npt.NDArray[np.float32]:
    """Predictions [N, C] float32. Raises DamagedStore when `body` was not made by `predictions_to_parquet`."""
    import pyarrow as pa

    table = _read(body, "predictions")
    names = [f"p{c}" for c in range(table.num_columns)]
    fits = table.column_names == names and all(field.type == pa.float32() for field in table.schema)
    if not names or not fits or any(column.null_count for column in table.columns):
        raise DamagedStore(
            f"columns {table.column_names[:4]} … are not p0 … of float32",
            where="predictions",
            hint="the file was not written by us",
        )
    values = np.empty((table.num_rows, table.num_columns), dtype=np.float32)
    for c, column in enumerate(table.columns):
        values[:, c] = column.to_numpy()
    return values


def labels_to_parquet(labels: npt.NDArray[np.int64]) -> bytes:
    """Class indices [N] as a Parquet file with the column `label`."""
    import pyarrow as pa

    return _write(pa.table({"label": pa.array(labels, pa.int64())}))


def labels_from_parquet(body: bytes) -> npt.NDArray[np.int64]:
    """Class indices [N]. Raises DamagedStore when `body` was not made by `labels_to_parquet`."""
    table = _read(body, "labels")
    if table.column_names != ["label"]:
        raise DamagedStore(f"columns {table.column_names} are not `label`", where="labels")
    return np.asarray(table.column("label").to_numpy(), dtype=np.int64)


def _write(table: Any) -> bytes:
    import pyarrow.parquet as pq

    buffer = io.BytesIO()
    pq.write_table(table, buffer, use_dictionary=False, compression="zstd")
    return buffer.getvalue()


def _read(body: bytes, where: str) -> Any:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.read_table(io.BytesIO(body))
    except (pa.ArrowException, OSError) as error:
        raise DamagedStore(
            f"not a readable Parquet file: {error}",
            where=where,
            hint="compare its sha256 with the record that names it",
        ) from error
