"""The members' stored predictions of one part, one member at a time, as often as the evaluation needs them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from orchestrator.storage.parallel import in_order
from orchestrator.storage.records import BlobRef
from orchestrator.storage.tables import predictions_from_parquet

Read = Callable[[BlobRef], bytes]

KEPT_BYTES = 32 * 2**20
"""Predictions of a split that are kept in memory once read; what goes beyond is read again for each pass."""


class Predictions:
    """Predictions [N, C] of each selected member: one output's, on one split.

    Args:
        members: the entries of the selection record, in member order.
        part: which (`planning.outputs`).
        read: gives the verified bytes of a blob; called from several threads.
    """

    def __init__(self, members: Sequence[Mapping[str, Any]], part: str, read: Read) -> None:
        self._refs = [BlobRef.from_json(member["predictions"][part], where=f"selection, {part}") for member in members]
        self._read = read
        self._kept: list[npt.NDArray[np.float32]] = []
        self._kept_bytes = 0

    def __len__(self) -> int:
        return len(self._refs)

    def __iter__(self) -> Iterator[npt.NDArray[np.float32]]:
        """One after another, the next ones read ahead."""
        num_kept = len(self._kept)
        yield from self._kept[:num_kept]
        rest = self._refs[num_kept:]
        for values in in_order(lambda ref: predictions_from_parquet(self._read(ref)), rest, num_bytes=lambda r: r.size):
            self._keep(num_kept, values)
            num_kept += 1
            yield values

    def _keep(self, position: int, values: npt.NDArray[np.float32]) -> None:
        if position == len(self._kept) and self._kept_bytes + values.nbytes <= KEPT_BYTES:
            self._kept.append(values)
            self._kept_bytes += values.nbytes
