"""How many workers, and with what, from the nodes that are there."""

from __future__ import annotations

import pytest

from orchestrator.planning.labels import selects
from orchestrator.planning.placement import (
    Autoscaler,
    ClusterShape,
    NodeGroup,
    NodeShape,
    Placement,
    fits,
    place_again,
    place_workers,
    placing_of,
)
from orchestrator.spec import ResourcesSpec

CPU4, CPU2 = NodeShape(4, 0), NodeShape(2, 0)
GPU2, GPU1 = NodeShape(8, 2), NodeShape(4, 1)
GPU4 = NodeShape(16, 4)


@pytest.mark.parametrize(
    ("nodes", "resources", "num_packs", "workers", "num_gpus", "reason"),
    [
        ([CPU4], {}, 9, 4, 0, "4 × 1 CPU (as many as fit)"),
        ([CPU4], {}, 3, 3, 0, "3 × 1 CPU (one per member)"),
        ([CPU4], {"concurrency": 2}, 9, 2, 0, "2 × 1 CPU (resources.concurrency)"),
        ([CPU4, CPU2], {"num_cpus": 3}, 9, 1, 0, "1 × 3 CPU (as many as fit)"),
        ([GPU2, GPU1], {}, 9, 3, 1, "3 × 1 CPU and 1 GPU (as many as fit)"),
        ([CPU4, GPU1], {}, 9, 1, 1, "1 × 1 CPU and 1 GPU (as many as fit)"),
        ([CPU4, GPU1], {"num_gpus": 0}, 9, 8, 0, "8 × 1 CPU (as many as fit)"),
        ([GPU2], {"num_gpus": 0.5}, 9, 4, 0.5, "4 × 1 CPU and 0.5 GPU (as many as fit)"),
        ([GPU4], {"num_gpus": 2}, 9, 2, 2, "2 × 1 CPU and 2 GPU (as many as fit)"),
        ([GPU1], {"num_gpus": 0.1}, 99, 4, 0.1, "4 × 1 CPU and 0.1 GPU (as many as fit)"),
        ([GPU4, GPU2, GPU1], {"num_gpus": 2}, 9, 3, 2, "3 × 1 CPU and 2 GPU (as many as fit)"),
        ([GPU4, GPU2, GPU1], {"num_gpus": 4}, 9, 1, 4, "1 × 1 CPU and 4 GPU (as many as fit)"),
        ([GPU4, GPU2, CPU2], {"num_gpus": 0.5, "num_cpus": 3}, 9, 7, 0.5, "7 × 3 CPU and 0.5 GPU (as many as fit)"),
    ],
)
def test_workers_take_what_is_there(
    nodes: list[NodeShape], resources: dict[str, float], num_packs: int, workers: int, num_gpus: float, reason: str
) -> None:
    placement = place_workers(ClusterShape(tuple(nodes), True), ResourcesSpec.model_validate(resources), num_packs)
    assert (placement.num_workers, placement.num_gpus, placement.reason) == (workers, num_gpus, reason)


def test_a_fraction_of_a_gpu_is_never_put_across_two() -> None:
    """Two thirds of a GPU fit once on each: two GPUs hold two workers, not three."""
    placement = place_workers(ClusterShape((GPU2,), False), ResourcesSpec(num_gpus=0.65), 9)
    assert placement.num_workers == 2


def test_a_third_of_a_gpu_fits_three_times() -> None:
    assert place_workers(ClusterShape((GPU1,), False), ResourcesSpec(num_gpus=1 / 3), 9).num_workers == 3


@pytest.mark.parametrize(
    ("nodes", "resources", "reason"),
    [
        ([CPU4], {"num_gpus": 1.0}, "a worker needs 1 CPU and 1 GPU; there is 4 CPU and 0 GPU"),
        ([CPU2], {"num_cpus": 3}, "a worker needs 3 CPU; there is 2 CPU and 0 GPU"),
        ([CPU4, GPU1], {"num_gpus": 2.0}, "a worker needs 1 CPU and 2 GPU; there is 4 CPU and 0 GPU, 4 CPU and 1 GPU"),
        ([], {}, "a worker needs 1 CPU; there is no node"),
    ],
)
def test_a_demand_that_no_node_fits_gets_no_worker_and_the_reason(
    nodes: list[NodeShape], resources: dict[str, float], reason: str
) -> None:
    placement = place_workers(ClusterShape(tuple(nodes), False), ResourcesSpec.model_validate(resources), 3)
    assert (placement.num_workers, placement.reason) == (0, reason)


