"""Enough members: what decides, who is left out, and that the order of finishing changes neither."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from schedule_world import World, commands_of, error_of, passed, walk

from orchestrator.errors import Interrupted, QuorumMissed
from orchestrator.planning import commands as cmd
from orchestrator.planning import events as ev
from orchestrator.planning.events import Cause
from orchestrator.planning.policies import StopRule, decide_enough
from orchestrator.planning.recovery import RunMemory

NLL = StopRule("nll", greater_is_better=False, min_delta=0.01, patience=2)
ACCURACY = StopRule("accuracy", greater_is_better=True, min_delta=0.01, patience=2)
FLAT = [0.5, 0.4, 0.4, 0.4, 0.4, 0.4]
"""Nll of the first 1, 2, … members: two are as good as more, so that four are known to be enough."""

seeds = st.integers(0, 2**32 - 1)


@pytest.mark.parametrize(
    ("scores", "rule", "enough"),
    [
        ([], NLL, None),
        ([0.5], NLL, None),
        ([0.5, 0.5], NLL, None),
        ([0.5, 0.5, 0.5], NLL, 3),
        ([0.5, 0.6, 0.4, 0.41, 0.395], NLL, 5),
        ([0.5, 0.4, 0.3, 0.2], NLL, None),
        ([0.5, 0.4, 0.3, 0.2], ACCURACY, 3),
        ([0.8, 0.82, 0.84, 0.84, 0.84], ACCURACY, 5),
        # 0.25 is not more than 0.25; what adds up to more is an improvement.
        ([0.75, 0.5, 0.5], StopRule("nll", False, 0.25, 2), 3),
        ([0.5, 0.495, 0.485, 0.48, 0.48], NLL, 5),
        ([0.5, 0.5], StopRule("nll", False, 0.0, 1), 2),
        ([0.5, 0.499, 0.498], StopRule("nll", False, 0.0, 1), None),
        # An absent member is no evidence, wherever it stands.
        ([None, None, None], NLL, None),
        ([0.5, None, None, 0.5], NLL, None),
        ([None, 0.5, None, 0.5, None, 0.5], NLL, 6),
        ([-0.5, -0.7, -0.7, -0.7], StopRule("r2", True, 0.1, 3), 4),
    ],
)
def test_members_are_enough_when_so_many_in_a_row_brought_no_improvement(
    scores: Sequence[float | None], rule: StopRule, enough: int | None
) -> None:
    assert decide_enough(scores, rule).num_members == enough


def test_the_reason_names_the_best_score_and_how_many_members_did_not_improve_it() -> None:
    told = decide_enough([0.5, 0.4, 0.4, 0.395], NLL)
    assert told.reason == "nll of the first 2 members is 0.4, 2 more improved it by no more than 0.01"
    assert decide_enough([0.5], NLL).reason == "nll of the first member is 0.5, none after that"
    assert decide_enough([None], NLL).reason == "no member has been scored"


@given(
    scores=st.lists(st.none() | st.floats(0, 1), max_size=30),
    patience=st.integers(1, 5),
    min_delta=st.floats(0, 0.2),
    greater_is_better=st.booleans(),
)
def test_what_comes_after_the_decision_does_not_change_it(
    scores: list[float | None], patience: int, min_delta: float, greater_is_better: bool
) -> None:
    rule = StopRule("accuracy", greater_is_better, min_delta, patience)
    told = [decide_enough(scores[:k], rule).num_members for k in range(len(scores) + 1)]
    first = next((enough for enough in told if enough is not None), None)
    if first is None:
        assert set(told) == {None}
        return
    assert told == [None] * first + [first] * (len(scores) + 1 - first), "known as soon as it can be, and for good"
    assert sum(score is not None for score in scores[:first]) > patience, "more members than the patience are left"


def world_of(scores: Sequence[float | None], num_members: int, num_workers: int, **options: object) -> World:
    options = {"stop_rule": NLL, "quorum": 1, **options}
    return World(num_members, num_workers, score=lambda k: scores[k - 1], **options)  # type: ignore[arg-type]


def answer(world: World) -> list[cmd.Command]:
    """Tell the score that was asked for."""
    assert world.to_score is not None
    return world.step(ev.PrefixScored(world.to_score, world.score(world.to_score)))


def bring_through(world: World, worker: str, member: int) -> None:
    """A worker trains and predicts its member; all scores that are asked for are told."""
    world.train_all_of(worker, member)
    world.step(ev.MemberPredicted(worker, member, {}))
    while world.to_score is not None:
        answer(world)
    if world.end is None:
        world.step(ev.WorkerIdle(worker))


def test_no_further_member_starts_once_the_score_has_stopped_improving() -> None:
    world = world_of(FLAT, 6, 1)
    world.get_ready()
    for member in range(4):
        bring_through(world, "w0", member)
    (record,) = commands_of(world.sent, cmd.RecordEnough)
    assert (record.num_members, record.scores) == (4, (0.5, 0.4, 0.4, 0.4))
    assert world.end == cmd.Select((0, 1, 2, 3), "4 of 4 members, 1 needed")
    trained = [i for command in commands_of(world.sent, cmd.TrainPack) for i in command.members]
    assert trained == [0, 1, 2, 3]
    assert [world.state.members[i].status for i in (4, 5)] == ["unneeded", "unneeded"]
    assert "had stopped improving with 4 members" in (world.state.members[4].message or "")


def test_who_is_in_training_beyond_is_given_up_and_its_worker_ended() -> None:
    world = world_of(FLAT, 6, 2)
    world.get_ready()
    for member in (0, 2, 3):
        worker = next(name for name, busy in world.workers.items() if member in busy.members)
        other = next(name for name in world.workers if name != worker)
        bring_through(world, worker, member)
    assert world.workers[other].members == (1,), "still in training, so that only the first ensemble is scored"
    assert commands_of(world.sent, cmd.RecordEnough) == []
    assert world.workers[worker].members == (4,)
    sent_before = len(world.sent)
    bring_through(world, other, 1)
    sent = world.sent[sent_before:]
    assert commands_of(sent, cmd.KillWorker) == [cmd.KillWorker(worker)]
    assert commands_of(sent, cmd.TrainPack) == []
    assert world.state.members[4].status == "unneeded"
    assert world.step(ev.MemberTrained(worker, 4), ev.WorkerIdle(worker)) == [], "a late word of it changes nothing"
    world.step(ev.WorkerIdle(other))
    assert isinstance(world.end, cmd.Select)
    assert world.end.members == (0, 1, 2, 3)


def test_a_member_that_was_trained_and_predicted_beyond_is_left_out_all_the_same() -> None:
    world = world_of(FLAT, 5, 2)
    world.get_ready()
    (slow,) = (name for name, busy in world.workers.items() if 0 in busy.members)
    (quick,) = set(world.workers) - {slow}
    for member in (1, 2, 3, 4):
        bring_through(world, quick, member)
    assert commands_of(world.sent, cmd.ScorePrefix) == [], "nothing can be scored before the first member"
    bring_through(world, slow, 0)
    assert isinstance(world.end, cmd.Select)
    assert world.end.members == (0, 1, 2, 3)
    assert world.state.members[4].status == "unneeded"


def test_a_member_waits_to_be_started_while_a_score_is_being_worked_out() -> None:
    world = world_of(FLAT, 4, 1)
    world.get_ready()
    world.train_all_of("w0", 0)
    sent = world.step(ev.MemberPredicted("w0", 0, {"validation": {}}), ev.WorkerIdle("w0"))
    assert sent == [cmd.ScorePrefix(1, {"validation": {}})]
    assert commands_of(answer(world), cmd.TrainPack) != []


def test_a_member_waits_to_be_started_while_the_one_before_is_being_published() -> None:
    world = world_of(FLAT, 4, 1)
    world.get_ready()
    assert world.step(ev.WorkerIdle("w0", publishing=(0,))) == []
    world.step(ev.MemberTrained("w0", 0))
    assert world.tick(1) == [cmd.Predict("w0", 0)]
    plain = World(4, 1)
    plain.get_ready()
    assert commands_of(plain.step(ev.WorkerIdle("w0", publishing=(0,))), cmd.TrainPack) != [], "else it does not wait"


@pytest.mark.parametrize("end", ["diverged", "failed"])
def test_an_absent_member_is_passed_over_and_is_no_evidence(end: str) -> None:
    world = world_of([0.5, 0.5, 0.5, 0.5, 0.5, 0.5], 6, 1)
    world.get_ready()
    bring_through(world, "w0", 0)
    gone = ev.MemberDiverged("w0", 1, "NaN")
    world.step(gone if end == "diverged" else ev.AttemptFailed("w0", 1, Cause.USER_ERROR, "error"), ev.WorkerIdle("w0"))
    for member in (2, 3):
        bring_through(world, "w0", member)
    (record,) = commands_of(world.sent, cmd.RecordEnough)
    assert (record.num_members, record.scores) == (4, (0.5, None, 0.5, 0.5))
    assert isinstance(world.end, cmd.Select)
    assert world.end.members == (0, 2, 3)


def test_a_member_that_fails_last_lets_those_after_it_decide_before_anything_is_selected() -> None:
    world = world_of(FLAT, 5, 2)
    world.get_ready()
    (slow,) = (name for name, busy in world.workers.items() if 0 in busy.members)
    (quick,) = set(world.workers) - {slow}
    for member in (1, 2, 3, 4):
        bring_through(world, quick, member)
    world.step(ev.AttemptFailed(slow, 0, Cause.USER_ERROR, "error"), ev.WorkerIdle(slow))
    assert world.end is None
    scored: list[int] = []
    while world.to_score is not None:
        scored.append(world.to_score)
        answer(world)
    assert scored == [2, 3, 4]
    assert isinstance(world.end, cmd.Select)
    assert world.end.members == (1, 2, 3)


def test_without_a_quorum_all_members_before_the_decision_are_needed() -> None:
    world = world_of([0.5] * 6, 6, 1, quorum=None)
    world.get_ready()
    world.step(ev.MemberDiverged("w0", 0, "NaN"), ev.WorkerIdle("w0"))
    for member in (1, 2, 3):
        bring_through(world, "w0", member)
    error = error_of(world)
    assert isinstance(error, QuorumMissed)
    assert "only 3 of 4 members, 4 needed" in error.what
    assert "member 0: NaN" in error.what
    assert "member 5" not in error.what


def test_a_decision_that_would_leave_nobody_out_is_none() -> None:
    world = world_of(FLAT, 4, 1)
    world.get_ready()
    for member in range(4):
        bring_through(world, "w0", member)
    assert commands_of(world.sent, cmd.RecordEnough) == []
    assert isinstance(world.end, cmd.Select)
    assert world.end.members == (0, 1, 2, 3)
    assert world.state.scores == (0.5, 0.4, 0.4, 0.4)


def test_a_run_that_is_being_stopped_scores_nothing_more() -> None:
    world = world_of(FLAT, 6, 2)
    world.get_ready()
    for member in (0, 2, 3):
        worker = next(name for name, busy in world.workers.items() if member in busy.members)
        bring_through(world, worker, member)
    (last,) = (name for name, busy in world.workers.items() if 1 in busy.members)
    world.train_all_of(last, 1)
    world.step(ev.MemberPredicted(last, 1, {}))
    world.step(ev.StopRequested(Interrupted("SIGTERM")))
    assert world.to_score == 2
    answer(world)
    assert world.to_score is None
    assert commands_of(world.sent, cmd.RecordEnough) == []


def test_a_successor_keeps_to_the_decision_and_asks_for_no_score() -> None:
    memory = RunMemory(enough=3, scores=(0.5, 0.5, 0.5))
    world = world_of([9.0] * 5, 5, 1, memory=memory, trained=[0, 1, 4])
    statuses = [member.status for member in world.state.members.values()]
    assert statuses == ["trained", "trained", "waiting", "unneeded", "unneeded"]
    world.step(ev.WorkerReady("w0", "n", 1), ev.DataLoaded("f", {}))
    world.step(passed("w0", 5), ev.WorkerIdle("w0"))
    for member in (0, 1):
        world.step(ev.MemberPredicted("w0", member, {}), ev.WorkerIdle("w0"))
    world.train_all_of("w0", 2)
    world.step(ev.MemberPredicted("w0", 2, {}), ev.WorkerIdle("w0"))
    assert isinstance(world.end, cmd.Select)
    assert world.end.members == (0, 1, 2)
    assert commands_of(world.sent, cmd.RecordEnough) == []
    assert world.state.scores == (0.5, 0.5, 0.5)


score_lists = st.lists(st.sampled_from([0.2, 0.3, 0.305, 0.4]) | st.none(), min_size=7, max_size=7)


@settings(max_examples=150, deadline=None)
@given(
    scores=score_lists,
    one=seeds,
    other=seeds,
    workers=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    sizes=st.tuples(st.integers(1, 2), st.integers(1, 2)),
    trained=st.sets(st.integers(0, 6)),
    diverged=st.sets(st.integers(0, 6)),
)
def test_neither_workers_nor_the_order_of_events_change_which_members_are_enough(
    scores: list[float | None],
    one: int,
    other: int,
    workers: tuple[int, int],
    sizes: tuple[int, int],
    trained: set[int],
    diverged: set[int],
) -> None:
    left = dict.fromkeys(diverged, "NaN")
    worlds = [
        world_of(scores, 7, count, pack_size=size, trained=sorted(trained - diverged), diverged=left)
        for count, size in zip(workers, sizes, strict=True)
    ]
    for world, seed in zip(worlds, (one, other), strict=True):
        walk(world, Random(seed), mishaps=0)
    seen = [None if i in diverged else score for i, score in enumerate(scores)]
    enough = decide_enough(seen, NLL).num_members or 7
    good = tuple(i for i in range(enough) if i not in diverged)
    for world in worlds:
        assert world.enough == (enough if enough < 7 else None)
        if good:
            assert isinstance(world.end, cmd.Select)
            assert world.end.members == good
        else:
            assert isinstance(error_of(world), QuorumMissed)


def test_whatever_dies_the_members_that_are_left_are_those_that_the_scores_say() -> None:
    met: Counter[str] = Counter()

    @settings(max_examples=150, deadline=None)
    @given(
        scores=score_lists,
        seed=seeds,
        num_workers=st.integers(1, 4),
        mishaps=st.integers(0, 20),
        cutoff=st.none() | st.floats(0, 200),
        pack_size=st.integers(1, 2),
    )
    def check(
        scores: list[float | None], seed: int, num_workers: int, mishaps: int, cutoff: float | None, pack_size: int
    ) -> None:
        world = world_of(scores, 7, num_workers, cutoff=cutoff, pack_size=pack_size)
        met.update(walk(world, Random(seed), mishaps))
        met[type(world.end).__name__] += 1
        if not isinstance(world.end, cmd.Select):
            return
        status = {i: member.status for i, member in world.state.members.items()}
        absent = ("failed", "diverged", "not_started")
        seen = [None if status[i] in absent else score for i, score in enumerate(scores)]
        enough = decide_enough(seen, NLL).num_members or 7
        assert world.enough == (enough if enough < 7 else None)
        assert world.end.members == tuple(i for i in range(enough) if status[i] == "done")
        assert all(status[i] in ("unneeded", *absent) for i in range(enough, 7))
        met["enough"] += world.enough is not None
        met["given up"] += world.enough is not None and any(
            i >= enough for command in commands_of(world.sent, cmd.TrainPack) for i in command.members
        )

    check()
    wanted = {"enough", "given up", "Select", "WorkerLost", "AttemptFailed", "MemberDiverged", "NodeDraining"}
    assert wanted <= set(+met), f"the walks never met {wanted - set(+met)}"
