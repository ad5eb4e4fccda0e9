"""The plan: everything that is fixed before the start. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from orchestrator.planning.members import MemberPlan, plan_members
from orchestrator.spec import Job


@dataclass(frozen=True)
class Plan:
    """The members of a run. How they are packed is decided at the start, when their models have been seen."""

    members: tuple[MemberPlan, ...]


def make_plan(job: Job, takes_dropout: Mapping[str, bool | None]) -> Plan:
    """Plan a job's members."""
    return Plan(plan_members(job, takes_dropout))
