"""How many workers, and with what: decided from the nodes that are there, and from those that can be started. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from orchestrator.planning.labels import selector_text, selects
from orchestrator.planning.packs import MOST_ON_GPU, most_on_cpu
from orchestrator.spec import ResourcesSpec


@dataclass(frozen=True)
class NodeShape:
    """One node, as Ray counts it (the whole node, not what is free).

    Attributes:
        num_cpus, num_gpus: what it has.
        node: its id.
        labels: by key.
        is_head: whether it is the cluster's head.
    """

    num_cpus: float
    num_gpus: float
    node: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    is_head: bool = False


@dataclass(frozen=True)
class NodeGroup:
    """Equal nodes that an autoscaler starts: `max_nodes` of them at most, those that are there included; None: any
    number."""

    shape: NodeShape
    max_nodes: int | None


@dataclass(frozen=True)
class Autoscaler:
    """What starts nodes on demand: workers that wait for a place are the demand.

    Attributes:
        groups: of nodes that it may start; None: nobody says which.
        max_nodes: of all groups together; None: no further limit.
    """

    groups: tuple[NodeGroup, ...] | None = None
    max_nodes: int | None = None


@dataclass(frozen=True)
class ClusterShape:
    """The nodes of a cluster.

    Attributes:
        nodes: that are there.
        can_grow: false where no further node will ever join (a Ray of the job's own).
        autoscaler: what starts nodes on demand; None: nothing does, though somebody may add some by hand.
    """

    nodes: tuple[NodeShape, ...]
    can_grow: bool
    autoscaler: Autoscaler | None = None


@dataclass(frozen=True)
class Crew:
    """So many workers with so many CPU cores each, and why.

    `num_cpus` None: as many cores as the cluster gives them by itself.
    """

    num_workers: int
    num_cpus: int | None = None
    reason: str = field(default="", compare=False)


@dataclass(frozen=True)
class Placing:
    """What decides of a run's workers beside the nodes: what the job says of each worker, and whether members may be
    trained as one program."""

    resources: ResourcesSpec
    may_fuse: bool = False


@dataclass(frozen=True)
class Placement:
    """Decision: that many workers, each with so many CPUs and GPUs, and why.

    `num_at_once`: of these, how many have a place on the nodes that are there; the others wait for nodes to be started.
    """

    num_workers: int
    num_cpus: int
    num_gpus: float
    reason: str
    num_at_once: int = 0

    @property
    def crew(self) -> Crew:
        """The workers, as the schedule knows them."""
        return Crew(self.num_workers, self.num_cpus, self.reason)


def place_workers(
    shape: ClusterShape, resources: ResourcesSpec, num_members: int, *, may_fuse: bool = False
) -> Placement:
    """Decide how many workers train side by side.

    One GPU per worker where there are GPUs (or what the job says: a fraction, or several of one node), else `num_cpus`
    cores per worker; never more workers than members, nor than `concurrency`. On nodes that are there as many as fit;
    where nodes are started on demand as many as are useful, of which those without a place wait: they are the demand.
    So do they where none has a place: an autoscaler that does not show may be there. `num_workers` is 0 when no node
    fits even one worker and none could be started that does.

    Args:
        shape: the nodes. Those that `resources.labels` does not select count for nothing.
        resources: what the job says.
        num_members: of the job.
        may_fuse: members may be trained as one program: where there is no GPU, the job says no other number and the
            machine is the run's own, its cores are shared out among as many workers as there will be packs, or as
            `concurrency` allows: one pack gets them all, several are trained side by side (on half of two cores a pack
            takes 1.6 times as long, and two of them compile at the same time). And no node is started for less than a
            pack: `concurrency` asks for more.
    """
    nodes = [node for node in shape.nodes if selects(resources.labels, node.labels)]
    startable = [group for group in _groups(shape) if selects(resources.labels, group.shape.labels)]
    has_gpus = any(node.num_gpus > 0 for node in (*nodes, *(group.shape for group in startable)))
    num_gpus = resources.num_gpus if resources.num_gpus is not None else (1.0 if has_gpus else 0.0)
    num_cpus = resources.num_cpus or 1
    limits = {"one per member": num_members}
    if may_fuse and num_gpus == 0 and resources.num_cpus is None and not shape.can_grow and nodes:
        cores = max(1, math.floor(max(node.num_cpus for node in nodes)))
        num_packs = _fewest_packs(num_members, num_gpus)
        num_cpus = cores // min(cores, num_packs, resources.concurrency or num_packs)
        limits["one per pack"] = num_packs
    if resources.concurrency is not None:
        limits["resources.concurrency"] = resources.concurrency
    at_once = sum(_fit(node, num_cpus, num_gpus) for node in nodes)
    most = at_once
    if shape.autoscaler is not None or (shape.can_grow and at_once == 0):
        useful = _fewest_packs(num_members, num_gpus) if may_fuse else num_members
        could = _startable(shape, startable, num_cpus, num_gpus)
        most = max(at_once, int(min(resources.concurrency or useful, could)))
    limits = {"as many as fit": most, **limits} if most == at_once else {**limits, "as many as are useful": most}
    name, num_workers = min(limits.items(), key=lambda limit: limit[1])
    demand = f"{num_cpus} CPU" + (f" and {num_gpus:g} GPU" if num_gpus else "")
    at_once = min(at_once, num_workers)
    reason = _reason(shape, demand, name, num_workers, at_once, resources.labels)
    return Placement(num_workers, num_cpus, num_gpus, reason, at_once)


def place_again(shape: ClusterShape, placing: Placing, num_members: int, *, alone: bool) -> Placement:
    """The workers to have on the nodes that are there now; `alone`: members turned out to be trained one by one."""
    return place_workers(shape, placing.resources, num_members, may_fuse=placing.may_fuse and not alone)


def placing_of(resources: ResourcesSpec, placement: Placement, *, may_fuse: bool) -> Placing:
    """What decides of the workers from now on: a run that began on CPUs goes on there, though a GPU may join."""
    return Placing(resources.model_copy(update={"num_gpus": placement.num_gpus}), may_fuse)


def fits(node: NodeShape, resources: ResourcesSpec, num_cpus: float, num_gpus: float) -> bool:
    """Whether a worker has a place on a node."""
    return selects(resources.labels, node.labels) and _fit(node, num_cpus, num_gpus) > 0


def _reason(
    shape: ClusterShape, demand: str, name: str, num_workers: int, at_once: int, labels: Mapping[str, str]
) -> str:
    on = f", on nodes with {selector_text(labels)}" if labels else ""
    if num_workers > 0 and at_once > 0:
        waiting = f"; {at_once} of them now, nodes are asked for the others" if at_once < num_workers else ""
        return f"{num_workers} × {demand}{on} ({name}{waiting})"
    largest = ", ".join(_node_text(node, labels) for node in shape.nodes) or "no node"
    asked = f"; nodes are asked for {num_workers} of them" if num_workers and shape.autoscaler is not None else ""
    return f"a worker needs {demand}{on}; there is {largest}{asked}"


def _node_text(node: NodeShape, labels: Mapping[str, str]) -> str:
    """What a node has, with its values of the labels that are asked for."""
    own = ", ".join(f"{key}={node.labels[key]}" if key in node.labels else f"no {key}" for key in labels)
    return f"{node.num_cpus:g} CPU and {node.num_gpus:g} GPU" + (f" ({own})" if own else "")


def _groups(shape: ClusterShape) -> tuple[NodeGroup, ...]:
    return (shape.autoscaler.groups or ()) if shape.autoscaler is not None else ()


def _startable(shape: ClusterShape, groups: Iterable[NodeGroup], num_cpus: float, num_gpus: float) -> float:
    """For how many workers there is a place once all nodes are started that may be: on the head, and on the groups'."""
    if shape.autoscaler is None or shape.autoscaler.groups is None:
        return math.inf
    left = math.inf if shape.autoscaler.max_nodes is None else shape.autoscaler.max_nodes
    total = float(sum(_fit(node, num_cpus, num_gpus) for node in shape.nodes if node.is_head))
    for group in sorted(groups, key=lambda group: -_fit(group.shape, num_cpus, num_gpus)):
        started = left if group.max_nodes is None else min(group.max_nodes, left)
        if not _fit(group.shape, num_cpus, num_gpus):
            break
        total += started * _fit(group.shape, num_cpus, num_gpus)
        left -= started
    return total


def _fewest_packs(num_members: int, num_gpus: float) -> int:
    return math.ceil(num_members / (MOST_ON_GPU if num_gpus else most_on_cpu(num_members)))


def _fit(node: NodeShape, num_cpus: float, num_gpus: float) -> int:
    by_cpu = math.floor(node.num_cpus / num_cpus)
    if num_gpus == 0:
        return by_cpu
    if num_gpus < 1:  # Ray puts fractions on one GPU, never across two
        return min(by_cpu, math.floor(node.num_gpus) * math.floor(1 / num_gpus + 1e-9))
    return min(by_cpu, math.floor(node.num_gpus / num_gpus))
