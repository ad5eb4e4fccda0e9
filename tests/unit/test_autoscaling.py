"""Whether a cluster starts nodes on demand, from what its head knows; no cluster."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from ray.core.generated import autoscaler_pb2

from orchestrator.cluster.autoscaling import autoscaler_of, read_autoscaler
from orchestrator.planning.placement import Autoscaler, NodeGroup, NodeShape, place_workers
from orchestrator.planning.placement import ClusterShape as Shape
from orchestrator.spec import ResourcesSpec

CONFIG = """
max_workers: 6
head_node_type: head
available_node_types:
  head: {resources: {CPU: 0}, max_workers: 0, node_config: {}}
  spot: {resources: {CPU: 8, GPU: 1}, labels: {market: spot}, max_workers: 4, node_config: {}}
  on_demand: {resources: {CPU: 8, GPU: 4}, node_config: {}}
"""


class FakeHead:
    """Answers as Ray's client of its head does.

    Args:
        types: of the nodes, in the head's state.
        report: types in the report of the autoscaler's first version; None: there is none.
        groups: what somebody told: type, CPUs, GPUs and the largest number of each group.
    """

    def __init__(
        self, types: list[str], report: list[str] | None = None, groups: list[tuple[str, int, int, int]] | None = None
    ) -> None:
        self._state = autoscaler_pb2.GetClusterResourceStateReply()
        for name in types:
            self._state.cluster_resource_state.node_states.add(ray_node_type_name=name)
        self._kept: dict[bytes, bytes] = {}
        if report is not None:
            status = {"autoscaler_report": {"active_nodes": dict.fromkeys(report, 1)}}
            self._kept[b"__autoscaling_status"] = json.dumps(status).encode()
        config = autoscaler_pb2.ClusterConfig()
        for name, cpus, gpus, most in groups or ():
            config.node_group_configs.add(name=name, resources={"CPU": cpus, "GPU": gpus}, max_count=most)
        if groups:
            self._kept[b"__autoscaler_cluster_config"] = config.SerializeToString()

    def get_cluster_resource_state(self) -> bytes:
        return bytes(self._state.SerializeToString())

    def internal_kv_get(self, key: bytes, namespace: bytes | None, timeout: float) -> bytes | None:
        return self._kept.get(key)


NOWHERE = Path("/nowhere/at/all.yaml")


@pytest.mark.parametrize(
    "head",
    [FakeHead([]), FakeHead(["", ""]), FakeHead([""], report=["node_1f2e", "node_3c4d"])],
)
def test_nodes_that_were_started_by_hand_show_no_autoscaler(head: FakeHead) -> None:
    assert read_autoscaler(head, NOWHERE) is None


@pytest.mark.parametrize("head", [FakeHead(["head", "workers"]), FakeHead(["", ""], report=["head", "node_1f2e"])])
def test_nodes_that_bear_the_name_of_a_type_show_one_of_which_nothing_is_known(head: FakeHead) -> None:
    assert read_autoscaler(head, NOWHERE) == Autoscaler()


def test_what_somebody_told_the_head_is_what_may_be_started() -> None:
    head = FakeHead(["head"], groups=[("gpus", 8, 2, 3), ("cpus", 4, 0, -1)])
    groups = (NodeGroup(NodeShape(8, 2), 3), NodeGroup(NodeShape(4, 0), None))
    assert read_autoscaler(head, NOWHERE) == Autoscaler(groups)


def test_on_the_head_of_a_launched_cluster_its_file_says_what_may_be_started(tmp_path: Path) -> None:
    bootstrap = tmp_path / "bootstrap.yaml"
    bootstrap.write_text(CONFIG, encoding="utf-8")
    found = read_autoscaler(FakeHead(["head"]), bootstrap)
    spot = NodeGroup(NodeShape(8, 1, labels={"market": "spot"}), 4)
    assert found == Autoscaler((spot, NodeGroup(NodeShape(8, 4), 6)), max_nodes=6)
    shape = Shape((NodeShape(0, 0, is_head=True),), True, found)
    assert place_workers(shape, ResourcesSpec(labels={"market": "spot"}), 99).num_workers == 4
    assert place_workers(shape, ResourcesSpec(num_gpus=4), 99).num_workers == 6


@pytest.mark.parametrize("text", ["", "[]", "max_workers: 2", "available_node_types: 3", "a: [", "\x00"])
def test_a_file_that_is_something_else_says_nothing(text: str, tmp_path: Path) -> None:
    bootstrap = tmp_path / "bootstrap.yaml"
    bootstrap.write_text(text, encoding="utf-8")
    assert read_autoscaler(FakeHead(["head"]), bootstrap) == Autoscaler()


def test_a_launchers_file_without_a_limit_limits_nothing() -> None:
    config = {"available_node_types": {"gpus": {"resources": {"GPU": 1, "CPU": 4}}}}
    assert autoscaler_of(config) == Autoscaler((NodeGroup(NodeShape(4, 1), None),))
