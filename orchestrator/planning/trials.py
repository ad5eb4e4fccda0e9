"""From the values of a trial to the network that is trained for it. Pure."""

from __future__ import annotations

from orchestrator.planning.members import MemberPlan, train_of
from orchestrator.planning.search import Params
from orchestrator.planning.seeds import trial_seed
from orchestrator.spec import Job
from orchestrator.spec.varied import PREFIX


def plan_trial(job: Job, index: int, params: Params) -> MemberPlan:
    """Trial `index` of the job's search: a member of the plan with a seed of its own and with these values.

    Dropout is set where the space or the job sets it; rates by the member's index, as an ensemble without a search
    has them by default, would be one more thing that differs between trials.

    Args:
        job: the job.
        index: 0-based, over all generations.
        params: by the names of `search.space`.

    Raises:
        InvalidJob: settings of `train` contradict each other.
    """
    kwargs = {**job.model.kwargs, **{name: value for name, value in params.items() if not name.startswith(PREFIX)}}
    if job.members.dropout is not None:
        kwargs["dropout"] = job.members.dropout
    values = {name.removeprefix(PREFIX): value for name, value in params.items() if name.startswith(PREFIX)}
    seed = trial_seed(job.seed, index)
    train = train_of(job, index, values)
    return MemberPlan(index, seed, job.model.builder, kwargs, train, values, preprocess=job.data.preprocess)
