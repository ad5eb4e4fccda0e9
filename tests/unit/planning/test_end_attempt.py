"""What becomes of a member whose attempt ended: budgets, damaged models, and fencing who is given up."""

from __future__ import annotations

import pytest
from schedule_world import World, commands_of

from orchestrator.planning import commands as cmd
from orchestrator.planning import events as ev
from orchestrator.planning.events import Cause
from orchestrator.planning.recovery import RunMemory
from orchestrator.spec import FaultsSpec
from tests.support.packs import train_alone

NO_RETRY = FaultsSpec(max_crashes=0, max_out_of_memory=0)


def predicting(**about: object) -> World:
    world = World(1, 1, **about)  # type: ignore[arg-type]  # arguments by name
    world.get_ready()
    world.train_all_of("w0", 0)
    return world


def test_a_member_whose_model_is_lost_is_taken_back_and_trained_again() -> None:
    world = predicting()
    sent = world.step(ev.ModelLost("w0", 0, "gone"), ev.WorkerIdle("w0"))
    assert sent[:2] == [cmd.RecordEnded(0, 1, Cause.DAMAGED, "gone"), cmd.Void(0, "gone")]
    member = world.state.members[0]
    assert (member.status, member.trained_by, dict(member.predictions)) == ("waiting", None, {})
    assert world.tick(61) == [train_alone("w0", 0)]
    assert world.train_all_of("w0", 0) == [cmd.Predict("w0", 0)]


def test_damage_shares_the_budget_of_crashes() -> None:
    memory = RunMemory(ended={0: {Cause.CRASH: 2, Cause.DAMAGED: 1}}, attempts={0: 3})
    world = World(1, 1, memory=memory, trained=[0])
    world.get_ready()
    sent = world.step(ev.ModelLost("w0", 0, "gone"))
    assert [type(command) for command in sent] == [cmd.RecordEnded, cmd.Void, cmd.Note, cmd.RecordFailed]
    assert world.state.members[0].status == "failed"


def test_damage_that_used_up_the_budget_gives_no_attempt_to_a_successor_either() -> None:
    memory = RunMemory(ended={0: {Cause.DAMAGED: 4}}, attempts={0: 4})
    assert World(2, 1, memory=memory).state.members[0].status == "failed"


@pytest.mark.parametrize("cause", [Cause.CRASH, Cause.OUT_OF_MEMORY])
def test_a_member_that_is_given_up_after_its_worker_was_lost_is_fenced_by_a_record(cause: Cause) -> None:
    world = World(1, 1, faults=NO_RETRY)
    world.get_ready()
    sent = world.step(ev.WorkerLost("w0", cause, "killed"))
    assert commands_of(sent, cmd.RecordFailed) == [cmd.RecordFailed(0, cause, "killed")]


def test_a_member_that_is_given_up_because_its_worker_hangs_is_fenced_after_the_worker_was_ended() -> None:
    world = World(1, 1, faults=NO_RETRY)
    world.get_ready()
    kinds = [type(command) for command in world.tick(601)]
    assert kinds.index(cmd.KillWorker) < kinds.index(cmd.RecordFailed)


def test_a_member_that_is_tried_again_is_not_recorded_as_failed() -> None:
    world = World(1, 1)
    world.get_ready()
    assert commands_of(world.step(ev.WorkerLost("w0", Cause.CRASH, "killed")), cmd.RecordFailed) == []


def test_a_living_worker_has_recorded_the_failure_itself() -> None:
    world = World(1, 1)
    world.get_ready()
    sent = world.step(ev.AttemptFailed("w0", 0, Cause.USER_ERROR, "no such layer"))
    assert commands_of(sent, cmd.RecordFailed) == []
    assert world.state.members[0].status == "failed"


def test_a_worker_lost_while_predicting_held_no_log_so_the_published_model_is_left_in_peace() -> None:
    world = predicting(faults=NO_RETRY)
    assert commands_of(world.step(ev.WorkerLost("w0", Cause.CRASH, "killed")), cmd.RecordFailed) == []
    assert world.state.members[0].status == "failed"


def test_a_worker_that_gives_a_member_up_without_a_word_costs_an_attempt_and_loses_nobody() -> None:
    world = World(1, 1)
    world.get_ready()
    sent = world.step(ev.WorkerIdle("w0"))
    assert [command.cause for command in commands_of(sent, cmd.RecordEnded)] == [Cause.CRASH]
    assert world.tick(61) == [train_alone("w0", 0)]
