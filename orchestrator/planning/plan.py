"""The plan: everything that is fixed before the start. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from orchestrator.planning.members import MemberPlan, plan_members
from orchestrator.spec import Job


@dataclass(frozen=True)
class Pack:
    """Members that are trained as one unit on one device; `engine` says how."""

    index: int
    members: tuple[int, ...]
    engine: str


@dataclass(frozen=True)
class Plan:
    """Members and packs of a run."""

    members: tuple[MemberPlan, ...]
    packs: tuple[Pack, ...]


def make_plan(job: Job, takes_dropout: Mapping[str, bool | None]) -> Plan:
    """Plan a job: its members, each in a pack of its own, trained by Keras' `fit` (engine `solo`)."""
    members = plan_members(job, takes_dropout)
    packs = tuple(Pack(member.index, (member.index,), "solo") for member in members)
    return Plan(members, packs)
