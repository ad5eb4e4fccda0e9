"""Who is hung: silent for a multiple of its own pace, and never because of what a healthy worker does."""

from __future__ import annotations

import pytest
from schedule_world import World, commands_of

from orchestrator.planning import commands as cmd
from orchestrator.planning import events as ev
from orchestrator.planning.events import Cause
from orchestrator.planning.pace import Pace, alive, epoch_ended, is_stalled, longest_silence_s, moved_on

STALL_S = 600.0


def pace_of(*signs: tuple[float, str]) -> Pace:
    """The pace after signs of life, each so many seconds after the one before it: `b` batches, `e` an epoch's end,
    `o` another word."""
    pace, now = Pace(0.0), 0.0
    for after_s, sign in signs:
        now += after_s
        pace = {"b": moved_on, "e": epoch_ended, "o": alive}[sign](pace, now)
    return pace


EPOCH = [*[(1.0, "b")] * 10, (3.0, "e")]


@pytest.mark.parametrize(
    ("signs", "limit_s", "why"),
    [
        ([], STALL_S, "nothing is known: the model may be compiling"),
        ([(1.0, "b")] * 50, STALL_S, "in the first epoch the last batch and validation are still to be compiled"),
        ([(90.0, "b"), *EPOCH, *EPOCH], 300.0, "compiling does not count, the end of an epoch may be slow"),
        ([*EPOCH, (1.0, "b"), (1.0, "b")], STALL_S, "too few signs after the first epoch"),
        ([*EPOCH, *EPOCH, (1.0, "b")], 300.0, "the first sign may stem from before the epoch's end"),
        ([*EPOCH, *EPOCH, (1.0, "b"), (1.0, "b")], 60.0, "20 times the longest pause, that of validation"),
        ([*EPOCH, (0.5, "b"), *[(0.1, "b")] * 9], 30.0, "never less, for a machine that is busy for a while"),
        ([*EPOCH, *[(20.0, "b")] * 6], 400.0, "slow steps"),
        ([*EPOCH, *[(40.0, "b")] * 6], STALL_S, "never more than the job allows"),
        ([*EPOCH, *EPOCH, (50.0, "o"), (1.0, "b"), (1.0, "b")], 60.0, "what uploads beside the work tells no pace"),
        ([*EPOCH, *EPOCH, (60.0, "b"), (1.0, "b")], STALL_S, "who pauses after each epoch may do so again"),
    ],
)
def test_the_limit_follows_the_workers_own_pace(signs: list[tuple[float, str]], limit_s: float, why: str) -> None:
    assert longest_silence_s(pace_of(*signs), STALL_S) == pytest.approx(limit_s), why


def test_the_least_can_be_set_and_the_jobs_own_limit_stands_above_it() -> None:
    pace = pace_of(*EPOCH, *[(0.01, "b")] * 10)
    assert longest_silence_s(pace, STALL_S, within_epoch_s=2.0) == 2.0
    assert longest_silence_s(pace, 0.5) == 0.5


def test_a_worker_is_stalled_only_after_the_whole_time() -> None:
    assert not is_stalled(Pace(100.0), STALL_S, now=700.0)
    assert is_stalled(Pace(100.0), STALL_S, now=700.1)


def test_a_hung_worker_is_found_by_its_own_pace_and_replaced() -> None:
    world = World(1, 1)
    world.get_ready()
    for after_s, sign in [*EPOCH, *EPOCH[:-1]]:
        world.now += after_s
        world.step(ev.Progress("w0") if sign == "b" else ev.EpochEnded("w0", 0, 1, 9, {}))
    assert world.tick(30.0) == []
    sent = world.tick(0.1)
    assert sent[0] == cmd.KillWorker("w0")
    assert commands_of(sent, cmd.RecordEnded) == [cmd.RecordEnded(0, 1, Cause.STALL, "no progress for 30 s")]


def test_a_new_task_has_a_pace_of_its_own() -> None:
    world = World(2, 1)
    world.get_ready()
    for _ in range(20):
        world.now += 1
        world.step(ev.EpochEnded("w0", 0, 1, 99, {}), ev.Progress("w0"))
    world.train_all_of("w0", 0)
    assert world.tick(599) == [], "predicting has shown no pace yet"
    world.step(ev.MemberPredicted("w0", 0, {}))
    assert world.tick(599) == [], "neither has the next member"


def test_a_checkpoint_is_a_sign_of_life_and_remembered() -> None:
    world = World(1, 1)
    world.get_ready()
    world.now += 599
    world.step(ev.Checkpointed("w0", 0, 4))
    assert world.state.members[0].checkpoint_epoch == 4
    assert world.tick(600) == []
    assert commands_of(world.tick(0.1), cmd.KillWorker) == [cmd.KillWorker("w0")]


def test_a_worker_that_has_settled_its_member_may_take_its_time_to_become_idle() -> None:
    world = World(1, 1)
    world.get_ready()
    for after_s, sign in [*EPOCH, *EPOCH[:-1]]:
        world.now += after_s
        world.step(ev.Progress("w0") if sign == "b" else ev.EpochEnded("w0", 0, 1, 9, {}))
    world.step(ev.MemberTrained("w0", 0))
    assert world.tick(600) == []
    assert world.tick(1)[0] == cmd.KillWorker("w0")
