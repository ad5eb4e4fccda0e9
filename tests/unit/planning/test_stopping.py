"""Being asked to stop: what trains saves its newest epoch, nothing new begins, and it never takes long."""

from __future__ import annotations

from collections import Counter
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from schedule_world import World, commands_of, error_of, walk

from orchestrator.errors import Interrupted, StoreUnavailable, TimedOut
from orchestrator.planning import commands as cmd
from orchestrator.planning import events as ev
from orchestrator.planning.events import Cause
from orchestrator.spec import FaultsSpec

GRACE_S = 10.0
STOP = Interrupted("SIGTERM")


def training(num_members: int = 2, num_workers: int = 2, **about: object) -> World:
    """A world in which every worker trains."""
    world = World(num_members, num_workers, **about)  # type: ignore[arg-type]  # arguments by name
    world.get_ready()
    assert all(busy.task == "train" for busy in world.workers.values())
    return world


def test_a_run_that_is_stopped_ends_when_all_that_train_have_saved() -> None:
    world = training()
    assert world.step(ev.StopRequested(STOP)) == [cmd.SaveNow("w0", stop=True), cmd.SaveNow("w1", stop=True)]
    assert world.step(ev.Saved("w1"), ev.WorkerIdle("w1")) == [], "the other still saves, and nothing new begins"
    assert world.step(ev.Saved("w0")) == [cmd.Abort(STOP)]


@pytest.mark.parametrize(
    ("last", "records"),
    [
        (ev.Saved("w0"), []),
        (ev.WorkerIdle("w0"), []),
        (ev.MemberTrained("w0", 1), []),
        (ev.MemberDiverged("w0", 1, "NaN"), []),
        (ev.WorkerLost("w0", Cause.CRASH, "killed with the group"), [Cause.CRASH]),
        (ev.AttemptFailed("w0", 1, Cause.OUT_OF_MEMORY, "full"), [Cause.OUT_OF_MEMORY]),
        (ev.WorkerFenced("w0", "superseded"), [Cause.CRASH]),
        (ev.WorkerFailed("w0", StoreUnavailable("out of reach")), []),
    ],
)
def test_whoever_has_nothing_left_to_save_is_not_waited_for(last: ev.Event, records: list[Cause]) -> None:
    world = training()
    world.step(ev.StopRequested(STOP), ev.Saved("w1"))
    assert world.end is None
    sent = world.step(last)
    assert error_of(world) is STOP, "the run ends as it was asked to, whatever goes wrong meanwhile"
    assert [command.cause for command in commands_of(sent, cmd.RecordEnded)] == records


def test_the_grace_bounds_the_wait_for_those_that_do_not_answer() -> None:
    world = training(faults=FaultsSpec(stop_grace_s=GRACE_S))
    world.step(ev.StopRequested(STOP), ev.Saved("w0"))
    assert world.tick(GRACE_S - 0.1) == []
    assert world.tick(0.1) == [cmd.Abort(STOP)]


def test_without_a_grace_the_run_ends_at_once_but_workers_are_told() -> None:
    world = training(faults=FaultsSpec(stop_grace_s=0))
    assert [type(command) for command in world.step(ev.StopRequested(STOP))] == [cmd.SaveNow, cmd.SaveNow, cmd.Abort]


def test_who_asks_twice_waits_no_longer_and_gets_the_exit_code_of_the_second() -> None:
    world = training()
    again = Interrupted("Ctrl-C", signal_number=2)
    world.step(ev.StopRequested(STOP))
    assert world.step(ev.StopRequested(again)) == [cmd.Abort(again)]


def test_with_nothing_in_training_the_run_ends_at_once() -> None:
    world = World(1, 1)
    assert world.step(ev.StopRequested(STOP)) == [cmd.Abort(STOP)]
    predicting = training(1, 1)
    predicting.train_all_of("w0", 0)
    assert predicting.step(ev.StopRequested(STOP)) == [cmd.Abort(STOP)], "a prediction is made again"


def test_a_run_that_is_stopped_selects_nobody_even_if_the_last_member_comes_through() -> None:
    world = training(1, 1)
    world.step(ev.StopRequested(STOP), ev.MemberTrained("w0", 0))
    assert error_of(world) is STOP
    assert world.state.members[0].status == "trained"


def test_the_timeout_lets_workers_save_too() -> None:
    world = training(deadline=100.0)
    assert commands_of(world.tick(100), cmd.SaveNow) == [cmd.SaveNow("w0", stop=True), cmd.SaveNow("w1", stop=True)]
    world.step(ev.Saved("w0"), ev.Saved("w1"))
    assert isinstance(error_of(world), TimedOut)


def test_an_error_that_ends_the_run_otherwise_ends_it_at_once() -> None:
    world = training()
    error = StoreUnavailable("out of reach")
    assert world.step(ev.WorkerFailed("w0", error)) == [cmd.Abort(error)]


def test_a_stop_always_ends_within_its_grace_and_nothing_new_begins() -> None:
    met: Counter[str] = Counter()

    @settings(max_examples=150, deadline=None)
    @given(
        seed=st.integers(0, 2**32 - 1),
        num_members=st.integers(1, 5),
        num_workers=st.integers(1, 4),
        before=st.integers(0, 60),
        cutoff=st.none() | st.floats(0, 100),
        mishaps=st.integers(0, 20),
        pack_size=st.integers(1, 3),
    )
    def check(
        seed: int, num_members: int, num_workers: int, before: int, cutoff: float | None, mishaps: int, pack_size: int
    ) -> None:
        rnd = Random(seed)
        faults = FaultsSpec(stop_grace_s=GRACE_S)
        world = World(num_members, num_workers, cutoff=cutoff, faults=faults, pack_size=pack_size)
        walk(world, rnd, mishaps, steps=before)
        if world.end is not None:
            return
        asked_at = world.now
        sent = world.step(ev.StopRequested(STOP))
        met["saved" if commands_of(sent, cmd.SaveNow) else "at once"] += 1
        while world.end is None:
            events = [*world.possible(), *world.mishaps()]
            if events and rnd.random() < 0.5:
                world.step(rnd.choice(events))
            else:
                world.tick(0.5)
            assert world.now <= asked_at + GRACE_S + 0.5
        assert error_of(world) is STOP

    check()
    assert min(met["saved"], met["at once"]) > 0, "the walks never had anything to save, or always"
