"""The schedule: whatever dies in whatever order, each member ends once, and the run ends."""

from __future__ import annotations

from collections import Counter
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from schedule_world import World, commands_of, error_of, passed, walk

from orchestrator.errors import (
    ClusterUnavailable,
    Interrupted,
    InvalidData,
    InvalidModel,
    QuorumMissed,
    StoreUnavailable,
    TimedOut,
)
from orchestrator.planning import commands as cmd
from orchestrator.planning import events as ev
from orchestrator.planning.events import Cause
from orchestrator.planning.policies import decide_retry
from orchestrator.planning.recovery import RunMemory
from orchestrator.planning.schedule import step
from orchestrator.planning.seeds import jitter
from orchestrator.spec import FaultsSpec
from tests.support.packs import train_alone

seeds = st.integers(0, 2**32 - 1)
TERMINAL = {"done", "failed", "diverged", "not_started"}


def test_random_deaths_in_random_order_keep_every_promise() -> None:
    met: Counter[str] = Counter()  # walks that meet no fault prove nothing

    @settings(max_examples=250, deadline=None)
    @given(
        seed=seeds,
        num_members=st.integers(1, 6),
        num_workers=st.integers(1, 4),
        quorum=st.none() | st.integers(1, 6),
        mishaps=st.integers(0, 40),
        cutoff=st.none() | st.floats(0, 200),
        pack_size=st.integers(1, 4),
        nodes_change=st.booleans(),
    )
    def check(
        seed: int,
        num_members: int,
        num_workers: int,
        quorum: int | None,
        mishaps: int,
        cutoff: float | None,
        pack_size: int,
        nodes_change: bool,
    ) -> None:
        quorum = None if quorum is None else min(quorum, num_members)
        about = {"cutoff": cutoff, "pack_size": pack_size, "nodes_change": nodes_change}
        world = World(num_members, num_workers, quorum=quorum, **about)  # type: ignore[arg-type]  # arguments by name
        met.update(walk(world, Random(seed), mishaps))
        statuses = {index: member.status for index, member in world.state.members.items()}
        met[type(world.end).__name__] += 1
        if isinstance(world.end, cmd.Select):
            assert set(statuses.values()) <= TERMINAL
            assert world.end.members == tuple(index for index in statuses if statuses[index] == "done")
            late = {index for index in world.end.members if world.state.members[index].late}
            assert late == world.late & set(world.end.members)
            met["late member"] += len(late)
        elif isinstance(error_of(world), QuorumMissed):
            assert set(statuses.values()) <= TERMINAL
        else:
            assert isinstance(error_of(world), ClusterUnavailable)
        for event in [*world.possible(), *world.mishaps(), ev.Tick()]:
            assert step(world.state, event, world.now + 10_000) == (world.state, []), "something happened after the end"

    check()
    expected = {
        "WorkerLost",
        "AttemptFailed",
        "MemberDiverged",
        "WorkerFenced",
        "ModelLost",
        "NodeDraining",
        "NodesChanged",
    }
    expected |= {"MemberTrained", "PackTooLarge", "PackRefused", "late", "late member", "Select", "Abort"}
    assert expected <= set(+met), f"the walks never met {expected - set(+met)}"


@settings(max_examples=100, deadline=None)
@given(
    one=seeds,
    other=seeds,
    workers=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    sizes=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    trained=st.sets(st.integers(0, 4)),
    diverged=st.sets(st.integers(0, 4)),
)
def test_the_order_of_finishing_does_not_change_which_members_are_selected(
    one: int, other: int, workers: tuple[int, int], sizes: tuple[int, int], trained: set[int], diverged: set[int]
) -> None:
    left = dict.fromkeys(diverged, "NaN")
    worlds = [
        World(6, count, quorum=1, trained=sorted(trained - diverged), diverged=left, pack_size=size)
        for count, size in zip(workers, sizes, strict=True)
    ]
    for world, seed in zip(worlds, (one, other), strict=True):
        walk(world, Random(seed), mishaps=0)
    assert (
        worlds[0].end
        == worlds[1].end
        == cmd.Select(
            tuple(index for index in range(6) if index not in diverged), f"{6 - len(diverged)} of 6 members, 1 needed"
        )
    )


