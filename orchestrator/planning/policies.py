"""Policies: pure rules that answer with a decision and its reason."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from orchestrator.planning.events import Cause
from orchestrator.spec import FaultsSpec

CRASHES = (Cause.CRASH, Cause.STALL, Cause.DAMAGED)
"""These share one budget: a machine that writes damaged models is as bad as one that dies."""


@dataclass(frozen=True)
class RetryDecision:
    """Whether the member gets another attempt, after how many seconds, and why."""

    retry: bool
    delay_s: float
    reason: str


def decide_retry(cause: Cause, ended: Mapping[Cause, int], faults: FaultsSpec, jitter: float) -> RetryDecision:
    """Decide after an attempt ended.

    Args:
        cause: why it ended.
        ended: attempts of this member that ended so far, by cause, this one included.
        faults: the budgets.
        jitter: in [0, 1); spreads the delay over its upper half, so that members do not come back in step.

    The user's own error has no budget: the same code gives the same error. Preemptions and lost nodes are nobody's
    fault and unlimited in number. Crashes, stalls and damaged models share a budget, with exponential backoff.
    """
    match cause:
        case Cause.USER_ERROR:
            return RetryDecision(False, 0.0, "an error in the job's own code is not retried")
        case Cause.PREEMPTED | Cause.NODE_LOST:
            return RetryDecision(True, 0.0, f"{cause.value.replace('_', ' ')}: not counted as a failure")
        case Cause.OUT_OF_MEMORY:
            used, budget, name = ended.get(cause, 0), faults.max_out_of_memory, "out of memory"
        case Cause.CRASH | Cause.STALL | Cause.DAMAGED:
            used, budget, name = sum(ended.get(cause, 0) for cause in CRASHES), faults.max_crashes, "crashes"
    if used > budget:
        return RetryDecision(False, 0.0, f"{name}: {used} times, the budget is {budget} retries")
    bound = min(faults.backoff_max_s, faults.backoff_min_s * 2.0 ** min(used - 1, 60))  # a float holds no 2 ** 2000
    return RetryDecision(True, bound * (0.5 + jitter / 2), f"{name}: retry {used} of {budget}")


def exhausted(ended: Mapping[Cause, int], faults: FaultsSpec) -> str | None:
    """Why a member with these ended attempts gets no further one; None while it does."""
    decisions = (decide_retry(cause, ended, faults, jitter=0.0) for cause, count in ended.items() if count > 0)
    return next((decision.reason for decision in decisions if not decision.retry), None)


@dataclass(frozen=True)
class QuorumDecision:
    """Whether the members at hand make a result, whether it is a partial one, and why."""

    enough: bool
    partial: bool
    reason: str


def decide_quorum(num_good: int, num_members: int, quorum: int | None, counted: str = "members") -> QuorumDecision:
    """Decide once no member can change any more; `quorum` None asks for all. `counted` names what the numbers count."""
    needed = num_members if quorum is None else quorum
    partial = num_good < num_members
    if num_good >= max(1, needed):
        return QuorumDecision(True, partial, f"{num_good} of {num_members} {counted}, {needed} needed")
    return QuorumDecision(False, partial, f"only {num_good} of {num_members} {counted}, {needed} needed")


@dataclass(frozen=True)
class StopRule:
    """When an ensemble has enough members.

    Attributes:
        metric: the score of the ensemble that is watched.
        greater_is_better: of the metric.
        min_delta: an improvement is more than this.
        patience: so many members one after another without an improvement are enough.
    """

    metric: str
    greater_is_better: bool
    min_delta: float
    patience: int


@dataclass(frozen=True)
class EnoughDecision:
    """The members with an index below `num_members` make the ensemble, and why; None: more are needed."""

    num_members: int | None
    reason: str


def decide_enough(scores: Sequence[float | None], rule: StopRule) -> EnoughDecision:
    """Decide from the scores of the ensembles of the first 1, 2, … members, by index.

    The answer depends on nothing but these, so neither on who finished first nor on what was trained beyond: once
    it is a number, further scores do not change it.

    Args:
        scores: of each ensemble; None where its last member is absent or weighs nothing: that is no evidence.
        rule: the rule. As in Keras' `EarlyStopping`, small improvements add up: each is measured from the best score
            that was an improvement itself.
    """
    sign = 1.0 if rule.greater_is_better else -1.0
    best, best_at, waited = 0.0, 0, 0
    for num_members, score in enumerate(scores, start=1):
        if score is None:
            continue
        if best_at == 0 or sign * (score - best) > rule.min_delta:
            best, best_at, waited = score, num_members, 0
            continue
        waited += 1
        if waited == rule.patience:
            return EnoughDecision(num_members, _since(rule, best, best_at, waited))
    return EnoughDecision(None, _since(rule, best, best_at, waited) if best_at else "no member has been scored")


def _since(rule: StopRule, best: float, best_at: int, waited: int) -> str:
    members = "member" if best_at == 1 else f"{best_at} members"
    more = "none after that" if waited == 0 else f"{waited} more improved it by no more than {rule.min_delta:g}"
    return f"{rule.metric} of the first {members} is {best:.5g}, {more}"
