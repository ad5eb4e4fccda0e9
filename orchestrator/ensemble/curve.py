"""The score over the size of the ensemble: what each further member brought, and how much of that is luck.

Members are fed one at a time and once. Of each random order, what lies between two sizes is summed up apart, so that
all sizes of all orders are known after one pass.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain, count, takewhile
from typing import Any

import numpy as np
import numpy.typing as npt

from orchestrator.ensemble.combine import Accumulator, How, from_logits, to_logits
from orchestrator.ensemble.metrics import headline, per_example
from orchestrator.ensemble.tasks import TaskKind
from orchestrator.errors import OrchestratorError
from orchestrator.planning.seeds import Namespace

Array = npt.NDArray[Any]
Float64 = npt.NDArray[np.float64]

_STREAM = 4  # of Namespace.SPLITS, see `intervals`; 3 draws examples

MAX_ORDERS = 8
MAX_BYTES = 256 * 2**20
"""What the sums of the random orders may take together: of larger predictions there are fewer orders."""


@dataclass(frozen=True)
class CurvePoint:
    """The score of ensembles of one size.

    Attributes:
        members: the size.
        mean, low, high: mean, least and greatest over `orders` choices of that many members.
        in_order: of the first so many members.
        orders: how many choices; 1, which is then `in_order`, at the full size and where the predictions are so large
            that no random order fits into the memory allowed.
    """

    members: int
    mean: float
    low: float
    high: float
    in_order: float
    orders: int


def sizes(num_members: int) -> tuple[int, ...]:
    """The sizes to look at: 1, 2, 3, 4, 6, 8, 12, 16, 24 …, and `num_members`; at most 32 up to 65,536 members."""
    doubling = chain((1,), chain.from_iterable((2 * 2**k, 3 * 2**k) for k in count()))
    return (*takewhile(lambda size: size < num_members, doubling), num_members)


class SizeCurve:
    """Score over size, of members that are fed one at a time in member order.

    The random orders are one permutation of the members, begun at different places: each order by itself is as random
    as the permutation, and together they show the members evenly.

    Args:
        task, targets: as for `per_example`.
        num_members: how many there will be, at least 1.
        seed: the job's root seed; the permutation's stream is `SeedSequence(seed, spawn_key=(2, 4))`.
        combine: how the members' predictions are averaged, without weights.
        max_bytes: most memory for the sums of the random orders.
    """

    def __init__(
        self,
        task: TaskKind,
        targets: Array,
        num_members: int,
        seed: int,
        combine: How = "mean",
        *,
        max_bytes: int = MAX_BYTES,
    ) -> None:
        self._task, self._targets = task, targets
        self._logits = combine == "logits" and task is not TaskKind.REGRESSION
        self._sizes = sizes(num_members)
        sequence = np.random.SeedSequence(seed, spawn_key=(int(Namespace.SPLITS), _STREAM))
        self._ranks = np.random.default_rng(sequence).permutation(num_members)
        self._max_bytes = max_bytes
        self._first = Accumulator(task, combine)
        self._in_order: list[dict[str, float]] = []
        self._orders: list[_Order] = []
        self._added = 0

    def add(self, prediction: Array) -> None:
        """Add the next member's prediction [N, C].

        Raises:
            InvalidData, InvalidModel: it does not fit the targets or the members before, or is no prediction.
            OrchestratorError: there were enough members already.
        """
        if self._added == self._sizes[-1]:
            raise OrchestratorError(f"one prediction too many for a curve over {self._added} members")
        self._first.add(prediction)
        if self._added == 0:
            self._orders = self._begin_orders(prediction.shape)
        values = to_logits(self._task, prediction) if self._logits else np.asarray(prediction, dtype=np.float64)
        for order in self._orders:
            order.add(self._added, values)
        self._added += 1
        if self._added in self._sizes:
            self._in_order.append(self._score(self._first.average()))

    def result(self) -> dict[str, tuple[CurvePoint, ...]]:
        """The points by metric: the task's headline, and nll where there are probabilities.

        Raises:
            OrchestratorError: fewer members were added than there should be.
        """
        if self._added != self._sizes[-1]:
            raise OrchestratorError(f"{self._added} predictions for a curve over {self._sizes[-1]} members")
        drawn: list[list[dict[str, float]]] = [[] for _ in self._sizes]
        for order in self._orders:
            for at_size, average in zip(drawn, order.averages(), strict=False):  # no order has the full size
                at_size.append(self._score(from_logits(self._task, average) if self._logits else average))
        return {
            metric: tuple(
                _point(size, in_order[metric], [scores[metric] for scores in at_size])
                for size, in_order, at_size in zip(self._sizes, self._in_order, drawn, strict=True)
            )
            for metric in self._in_order[0]
        }

    def _begin_orders(self, shape: tuple[int, ...]) -> list[_Order]:
        num_members, inner = self._sizes[-1], self._sizes[:-1]
        bytes_per_order = len(inner) * int(np.prod(shape)) * np.dtype(np.float64).itemsize
        fitting = self._max_bytes // bytes_per_order if bytes_per_order else 0
        num_orders = min(MAX_ORDERS, num_members, fitting)
        begins = [order * num_members // num_orders for order in range(num_orders)]
        return [_Order((self._ranks - begin) % num_members, inner, shape) for begin in begins]

    def _score(self, average: Float64) -> dict[str, float]:
        rows = per_example(self._task, self._targets, average)
        if self._task is TaskKind.REGRESSION:
            return {headline(self._task): float(np.sqrt(np.mean(rows["squared_error"])))}
        return {metric: float(np.mean(rows[metric])) for metric in (headline(self._task), "nll")}


class _Order:
    """The sums of one order of the members, from each size to the next.

    Args:
        ranks: [M] place of each member in the order, from 0.
        sizes: ascending, all below M.
        shape: of a prediction.
    """

    def __init__(self, ranks: npt.NDArray[np.int64], sizes: tuple[int, ...], shape: tuple[int, ...]) -> None:
        self._sizes = sizes
        self._part = np.searchsorted(sizes, ranks, side="right")
        self._sums = np.zeros((len(sizes), *shape))

    def add(self, member: int, values: Float64) -> None:
        if self._part[member] < len(self._sizes):  # the last ones are in the whole ensemble alone
            self._sums[self._part[member]] += values

    def averages(self) -> Iterator[Float64]:
        """The average [N, C] of the first so many members of this order, size by size."""
        total = np.zeros(self._sums.shape[1:])
        for size, part in zip(self._sizes, self._sums, strict=True):
            total += part
            yield total / size


def _point(size: int, in_order: float, drawn: list[float]) -> CurvePoint:
    scores = drawn or [in_order]
    return CurvePoint(size, float(np.mean(scores)), min(scores), max(scores), in_order, len(scores))
