"""Arrays in an .npz: x, y and w, or the same for each set of rows, as Keras' own files have them."""

from __future__ import annotations

import io
import zipfile
import zlib
from typing import Any

import numpy as np

from orchestrator.errors import InvalidData
from orchestrator.training.sources.files import DataFile, told

_SETS = {"train": ("train",), "validation": ("validation", "val", "valid"), "test": ("test",)}
_HINT = "save x, y and, for sample weights, w; or x_train, y_train, x_test, y_test"


def read_npz(file: DataFile) -> dict[str, tuple[Any, ...]]:
    """The arrays of a file by set, each (x, y) or (x, y, w); arrays without a set's name are the training rows.

    Arrays of Python objects are refused: to read one is to run what it says.

    Raises:
        InvalidData: it is no .npz, or its arrays have other names.
    """
    with file.open() as opened, told(file.name):
        body = io.BytesIO(opened.read())
    try:
        if not zipfile.is_zipfile(body):  # else NumPy tries other formats, and advises to unpickle the file
            raise zipfile.BadZipFile("it is no zip archive")
        body.seek(0)
        with np.load(body, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files}
    except (ValueError, OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise InvalidData(f"is no .npz of plain arrays: {error}", where=file.name, hint=_HINT) from error
    sets = {"train": _rows(arrays, "")} | {
        name: _rows(arrays, f"_{ending}")
        for name, endings in _SETS.items()
        for ending in endings
        if f"x_{ending}" in arrays
    }
    found = {name: rows for name, rows in sets.items() if rows}
    used = sum(len(rows) for rows in found.values())
    if "train" not in found or used < len(arrays):
        raise InvalidData(f"holds the arrays {sorted(arrays)}", where=file.name, hint=_HINT)
    return found


def _rows(arrays: dict[str, Any], ending: str) -> tuple[Any, ...]:
    """x, y and w with that ending; nothing where x or y is missing."""
    if f"x{ending}" not in arrays or f"y{ending}" not in arrays:
        return ()
    return tuple(arrays[name + ending] for name in ("x", "y", "w") if name + ending in arrays)
