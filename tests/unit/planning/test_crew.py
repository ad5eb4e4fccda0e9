"""The crew follows the cluster: nodes that join are used, those that leave take their places with them."""

from __future__ import annotations

from collections import Counter
from random import Random

from fake_runs import Run
from hypothesis import given, settings
from hypothesis import strategies as st
from schedule_world import World, commands_of, error_of, nodes_of

from orchestrator.errors import ClusterUnavailable
from orchestrator.planning import commands as cmd
from orchestrator.planning import events as ev
from orchestrator.planning.events import Cause
from orchestrator.planning.outputs import ONLY
from orchestrator.planning.packs import Architecture, PackingRules
from orchestrator.planning.placement import Autoscaler, ClusterShape, Crew, NodeGroup, NodeShape, Placing
from orchestrator.spec import FaultsSpec, ResourcesSpec

EPOCHS = 6
CNN = Architecture("cnn", frozenset({"convolution", "other"}))


def started(commands: list[cmd.Command]) -> list[str]:
    return [command.worker for command in commands_of(commands, cmd.StartWorker)]


def killed(commands: list[cmd.Command]) -> list[str]:
    return [command.worker for command in commands_of(commands, cmd.KillWorker)]


def test_a_node_that_joins_gets_workers_for_members_that_wait() -> None:
    world = World(5, 1, nodes_change=True)
    world.get_ready()
    sent = world.step(ev.NodesChanged(nodes_of(1, 2)))
    assert started(sent) == ["w1", "w2"]
    assert "nodes have changed: 3 × 1 CPU" in commands_of(sent, cmd.Note)[0].text
    world.step(ev.WorkerReady("w1", "n", 1))
    assert {worker.members for worker in world.state.workers.values()} == {(0,), (1,), ()}


def test_no_more_workers_join_than_there_are_members_to_train() -> None:
    world = World(2, 1, nodes_change=True)
    world.get_ready()
    assert started(world.step(ev.NodesChanged(nodes_of(8, 8)))) == ["w1"]


def test_concurrency_bounds_the_crew_of_a_cluster_that_grows() -> None:
    world = World(5, 1, placing=Placing(ResourcesSpec(concurrency=2)))
    world.get_ready()
    assert started(world.step(ev.NodesChanged(nodes_of(8)))) == ["w1"]


def test_a_lost_node_leaves_nobody_waiting_for_its_place() -> None:
    world = World(5, 2, nodes_change=True)
    world.get_ready()
    assert started(world.step(ev.WorkerLost("w1", Cause.NODE_LOST, "gone"))) == ["w2"]
    assert killed(world.step(ev.NodesChanged(nodes_of(1)))) == ["w2"]
    assert list(world.workers) == ["w0"]
    assert {cause: count for (_, cause), count in world.ended.items()} == {Cause.NODE_LOST: 1}


def test_who_works_is_not_ended_because_a_node_went() -> None:
    world = World(5, 2, nodes_change=True)
    world.get_ready()
    assert killed(world.step(ev.NodesChanged(nodes_of(1)))) == []
    assert started(world.step(ev.WorkerLost("w1", Cause.NODE_LOST, "gone"))) == []


def test_a_run_without_any_node_waits_and_goes_on_when_one_comes() -> None:
    world = World(2, 1, nodes_change=True)
    world.get_ready()
    sent = world.step(ev.WorkerLost("w0", Cause.NODE_LOST, "gone"), ev.NodesChanged(nodes_of(0)))
    assert "waiting for a node: a worker needs 1 CPU; there is no node" in [
        note.text for note in commands_of(sent, cmd.Note)
    ]
    assert started(sent) == ["w1", "w2"], "whatever starts nodes on demand sees them"
    world.tick(1000)
    assert killed(world.step(ev.NodesChanged(nodes_of(1)))) == ["w2"]
    world.step(ev.WorkerReady("w1", "n", 1))
    assert world.workers["w1"].task == "train"


def test_waiting_for_a_node_ends_and_says_what_a_worker_needs() -> None:
    world = World(2, 1, placing=Placing(ResourcesSpec(labels={"market": "spot"})), faults=FaultsSpec(node_wait_s=60))
    sent = world.step(ev.NodesChanged(nodes_of(4)))
    assert "waiting for a node: a worker needs 1 CPU, on nodes with market=spot" in commands_of(sent, cmd.Note)[0].text
    world.tick(61)
    error = error_of(world)
    assert isinstance(error, ClusterUnavailable)
    assert "a worker needs 1 CPU, on nodes with market=spot; there is 4 CPU and 0 GPU (no market)" in str(error)


def scaling(*nodes: NodeShape) -> ClusterShape:
    return ClusterShape(nodes, True, Autoscaler((NodeGroup(NodeShape(2, 1), 8),)))


def test_on_a_cluster_that_scales_a_lost_node_is_asked_for_again() -> None:
    world = World(3, 3, placing=Placing(ResourcesSpec(num_gpus=1)))
    world.get_ready("w0", "w1", "w2")
    sent = world.step(ev.NodesChanged(scaling(NodeShape(2, 1))), ev.WorkerLost("w2", Cause.NODE_LOST, "gone"))
    assert started(sent) == ["w3"]
    assert killed(sent) == []


