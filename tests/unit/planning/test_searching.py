"""A search within the schedule: what is asked for when, and what comes of the answer."""

from __future__ import annotations

from orchestrator.errors import QuorumMissed
from orchestrator.planning import commands as cmd
from orchestrator.planning import events as ev
from orchestrator.planning.packs import Architecture, PackingRules
from orchestrator.planning.placement import Crew
from orchestrator.planning.plan import Plan, make_plan
from orchestrator.planning.recovery import RunMemory
from orchestrator.planning.schedule import Settings, State, begin, step
from orchestrator.planning.schedule_state import SearchRules
from orchestrator.planning.search import Generation
from orchestrator.spec import FaultsSpec, parse_job

JOB = parse_job(
    {
        "name": "searched",
        "model": "m:f",
        "data": "m:d",
        "members": 1,
        "search": {"space": {"units": [16, 32]}, "trials": 6, "parallel": 2},
    }
)
PARAMS = ({"units": 16}, {"units": 32})


def plan(num_generations: int = 1) -> Plan:
    return make_plan(JOB, {}).with_generations([Generation(PARAMS)] * num_generations)


def settings(the_plan: Plan) -> Settings:
    rules = PackingRules("fused")
    return Settings(the_plan, Crew(1), FaultsSpec(), quorum=1, packing=rules, search=SearchRules(2, 6, 1))


def through() -> tuple[State, list[cmd.Command]]:
    """Both trials of the first generation have failed for good, so there is nothing left to do."""
    return begin(settings(plan()), 0.0, RunMemory(), [], {0: "diverged", 1: "diverged"})


def test_what_comes_next_is_asked_for_once_when_all_trials_are_through() -> None:
    state, commands = through()
    assert commands == [cmd.AskTrials({})]
    assert step(state, ev.Tick(), 1.0)[1] == []


def test_new_trials_are_looked_at_before_they_are_packed() -> None:
    state, _ = through()
    state, commands = step(state, ev.TrialsAsked(plan(2), "generation 1"), 1.0)
    assert [command for command in commands if isinstance(command, cmd.StartWorker)] == [cmd.StartWorker("w0", None)]
    state, _ = step(state, ev.DataLoaded("f", {"train": 10, "validation": 5}), 2.0)
    state, commands = step(state, ev.WorkerReady("w0", "n", 1), 3.0)
    assert commands == [cmd.Preflight("w0")]
    state, _ = step(state, ev.PreflightPassed("w0", {"": "multiclass"}, "cpu", True, {}, {}), 4.0)
    state, commands = step(state, ev.WorkerIdle("w0"), 5.0)
    assert commands == [cmd.LookAtTrials("w0", (2, 3))]
    state, commands = step(state, ev.TrialsSeen("w0", {2: Architecture("a"), 3: Architecture("a")}), 6.0)
    [packed] = [command for command in commands if isinstance(command, cmd.RecordPacked)]
    assert packed.packs[-1].members == (2, 3)
    state, commands = step(state, ev.WorkerIdle("w0"), 7.0)
    assert [command.members for command in commands if isinstance(command, cmd.TrainPack)] == [(2, 3)]


def test_a_rung_on_which_nobody_has_anything_left_to_train_is_passed_at_once() -> None:
    state, _ = through()
    state, commands = step(state, ev.TrialsAsked(plan(), "the best had stopped early"), 1.0)
    assert commands[-1] == cmd.AskTrials({})
    assert not state.searched


def test_a_search_that_is_over_ends_in_its_quorum() -> None:
    state, _ = through()
    state, commands = step(state, ev.TrialsAsked(plan(), "the search is over", over=True), 1.0)
    assert isinstance(commands[-1], cmd.Abort)
    assert isinstance(commands[-1].error, QuorumMissed)
