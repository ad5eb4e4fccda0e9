"""What of a split's inputs a report can show: small pictures, or the values of a narrow table. No Keras here."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from orchestrator.storage.examples import Examples
from orchestrator.training.data import Split

Array = npt.NDArray[Any]

MAX_ROWS = 4096
MAX_BYTES = 16 * 2**20
"""Of a split's pictures: large ones in colour are fewer than `MAX_ROWS`."""

MIN_SIDE, MAX_SIDE = 8, 48
"""Pixels. What is narrower is no picture but a sequence of a few features."""

MAX_COLUMNS = 32


def take_examples(split: Split, seed: int) -> Examples | None:
    """Rows of a split as they can be shown; None where no input can be.

    Of several inputs the first that looks like pictures is taken, else those that look like tables, side by side.
    Pictures are [N, H, W], [N, H, W, 1], or with 3 or 4 channels, of which the first three are red, green and blue;
    every n-th pixel is kept, and the range of all that is kept becomes 0 … 255. A table is [N] or [N, D]; all together
    have up to 32 columns, and one that would be too wide is left out. A flat picture is not guessed.

    Args:
        split: whose inputs.
        seed: of the draw, where there are more rows than can be kept.
    """
    inputs = split.x if isinstance(split.x, dict) else {"x": split.x}
    for name, array in inputs.items():
        pixels = _pixels(array)
        if pixels is not None:
            rows = _draw(len(pixels), MAX_BYTES // int(np.prod(pixels.shape[1:])), seed)
            return Examples(rows, (name,), images=_to_uint8(pixels[rows]))
    tables: list[Array] = []
    names: list[str] = []
    for name, array in inputs.items():
        columns = [name] if array.ndim == 1 else [f"{name}[{column}]" for column in range(array.shape[1])]
        if array.ndim <= 2 and 1 <= len(columns) <= MAX_COLUMNS - len(names):
            tables.append(array.reshape(len(array), -1))
            names += columns
    if not tables:
        return None
    rows = _draw(split.num_rows, MAX_ROWS, seed)
    with np.errstate(over="ignore"):  # what float32 cannot hold is shown as infinite
        values = np.hstack([table[rows].astype(np.float32) for table in tables])
    return Examples(rows, tuple(names), values=values)


def _pixels(array: Array) -> Array | None:
    """A view [N, h, w] or [N, h, w, 3] of every n-th pixel; None where the array does not look like pictures."""
    if array.ndim == 4 and array.shape[3] in (1, 3, 4):
        array = array[..., 0] if array.shape[3] == 1 else array[..., :3]
    elif array.ndim != 3:
        return None
    step = max(1, -(-max(array.shape[1:3]) // MAX_SIDE))
    pixels = array[:, ::step, ::step]
    return pixels if min(pixels.shape[1:3]) >= MIN_SIDE else None


def _draw(num_rows: int, most: int, seed: int) -> npt.NDArray[np.int64]:
    """Which rows to keep, ascending: all, or a seeded draw."""
    most = min(most, MAX_ROWS)
    if num_rows <= most:
        return np.arange(num_rows)
    return np.sort(np.random.default_rng(seed).choice(num_rows, most, replace=False))


def _to_uint8(pixels: Array) -> npt.NDArray[np.uint8]:
    """Pixels of any numeric type, their range stretched to 0 … 255; 0 where all are equal."""
    half_low, half_high = float(pixels.min()) / 2, float(pixels.max()) / 2
    half_range = half_high - half_low  # the whole of it may be beyond float64
    if half_range == 0:
        return np.zeros(pixels.shape, dtype=np.uint8)
    levels = pixels.astype(np.float64)
    levels /= 2
    levels -= half_low
    levels /= half_range
    levels *= 255
    return np.rint(levels, out=levels).astype(np.uint8)
