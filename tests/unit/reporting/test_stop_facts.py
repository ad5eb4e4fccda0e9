"""What the result is told of `stop_when`: who is left out, and what that saved."""

from __future__ import annotations

from typing import Any

import pytest

from orchestrator.planning.members import MemberPlan
from orchestrator.planning.packs import Pack
from orchestrator.planning.placement import Crew
from orchestrator.planning.plan import Plan
from orchestrator.planning.policies import StopRule
from orchestrator.planning.recovery import MemberMemory
from orchestrator.planning.schedule_state import MemberState, Settings, State
from orchestrator.reporting.facts import member_facts, ranges, stop_facts, stop_notes
from orchestrator.reporting.result import StoppedResult
from orchestrator.reporting.selection import MemberFacts
from orchestrator.spec import FaultsSpec

RULE = StopRule("accuracy", greater_is_better=True, min_delta=0.01, patience=2)
PLANS = tuple(MemberPlan(index, index, "jobs.digits:build_model", {}) for index in range(8))


def trained(train_s: float, *, late: bool = False) -> MemberMemory:
    return MemberMemory(final={"train_s": train_s, "late": late}, final_seq=3, attempts=1)


NOT_NEEDED = MemberState(status="unneeded", message="not needed: so it is")
DONE = MemberState(status="done")
STATES = {
    0: (DONE, trained(8.0)),
    1: (DONE, trained(8.0)),
    2: (MemberState(status="done", late=True), trained(0.5, late=True)),
    3: (MemberState(status="diverged", message="NaN"), MemberMemory(attempts=1)),
    4: (NOT_NEEDED, trained(6.0)),
    5: (NOT_NEEDED, MemberMemory(attempts=2)),
    6: (NOT_NEEDED, MemberMemory()),
    7: (NOT_NEEDED, MemberMemory()),
}
PACKS = (Pack(0, (0, 1), "fused"), *(Pack(number, (number + 1,), "solo") for number in range(1, 7)))


def told(rule: StopRule | None = RULE) -> dict[str, Any] | None:
    state = schedule(rule)
    return stop_facts(state, facts_of(state))


def schedule(rule: StopRule | None = RULE) -> State:
    settings = Settings(Plan(PLANS), Crew(1), FaultsSpec(), stop_rule=rule)
    members = {index: state for index, (state, _) in STATES.items()}
    return State(settings, Crew(1), members, packs=PACKS, scores=(0.8, 0.8, 0.8), enough=3)


def facts_of(state: State) -> list[MemberFacts]:
    return [member_facts(plan, state, STATES[plan.index][1]) for plan in PLANS]


def test_who_has_a_model_is_left_out_and_who_has_none_was_not_trained() -> None:
    found = told()
    assert found is not None
    assert (found["left_out"], found["not_trained"]) == ([4], [5, 6, 7])
    assert StoppedResult.model_validate(found).decided_at == 3


def test_what_was_saved_is_the_share_of_packs_that_a_member_took_times_the_members_that_never_began() -> None:
    found = told()
    assert found is not None
    assert found["saved_s"] == pytest.approx(2 * (4.0 + 4.0 + 6.0) / 3, abs=1e-3), "without the late one"


def test_the_statuses_and_messages_of_members_that_are_left_out_say_what_became_of_them() -> None:
    facts = facts_of(schedule())
    assert [each.status for each in facts[2:]] == [
        "late",
        "diverged",
        "stopped",
        "stopped",
        "not_started",
        "not_started",
    ]
    assert facts[4].message == "trained, but not needed: so it is"
    assert facts[6].message == "not needed: so it is"


def test_the_notes_name_decision_members_and_saving() -> None:
    why = "accuracy of the first member is 0.8, 2 more improved it by no more than 0.01"
    assert stop_notes(told()) == (
        f"stopped with the first 3 members: {why}",
        "members not trained: 5–7; about 9.3 worker-seconds of training saved",
        "members trained before that was known, and left out: 4",
    )
    assert (told(None), stop_notes(None)) == (None, ())


@pytest.mark.parametrize(("indices", "text"), [([], ""), ([3], "3"), ([3, 4], "3–4"), ([1, 3, 4, 5, 9], "1, 3–5, 9")])
def test_indices_are_told_as_ranges(indices: list[int], text: str) -> None:
    assert ranges(indices) == text