def test_a_run_without_trouble_goes_from_start_to_selection() -> None:
    world = World(2, 1)
    assert world.sent == [cmd.StartWorker("w0")]
    assert world.step(ev.WorkerReady("w0", "n", 1)) == []
    assert world.step(ev.DataLoaded("f", {"train": 1})) == [cmd.Preflight("w0")]
    assert world.step(passed("w0"), ev.WorkerIdle("w0")) == [train_alone("w0", 0)]
    assert world.train_all_of("w0", 0) == [train_alone("w0", 1, predict=(0,))]
    assert world.step(ev.MemberPredicted("w0", 0, {})) == []
    assert world.train_all_of("w0", 1) == [cmd.Predict("w0", 1)]
    assert world.step(ev.MemberPredicted("w0", 1, {}), ev.WorkerIdle("w0")) == [
        cmd.Select((0, 1), "2 of 2 members, 2 needed")
    ]


def test_no_more_workers_are_started_than_there_is_work() -> None:
    assert len(World(2, 8).workers) == 2


def test_the_preflight_runs_on_one_worker_while_the_others_wait() -> None:
    world = World(3, 3)
    sent = world.step(*(ev.WorkerReady(f"w{i}", "n", 1) for i in range(3)), ev.DataLoaded("f", {}))
    assert sent == [cmd.Preflight("w0")]
    assert world.step(passed("w0")) == [train_alone("w1", 0), train_alone("w2", 1)]
    assert world.step(ev.WorkerIdle("w0")) == [train_alone("w0", 2)]


def test_when_the_worker_of_the_preflight_dies_another_one_checks() -> None:
    world = World(2, 2)
    world.step(ev.DataLoaded("f", {}), ev.WorkerReady("w0", "n", 1), ev.WorkerReady("w1", "n", 1))
    sent = world.step(ev.WorkerLost("w0", Cause.CRASH, "killed"))
    assert commands_of(sent, cmd.Preflight) == [cmd.Preflight("w1")]


def test_a_member_is_predicted_by_the_worker_that_trained_it_where_it_can_be() -> None:
    world = World(3, 2)
    world.get_ready()
    world.step(ev.MemberTrained("w0", 1), ev.MemberTrained("w1", 0))
    assert world.step(ev.WorkerIdle("w1")) == [train_alone("w1", 2, predict=(0,))]
    assert world.step(ev.WorkerIdle("w0")) == [cmd.Predict("w0", 1)]


def test_what_is_predicted_before_the_next_member_is_lost_on_its_own() -> None:
    world = World(2, 1)
    world.get_ready()
    world.train_all_of("w0", 0)
    sent = world.step(ev.WorkerLost("w0", Cause.NODE_LOST, "gone"))
    assert [(ended.member, ended.cause) for ended in commands_of(sent, cmd.RecordEnded)] == [
        (0, Cause.NODE_LOST),
        (1, Cause.NODE_LOST),
    ]
    assert (world.state.members[0].status, world.state.members[1].status) == ("trained", "waiting")


def test_a_damaged_model_found_before_the_next_member_is_trained_leaves_that_one_alone() -> None:
    world = World(2, 1)
    world.get_ready()
    world.train_all_of("w0", 0)
    world.step(ev.ModelLost("w0", 0, "gone"))
    assert (world.state.members[0].status, world.state.members[1].status) == ("waiting", "running")
    assert world.state.workers["w0"].members == (1,)


