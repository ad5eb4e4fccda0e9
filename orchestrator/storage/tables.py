"""Parquet codecs for what members leave behind: their history and predictions, and the labels.

pyarrow is imported on first use: reading a plan or a status does not need it.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from orchestrator.errors import DamagedStore, InvalidData, InvalidModel, OrchestratorError

_ROW = "row"
_GROUP = "group"


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
    return write_table(pa.table(columns))


def history_from_parquet(body: bytes) -> list[dict[str, float]]:
    """What `history_to_parquet` was given; `epoch` is an int. Raises DamagedStore when it is not such a file."""
    table = read_table(body, "history")
    if table.column_names[:1] != ["epoch"]:
        raise DamagedStore("the first column is not `epoch`", where="history", hint="the file was not written by us")
    return [{name: value for name, value in row.items() if value is not None} for row in table.to_pylist()]


def predictions_to_parquet(predictions: npt.NDArray[Any], rows: npt.NDArray[np.integer[Any]] | None = None) -> bytes:
    """Predictions as a Parquet file with the columns `p0` … `p<C−1>`; values come back bit for bit.

    Args:
        predictions: [N, C] float32 (or a type that fits into it without loss, such as float16).
        rows: the number of each row in its split [N], kept as the column `row`; None: they are all of the split.

    Raises:
        InvalidModel: other axes, no classes, or a type that float32 cannot hold.
    """
    if predictions.ndim != 2 or predictions.shape[1] == 0 or not np.can_cast(predictions.dtype, np.float32):
        raise InvalidModel(
            f"predictions of shape {predictions.shape} and type {predictions.dtype} cannot be stored",
            hint="a model's output has the axes [examples, classes] in float32",
        )
    table = _table(_numbered("p", predictions.shape[1]), predictions.astype(np.float32, copy=False))
    return write_table(table if rows is None else table.add_column(0, _ROW, [rows.astype(np.int64)]))


def predictions_from_parquet(body: bytes) -> npt.NDArray[np.float32]:
    """Predictions [N, C] float32. Raises DamagedStore when `body` was not made by `predictions_to_parquet`."""
    table = read_table(body, "predictions")
    return _matrix(table, _numbered("p", table.num_columns), np.float32, "predictions")


def held_out_from_parquet(body: bytes) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """Row numbers [N] and their predictions [N, C], as `predictions_to_parquet` was given both. Raises DamagedStore."""
    table, where = read_table(body, "held-out predictions"), "held-out predictions"
    rows = _matrix(table.select(table.column_names[:1]), [_ROW], np.int64, where)
    return rows[:, 0], _matrix(table.drop_columns([_ROW]), _numbered("p", table.num_columns - 1), np.float32, where)


def labels_to_parquet(labels: npt.NDArray[Any], groups: npt.NDArray[np.int64] | None = None) -> bytes:
    """Labels as a Parquet file; the columns tell what they mean, and values come back bit for bit.

    Args:
        labels: int64 classes [N], column `label`; int64 flags [N, C], columns `l0` … `l<C−1>`; or float64 numbers to
            predict [N, D], columns `y0` … `y<D−1>`.
        groups: which rows belong together, [N], as the last column, `group`; None: there is no such column.

    Raises:
        InvalidData: other axes or another type.
    """
    match labels.ndim, labels.dtype:
        case 1, np.int64:
            table = _table(["label"], labels[:, None])
        case 2, np.int64 if labels.shape[1]:
            table = _table(_numbered("l", labels.shape[1]), labels)
        case 2, np.float64 if labels.shape[1]:
            table = _table(_numbered("y", labels.shape[1]), labels)
        case _:
            raise _unstorable(labels)
    return write_table(table if groups is None else table.append_column(_GROUP, [np.ascontiguousarray(groups)]))


def _unstorable(labels: npt.NDArray[Any]) -> InvalidData:
    return InvalidData(
        f"labels of shape {labels.shape} and type {labels.dtype} cannot be stored",
        where="labels",
        hint="classes are int64 [N], flags int64 [N, C], numbers to predict float64 [N, D]",
    )


def labels_from_parquet(body: bytes) -> npt.NDArray[Any]:
    """What `labels_to_parquet` was given. Raises DamagedStore when `body` was not made by it."""
    table = read_table(body, "labels")
    if table.column_names[-1:] == [_GROUP]:
        table = table.drop_columns([_GROUP])
    if table.column_names == ["label"]:
        return _matrix(table, ["label"], np.int64, "labels")[:, 0]
    prefix, dtype = ("y", np.float64) if table.column_names[:1] == ["y0"] else ("l", np.int64)
    return _matrix(table, _numbered(prefix, table.num_columns), dtype, "labels")


def groups_from_parquet(body: bytes) -> npt.NDArray[np.int64] | None:
    """Which rows belong together, as `labels_to_parquet` was given it; None: it was given nothing. Raises as
    `labels_from_parquet`."""
    table = read_table(body, "labels")
    if table.column_names[-1:] != [_GROUP]:
        return None
    return np.asarray(_matrix(table.select([_GROUP]), [_GROUP], np.int64, "labels")[:, 0])


def _numbered(prefix: str, count: int) -> list[str]:
    return [f"{prefix}{c}" for c in range(count)]


def _table(names: Sequence[str], values: npt.NDArray[Any]) -> Any:
    """A table with a column for each of [N, C]."""
    import pyarrow as pa

    return pa.table({name: pa.array(np.ascontiguousarray(values[:, c])) for c, name in enumerate(names)})


def _matrix(table: Any, names: Sequence[str], dtype: type[np.generic], where: str) -> npt.NDArray[Any]:
    """What `_table` was given, [N, C]. Raises DamagedStore when the table has other columns, or gaps."""
    import pyarrow as pa

    fits = table.column_names == names and all(field.type == pa.from_numpy_dtype(dtype) for field in table.schema)
    if not names or not fits or any(column.null_count for column in table.columns):
        raise DamagedStore(
            f"columns {table.column_names[:4]} … are not {list(names[:1])} … of {np.dtype(dtype)}",
            where=where,
            hint="the file was not written by us",
        )
    values = np.empty((table.num_rows, table.num_columns), dtype=dtype)
    for c, column in enumerate(table.columns):
        values[:, c] = column.to_numpy()
    return values


def write_table(table: Any) -> bytes:
    """A pyarrow table as a Parquet file: the same table always gives the same bytes."""
    import pyarrow.parquet as pq

    buffer = io.BytesIO()
    pq.write_table(table, buffer, use_dictionary=False, compression="zstd")
    return buffer.getvalue()


def read_table(body: bytes, where: str) -> Any:
    """The pyarrow table in a Parquet file; `where` is for the message. Raises DamagedStore when it is not one."""
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
