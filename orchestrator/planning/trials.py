"""From the values of a trial to the network that is trained for it. Pure."""

from __future__ import annotations

from dataclasses import replace

from orchestrator.planning.members import MemberPlan, plan_member
from orchestrator.planning.search import Params
from orchestrator.planning.seeds import trial_seed
from orchestrator.spec import Job, MemberOverride
from orchestrator.spec.varied import PREFIX


def plan_trial(job: Job, index: int, params: Params, epochs: int | None = None) -> MemberPlan:
    """Trial `index` of the job's search: a member of the plan with a seed of its own and with these values.

    Dropout is set where the space or the job sets it; rates by the member's index, as an ensemble without a search
    has them by default, would be one more thing that differs between trials.

    Args:
        job: the job.
        index: 0-based, over all generations.
        params: by the names of `search.space`.
        epochs: of the rung that its generation is on; None: of the first one.

    Raises:
        InvalidJob: settings of `train` contradict each other.
    """
    values = {name.removeprefix(PREFIX): value for name, value in params.items() if name.startswith(PREFIX)}
    kwargs = {name: value for name, value in params.items() if not name.startswith(PREFIX)}
    own = MemberOverride(kwargs=kwargs, train=values, seed=trial_seed(job.seed, index))
    members = job.members.model_copy(update={"overrides": {index: own}})
    trial = plan_member(job.model_copy(update={"members": members}), index, takes_dropout={})
    if job.search is None or job.search.pruning is None:
        return trial
    return replace(trial, train=trial.train.model_copy(update={"epochs": epochs or job.search.pruning.min_epochs}))
