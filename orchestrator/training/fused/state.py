"""The pack's state: one array for each variable, with a row for each member, on the device and on the host."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import keras
import numpy as np

from orchestrator.errors import InvalidModel
from orchestrator.training.callbacks import seed_generators
from orchestrator.training.checkpoint import Array
from orchestrator.training.fused.dropout import rates_of
from orchestrator.training.fused.program import Leaves, Program
from orchestrator.training.fused.stateless import StatelessMember


@dataclass(frozen=True)
class Places:
    """Where a member's variables are among the pack's arrays.

    Attributes:
        model: of each of `model.variables`.
        optimizer: of each of `optimizer.variables`.
        seeds: of each seed generator that the member has: (place, its number in the order of layers).
        rates: of each dropout rate: (place, the member's rate).
    """

    model: tuple[int, ...]
    optimizer: tuple[int, ...]
    seeds: tuple[tuple[int, int], ...]
    rates: tuple[tuple[int, float], ...]


def find_places(model: keras.Model, program: StatelessMember, where: str) -> Places:
    """Match a member's own model with the program's, which has more: rates, and seeds of dropout layers of rate 0.

    Raises:
        InvalidModel: the model is of another architecture.
    """
    place = {id(v): number for number, v in enumerate([*program.trainable, *program.rest, *program.optimizer])}
    rates = rates_of(model)
    pairs = list(zip(program.dropouts, rates, strict=False))
    extra = {id(dropout.rate) for dropout, _ in pairs} | {id(dropout.seed) for dropout, rate in pairs if rate == 0}
    own = [variable for variable in program.model.variables if id(variable) not in extra]
    for ours, theirs in ((own, model.variables), (program.optimizer, model.optimizer.variables)):
        if [(v.shape, v.dtype) for v in ours] != [(v.shape, v.dtype) for v in theirs] or len(rates) != len(
            program.dropouts
        ):
            raise InvalidModel("the members of a pack are of different architectures", where=where)
    at = {id(theirs): place[id(ours)] for ours, theirs in zip(own, model.variables, strict=True)}
    generators = enumerate(seed_generators(model))
    return Places(
        model=tuple(at[id(variable)] for variable in model.variables),
        optimizer=tuple(place[id(variable)] for variable in program.optimizer),
        seeds=tuple((at[id(each.state)], number) for number, each in generators if id(each.state) in at),
        rates=tuple((place[id(dropout.rate)], rate) for dropout, rate in pairs),
    )


class PackState:
    """The state of all members of a pack.

    After each epoch `fetch` copies it to the host, where callbacks, snapshots and seeds work on it row by row; `send`
    puts what changed back on the device.
    """

    def __init__(self, program: Program) -> None:
        member = program.member
        self._program = program
        variables = [*member.trainable, *member.rest, *member.optimizer]
        likes = [keras.ops.convert_to_numpy(variable) for variable in variables]
        self._host = [np.zeros((program.num_rows, *like.shape), like.dtype) for like in likes]
        self._changed = set(range(len(variables)))
        self.device: Leaves = [None] * len(variables)

    def row(self, places: Sequence[int], row: int) -> list[Array]:
        """One member's values, as views: copy what has to outlive the epoch."""
        return [self._host[place][row] for place in places]

    def write(self, place: int, row: int, value: object) -> None:
        """Set one variable of one member."""
        self._host[place][row] = value
        self._changed.add(place)

    def send(self) -> None:
        """Bring the device up to date."""
        for place in self._changed:
            self.device[place] = self._program.put(self._host[place])
        self._changed.clear()

    def fetch(self) -> None:
        """Bring the host up to date."""
        self._host = self._program.get(self.device)
