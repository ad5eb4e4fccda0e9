"""How many workers, and with what, from the nodes that are there."""

from __future__ import annotations

import pytest

from orchestrator.planning.placement import ClusterShape, NodeShape, place_workers
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
