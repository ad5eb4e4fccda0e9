"""Examples of a run's inputs, in a form that a report can show without the data: a Parquet file, and back."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from orchestrator.errors import DamagedStore
from orchestrator.storage.tables import read_table, write_table

_ABOUT = b"examples"
"""Key in the file's metadata: a JSON object with `shape` of one example and `names`."""


@dataclass(frozen=True, eq=False)
class Examples:
    """Some rows of a split: pictures of one input, or the values of one, never both.

    Attributes:
        rows: [K] int64, which rows of the split, ascending.
        names: of the input that is pictured, or of each column of `values`.
        images: uint8 [K, H, W] grey or [K, H, W, 3] red, green, blue.
        values: float32 [K, D].
    """

    rows: npt.NDArray[np.int64]
    names: tuple[str, ...]
    images: npt.NDArray[np.uint8] | None = None
    values: npt.NDArray[np.float32] | None = None


def write_examples(examples: Examples) -> bytes:
    """A Parquet file with the columns `row`, and `image` (its bytes, row by row) or `values`."""
    import pyarrow as pa

    columns = {"row": pa.array(examples.rows, pa.int64())}
    if examples.images is not None:
        shape = examples.images.shape[1:]
        width = int(np.prod(shape))
        pixels = pa.py_buffer(np.ascontiguousarray(examples.images))
        columns["image"] = pa.FixedSizeBinaryArray.from_buffers(pa.binary(width), len(examples.rows), [None, pixels])
    else:
        values = np.asarray(examples.values)
        shape = values.shape[1:]
        columns["values"] = pa.FixedSizeListArray.from_arrays(pa.array(values.ravel(), pa.float32()), shape[0])
    about = json.dumps({"shape": shape, "names": examples.names})
    return write_table(pa.table(columns).replace_schema_metadata({_ABOUT: about}))


def read_examples(body: bytes) -> Examples:
    """What `write_examples` was given, bit for bit. Raises DamagedStore when it is not such a file."""
    table = read_table(body, "examples")
    try:
        return _from_table(table, json.loads((table.schema.metadata or {})[_ABOUT]))
    except (KeyError, TypeError, ValueError) as error:
        raise DamagedStore(
            f"columns {table.column_names[:4]} and their metadata are not those of examples: {error!r}",
            where="examples",
            hint="the file was not written by us",
        ) from error


def _from_table(table: Any, about: Mapping[str, Any]) -> Examples:
    """Raises KeyError, TypeError or ValueError where something does not fit."""
    shape, names = (table.num_rows, *about["shape"]), tuple(str(name) for name in about["names"])
    rows = np.asarray(table.column("row").to_pylist(), dtype=np.int64)
    if "image" in table.column_names:
        pixels = np.frombuffer(b"".join(table.column("image").to_pylist()), dtype=np.uint8)
        return Examples(rows, names, images=pixels.reshape(shape))
    values = np.asarray(table.column("values").to_pylist(), dtype=np.float32)
    return Examples(rows, names, values=values.reshape(shape))
