"""A notice of EC2's, passed on to a real Ray: the node is drained as one that is taken away."""

from __future__ import annotations

import subprocess
import sys
import time
from typing import Any

import pytest

from tests.support.ray_head import RayHead

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("head")]

TELL = """\
import sys
from orchestrator.cluster.launcher.spot_notice import tell_ray
tell_ray(sys.argv[1], sys.argv[2], float(sys.argv[3]))
"""


def tell(head: RayHead, node_ip: str) -> subprocess.CompletedProcess[str]:
    """As on a node: in a process that has the cluster's token."""
    command = [sys.executable, "-c", TELL, head.gcs_address, node_ip, str(time.time() + 120)]
    return subprocess.run(command, env=head.environ, capture_output=True, text=True, timeout=120, check=False)


def about(head: RayHead, node_ip: str) -> dict[str, Any]:
    nodes: list[dict[str, Any]] = head.ask("/api/v0/nodes?limit=1000&detail=true")["data"]["result"]["result"]
    return next(node for node in nodes if node["node_ip"] == node_ip)


def test_a_node_whose_notice_was_passed_on_is_drained_for_preemption(cluster_head: RayHead) -> None:
    node = cluster_head.add_node(num_cpus=1)
    told = tell(cluster_head, node.ip)
    assert told.returncode == 0, told.stderr
    cluster_head.wait_until_gone(node)  # with nothing on it, it need not wait for its end
    assert about(cluster_head, node.ip)["state_message"] == "Terminated due to preemption: EC2 takes the spot node"
    cluster_head.kill_node(node)


def test_a_node_that_ray_does_not_know_is_an_error(cluster_head: RayHead) -> None:
    told = tell(cluster_head, "127.0.0.99")
    assert told.returncode != 0
    assert "ClusterUnavailable" in told.stderr
    assert "no node is at 127.0.0.99" in told.stderr
