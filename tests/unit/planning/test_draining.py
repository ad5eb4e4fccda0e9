"""A node will be taken away: what trains there is saved at once and goes on elsewhere, uncounted."""

from __future__ import annotations

import pytest
from schedule_world import World, commands_of, passed

from orchestrator.planning import commands as cmd
from orchestrator.planning import events as ev
from orchestrator.planning.events import Cause
from tests.support.packs import train_alone

SAVE = [cmd.SaveNow("w0", stop=True)]


def training(num_members: int = 1, num_workers: int = 1) -> World:
    world = World(num_members, num_workers)
    world.get_ready()
    return world


def test_what_trains_on_a_draining_node_is_saved_and_goes_on_elsewhere_at_once() -> None:
    world = training()
    assert world.step(ev.NodeDraining("w0", 30.0)) == SAVE
    assert world.step(ev.NodeDraining("w0", 25.0)) == [], "a second notice says nothing new"
    sent = world.step(ev.Saved("w0"), ev.WorkerIdle("w0"))
    assert commands_of(sent, cmd.RecordEnded) == [
        cmd.RecordEnded(0, 1, Cause.PREEMPTED, "its node is being taken away")
    ]
    assert sent[-2:] == [cmd.KillWorker("w0"), cmd.StartWorker("w1")]
    assert world.step(ev.WorkerReady("w1", "other", 1)) == [train_alone("w1", 0)], "without a delay"
    assert world.state.members[0].preemptions == 1


def test_another_worker_that_is_free_takes_the_member() -> None:
    world = training(2, 2)
    world.train_all_of("w1", 0)
    world.step(ev.MemberPredicted("w1", 0, {}), ev.WorkerIdle("w1"))
    sent = world.step(ev.NodeDraining("w0", None), ev.Saved("w0"), ev.WorkerIdle("w0"))
    assert sent[-2:] == [cmd.KillWorker("w0"), train_alone("w1", 1)], "the old one is ended before the new one begins"


@pytest.mark.parametrize("cause", [Cause.NODE_LOST, Cause.CRASH, Cause.PREEMPTED, Cause.STALL])
def test_a_worker_that_is_lost_on_a_draining_node_was_preempted(cause: Cause) -> None:
    world = training()
    world.step(ev.NodeDraining("w0", 1.0))
    sent = world.step(ev.WorkerLost("w0", cause, "gone before it had saved"))
    assert [command.cause for command in commands_of(sent, cmd.RecordEnded)] == [Cause.PREEMPTED]
    assert sent[-1] == cmd.StartWorker("w1")


def test_its_own_appetite_is_counted_on_a_draining_node_too() -> None:
    world = training()
    sent = world.step(ev.NodeDraining("w0", 1.0), ev.WorkerLost("w0", Cause.OUT_OF_MEMORY, "killed"))
    assert [command.cause for command in commands_of(sent, cmd.RecordEnded)] == [Cause.OUT_OF_MEMORY]


def test_a_member_that_comes_through_before_it_could_be_saved_counts_as_trained() -> None:
    world = training()
    world.step(ev.NodeDraining("w0", 30.0))
    sent = world.step(ev.MemberTrained("w0", 0), ev.WorkerIdle("w0"))
    assert sent == [cmd.KillWorker("w0"), cmd.StartWorker("w1")]
    assert world.step(ev.WorkerReady("w1", "other", 1)) == [cmd.Predict("w1", 0)]


def test_an_idle_worker_of_a_draining_node_is_ended_at_once_and_replaced_only_if_there_is_work() -> None:
    world = World(3, 2)
    world.step(ev.WorkerReady("w0", "n", 1))
    assert world.step(ev.NodeDraining("w0", 30.0)) == [cmd.KillWorker("w0"), cmd.StartWorker("w2")]
    busy = training(2, 2)
    busy.train_all_of("w1", 0)
    busy.step(ev.MemberPredicted("w1", 0, {}), ev.WorkerIdle("w1"))
    assert busy.step(ev.NodeDraining("w1", 30.0)) == [cmd.KillWorker("w1")]


def test_what_is_short_is_finished_on_a_draining_node() -> None:
    world = World(1, 1)
    world.step(ev.DataLoaded("f", {}), ev.WorkerReady("w0", "n", 1))
    assert world.step(ev.NodeDraining("w0", 30.0)) == []
    assert world.step(passed("w0"), ev.WorkerIdle("w0")) == [cmd.KillWorker("w0"), cmd.StartWorker("w1")]
    world.step(ev.WorkerReady("w1", "n", 1))
    world.train_all_of("w1", 0)
    assert world.step(ev.NodeDraining("w1", 30.0)) == []
    sent = world.step(ev.MemberPredicted("w1", 0, {}), ev.WorkerIdle("w1"))
    assert isinstance(sent[-1], cmd.Select)


def test_waiting_for_a_node_begins_when_the_last_worker_is_ended() -> None:
    world = training()
    world.now = 5_000.0
    world.step(ev.NodeDraining("w0", 30.0), ev.Saved("w0"), ev.WorkerIdle("w0"))
    assert world.state.without_worker_since == 5_000.0


def test_a_worker_that_has_not_come_up_on_a_draining_node_is_replaced_at_once() -> None:
    world = World(1, 1)
    assert world.step(ev.NodeDraining("w0", 30.0)) == [cmd.KillWorker("w0"), cmd.StartWorker("w1")]
