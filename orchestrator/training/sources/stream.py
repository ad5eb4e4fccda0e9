"""Training rows that are read anew each epoch: in a seeded, shuffled order, in bounded memory.

The order of an epoch is a function of the member's seed and the epoch alone, whatever was read before. Pieces of the
files (row groups, runs of lines) are put in a new order and gathered into windows; within a window rows are shuffled.
A window is in use while a thread reads the next: two windows and one piece are all that is in memory.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import Any

import numpy as np
import numpy.typing as npt

from orchestrator.errors import InvalidData, OrchestratorError
from orchestrator.training.data import Split
from orchestrator.training.sources.columns import Layout, Rows, rows_of
from orchestrator.training.sources.tables import Piece, read_piece

_PIECES, _ROWS = 0, 1
"""What a random stream is for, besides seed and epoch."""


@dataclass(frozen=True)
class Stream:
    """Training rows in files.

    Attributes:
        pieces: where they are.
        layout: what becomes of which column.
        digests: of each piece's arrays, as they were when the data was loaded.
        row_bytes: of one row's arrays.
        window_bytes: rows are shuffled among so many bytes of them.
        share: of each piece's rows, those that are validation rows instead.
        seed: of the draw of those, and of what `max_rows` leaves.
        max_rows: training rows at most, of which each piece has its share; None: all.
    """

    pieces: tuple[Piece, ...]
    layout: Layout
    digests: tuple[bytes, ...]
    row_bytes: int
    window_bytes: int
    share: float = 0.0
    seed: int = 0
    max_rows: int | None = None

    @property
    def num_rows(self) -> int:
        """Training rows in all."""
        return int(self._num_kept.sum())

    def rows_in(self, number: int) -> int:
        """Training rows of a piece."""
        return int(self._num_kept[number])

    def drawn(self, number: int) -> npt.NDArray[np.bool_]:
        """Which rows of a piece are validation rows: a function of the seed and the piece's number."""
        return self._chosen(number, 0, int(self._num_drawn[number]))

    def kept(self, number: int) -> npt.NDArray[np.bool_]:
        """Which rows of a piece are training rows, likewise."""
        first = int(self._num_drawn[number])
        return self._chosen(number, first, first + self.rows_in(number))

    def _chosen(self, number: int, first: int, end: int) -> npt.NDArray[np.bool_]:
        """The rows of a piece that have these places in its own random order."""
        chosen = np.zeros(self.pieces[number].num_rows, dtype=bool)
        if end > first:
            order = np.random.default_rng([self.seed, number]).permutation(len(chosen))
            chosen[order[first:end]] = True
        return chosen

    @cached_property
    def _num_kept(self) -> npt.NDArray[np.int64]:
        """Training rows of each piece."""
        there = np.asarray([piece.num_rows for piece in self.pieces], dtype=np.int64) - self._num_drawn
        if self.max_rows is None or there.sum() <= self.max_rows:
            return there
        return _shares(there, self.max_rows / int(there.sum()))

    @cached_property
    def _num_drawn(self) -> npt.NDArray[np.int64]:
        """Validation rows of each piece."""
        return _shares(np.asarray([piece.num_rows for piece in self.pieces]), self.share)

    def windows(self, seed: int, epoch: int, *, shuffle: bool = True) -> tuple[tuple[int, ...], ...]:
        """The numbers of the pieces of each window of an epoch (1-based), in order."""
        count = len(self.pieces)
        order = np.random.default_rng([seed, epoch, _PIECES]).permutation(count) if shuffle else np.arange(count)
        order = order[self._num_kept[order] > 0]  # what has no training rows is not read
        windows: list[list[int]] = []
        room = 0
        for number in order.tolist():
            size = self.rows_in(number) * self.row_bytes
            if size > room or not windows:
                windows.append([])
                room = self.window_bytes
            windows[-1].append(number)
            room -= size
        return tuple(map(tuple, windows))

    def read(self, number: int) -> Rows:
        """All rows of a piece.

        Raises:
            InvalidData: they are not those that the run began with.
            AccessDenied, StoreUnavailable: the file cannot be reached.
        """
        rows = read_rows_of(self.pieces[number], self.layout)
        if digest_of(rows) != self.digests[number]:
            piece = self.pieces[number]
            raise InvalidData(
                f"the rows from {piece.first_row} on have changed since the run loaded its data",
                where=piece.file.name,
                hint="restore the file, or start a new run; files must not change while a run reads them",
            )
        return rows

    def read_window(self, numbers: Sequence[int], order: npt.NDArray[np.int64]) -> Rows:
        """The training rows of these pieces; the j-th of them, piece after piece, comes to the place `order[j]`."""
        into: Rows | None = None
        start = 0
        for number in numbers:
            rows = self.read(number)
            if self.rows_in(number) < self.pieces[number].num_rows:
                rows = rows.take(self.kept(number))
            into = into or rows.with_arrays([np.empty((len(order), *a.shape[1:]), a.dtype) for a in rows.arrays()])
            places = order[start : start + self.rows_in(number)]
            for array, place in zip(rows.arrays(), into.arrays(), strict=True):
                place[places] = array
            start += len(places)
        if into is None:
            raise OrchestratorError("a window of training rows is empty")
        return into


def _shares(sizes: npt.NDArray[np.int64], share: float) -> npt.NDArray[np.int64]:
    """Of each piece so many rows that it and all before it have their share, however small it is."""
    until = np.floor(share * np.cumsum([0, *sizes])).astype(np.int64)
    return until[1:] - until[:-1]


