"""Policies answer with a decision and its reason."""

from __future__ import annotations

import pytest

from orchestrator.planning.events import Cause
from orchestrator.planning.policies import decide_quorum, decide_retry, exhausted
from orchestrator.spec import FaultsSpec

FAULTS = FaultsSpec()


@pytest.mark.parametrize(
    ("cause", "ended", "retry", "reason"),
    [
        (Cause.USER_ERROR, {}, False, "an error in the job's own code is not retried"),
        (Cause.OUT_OF_MEMORY, {Cause.OUT_OF_MEMORY: 2}, True, "out of memory: retry 2 of 2"),
        (Cause.OUT_OF_MEMORY, {Cause.OUT_OF_MEMORY: 3}, False, "out of memory: 3 times, the budget is 2 retries"),
        (Cause.OUT_OF_MEMORY, {Cause.OUT_OF_MEMORY: 1, Cause.CRASH: 9}, True, "out of memory: retry 1 of 2"),
        (Cause.CRASH, {Cause.CRASH: 3}, True, "crashes: retry 3 of 3"),
        (Cause.CRASH, {Cause.CRASH: 4}, False, "crashes: 4 times, the budget is 3 retries"),
        (Cause.STALL, {Cause.CRASH: 2, Cause.STALL: 1}, True, "crashes: retry 3 of 3"),
        (Cause.STALL, {Cause.CRASH: 2, Cause.STALL: 2}, False, "crashes: 4 times, the budget is 3 retries"),
        (Cause.DAMAGED, {Cause.DAMAGED: 2, Cause.CRASH: 1}, True, "crashes: retry 3 of 3"),
        (Cause.DAMAGED, {Cause.DAMAGED: 2, Cause.STALL: 2}, False, "crashes: 4 times, the budget is 3 retries"),
        (Cause.PREEMPTED, {Cause.PREEMPTED: 10_000}, True, "preempted: not counted as a failure"),
        (Cause.NODE_LOST, {Cause.NODE_LOST: 10_000}, True, "node lost: not counted as a failure"),
    ],
)
def test_every_cause_has_a_budget_of_its_own(cause: Cause, ended: dict[Cause, int], retry: bool, reason: str) -> None:
    decision = decide_retry(cause, {cause: 1, **ended}, FAULTS, jitter=0.5)
    assert (decision.retry, decision.reason) == (retry, reason)


@pytest.mark.parametrize(
    ("used", "shortest", "longest"), [(1, 0.5, 1), (2, 1, 2), (3, 2, 4), (7, 30, 60), (50, 30, 60)]
)
def test_the_delay_doubles_up_to_its_bound_and_jitter_moves_it_within_the_upper_half(
    used: int, shortest: float, longest: float
) -> None:
    faults = FaultsSpec(max_crashes=100)
    assert decide_retry(Cause.CRASH, {Cause.CRASH: used}, faults, jitter=0.0).delay_s == shortest
    assert decide_retry(Cause.CRASH, {Cause.CRASH: used}, faults, jitter=1.0).delay_s == longest


def test_a_budget_of_thousands_has_a_delay_too() -> None:
    decision = decide_retry(Cause.CRASH, {Cause.CRASH: 5_000}, FaultsSpec(max_crashes=10_000), jitter=0.0)
    assert decision.delay_s == 30


def test_preemption_costs_no_delay() -> None:
    assert decide_retry(Cause.PREEMPTED, {Cause.PREEMPTED: 9}, FAULTS, jitter=0.9).delay_s == 0


@pytest.mark.parametrize(
    ("ended", "spent"),
    [
        ({}, False),
        ({Cause.CRASH: 3, Cause.OUT_OF_MEMORY: 2, Cause.PREEMPTED: 99}, False),
        ({Cause.CRASH: 3, Cause.STALL: 1}, True),
        ({Cause.CRASH: 2, Cause.DAMAGED: 2}, True),
        ({Cause.OUT_OF_MEMORY: 3}, True),
        ({Cause.USER_ERROR: 1}, True),
        ({Cause.USER_ERROR: 0}, False),
    ],
)
def test_a_member_is_exhausted_when_any_of_its_budgets_is(ended: dict[Cause, int], spent: bool) -> None:
    assert (exhausted(ended, FAULTS) is not None) == spent


@pytest.mark.parametrize(
    ("good", "members", "quorum", "enough", "partial", "reason"),
    [
        (5, 5, None, True, False, "5 of 5 members, 5 needed"),
        (4, 5, None, False, True, "only 4 of 5 members, 5 needed"),
        (3, 5, 3, True, True, "3 of 5 members, 3 needed"),
        (2, 5, 3, False, True, "only 2 of 5 members, 3 needed"),
        (0, 5, 1, False, True, "only 0 of 5 members, 1 needed"),
    ],
)
def test_quorum(good: int, members: int, quorum: int | None, enough: bool, partial: bool, reason: str) -> None:
    decision = decide_quorum(good, members, quorum)
    assert (decision.enough, decision.partial, decision.reason) == (enough, partial, reason)