def test_an_idle_worker_leaves_a_member_to_its_trainer_and_takes_it_when_that_is_gone() -> None:
    world = World(2, 2)
    world.get_ready()
    world.train_all_of("w1", 0)
    world.step(ev.MemberPredicted("w1", 0, {}), ev.WorkerIdle("w1"))
    assert commands_of([*world.step(ev.MemberTrained("w0", 1)), *world.tick(1)], cmd.Predict) == []
    sent = world.step(ev.WorkerLost("w0", Cause.NODE_LOST, "gone"))
    assert commands_of(sent, cmd.Predict) == [cmd.Predict("w1", 1)]


def test_a_prediction_that_failed_is_tried_by_whoever_is_free() -> None:
    world = World(3, 2)
    world.get_ready()
    assert world.train_all_of("w1", 0) == [train_alone("w1", 2, predict=(0,))]
    world.step(ev.AttemptFailed("w1", 0, Cause.OUT_OF_MEMORY, "killed"))
    world.train_all_of("w0", 1)
    world.step(ev.MemberPredicted("w0", 1, {}), ev.WorkerIdle("w0"))
    assert world.tick(61) == [cmd.Predict("w0", 0)]


@pytest.mark.parametrize(
    "event",
    [
        ev.DataFailed(InvalidData("NaN in x")),
        ev.PreflightFailed("w0", InvalidModel("no output")),
        ev.WorkerFailed("w0", StoreUnavailable("out of reach")),
        ev.StopRequested(Interrupted("SIGTERM")),
    ],
)
def test_what_belongs_to_no_member_ends_the_run_with_its_own_error(
    event: ev.DataFailed | ev.PreflightFailed | ev.WorkerFailed | ev.StopRequested,
) -> None:
    world = World()
    world.step(event)
    assert error_of(world) is event.error


@pytest.mark.parametrize(
    ("cause", "attempts"), [(Cause.USER_ERROR, 1), (Cause.OUT_OF_MEMORY, 3), (Cause.CRASH, 4), (Cause.STALL, 4)]
)
def test_a_member_has_as_many_attempts_as_the_budget_of_its_cause_allows(cause: Cause, attempts: int) -> None:
    world = World(1, 1)
    world.get_ready()
    for _ in range(attempts):
        assert world.end is None
        world.step(ev.AttemptFailed("w0", 0, cause, "trouble"), ev.WorkerIdle("w0"))
        world.tick(61)
    assert "member 0: trouble" in error_of(world).what
    assert world.ended[0, cause] == attempts


def test_preemptions_are_unlimited_in_number() -> None:
    world = World(1, 1)
    world.get_ready()
    for _ in range(100):
        (worker,) = world.workers
        world.step(ev.WorkerLost(worker, Cause.PREEMPTED, "spot"))
        world.tick(1)
        (worker,) = world.workers
        world.step(ev.WorkerReady(worker, "n", 1))
    assert world.end is None
    assert world.state.members[0].preemptions == 100
    assert world.workers[worker].task == "train"


def test_other_members_go_on_while_one_waits_for_its_retry() -> None:
    world = World(3, 1, quorum=2)
    world.get_ready()
    sent = world.step(ev.AttemptFailed("w0", 0, Cause.CRASH, "trouble"), ev.WorkerIdle("w0"))
    assert sent[-1] == train_alone("w0", 1)


def test_a_retry_waits_for_its_backoff() -> None:
    world = World(1, 1)
    world.get_ready()
    for used in (1, 2, 3):
        world.step(ev.AttemptFailed("w0", 0, Cause.CRASH, "trouble"), ev.WorkerIdle("w0"))
        delay = decide_retry(Cause.CRASH, {Cause.CRASH: used}, FaultsSpec(), jitter(0, 0, used)).delay_s
        assert 0.5 * 2 ** (used - 1) <= delay <= 2 ** (used - 1)
        assert world.tick(delay - 0.01) == []
        assert world.tick(0.02) == [train_alone("w0", 0)]


