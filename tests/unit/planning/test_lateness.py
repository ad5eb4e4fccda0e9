"""The job's deadline: training ends in time, and late members count with their best epoch so far."""

from __future__ import annotations

import pytest
from planning_examples import plan
from schedule_world import World, commands_of, error_of, passed

from orchestrator.errors import ClusterUnavailable, QuorumMissed
from orchestrator.planning import commands as cmd
from orchestrator.planning import events as ev
from orchestrator.planning.events import Cause
from orchestrator.planning.placement import Crew
from orchestrator.planning.recovery import RunMemory
from orchestrator.planning.schedule import Settings, begin
from orchestrator.spec import FaultsSpec
from tests.support.packs import train_alone

GRACE_S = 10.0
FAULTS = FaultsSpec(stop_grace_s=GRACE_S)


def training(num_members: int = 1, num_workers: int = 1, quorum: int | None = None) -> World:
    """A world whose workers train, with a deadline at 100."""
    world = World(num_members, num_workers, cutoff=100.0, quorum=quorum, faults=FAULTS)
    world.get_ready()
    return world


def test_a_member_in_training_is_saved_published_late_predicted_and_counted() -> None:
    world = training()
    assert world.tick(99.9) == []
    assert commands_of(world.tick(0.1), cmd.SaveNow) == [cmd.SaveNow("w0", stop=True)]
    assert world.step(ev.Saved("w0"), ev.WorkerIdle("w0")) == [cmd.PublishLate("w0", 0)]
    assert world.step(ev.MemberTrained("w0", 0, late=True), ev.WorkerIdle("w0")) == [cmd.Predict("w0", 0)]
    sent = world.step(ev.MemberPredicted("w0", 0, {}), ev.WorkerIdle("w0"))
    assert sent == [cmd.Select((0,), "1 of 1 members, 1 needed")]
    assert world.state.members[0].late
    assert not world.ended, "the deadline is no failed attempt"


def test_a_member_that_comes_through_in_time_is_not_late() -> None:
    world = training()
    world.tick(100)
    assert world.step(ev.MemberTrained("w0", 0), ev.WorkerIdle("w0")) == [cmd.Predict("w0", 0)]
    assert not world.state.members[0].late


def test_members_that_wait_are_published_from_what_earlier_starts_left_or_have_not_started() -> None:
    world = training(3, 1, quorum=1)
    world.tick(100)
    world.step(ev.Saved("w0"), ev.WorkerIdle("w0"))
    told = [command.member for command in commands_of(world.sent, cmd.PublishLate)]
    for _ in range(2):
        member = world.workers["w0"].members[0]
        assert member is not None
        sent = world.step(ev.NothingToPublish("w0", member), ev.WorkerIdle("w0"))
        told += [command.member for command in commands_of(sent, cmd.PublishLate)]
    assert sorted(told) == [0, 1, 2]
    world.train_all_of("w0", told[-1])
    sent = world.step(ev.MemberPredicted("w0", told[-1], {}), ev.WorkerIdle("w0"))
    assert commands_of(sent, cmd.Select) == [cmd.Select((told[-1],), "1 of 3 members, 1 needed")]
    missing = world.state.members[told[0]]
    assert (missing.status, missing.message) == ("not_started", "no finished epoch before the deadline")


def test_too_few_members_at_the_deadline_miss_the_quorum_and_say_why() -> None:
    world = training()
    world.tick(100)
    world.step(ev.Saved("w0"), ev.WorkerIdle("w0"), ev.NothingToPublish("w0", 0), ev.WorkerIdle("w0"))
    assert isinstance(error_of(world), QuorumMissed)
    assert "no finished epoch before the deadline" in error_of(world).what


def test_who_does_not_give_up_within_the_grace_is_ended_and_counts_from_the_newest_checkpoint() -> None:
    world = training()
    world.tick(100)
    assert world.tick(GRACE_S - 0.1) == []
    assert world.tick(0.1) == [cmd.KillWorker("w0"), cmd.StartWorker("w1")]
    assert not world.ended
    assert world.step(ev.WorkerReady("w1", "n", 1)) == [cmd.PublishLate("w1", 0)]


def test_a_worker_that_does_not_train_is_left_alone_at_the_deadline() -> None:
    world = training()
    world.now = 99.0
    world.train_all_of("w0", 0)
    assert world.tick(1) == []
    assert world.tick(GRACE_S + 1) == []
    assert world.workers["w0"].task == "predict"


def test_a_member_that_waits_for_its_retry_is_published_without_waiting_longer() -> None:
    world = training()
    world.now = 99.5
    world.step(ev.AttemptFailed("w0", 0, Cause.CRASH, "trouble"), ev.WorkerIdle("w0"))
    assert commands_of(world.tick(0.5), cmd.PublishLate) == [cmd.PublishLate("w0", 0)]
    assert world.state.delayed == {}


