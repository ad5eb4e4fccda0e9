"""Commands for members that are trained alone."""

from __future__ import annotations

from orchestrator.planning import commands as cmd
from orchestrator.planning.packs import Pack


def train_alone(worker: str, member: int, predict: tuple[int, ...] = ()) -> cmd.TrainPack:
    """Train one member by `fit`; where each is alone, a member's pack has its number."""
    return cmd.TrainPack(worker, Pack(member, (member,), "solo"), (member,), predict)