def test_a_failed_prediction_is_retried_without_training_again() -> None:
    world = World(1, 1)
    world.get_ready()
    world.train_all_of("w0", 0)
    world.step(ev.WorkerLost("w0", Cause.CRASH, "killed"))
    world.tick(61)
    assert world.step(ev.WorkerReady("w1", "n", 1)) == [cmd.Predict("w1", 0)]
    world.step(ev.MemberPredicted("w1", 0, {}), ev.WorkerIdle("w1"))
    assert isinstance(world.end, cmd.Select)
    assert world.state.members[0].message is None, "a member that ended well has no complaint"


def test_a_silent_worker_is_killed_and_its_member_retried_elsewhere() -> None:
    world = World(1, 1)
    world.get_ready()
    world.now += 599
    world.step(ev.Progress("w0"))
    assert world.tick(600) == []
    sent = world.tick(1)
    assert sent[0] == cmd.KillWorker("w0")
    assert commands_of(sent, cmd.RecordEnded) == [cmd.RecordEnded(0, 1, Cause.STALL, "no progress for 600 s")]
    assert sent[-1] == cmd.StartWorker("w1")
    world.tick(61)
    assert world.step(ev.WorkerReady("w1", "n", 1)) == [train_alone("w1", 0)]


def test_a_silent_preflight_is_killed_too() -> None:
    world = World(1, 1)
    world.step(ev.DataLoaded("f", {}), ev.WorkerReady("w0", "n", 1))
    assert commands_of(world.tick(601), cmd.KillWorker) == [cmd.KillWorker("w0")]


@pytest.mark.parametrize(
    "late",
    [
        ev.WorkerIdle("w0"),
        ev.WorkerReady("w0", "n", 1),
        ev.Progress("w0"),
        ev.MemberTrained("w0", 0),
        ev.MemberPredicted("w0", 0, {}),
        ev.MemberDiverged("w0", 0, "NaN"),
        ev.AttemptFailed("w0", 0, Cause.CRASH, "late"),
        ev.WorkerLost("w0", Cause.CRASH, "late"),
        ev.WorkerFenced("w0", "superseded"),
        ev.WorkerFailed("w0", StoreUnavailable("late")),
    ],
)
def test_the_late_word_of_a_worker_that_was_given_up_changes_nothing(late: ev.Event) -> None:
    world = World(1, 1)
    world.get_ready()
    world.tick(601)
    before = world.state
    assert world.step(late) == []
    assert world.state == before


def test_a_fenced_worker_is_ended_and_its_member_retried() -> None:
    world = World(1, 1)
    world.get_ready()
    sent = world.step(ev.WorkerFenced("w0", "superseded by term 2"))
    assert sent[0] == cmd.KillWorker("w0")
    assert world.ended[0, Cause.CRASH] == 1


def test_the_worker_that_dies_between_two_members_costs_neither_an_attempt() -> None:
    world = World(2, 1)
    world.get_ready()
    world.step(ev.MemberTrained("w0", 0), ev.WorkerLost("w0", Cause.CRASH, "killed"))
    assert not world.ended
    assert list(world.workers) == ["w1"]


def test_workers_that_cannot_start_end_the_run() -> None:
    world = World(5, 1)
    for attempt in range(4):
        assert world.end is None
        world.step(ev.WorkerLost(f"w{attempt}", Cause.CRASH, "no module named tensorflow"))
    assert isinstance(error_of(world), ClusterUnavailable)
    assert "no module named tensorflow" in error_of(world).what


def test_workers_that_cannot_start_do_not_end_those_that_train() -> None:
    world = World(3, 2)
    world.get_ready("w0")
    for attempt in range(1, 5):
        world.step(ev.WorkerLost(f"w{attempt}", Cause.CRASH, "bad node"))
    assert list(world.workers) == ["w0"], "no further worker is tried for the time being"
    world.train_all_of("w0", 0)
    assert len(world.workers) == 2, "after some success it is"