class StreamedSplit(Split):
    """Training rows of which only a sample is in memory.

    `x`, `y` and `w` hold the sample: the first rows, and for each label those with its smallest and its largest value.
    What needs all rows must read the stream.
    """

    stream: Stream

    def __init__(self, sample: Split, stream: Stream) -> None:
        super().__init__(sample.x, sample.y, sample.w)
        object.__setattr__(self, "stream", stream)

    @property
    def num_rows(self) -> int:
        return self.stream.num_rows

    def take(self, rows: npt.NDArray[np.integer[Any]] | slice) -> Split:
        """Rows of the sample, from its beginning: for a look at what rows are like."""
        if not isinstance(rows, slice) or rows.start not in (0, None):
            raise OrchestratorError(
                "streamed training rows were asked for by their numbers",
                where="data.stream",
                hint="this is an error of this package; without data.stream it does not happen",
            )
        return super().take(rows)


class StreamReader:
    """The rows of one epoch after another; positions ascend, and the next window is read ahead by a thread.

    Args:
        stream: the rows.
    """

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._lock = threading.Lock()
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="read-ahead")
        self._ahead: tuple[int, Future[Rows]] | None = None
        self._number, self._rows = -1, Rows(None, None, None, None)
        self._windows: tuple[tuple[int, ...], ...] = ()

    def start(self, seed: int, epoch: int, *, shuffle: bool = True) -> None:
        """Begin an epoch (1-based)."""
        with self._lock:
            self._drop()
            self._seeds, self._shuffle = [seed, epoch, _ROWS], shuffle
            self._windows = self._stream.windows(seed, epoch, shuffle=shuffle)
            sizes = (sum(map(self._stream.rows_in, numbers)) for numbers in self._windows)
            self._starts = np.fromiter(accumulate(sizes, initial=0), dtype=np.int64)

    def rows(self, start: int, stop: int) -> Split:
        """The rows at these positions of the epoch. What is behind a window's end is read when it is come to.

        Raises:
            InvalidData, AccessDenied, StoreUnavailable: as `Stream.read`.
        """
        with self._lock:
            parts = []
            stop = min(stop, int(self._starts[-1]))
            while start < stop:
                number = int(np.searchsorted(self._starts, start, side="right")) - 1
                self._go_to(number)
                first, end = self._starts[number], min(stop, int(self._starts[number + 1]))
                parts.append(self._rows.take(slice(start - first, end - first)))
                start = end
        arrays = zip(*(part.arrays() for part in parts), strict=True)
        joined = parts[0].with_arrays([each[0] if len(each) == 1 else np.concatenate(each) for each in arrays])
        return Split(joined.x, joined.y, joined.w)

    def close(self) -> None:
        """End the thread; a piece that is being read is read to its end."""
        with self._lock:
            self._drop()
        self._thread.shutdown(wait=True, cancel_futures=True)

    def _drop(self) -> None:
        if self._ahead is not None:
            self._ahead[1].cancel()
        self._ahead, self._number, self._rows = None, -1, Rows(None, None, None, None)

    def _go_to(self, number: int) -> None:
        if number == self._number:
            return
        ahead = self._ahead if self._ahead is not None and self._ahead[0] == number else None
        if ahead is None:
            self._drop()
        rows = (ahead[1] if ahead is not None else self._read(number)).result()
        self._number, self._rows, self._ahead = number, rows, None
        if number + 1 < len(self._windows):
            self._ahead = number + 1, self._read(number + 1)

    def _read(self, number: int) -> Future[Rows]:
        count = int(self._starts[number + 1] - self._starts[number])
        seeds = [*self._seeds, number] if self._shuffle else None
        return self._thread.submit(_read_window, self._stream, self._windows[number], count, seeds)


def _read_window(stream: Stream, numbers: Sequence[int], count: int, seeds: list[int] | None) -> Rows:
    """A window's rows in the order of a permutation; without seeds as they are. It knows nothing of its reader, which
    may have begun another epoch."""
    order = np.arange(count) if seeds is None else np.random.default_rng(seeds).permutation(count)
    return stream.read_window(numbers, order)


class InputInOrder:
    """One input of all training rows in the order of the files, as far as an array's slices are asked for.

    Slices are best asked for in ascending order: what lies before the last one is read again.

    Args:
        reader: of the stream; closed by whoever opened it.
        stream: the rows.
        sample: rows of the same kind.
        name: of the input; empty for the only one.
    """

    def __init__(self, reader: StreamReader, stream: Stream, sample: Split, name: str) -> None:
        self._reader, self._name = reader, name
        like = sample.x[name] if isinstance(sample.x, dict) else sample.x
        self.dtype, self.shape = like.dtype, (stream.num_rows, *like.shape[1:])
        self._num_rows = stream.num_rows
        reader.start(0, 1, shuffle=False)

    def __len__(self) -> int:
        return self._num_rows

    def __getitem__(self, rows: slice) -> Any:
        start, stop, _ = rows.indices(len(self))
        x = self._reader.rows(start, stop).x
        return x[self._name] if isinstance(x, dict) else x


def read_rows_of(piece: Piece, layout: Layout) -> Rows:
    """The rows of one piece. Raises as `read_piece` and `rows_of`."""
    in_folders = {name for name, _ in piece.file.partitions}
    own = [name for name in layout.columns() if name in piece.columns or name not in in_folders]
    return rows_of(read_piece(piece, own), piece, layout)


def digest_of(rows: Rows) -> bytes:
    """Of the rows' bytes, types and shapes."""
    digest = hashlib.blake2b(digest_size=16)
    for array in rows.arrays():
        digest.update(f"{array.dtype.str}{array.shape}".encode())
        digest.update(np.ascontiguousarray(array).view(np.uint8).data)
    return digest.digest()
