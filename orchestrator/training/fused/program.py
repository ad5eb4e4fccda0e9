"""The compiled programs of a pack, the same to use on either backend, and the cache that spares their compilation."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import keras
import numpy as np

from orchestrator.models.preprocess_fit import Preprocessing
from orchestrator.planning.members import MemberPlan
from orchestrator.spec import TrainSpec
from orchestrator.training.checkpoint import Array
from orchestrator.training.data import Dataset, Split
from orchestrator.training.fused.stateless import StatelessMember

Leaves = list[Any]
"""Arrays on the device, of the shapes of a member's variables with the pack's rows as a further first axis."""

Logs = Mapping[str, Any]
"""Figures by `fit`'s names, each with the pack's rows as first axis."""


@dataclass(frozen=True)
class Batches:
    """How rows fall into batches: `full` ones of `size` rows, then one of `tail` rows unless that is 0."""

    size: int
    full: int
    tail: int

    @classmethod
    def of(cls, num_rows: int, size: int) -> Batches:
        size = min(size, num_rows)
        return cls(size, *divmod(num_rows, size))


class Program(Protocol):
    """What both backends offer: steps of training and of validation for all rows of a pack at once."""

    member: StatelessMember
    num_rows: int

    def put(self, array: Array) -> Any:
        """An array of the pack's state on the device."""

    def put_data(self, split: Split) -> Any:
        """The rows of a split on the device, without a copy where that is possible; shared by all members."""

    def get(self, leaves: Sequence[Any]) -> list[Array]:
        """Writable copies of arrays of the device."""

    def train(
        self, state: Leaves, metrics: Leaves, data: Any, order: Any, size: int, steps: tuple[int, int], active: Any
    ) -> tuple[Leaves, Leaves, Logs]:
        """Train batches `steps[0]` up to `steps[1]` of an epoch; rows that are not `active` stay as they are.

        Args:
            state: trainable, other and optimizer variables; it is used up.
            metrics: the metrics' state.
            data: of `put_data`.
            order: row numbers [K, N] in the order of the epoch.
            size: rows of these batches; a batch begins at its number times the size of the full ones.
            steps: the first, and the one after the last.
            active: [K], true for members that train.
        """

    def test(self, state: Leaves, metrics: Leaves, data: Any, size: int, steps: tuple[int, int]) -> tuple[Leaves, Logs]:
        """Score batches of validation rows, in their own order. Arguments as for `train`."""


def make_program(
    key: Hashable,
    members: Sequence[MemberPlan],
    train: TrainSpec,
    dataset: Dataset,
    validation_batch: int,
    preprocessing: Preprocessing | None = None,
) -> Program:
    """The program for a pack; one that was made for the same key is used again, compiled as it is.

    Args:
        key: the members' signature; shapes, pack and batch sizes and settings are added here.
        members: of the pack.
        train: the job's `train:` settings.
        dataset: the rows.
        validation_batch: rows of a full batch of validation.
        preprocessing: of the first member; what it is, is in the key.
    """
    batch = dataset.train.take(slice(0, train.batch_size))
    shapes = [(name, a.shape, a.dtype.str) for _, split in dataset.splits() for name, a in split.arrays()]
    whole = (key, len(members), train.batch_size, validation_batch, tuple(shapes), keras.config.floatx())
    if whole in _programs:
        _programs.move_to_end(whole)
        return _programs[whole]
    member = StatelessMember(members[0], train, batch, preprocessing)
    program: Program
    if keras.backend.backend() == "jax":
        from orchestrator.training.fused.on_jax import JaxProgram

        program = JaxProgram(member, len(members), train.batch_size, validation_batch)
    else:
        from orchestrator.training.fused.on_tensorflow import TensorFlowProgram

        program = TensorFlowProgram(member, len(members), train.batch_size, validation_batch)
    _programs[whole] = program
    while len(_programs) > _MOST_PROGRAMS:
        _programs.popitem(last=False)
    return program


_MOST_PROGRAMS = 4
_programs: OrderedDict[Hashable, Program] = OrderedDict()


def member_logs(logs: Logs, row: int) -> dict[str, float]:
    """One member's figures, in the order in which `fit` gives them."""
    return {name: float(np.asarray(values)[row]) for name, values in sorted(logs.items())}
