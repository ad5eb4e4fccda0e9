"""How members are packed, and what becomes of packs."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from schedule_world import World, commands_of

from orchestrator.planning import commands as cmd
from orchestrator.planning import events as ev
from orchestrator.planning.events import Cause
from orchestrator.planning.outputs import ONLY
from orchestrator.planning.packs import (
    Architecture,
    Pack,
    PackingRules,
    decide_packs,
    packs_from_json,
    packs_to_json,
    split_evenly,
)
from orchestrator.planning.placement import Crew
from orchestrator.planning.recovery import RunMemory
from orchestrator.spec import FaultsSpec

MLP = Architecture("mlp", frozenset({"other"}))
CNN = Architecture("cnn", frozenset({"convolution", "other"}))
STRANGE = Architecture("strange", obstacle="its train_step is the job's own")
LONG = PackingRules("auto", epochs=5, batch_size=32)


def sizes(architecture: Architecture, members: int, rules: PackingRules = LONG, **about: Any) -> tuple[str, list[int]]:
    """The engine and the sizes of the packs of members that are all alike."""
    settings = {"device": "cpu", "num_rows": 48_000, "num_workers": 1, **about}
    decision = decide_packs(dict.fromkeys(range(members), architecture), rules, **settings)
    (engine,) = {pack.engine for pack in decision.packs}
    return engine, [len(pack.members) for pack in decision.packs]


@pytest.mark.parametrize(
    ("architecture", "members", "about", "expected"),
    [
        (MLP, 16, {}, ("fused", [8, 8])),
        (MLP, 9, {}, ("fused", [4, 5])),
        (MLP, 5, {}, ("fused", [5])),
        (MLP, 20, {}, ("fused", [5, 5, 5, 5])),  # not three, of which the last would run alone on two workers
        (MLP, 33, {}, ("fused", [6, 5, 5, 6, 6, 5])),
        (MLP, 20, {"num_workers": 3}, ("fused", [5, 5, 5, 5])),
        (MLP, 16, {"num_workers": 4}, ("fused", [8, 8])),  # on a CPU the number of workers changes no bits
        (MLP, 5, {"num_rows": 1_437}, ("solo", [1] * 5)),
        (replace(MLP, num_rows=1_437), 5, {}, ("solo", [1] * 5)),  # of a fold: fewer rows than the run has
        (CNN, 3, {}, ("solo", [1] * 3)),
        (CNN, 16, {"device": "gpu", "num_workers": 4}, ("fused", [4, 4, 4, 4])),
        (CNN, 300, {"device": "gpu", "num_workers": 2}, ("fused", [60] * 5)),
        (STRANGE, 2, {"device": "gpu"}, ("solo", [1, 1])),
    ],
)
def test_the_table_goes_by_device_layers_and_sizes(
    architecture: Architecture, members: int, about: dict[str, Any], expected: tuple[str, list[int]]
) -> None:
    assert sizes(architecture, members, **about) == expected


@pytest.mark.parametrize(
    ("rules", "architecture", "expected"),
    [
        (PackingRules("solo", 5, 32), MLP, ("solo", [1, 1, 1])),
        (PackingRules("fused", 1, 32), CNN, ("fused", [3])),
        (PackingRules("fused", 1, 32), STRANGE, ("solo", [1, 1, 1])),
        (PackingRules("auto", 5, 32, max_members=2), MLP, ("fused", [2, 1])),
    ],
)
def test_the_job_has_its_say(rules: PackingRules, architecture: Architecture, expected: tuple[str, list[int]]) -> None:
    assert sizes(architecture, 3, rules) == expected


def test_members_of_different_architectures_share_no_pack_and_each_reason_is_told_once() -> None:
    architectures = {0: MLP, 1: CNN, 2: MLP, 3: STRANGE, 4: CNN}
    decision = decide_packs(architectures, LONG, device="cpu", num_rows=48_000, num_workers=2)
    assert [pack.members for pack in decision.packs] == [(0, 2), (1,), (3,), (4,)]
    assert [pack.index for pack in decision.packs] == [0, 1, 2, 3]
    assert [pack.engine for pack in decision.packs] == ["fused", "solo", "solo", "solo"]
    assert decision.reason.count("solo: ") == 2
    assert "its train_step is the job's own" in decision.reason


@pytest.mark.parametrize(("members", "most"), [(1, 8), (7, 3), (16, 8), (17, 8), (1_000, 64)])
def test_parts_differ_in_size_by_one_at_most(members: int, most: int) -> None:
    parts = split_evenly(range(members), most)
    assert [index for part in parts for index in part] == list(range(members))
    assert max(map(len, parts)) <= most
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_packs_come_back_from_their_record() -> None:
    packs = (Pack(0, (0, 2), "fused"), Pack(1, (1,), "solo"))
    assert packs_from_json(packs_to_json(packs)) == packs


def test_who_resumes_packs_the_members_as_before_whatever_the_table_says_now() -> None:
    memory = RunMemory(packed={"packs": [{"members": [0, 2], "engine": "fused"}, {"members": [1], "engine": "solo"}]})
    world = World(3, 1, memory=memory, trained=[0])
    (train,) = world.get_ready()[-1:]
    assert train == cmd.Predict("w0", 0)
    assert world.step(ev.MemberPredicted("w0", 0, {}), ev.WorkerIdle("w0")) == [
        cmd.TrainPack("w0", Pack(0, (0, 2), "fused"), (2,))
    ]
    assert not commands_of(world.sent, cmd.RecordPacked)


def test_a_pack_that_is_lost_is_tried_again_as_a_whole_without_those_that_are_through() -> None:
    world = World(3, 1, pack_size=3)
    train = world.get_ready()[-1]
    assert train == cmd.TrainPack("w0", Pack(0, (0, 1, 2), "fused"), (0, 1, 2))
    world.step(ev.MemberTrained("w0", 1))
    sent = world.step(ev.WorkerLost("w0", ev.Cause.NODE_LOST, "gone"))
    assert [ended.member for ended in commands_of(sent, cmd.RecordEnded)] == [0, 2]
    world.step(ev.WorkerReady("w1", "n", 1))
    sent = world.step(ev.MemberPredicted("w1", 1, {}), ev.WorkerIdle("w1"))
    assert sent == [cmd.TrainPack("w1", Pack(0, (0, 1, 2), "fused"), (0, 2))]


def test_members_of_a_pack_that_crashed_wait_for_one_another() -> None:
    world = World(2, 1, pack_size=2)
    world.get_ready()
    world.step(ev.WorkerLost("w0", ev.Cause.CRASH, "gone"))
    assert len(set(world.state.delayed.values())) == 2, "each has its own jitter"
    first, last = sorted(world.state.delayed.values())
    world.step(ev.WorkerReady("w1", "n", 1))
    assert world.tick(first - world.now) == []
    assert world.tick(last - world.now) == [cmd.TrainPack("w1", Pack(0, (0, 1), "fused"), (0, 1))]


def test_one_member_that_fails_for_good_leaves_the_others_in_training() -> None:
    world = World(2, 1, pack_size=2, quorum=1)
    world.get_ready()
    world.step(ev.AttemptFailed("w0", 0, ev.Cause.USER_ERROR, "its callback raised"))
    assert world.state.members[0].status == "failed"
    assert world.state.workers["w0"].members == (1,)


def test_a_pack_that_does_not_fit_is_halved_without_counting_an_attempt() -> None:
    world = World(4, 1, pack_size=4)
    world.get_ready()
    sent = world.step(ev.MemberTrained("w0", 3), ev.PackTooLarge("w0", 0, "no memory"))
    assert not commands_of(sent, cmd.RecordEnded)
    recorded = commands_of(world.sent, cmd.RecordPacked)[-1]
    assert [pack.members for pack in recorded.packs] == [(0, 1, 2, 3), (0, 1), (2, 3)]
    world.step(ev.WorkerIdle("w0"), ev.MemberPredicted("w0", 3, {}), ev.WorkerIdle("w0"))
    world.step(ev.MemberTrained("w0", 0), ev.WorkerIdle("w0", publishing=(1,)))
    world.step(ev.MemberPredicted("w0", 0, {}), ev.WorkerIdle("w0", publishing=(1,)))
    assert [command.members for command in commands_of(world.sent, cmd.TrainPack)[1:]] == [(0, 1), (2,)]
    again = World(4, 1, memory=RunMemory(packed={"packs": packs_to_json(recorded.packs)}))
    assert again.state.waiting == (1, 2), "who resumes goes on with the halves"


def test_a_pack_whose_worker_is_killed_for_memory_is_halved_uncounted_until_each_member_is_alone() -> None:
    world = World(4, 1, pack_size=4)
    world.get_ready()
    for worker, size in (("w0", 4), ("w1", 2)):
        sent = world.step(ev.WorkerLost(worker, Cause.OUT_OF_MEMORY, "killed by the memory monitor"))
        assert not commands_of(sent, cmd.RecordEnded)
        recorded = commands_of(world.sent, cmd.RecordPacked)[-1]
        assert f"a pack of {size} members does not fit into memory: halved" in recorded.reason
        assert "killed by the memory monitor" in recorded.reason
        world.step(ev.WorkerReady(next(iter(world.state.workers)), "n", 1))
    waiting = [world.state.packs[index].members for index in world.state.waiting]
    assert [command.members for command in commands_of(world.sent, cmd.TrainPack)[1:]] == [(0, 1), (0,)]
    assert waiting == [(1,), (2,), (3,)], "the other half is as large as the one that was killed"
    sent = world.step(ev.WorkerLost("w2", Cause.OUT_OF_MEMORY, "killed by the memory monitor"))
    assert [(ended.member, ended.cause) for ended in commands_of(sent, cmd.RecordEnded)] == [(0, Cause.OUT_OF_MEMORY)]


def test_who_is_published_beside_a_pack_that_is_killed_for_memory_is_tried_again_as_after_any_loss() -> None:
    world = World(4, 1, pack_size=2)
    world.get_ready()
    world.step(ev.WorkerIdle("w0", publishing=(0, 1)))
    sent = world.step(ev.WorkerLost("w0", Cause.OUT_OF_MEMORY, "killed"))
    assert [ended.member for ended in commands_of(sent, cmd.RecordEnded)] == [0, 1]
    assert [pack.members for pack in world.state.packs[2:]] == [(2,), (3,)]
    assert [world.state.members[index].attempts for index in range(4)] == [1, 1, 0, 0]


def test_a_pack_that_is_lost_for_another_reason_or_predicted_is_not_halved() -> None:
    world = World(2, 1, pack_size=2)
    world.get_ready()
    world.step(ev.WorkerLost("w0", Cause.CRASH, "gone"))
    world.step(ev.WorkerReady("w1", "n", 1))
    world.tick(100)
    world.step(ev.MemberTrained("w1", 0), ev.MemberTrained("w1", 1), ev.WorkerIdle("w1"))
    assert world.state.workers["w1"].task == "predicting"
    sent = world.step(ev.WorkerLost("w1", Cause.OUT_OF_MEMORY, "killed"))
    assert [ended.member for ended in commands_of(sent, cmd.RecordEnded)] == [0]
    assert [pack.members for pack in world.state.packs] == [(0, 1)]


def test_what_did_not_fit_bounds_the_packs_of_that_architecture_that_wait() -> None:
    world = World(9, 1, packing=PackingRules("fused", max_members=4))
    world.step(ev.DataLoaded("f", {"train": 1}), ev.WorkerReady("w0", "n", 1))
    models = {index: Architecture("other" if index > 6 else "one") for index in range(9)}
    world.step(ev.PreflightPassed("w0", {ONLY: "multiclass"}, "gpu", False, {}, {}, models), ev.WorkerIdle("w0"))
    assert [pack.members for pack in world.state.packs] == [(0, 1, 2, 3), (4, 5, 6), (7, 8)]
    world.step(ev.PackTooLarge("w0", 0, "no memory"))
    waiting = [world.state.packs[index].members for index in world.state.waiting]
    assert sorted(waiting) == [(0, 1), (2, 3), (4, 5), (6,), (7, 8)]


def test_members_that_cannot_be_fused_after_all_are_trained_one_by_one() -> None:
    world = World(3, 1, pack_size=3)
    world.get_ready()
    sent = world.step(ev.PackRefused("w0", 0, "the compiler refuses it"), ev.WorkerIdle("w0"))
    assert not commands_of(sent, cmd.RecordEnded)
    assert commands_of(sent, cmd.TrainPack) == [cmd.TrainPack("w0", Pack(1, (0,), "solo"), (0,))]
    recorded = commands_of(world.sent, cmd.RecordPacked)[-1]
    assert [(pack.members, pack.engine) for pack in recorded.packs[1:]] == [((i,), "solo") for i in range(3)]
    assert "the compiler refuses it" in recorded.reason


def test_a_worker_trains_on_while_it_publishes_and_both_are_retried_when_it_dies() -> None:
    world = World(2, 1)
    world.get_ready()
    sent = world.step(ev.WorkerIdle("w0", publishing=(0,)))
    assert [command.members for command in commands_of(sent, cmd.TrainPack)] == [(1,)]
    assert world.state.members[0].status == "running"
    sent = world.step(ev.WorkerLost("w0", ev.Cause.PREEMPTED, "gone"))
    assert [ended.member for ended in commands_of(sent, cmd.RecordEnded)] == [0, 1]


def test_an_idle_worker_that_publishes_without_an_end_counts_as_hung() -> None:
    world = World(1, 1, faults=FaultsSpec(stall_s=60))
    world.get_ready()
    world.step(ev.WorkerIdle("w0", publishing=(0,)))
    sent = world.tick(61)
    assert commands_of(sent, cmd.KillWorker) == [cmd.KillWorker("w0")]
    assert [ended.cause for ended in commands_of(sent, cmd.RecordEnded)] == [ev.Cause.STALL]


def test_the_run_waits_for_what_an_idle_worker_still_publishes() -> None:
    world = World(1, 1)
    world.get_ready()
    assert world.step(ev.WorkerIdle("w0", publishing=(0,))) == []
    assert world.end is None
    world.step(ev.MemberTrained("w0", 0))
    assert world.tick(0) == [cmd.Predict("w0", 0)]


def test_a_node_that_is_taken_away_gets_no_new_work_while_its_worker_publishes() -> None:
    world = World(2, 1)
    world.get_ready()
    world.step(ev.NodeDraining("w0", 30.0))
    assert world.step(ev.WorkerIdle("w0", publishing=(0,))) == []
    world.step(ev.MemberTrained("w0", 0))
    assert commands_of(world.tick(0), cmd.KillWorker) == [cmd.KillWorker("w0")]


@pytest.mark.parametrize(("rows", "regrouped"), [(48_000, True), (1_437, False)])
def test_where_all_turn_out_solo_one_worker_with_all_cores_makes_way_for_several(rows: int, regrouped: bool) -> None:
    world = World(4, 1, solo_crew=Crew(4, 1), packing=PackingRules("auto", 5, 32), crew=Crew(1, 4))
    assert world.sent == [cmd.StartWorker("w0", 4)]
    world.step(ev.DataLoaded("f", {"train": rows}), ev.WorkerReady("w0", "n", 1))
    sent = world.step(
        ev.PreflightPassed("w0", {ONLY: "multiclass"}, "cpu", True, {}, {}, architectures=dict.fromkeys(range(4), CNN))
    )
    if not regrouped:
        assert not commands_of(sent, cmd.KillWorker), "what is short is not worth further workers"
        return
    assert commands_of(sent, cmd.KillWorker) == [cmd.KillWorker("w0")]
    assert commands_of(sent, cmd.StartWorker) == [cmd.StartWorker(f"w{number}", 1) for number in range(1, 5)]


def test_a_pack_is_judged_by_the_epochs_and_batches_of_its_own_members() -> None:
    own = {i: replace(MLP, signature="long", epochs=5, batch_size=1) for i in range(3)}
    decided = decide_packs(own, PackingRules("auto", 1, 1024), device="cpu", num_rows=10_000, num_workers=1)
    assert [pack.engine for pack in decided.packs] == ["fused"]