@pytest.mark.parametrize(
    ("cores", "members", "workers", "cpus_each"),
    [
        (2, 1, 1, 2),
        (2, 8, 1, 2),
        (2, 9, 2, 1),
        (2, 100, 2, 1),
        (8, 16, 2, 4),
        (8, 20, 4, 2),
        (8, 200, 8, 1),
        (1, 20, 1, 1),
    ],
)
def test_where_members_may_be_fused_the_cores_are_shared_out_among_the_packs(
    cores: int, members: int, workers: int, cpus_each: int
) -> None:
    alone = ClusterShape((NodeShape(cores, 0),), can_grow=False)
    placement = place_workers(alone, ResourcesSpec(), members, may_fuse=True)
    assert (placement.num_workers, placement.num_cpus) == (workers, cpus_each)


@pytest.mark.parametrize(
    ("cores", "concurrency", "workers", "cpus_each"), [(2, 1, 1, 2), (8, 2, 2, 4), (8, 3, 3, 2), (8, 50, 4, 2)]
)
def test_fewer_workers_than_packs_leave_no_core_idle(
    cores: int, concurrency: int, workers: int, cpus_each: int
) -> None:
    alone = ClusterShape((NodeShape(cores, 0),), can_grow=False)
    placement = place_workers(alone, ResourcesSpec(concurrency=concurrency), 20, may_fuse=True)
    assert (placement.num_workers, placement.num_cpus) == (workers, cpus_each)


def test_the_job_and_a_shared_cluster_have_their_say_over_fused_workers() -> None:
    alone = ClusterShape((NodeShape(8, 0),), can_grow=False)
    assert place_workers(alone, ResourcesSpec(num_cpus=3), 16, may_fuse=True).num_cpus == 3
    assert place_workers(ClusterShape(alone.nodes, can_grow=True), ResourcesSpec(), 16, may_fuse=True).num_cpus == 1


SPOT, OWN = NodeShape(4, 1, "spot", {"market": "spot", "zone": "a"}), NodeShape(4, 2, "own", {"market": "own"})
HEAD = NodeShape(0, 0, "head", is_head=True)


def place(
    nodes: list[NodeShape], num_members: int = 9, *, autoscaler: Autoscaler | None = None, **about: object
) -> Placement:
    may_fuse = bool(about.pop("may_fuse", False))
    shape = ClusterShape(tuple(nodes), True, autoscaler)
    return place_workers(shape, ResourcesSpec.model_validate(about), num_members, may_fuse=may_fuse)


@pytest.mark.parametrize(
    ("asked", "values", "selected"),
    [
        ("spot", ["spot", "own", None], [True, False, False]),
        ("!spot", ["spot", "own", None], [False, True, True]),
        ("in(spot, own)", ["spot", "own", "x", None], [True, True, False, False]),
        ("!in(spot,own)", ["spot", "own", "x", None], [False, False, True, True]),
        ("in(a)", ["a", "in"], [True, False]),
    ],
)
def test_a_label_selects_nodes_as_ray_would(asked: str, values: list[str | None], selected: list[bool]) -> None:
    assert [selects({"k": asked}, {} if value is None else {"k": value}) for value in values] == selected


def test_all_labels_must_hold() -> None:
    assert selects({"market": "spot", "zone": "a"}, SPOT.labels)
    assert not selects({"market": "spot", "zone": "b"}, SPOT.labels)


def test_nodes_without_the_label_get_no_worker() -> None:
    placement = place([SPOT, OWN, HEAD], labels={"market": "spot"})
    assert placement.num_workers == 1
    assert placement.reason == "1 × 1 CPU and 1 GPU, on nodes with market=spot (as many as fit)"


def test_gpus_of_nodes_without_the_label_are_not_counted_on() -> None:
    cpus = NodeShape(4, 0, "c", {"market": "cheap"})
    assert place([SPOT, cpus], labels={"market": "cheap"}).num_gpus == 0


def test_a_label_that_no_node_has_is_named_with_what_nodes_have() -> None:
    placement = place([SPOT, HEAD], labels={"market": "reserved"})
    assert placement.num_at_once == 0
    assert placement.reason == (
        "a worker needs 1 CPU, on nodes with market=reserved; there is 4 CPU and 1 GPU (market=spot), "
        "0 CPU and 0 GPU (no market)"
    )


GPU_NODES = NodeGroup(NodeShape(8, 2, labels={"market": "spot"}), max_nodes=3)
CPU_NODES = NodeGroup(NodeShape(8, 0), max_nodes=100)