def test_idle_workers_that_die_while_the_last_member_trains_do_not_end_the_run() -> None:
    world = World(6, 6)
    world.get_ready()
    for index in range(5):
        worker = next(name for name, busy in world.workers.items() if busy.members == (index,))
        world.train_all_of(worker, index)
        world.step(ev.MemberPredicted(worker, index, {}), ev.WorkerIdle(worker))
    for worker in [name for name, busy in world.workers.items() if busy.task == "idle"]:
        world.step(ev.WorkerLost(worker, Cause.CRASH, "killed by the memory monitor"))
    assert world.end is None
    assert [busy.members for busy in world.workers.values()] == [(5,)]


def test_waiting_for_a_node_is_bounded() -> None:
    world = World(faults=FaultsSpec(node_wait_s=1800))
    assert world.tick(1800) == []
    world.tick(1)
    assert isinstance(error_of(world), ClusterUnavailable)
    assert error_of(world).exit_code == 75


def test_the_wait_for_a_node_begins_anew_when_the_last_worker_is_lost() -> None:
    world = World(1, 1)
    world.get_ready()
    world.now = 5_000.0
    world.step(ev.WorkerLost("w0", Cause.NODE_LOST, "gone"))
    world.tick(1_800)
    assert world.end is None
    world.tick(1)
    assert isinstance(error_of(world), ClusterUnavailable)


def test_waiting_for_the_data_is_bounded() -> None:
    world = World(faults=FaultsSpec(node_wait_s=10_000, data_wait_s=600))
    assert world.tick(600) == []
    world.tick(1)
    assert isinstance(error_of(world), ClusterUnavailable)
    assert "data_wait_s" in str(error_of(world))


def test_the_deadline_ends_the_run() -> None:
    world = World(deadline=100.0)
    world.tick(99)
    assert world.end is None
    world.tick(1)
    assert isinstance(error_of(world), TimedOut)


def test_two_workers_that_stall_at_once_end_a_run_only_once() -> None:
    world = World(2, 2, faults=FaultsSpec(max_crashes=0))
    world.get_ready()
    world.tick(601)
    assert isinstance(error_of(world), QuorumMissed)


def test_members_that_are_published_are_only_predicted() -> None:
    world = World(3, 1, trained=[0, 2])
    assert world.get_ready() == [cmd.Predict("w0", 0)]
    assert world.step(ev.MemberPredicted("w0", 0, {}), ev.WorkerIdle("w0")) == [cmd.Predict("w0", 2)]
    assert world.step(ev.MemberPredicted("w0", 2, {}), ev.WorkerIdle("w0")) == [train_alone("w0", 1)]


def test_members_that_diverged_are_not_trained_again() -> None:
    world = World(2, 1, quorum=1, diverged={0: "loss is NaN at epoch 1"})
    assert world.get_ready() == [train_alone("w0", 1)]


def test_a_budget_outlives_the_coordinator_that_spent_it() -> None:
    memory = RunMemory(ended={0: {Cause.CRASH: 3}}, attempts={0: 3})
    world = World(1, 1, memory=memory)
    world.get_ready()
    world.step(ev.AttemptFailed("w0", 0, Cause.CRASH, "again"), ev.WorkerIdle("w0"))
    assert isinstance(error_of(world), QuorumMissed)
    assert commands_of(world.sent, cmd.RecordEnded) == [cmd.RecordEnded(0, 4, Cause.CRASH, "again")]


@pytest.mark.parametrize("ended", [{Cause.USER_ERROR: 1}, {Cause.CRASH: 2, Cause.STALL: 2}, {Cause.OUT_OF_MEMORY: 3}])
def test_a_budget_that_a_dead_coordinator_had_used_up_gives_no_further_attempt(ended: dict[Cause, int]) -> None:
    world = World(2, 1, quorum=1, memory=RunMemory(ended={0: ended}, attempts={0: sum(ended.values())}))
    assert world.state.members[0].status == "failed"
    assert world.get_ready() == [train_alone("w0", 1)]


def test_nothing_left_to_train_and_too_few_members_ends_at_once_without_a_worker() -> None:
    world = World(2, 2, diverged={0: "NaN", 1: "NaN"})
    assert isinstance(error_of(world), QuorumMissed)
    assert not world.workers