@pytest.mark.parametrize("cause", [Cause.CRASH, Cause.PREEMPTED, Cause.NODE_LOST])
def test_a_member_whose_worker_is_lost_after_the_deadline_is_not_trained_again(cause: Cause) -> None:
    world = training()
    world.tick(100)
    sent = world.step(ev.WorkerLost("w0", cause, "gone"))
    assert [command.cause for command in commands_of(sent, cmd.RecordEnded)] == [cause]
    assert world.step(ev.WorkerReady("w1", "n", 1)) == [cmd.PublishLate("w1", 0)], "publishing needs no backoff"


def test_a_worker_that_is_lost_while_publishing_is_replaced_within_the_budgets() -> None:
    world = training()
    world.tick(100)
    world.step(ev.Saved("w0"), ev.WorkerIdle("w0"))
    for attempt in range(4):
        worker = next(iter(world.workers))
        assert world.workers[worker].task == "publish"
        sent = world.step(ev.WorkerLost(worker, Cause.CRASH, "killed"))
        if attempt < 3:
            assert commands_of(sent, cmd.RecordFailed) == []
            world.step(ev.WorkerReady(f"w{attempt + 1}", "n", 1))
            world.tick(61)
    assert commands_of(sent, cmd.RecordFailed) == [cmd.RecordFailed(0, Cause.CRASH, "killed")]
    assert isinstance(error_of(world), QuorumMissed)


def test_the_deadline_may_be_over_when_a_later_start_begins() -> None:
    world = World(2, 1, cutoff=-5.0, trained=[0], quorum=1)
    assert commands_of(world.sent, cmd.StartWorker) == [cmd.StartWorker("w0")]
    world.step(ev.DataLoaded("f", {}))
    assert world.step(ev.WorkerReady("w0", "n", 1)) == [cmd.Preflight("w0")], "first of all"
    assert world.step(passed("w0"), ev.WorkerIdle("w0")) == [cmd.Predict("w0", 0)]
    sent = world.step(ev.MemberPredicted("w0", 0, {}), ev.WorkerIdle("w0"))
    assert sent == [cmd.PublishLate("w0", 1)]


def test_a_damaged_model_is_published_again_from_checkpoints_after_the_deadline() -> None:
    world = training()
    world.train_all_of("w0", 0)
    world.now = 100.0
    sent = world.step(ev.ModelLost("w0", 0, "its bytes are gone"), ev.WorkerIdle("w0"))
    assert commands_of(sent, cmd.Void) == [cmd.Void(0, "its bytes are gone")]
    assert commands_of([*sent, *world.tick(61)], cmd.PublishLate) == [cmd.PublishLate("w0", 0)]


def test_a_late_model_that_is_lost_is_late_no_more_until_it_is_published_again() -> None:
    world = training()
    world.tick(100)
    world.step(ev.Saved("w0"), ev.WorkerIdle("w0"), ev.MemberTrained("w0", 0, late=True), ev.WorkerIdle("w0"))
    world.step(ev.ModelLost("w0", 0, "damaged"))
    assert not world.state.members[0].late


def test_waiting_for_a_node_to_publish_on_is_bounded() -> None:
    world = training()
    world.tick(100)
    world.step(ev.WorkerLost("w0", Cause.NODE_LOST, "gone"))
    world.tick(FAULTS.node_wait_s)
    assert world.end is None
    world.tick(1)
    assert isinstance(error_of(world), ClusterUnavailable)


def test_a_draining_worker_publishes_what_it_began_and_is_ended() -> None:
    world = training()
    world.tick(100)
    world.step(ev.Saved("w0"), ev.WorkerIdle("w0"))
    assert world.step(ev.NodeDraining("w0", 30.0)) == []
    sent = world.step(ev.MemberTrained("w0", 0, late=True), ev.WorkerIdle("w0"))
    assert sent == [cmd.KillWorker("w0"), cmd.StartWorker("w1")]


def test_the_notice_and_the_deadline_together_are_told_once_and_counted_never() -> None:
    world = training()
    world.step(ev.NodeDraining("w0", 30.0))
    assert commands_of(world.tick(100), cmd.SaveNow) == []
    sent = world.step(ev.Saved("w0"), ev.WorkerIdle("w0"))
    assert sent == [cmd.KillWorker("w0"), cmd.StartWorker("w1")]
    assert not world.ended


def test_a_member_that_an_earlier_start_published_late_stays_late() -> None:
    settings = Settings(plan(2), Crew(1), FAULTS)
    state, _ = begin(settings, 0.0, RunMemory(), [0, 1], {}, late=[1])
    assert [member.late for member in state.members.values()] == [False, True]


def test_who_is_predicted_before_a_member_that_is_late_counts_as_before() -> None:
    world = World(2, 1, cutoff=100.0, quorum=1)
    world.get_ready()
    assert world.train_all_of("w0", 0) == [train_alone("w0", 1, predict=(0,))]
    assert commands_of(world.tick(100), cmd.SaveNow) == [cmd.SaveNow("w0", stop=True)]
    sent = world.tick(11)
    assert commands_of(sent, cmd.KillWorker) == [cmd.KillWorker("w0")]
    assert (world.state.members[0].status, world.state.unpredicted) == ("trained", (0,))
    assert world.state.unpublished == (1,)
    assert not world.ended, "the deadline is no failed attempt"
