"""The stored predictions of one part, as often as the evaluation needs them: one member, or configuration, at a time.

Without folds each member is a configuration by itself. With folds a configuration's prediction of a row is the mean
over its members' that may be asked: out-of-fold those that did not learn from the row (one per repeat), else all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from orchestrator.errors import DamagedStore
from orchestrator.planning.folds import OUT_OF_FOLD
from orchestrator.planning.outputs import split_of
from orchestrator.storage.parallel import in_order
from orchestrator.storage.records import BlobRef
from orchestrator.storage.tables import held_out_from_parquet, predictions_from_parquet

Array = npt.NDArray[Any]
Entry = Mapping[str, Any]
Read = Callable[[BlobRef], bytes]

KEPT_BYTES = 32 * 2**20
"""Predictions of a split that are kept in memory once read; what goes beyond is read again for each pass."""


def by_configuration(members: Sequence[Entry]) -> dict[int, list[Entry]]:
    """A selection record's entries by their configuration, in order; without folds each member is its own."""
    found: dict[int, list[Entry]] = {}
    for member in members:
        found.setdefault(configuration_of(member), []).append(member)
    return found


def configuration_of(member: Entry) -> int:
    """The configuration of a selection record's entry; without folds its index."""
    fold = member.get("fold")
    return int(member["index"] if fold is None else fold["configuration"])


class Predictions:
    """Predictions [N, C] of each configuration on one part's rows; without folds, of each member.

    Args:
        members: the entries of the selection record, in member order; with folds whole configurations.
        part: which rows, and which output (`orchestrator.planning.outputs`).
        read: gives the verified bytes of a blob; called from several threads.
    """

    def __init__(self, members: Sequence[Entry], part: str, read: Read) -> None:
        self._asked = [[_ref(member, part) for member in each] for each in by_configuration(members).values()]
        self._repeats = [[_repeat(member) for member in each] for each in by_configuration(members).values()]
        self._out_of_fold = split_of(part) == OUT_OF_FOLD
        self._part, self._read = part, read
        self._kept: list[Array] = []
        self._kept_bytes = 0

    def __len__(self) -> int:
        return len(self._asked)

    def __iter__(self) -> Iterator[Array]:
        """One after another, the next ones read ahead."""
        num_kept = len(self._kept)
        yield from self._kept[:num_kept]
        rest = range(num_kept, len(self._asked))
        for values in in_order(self._load, rest, num_bytes=lambda n: sum(ref.size for ref in self._asked[n])):
            self._keep(num_kept, values)
            num_kept += 1
            yield values

    def _load(self, position: int) -> Array:
        bodies = (self._read(ref) for ref in self._asked[position])
        if self._out_of_fold:
            held_out = zip(self._repeats[position], map(held_out_from_parquet, bodies), strict=True)
            return tiled([(repeat, *each) for repeat, each in held_out], self._part)
        if len(self._asked[position]) == 1:
            return predictions_from_parquet(next(bodies))
        total = sum(predictions_from_parquet(body).astype(np.float64) for body in bodies)
        mean: Array = np.asarray(total / len(self._asked[position]))
        return mean

    def _keep(self, position: int, values: Array) -> None:
        if position == len(self._kept) and self._kept_bytes + values.nbytes <= KEPT_BYTES:
            self._kept.append(values)
            self._kept_bytes += values.nbytes


def tiled(held_out: Sequence[tuple[int, Array, Array]], where: str) -> npt.NDArray[np.float64]:
    """One prediction [N, C] of every row, from members that each held out some: the mean over repeats.

    Args:
        held_out: of each member its repeat, the numbers [K] of the rows it held out, its predictions of them [K, C].
        where: for the message.

    Raises:
        DamagedStore: in some repeat a row is predicted twice, or not at all.
    """
    repeats = sorted({repeat for repeat, _, _ in held_out})
    num_rows = sum(len(rows) for repeat, rows, _ in held_out if repeat == repeats[0])
    total = np.zeros((num_rows, held_out[0][2].shape[1]))
    for repeat in repeats:
        of_repeat = [(rows, values) for each, rows, values in held_out if each == repeat]
        rows = np.concatenate([rows for rows, _ in of_repeat])
        if not np.array_equal(np.sort(rows), np.arange(num_rows)):
            raise DamagedStore(
                f"the folds of repeat {repeat} do not hold out each of {num_rows} rows exactly once",
                where=where,
                hint="the stored predictions are not of one run: start it again with --fresh",
            )
        total[rows] += np.concatenate([values for _, values in of_repeat])
    return total / len(repeats)


def _ref(member: Entry, part: str) -> BlobRef:
    return BlobRef.from_json(member["predictions"][part], where=f"selection, {part}")


def _repeat(member: Entry) -> int:
    fold = member.get("fold")
    return 0 if fold is None else int(fold["repeat"])
