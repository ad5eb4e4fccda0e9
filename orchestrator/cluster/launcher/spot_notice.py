"""Tells Ray that EC2 takes a spot node back. cluster.yaml runs it beside each worker, for nothing in Ray asks EC2:

    python -m orchestrator.cluster.launcher.spot_notice HEAD:6379

Ray then starts nothing more on the node, and the coordinator has its workers save and give their members up, which go
on elsewhere: two minutes before the node is gone, and not when the head has missed it.
"""

from __future__ import annotations

import json
import logging
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from datetime import datetime

from orchestrator.errors import ClusterUnavailable, InvalidInput

logger = logging.getLogger(__name__)

METADATA_URL = "http://169.254.169.254/latest"
POLL_S = 5.0
"""As often as EC2's manual advises."""

_ANSWER_S = 2.0
_TOKEN_S = 60


def watch(ask: Callable[[], float | None], tell: Callable[[float], None], wait: Callable[[float], None]) -> None:
    """Ask until there is a notice, and pass it on once; whatever fails is tried again.

    Args:
        ask: for the UTC epoch second at which the node is taken; None: not for now.
        tell: pass that on; raises when it could not.
        wait: so many seconds.
    """
    while True:
        try:
            ends_at = ask()
            if ends_at is not None:
                tell(ends_at)
                return
        except (OSError, ValueError, ClusterUnavailable) as error:
            logger.warning("%s: %s", type(error).__name__, error)
        wait(POLL_S)


def ask_ec2(metadata_url: str = METADATA_URL) -> float | None:
    """When EC2 takes this node (UTC epoch seconds); None: no such notice, as always on demand.

    Raises:
        OSError: the metadata service does not answer, or refuses.
        ValueError: its answer is not understood.
    """
    header = {"X-aws-ec2-metadata-token-ttl-seconds": str(_TOKEN_S)}
    token = _fetch(urllib.request.Request(f"{metadata_url}/api/token", method="PUT", headers=header))
    header = {"X-aws-ec2-metadata-token": token}
    try:
        notice = _fetch(urllib.request.Request(f"{metadata_url}/meta-data/spot/instance-action", headers=header))
    except urllib.error.HTTPError as answer:
        if answer.code == 404:
            return None
        raise
    try:
        return datetime.fromisoformat(json.loads(notice)["time"]).timestamp()
    except (KeyError, TypeError) as error:
        raise ValueError(f"the notice has no time: {notice[:200]}") from error


def tell_ray(address: str, node_ip: str, ends_at: float) -> None:
    """Announce to Ray that a node goes.

    Args:
        address: `host:port` of the cluster's head.
        node_ip: the node's address in the cluster.
        ends_at: UTC epoch second at which it is gone.

    Raises:
        ClusterUnavailable: the head does not answer, knows no such node, or refuses.
    """
    import ray
    from ray.core.generated.autoscaler_pb2 import DrainNodeReason
    from ray.core.generated.gcs_pb2 import GcsNodeInfo

    try:
        head = ray._raylet.GcsClient(address=address)
        alive = head.get_all_node_info(timeout=_ANSWER_S, state_filter=GcsNodeInfo.GcsNodeState.ALIVE)
        found = [key for key, node in alive.items() if node.node_manager_address == node_ip]
        if not found:
            raise ClusterUnavailable(f"no node is at {node_ip}", where=address)
        reason = DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION")
        accepted, why = head.drain_node(found[0].hex(), reason, "EC2 takes the spot node", int(ends_at * 1000))
    except (ray.exceptions.RayError, RuntimeError) as error:
        raise ClusterUnavailable(f"the head does not answer ({type(error).__name__})", where=address) from error
    if not accepted:
        raise ClusterUnavailable(f"Ray does not drain {node_ip}: {why}", where=address)


def _fetch(request: urllib.request.Request) -> str:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # the address is the node's own
    with opener.open(request, timeout=_ANSWER_S) as answer:
        return str(answer.read().decode())


def main(arguments: list[str]) -> None:
    """Watch until EC2 takes this node.

    Raises:
        InvalidInput: not exactly one address.
    """
    if len(arguments) != 1:
        hint = "python -m orchestrator.cluster.launcher.spot_notice $RAY_HEAD_IP:6379, in worker_start_ray_commands"
        raise InvalidInput("the address of the cluster's head is needed, and nothing else", hint=hint)
    from ray.util import get_node_ip_address

    node_ip = get_node_ip_address()  # as `ray start` finds it
    watch(ask_ec2, lambda ends_at: tell_ray(arguments[0], node_ip, ends_at), time.sleep)


if __name__ == "__main__":
    main(sys.argv[1:])