def test_nobody_waits_for_a_node_for_which_there_is_no_work_left() -> None:
    world = World(3, 3, placing=Placing(ResourcesSpec(num_gpus=1)))
    world.get_ready("w0")
    assert set(world.workers) == {"w0", "w1", "w2"}
    world.train_all_of("w0", 0)
    world.step(ev.MemberPredicted("w0", 0, {}))
    assert set(world.workers) == {"w0", "w1"}
    world.train_all_of("w0", 1)
    world.step(ev.MemberPredicted("w0", 1, {}), ev.Tick())
    assert set(world.workers) == {"w0"}


def gpu_world(*, deterministic: bool) -> World:
    """Six members in one pack on one GPU, and another pack of six that waits for it."""
    world = World(12, 1, packing=PackingRules("fused", max_members=6), placing=Placing(ResourcesSpec(num_gpus=1)))
    world.step(ev.DataLoaded("f", {"train": 48_000}), ev.WorkerReady("w0", "n", 1))
    seen = dict.fromkeys(range(12), CNN)
    passed = ev.PreflightPassed("w0", {ONLY: "multiclass"}, "gpu", deterministic, {}, {}, architectures=seen)
    world.step(passed, ev.WorkerIdle("w0"))
    return world


def gpus(*count: int) -> ClusterShape:
    return ClusterShape(tuple(NodeShape(4, number) for number in count), True)


def test_packs_that_wait_are_shared_out_anew_among_gpus_that_join() -> None:
    world = gpu_world(deterministic=False)
    before = len(world.sent)
    world.step(ev.NodesChanged(gpus(1, 2)))
    recorded = commands_of(world.sent[before:], cmd.RecordPacked)[0]
    assert [pack.members for pack in recorded.packs[:2]] == [tuple(range(6)), tuple(range(6, 12))], "the record stands"
    waiting = [world.state.packs[index].members for index in world.state.waiting]
    assert waiting == [(6, 7, 8), (9, 10, 11)]
    assert started(world.sent[before:]) == ["w1", "w2"]


def test_packs_keep_their_size_where_every_run_must_give_the_same_bits() -> None:
    world = gpu_world(deterministic=True)
    before = len(world.sent)
    world.step(ev.NodesChanged(gpus(1, 2)))
    assert not commands_of(world.sent[before:], cmd.RecordPacked)
    assert started(world.sent[before:]) == ["w1"], "one for the pack that waits"


def test_a_pack_that_was_tried_before_keeps_its_members_together() -> None:
    world = gpu_world(deterministic=False)
    world.step(ev.WorkerLost("w0", Cause.NODE_LOST, "gone"))
    world.step(ev.NodesChanged(gpus(1, 4)))
    waiting = [world.state.packs[index].members for index in world.state.waiting]
    assert tuple(range(6)) in waiting
    assert len(waiting) == 5


def test_workers_with_as_many_cores_stay_when_members_turn_out_to_be_trained_one_by_one() -> None:
    world = World(4, crew=Crew(1, 1), solo_crew=Crew(3, 1), packing=PackingRules("auto", 5, 32))
    world.step(ev.DataLoaded("f", {"train": 48_000}), ev.WorkerReady("w0", "n", 1))
    sent = world.step(
        ev.PreflightPassed("w0", {ONLY: "multiclass"}, "cpu", True, {}, {}, architectures=dict.fromkeys(range(4), CNN))
    )
    assert killed(sent) == []
    assert started(sent) == ["w1", "w2"]


def test_runs_whose_nodes_come_and_go_end_with_the_same_models_and_lose_an_interval_at_most() -> None:
    met: Counter[str] = Counter()

    @settings(max_examples=60, deadline=None)
    @given(
        seed=st.integers(0, 2**32 - 1),
        changes=st.lists(st.tuples(st.floats(0.5, 25), st.integers(0, 5)), max_size=6),
        checkpoint_every=st.integers(1, 3),
    )
    def check(seed: int, changes: list[tuple[float, int]], checkpoint_every: int) -> None:
        run = Run(5, FaultsSpec(backoff_min_s=0.5, backoff_max_s=2))
        room = [(0.0, 2), *changes, (30.0, 1)]
        end = run.start(room=room, epochs=EPOCHS, checkpoint_every=checkpoint_every, seed=Random(seed).randrange(1000))
        assert isinstance(end, cmd.Select), end
        assert end.members == tuple(range(5))
        seeds = [member.seed for member in run.the_plan.members]
        assert run.models(run.state) == {i: f"the best model of seed {seeds[i]}".encode() for i in range(5)}
        lost = Counter(r.body["member"] for r in run.log_records() if r.kind == "ended")
        assert {r.body["cause"] for r in run.log_records() if r.kind == "ended"} <= {"node_lost"}
        for member in range(5):
            again = sum(run.trained[member, epoch] - 1 for epoch in range(1, EPOCHS + 1))
            assert again <= lost[member] * checkpoint_every
        met["lost"] += lost.total()
        met["grew"] += max(number for _, number in room) > 2
        met["waited"] += any(number == 0 for _, number in changes)

    check()
    assert {"lost", "grew", "waited"} <= set(+met), met
