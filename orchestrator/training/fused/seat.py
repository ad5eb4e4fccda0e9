"""What the fused engine is asked to train."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from orchestrator.planning.members import MemberPlan
from orchestrator.training.checkpoint import Snapshot


@dataclass(frozen=True)
class Seat:
    """One member's row in a pack.

    Attributes:
        member: which one.
        folder: empty local scratch; callbacks write below `files`.
        start_from: the state after an earlier epoch, the same for all unfinished seats; None: the beginning.
        finished: published before: the row is only carried along, for the size of a pack shapes its bits.
        on_epoch: called after each epoch of the member with its 1-based number and logs.
    """

    member: MemberPlan
    folder: Path
    start_from: Snapshot | None
    finished: bool
    on_epoch: Callable[[int, Mapping[str, float]], None]


class CannotFuse(Exception):
    """The members are no pack: the compiler refuses their program, or their models turn out to be of different
    architectures. Nothing has been trained: the solo engine can take the members."""
