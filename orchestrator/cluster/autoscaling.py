"""Whether a cluster starts nodes on demand, and which: Ray has no public question for it.

An autoscaler shows in what it leaves with the cluster's head: nodes that bear the name of their type (its second
version, and KubeRay), or a report with such names (its first). Nodes that were started by hand have none. What it may
start is known where somebody told the head, and where this process runs on a head that `ray up` made. All of it are
private parts of Ray (2.52 to 2.60); where they are not there, as in Ray's client (`ray://`), it may be, so it counts as
an autoscaler of which nothing is known.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import ray
import yaml
from ray._private import ray_constants
from ray.core.generated import autoscaler_pb2

from orchestrator.planning.placement import Autoscaler, NodeGroup, NodeShape

BOOTSTRAP = Path("~/ray_bootstrap_config.yaml")
"""Where `ray up` leaves the cluster's configuration on its head."""

_BY_HAND = "node_"
"""How Ray names the types of nodes that were started by hand, before their id."""

_AUTOSCALERS = ray._raylet.GCS_AUTOSCALER_STATE_NAMESPACE.encode()
_CONFIG_KEY = ray._raylet.GCS_AUTOSCALER_CLUSTER_CONFIG_KEY.encode()
_ANSWER_S = 5.0


def ask_for_autoscaler() -> Autoscaler | None:
    """What starts nodes on demand, if anything does. Asks the head; may block for ever."""
    try:
        return read_autoscaler(ray._private.worker.global_worker.gcs_client, BOOTSTRAP.expanduser())
    except (AttributeError, ImportError):
        return Autoscaler()


def read_autoscaler(head: Any, bootstrap: Path) -> Autoscaler | None:
    """What the head knows of an autoscaler, and the file that `ray up` left where it runs.

    Args:
        head: Ray's client of its head.
        bootstrap: the file, which need not be there.
    """
    if not any(_names_in_state(head)) and not any(_names_in_report(head)):
        return None
    told = head.internal_kv_get(_CONFIG_KEY, _AUTOSCALERS, _ANSWER_S)
    groups = autoscaler_pb2.ClusterConfig.FromString(told).node_group_configs if told else ()
    if groups:
        return Autoscaler(tuple(_group_told(group) for group in groups))
    return _read_bootstrap(bootstrap) or Autoscaler()


def autoscaler_of(config: Mapping[str, Any]) -> Autoscaler:
    """What a cluster launcher's file allows: its worker types with their resources, labels and `max_workers`."""
    most = config.get("max_workers")
    groups = [
        NodeGroup(_shape_of(kind.get("resources", {}), kind.get("labels", {})), kind.get("max_workers", most))
        for name, kind in config["available_node_types"].items()
        if name != config.get("head_node_type")
    ]
    return Autoscaler(tuple(groups), most)


def _names_in_state(head: Any) -> Iterator[str]:
    reply = autoscaler_pb2.GetClusterResourceStateReply()
    reply.ParseFromString(head.get_cluster_resource_state())
    for node in reply.cluster_resource_state.node_states:
        yield node.ray_node_type_name


def _names_in_report(head: Any) -> Iterator[str]:
    report = head.internal_kv_get(ray_constants.DEBUG_AUTOSCALING_STATUS.encode(), None, _ANSWER_S)
    types = json.loads(report).get("autoscaler_report", {}).get("active_nodes", {}) if report else {}
    return (name for name in types if not name.startswith(_BY_HAND))


def _group_told(group: Any) -> NodeGroup:
    return NodeGroup(_shape_of(group.resources, {}), None if group.max_count < 0 else group.max_count)


def _shape_of(resources: Mapping[str, float], labels: Mapping[str, str]) -> NodeShape:
    return NodeShape(resources.get("CPU", 0), resources.get("GPU", 0), labels=labels)


@cache
def _read_bootstrap(path: Path) -> Autoscaler | None:
    try:
        return autoscaler_of(yaml.safe_load(path.read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError, yaml.YAMLError, KeyError, TypeError, AttributeError):
        return None
