"""The first reading of rows that will be streamed: they are checked, and what must be known of them is kept."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from orchestrator.errors import InvalidData
from orchestrator.training.data import Split
from orchestrator.training.sources.columns import Layout, Rows
from orchestrator.training.sources.stream import Stream, digest_of, read_rows_of
from orchestrator.training.sources.tables import Piece

SAMPLE_ROWS = 1024
"""Of the first training rows, which are kept for checks that need some."""


def open_stream(
    pieces: tuple[Piece, ...], layout: Layout, window_bytes: int, *, share: float, seed: int
) -> tuple[Stream, Split, Rows | None]:
    """Read all training rows once, piece by piece, to know and to check them.

    Args:
        pieces, layout: where the rows are, and what becomes of them.
        window_bytes: see `Stream`.
        share: of the rows that become validation rows, drawn with `seed`; 0: none do.
        seed: of that draw.

    Returns:
        The stream, a sample of its rows, and the validation rows that were drawn, if any.

    Raises:
        InvalidData: a piece is larger than a window, or rows have different shapes; else as `Stream.read`.
    """
    draft = Stream(pieces, layout, (), 0, window_bytes, share, seed)
    digests: list[bytes] = []
    drawn: list[Rows] = []
    sample = _Sample()
    for number, piece in enumerate(pieces):
        rows = read_rows_of(piece, layout)
        digests.append(digest_of(rows))
        _check_size(rows, piece, window_bytes)
        mask = draft.drawn(number)
        if mask.any():
            drawn.append(rows.take(mask))
        sample.look_at(rows.take(~mask), piece)
    row_bytes = sum(int(array[:1].nbytes) for array in rows.arrays())
    stream = Stream(pieces, layout, tuple(digests), row_bytes, window_bytes, share, seed)
    return stream, sample.split(), _joined(drawn) if drawn else None


def _check_size(rows: Rows, piece: Piece, window_bytes: int) -> None:
    size = sum(array.nbytes for array in rows.arrays())
    if size > window_bytes:
        raise InvalidData(
            f"the {piece.num_rows} rows from {piece.first_row} on take {size / 2**20:.3g} MiB as arrays, and a window "
            f"holds {window_bytes / 2**20:.3g}",
            where=piece.file.name,
            hint="raise data.stream.window_mb, or write Parquet files with smaller row groups",
        )


class _Sample:
    """The first rows, and those with the smallest and the largest of each label."""

    def __init__(self) -> None:
        self._head: list[Rows] = []
        self._count = 0
        self._extremes: dict[tuple[int, bool], tuple[float, Rows]] = {}
        self._shapes: list[tuple[int, ...]] = []

    def look_at(self, rows: Rows, piece: Piece) -> None:
        shapes = [array.shape[1:] for array in rows.arrays()]
        self._shapes = self._shapes or shapes
        if shapes != self._shapes:
            raise InvalidData(
                f"rows from {piece.first_row} on have shapes {shapes}, those before them {self._shapes}",
                where=piece.file.name,
                hint="pad lists to one length",
            )
        labels = list(rows.y.values()) if isinstance(rows.y, dict) else [rows.y]
        if not len(labels[0]):
            return
        if self._count < SAMPLE_ROWS:
            self._head.append(rows.take(slice(SAMPLE_ROWS - self._count)))
            self._count += len(labels[0])
        for number, array in enumerate(labels):
            flat = array.reshape(len(array), -1)
            for largest, row, value in (
                (False, int(flat.min(axis=1).argmin()), float(flat.min())),
                (True, int(flat.max(axis=1).argmax()), float(flat.max())),
            ):
                before = self._extremes.get((number, largest))
                if before is None or (value > before[0] if largest else value < before[0]):
                    self._extremes[number, largest] = value, rows.take([row])

    def split(self) -> Split:
        if not self._head:
            raise InvalidData("there are no training rows", where="data.source", hint="lower data.validation_split")
        rows = _joined([*self._head, *(rows for _, rows in self._extremes.values())])
        return Split(rows.x, rows.y, rows.w)


def _joined(parts: Sequence[Rows]) -> Rows:
    return parts[0].with_arrays([np.concatenate(each) for each in zip(*(p.arrays() for p in parts), strict=True)])