def test_a_cluster_that_starts_at_no_worker_node_is_asked_for_as_many_as_it_may_start() -> None:
    placement = place([HEAD], 9, autoscaler=Autoscaler((GPU_NODES, CPU_NODES)))
    assert (placement.num_workers, placement.num_gpus, placement.num_at_once) == (6, 1, 0)
    assert placement.reason.endswith("there is 0 CPU and 0 GPU; nodes are asked for 6 of them")


@pytest.mark.parametrize(
    ("autoscaler", "about", "workers"),
    [
        (Autoscaler((GPU_NODES,), max_nodes=2), {}, 4),
        (Autoscaler((GPU_NODES,)), {"num_gpus": 2}, 3),
        (Autoscaler((GPU_NODES,)), {"num_gpus": 4}, 0),
        (Autoscaler((GPU_NODES,)), {"concurrency": 3}, 3),
        (Autoscaler((GPU_NODES,)), {"labels": {"market": "own"}}, 0),
        (Autoscaler((GPU_NODES, CPU_NODES), max_nodes=5), {"num_gpus": 0, "num_cpus": 8}, 5),
        (Autoscaler((NodeGroup(NodeShape(1, 1), None),)), {}, 9),
        (Autoscaler(), {"num_gpus": 1}, 9),
        (Autoscaler(), {"num_gpus": 1, "concurrency": 4}, 4),
    ],
)
def test_the_demand_is_bounded_by_members_concurrency_and_what_may_be_started(
    autoscaler: Autoscaler | None, about: dict[str, object], workers: int
) -> None:
    assert place([HEAD], 9, autoscaler=autoscaler, **about).num_workers == workers


def test_what_fits_starts_at_once_and_nodes_are_asked_for_the_others() -> None:
    placement = place([HEAD, NodeShape(8, 2)], 5, autoscaler=Autoscaler((GPU_NODES,)))
    assert (placement.num_workers, placement.num_at_once) == (5, 2)
    assert "2 of them now, nodes are asked for the others" in placement.reason


def test_a_head_that_takes_workers_counts_beside_the_nodes_that_may_be_started() -> None:
    head = NodeShape(8, 1, "head", is_head=True)
    assert place([head], 9, autoscaler=Autoscaler((GPU_NODES,))).num_workers == 7


def test_a_fixed_cluster_has_no_worker_that_waits_for_a_place() -> None:
    placement = place([HEAD, NodeShape(8, 2)], 5)
    assert placement.num_workers == placement.num_at_once == 2


def test_where_nothing_fits_workers_wait_for_an_autoscaler_that_does_not_show() -> None:
    placement = place([HEAD], 9, num_gpus=1, concurrency=4)
    assert (placement.num_workers, placement.num_at_once) == (4, 0)
    assert placement.reason == "a worker needs 1 CPU and 1 GPU; there is 0 CPU and 0 GPU"


@pytest.mark.parametrize(
    ("nodes", "about", "workers"),
    [
        ([HEAD], {}, 2),
        ([HEAD], {"concurrency": 5}, 5),
        ([HEAD, NodeShape(8, 4)], {}, 4),
        ([HEAD], {"num_gpus": 0}, 13),
    ],
)
def test_no_node_is_started_for_less_than_a_pack_unless_concurrency_says_so(
    nodes: list[NodeShape], about: dict[str, object], workers: int
) -> None:
    placement = place(nodes, 100, autoscaler=Autoscaler((GPU_NODES, CPU_NODES)), may_fuse=True, **about)
    assert placement.num_workers == workers


def test_a_run_that_began_on_cpus_stays_there_when_a_gpu_joins() -> None:
    resources = ResourcesSpec()
    began = place_workers(ClusterShape((CPU4,), True), resources, 9)
    placing = placing_of(resources, began, may_fuse=False)
    assert place_again(ClusterShape((CPU4, GPU2), True), placing, 99, alone=False).num_workers == 12


def test_members_that_turn_out_to_be_trained_alone_are_worth_a_node_each() -> None:
    shape = ClusterShape((HEAD,), True, Autoscaler((GPU_NODES,)))
    placing = placing_of(ResourcesSpec(), place_workers(shape, ResourcesSpec(), 9, may_fuse=True), may_fuse=True)
    assert [place_again(shape, placing, 9, alone=alone).num_workers for alone in (False, True)] == [1, 6]


def test_a_node_takes_a_worker_that_fits_and_whose_labels_it_has() -> None:
    asks = ResourcesSpec(labels={"market": "spot"})
    assert [fits(node, asks, 4, 1) for node in (SPOT, OWN, HEAD)] == [True, False, False]
    assert not fits(SPOT, asks, 5, 1)
