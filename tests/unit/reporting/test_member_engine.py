"""By which engine a member was trained, as the result tells it."""

from __future__ import annotations

from typing import Any

from orchestrator.ensemble.tasks import TaskKind
from orchestrator.planning.members import MemberPlan
from orchestrator.planning.outputs import ONLY
from orchestrator.planning.packs import Pack
from orchestrator.planning.placement import Crew
from orchestrator.planning.plan import Plan
from orchestrator.planning.recovery import MemberMemory
from orchestrator.planning.schedule_state import MemberState, Settings, State
from orchestrator.reporting.conclude import result_of
from orchestrator.reporting.facts import member_facts
from orchestrator.reporting.selection import RunFacts, make_selection
from orchestrator.spec import FaultsSpec, parse_job
from orchestrator.storage.layout import RunLayout
from orchestrator.storage.records import BlobRef

LAYOUT = RunLayout("digits", "digits-run")
PLANS = tuple(MemberPlan(index, index, "jobs.digits:build_model", {}) for index in range(4))
STATES = {index: MemberState(status=status) for index, status in enumerate(("failed", "failed", "failed", "diverged"))}
PACKS = (Pack(0, (0, 1, 2), "fused"), Pack(1, (3,), "solo"), Pack(2, (2,), "solo"))
"""Of the first one, member 2 was then trained alone."""


def read_nothing(ref: BlobRef) -> bytes:
    raise AssertionError(f"{ref.key} was read")


def selection() -> dict[str, Any]:
    state = State(Settings(Plan(PLANS), Crew(1), FaultsSpec()), Crew(1), STATES, packs=PACKS)
    memories = {1: MemberMemory(final={"engine": "solo"}, final_seq=2)}
    members = [member_facts(plan, state, memories.get(plan.index, MemberMemory())) for plan in PLANS]
    run = RunFacts("tuesday", 1, {ONLY: TaskKind.MULTICLASS}, {}, {}, "0" * 64, "1" * 64, "2" * 64, {}, ())
    named = {"name": "digits", "model": "jobs.digits:build_model", "data": "jobs.digits:load_data", "members": 4}
    return make_selection(parse_job(named), run, members, read_nothing)


def engines(body: dict[str, Any]) -> list[str]:
    return [member.engine for member in result_of(body, LAYOUT, read_nothing).members]


def test_a_member_without_a_model_is_told_with_the_engine_of_its_newest_pack_and_one_with_a_model_with_its_own() -> (
    None
):
    assert engines(selection()) == ["fused", "solo", "solo", "solo"]


def test_a_selection_from_before_engines_were_in_it_still_gives_its_result() -> None:
    body = selection()
    old = {**body, "members": [{k: v for k, v in m.items() if k != "engine"} for m in body["members"]]}
    assert engines(old) == ["solo"] * 4
