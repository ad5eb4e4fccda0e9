"""The plan: everything that is fixed before the start, and the trials that a search adds. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from orchestrator.planning.members import MemberPlan, plan_members
from orchestrator.planning.search import Generation, Params
from orchestrator.planning.trials import plan_trial
from orchestrator.spec import Job


@dataclass(frozen=True)
class Plan:
    """The members of a run. How they are packed is decided at the start, when their models have been seen.

    Attributes:
        members: by index; those of a search are its trials as far as they are known.
        job: whose search adds trials; None: no member is ever added.
    """

    members: tuple[MemberPlan, ...]
    job: Job | None = None

    def with_generations(self, generations: Iterable[Generation]) -> Plan:
        """The plan with the trials of these generations as its members, each on the rung where its generation is."""
        if self.job is None:
            return self
        members: list[MemberPlan] = []
        for generation in generations:
            epochs = generation.rungs[-1].epochs if generation.rungs else None
            for params in generation.params:
                members.append(plan_trial(self.job, len(members), params, epochs))
        return replace(self, members=tuple(members))


def make_plan(job: Job, takes_dropout: Mapping[str, bool | None], first: Sequence[Params] = ()) -> Plan:
    """Plan a job's members.

    Args:
        job: the job.
        takes_dropout: see `plan_members`.
        first: of a job with a search, the values of the trials of its first generation.

    Raises:
        InvalidJob: as `plan_members`.
    """
    if job.search is None:
        return Plan(plan_members(job, takes_dropout))
    return Plan((), job).with_generations([Generation(tuple(first))])
