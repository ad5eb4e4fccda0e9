"""How many workers, and with what: decided from the nodes that are there. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass

from orchestrator.spec import ResourcesSpec


@dataclass(frozen=True)
class NodeShape:
    """CPUs and GPUs of one node, as Ray counts them (whole node, not what is free)."""

    num_cpus: float
    num_gpus: float


@dataclass(frozen=True)
class ClusterShape:
    """The nodes of a cluster; `can_grow` is false where no further node will ever join (a Ray of the job's own)."""

    nodes: tuple[NodeShape, ...]
    can_grow: bool


@dataclass(frozen=True)
class Placement:
    """Decision: that many workers, each with so many CPUs and GPUs, and why."""

    num_workers: int
    num_cpus: int
    num_gpus: float
    reason: str


def place_workers(shape: ClusterShape, resources: ResourcesSpec, num_packs: int) -> Placement:
    """Decide how many workers train side by side.

    One GPU per worker where there are GPUs (or the fraction that the job says), else `num_cpus` cores per worker;
    never more workers than packs, nor than `concurrency`. `num_workers` is 0 when no node fits even one worker.
    """
    has_gpus = any(node.num_gpus > 0 for node in shape.nodes)
    num_gpus = resources.num_gpus if resources.num_gpus is not None else (1.0 if has_gpus else 0.0)
    demand = f"{resources.num_cpus} CPU" + (f" and {num_gpus:g} GPU" if num_gpus else "")
    fitting = sum(_fit(node, resources.num_cpus, num_gpus) for node in shape.nodes)
    limits = {"as many as fit": fitting, "one per pack": num_packs}
    if resources.concurrency is not None:
        limits["resources.concurrency"] = resources.concurrency
    name, num_workers = min(limits.items(), key=lambda limit: limit[1])
    if fitting == 0:
        largest = ", ".join(f"{node.num_cpus:g} CPU and {node.num_gpus:g} GPU" for node in shape.nodes) or "no node"
        reason = f"a worker needs {demand}; there is {largest}"
    else:
        reason = f"{num_workers} × {demand} ({name})"
    return Placement(num_workers, resources.num_cpus, num_gpus, reason)


def _fit(node: NodeShape, num_cpus: float, num_gpus: float) -> int:
    by_cpu = math.floor(node.num_cpus / num_cpus)
    if num_gpus == 0:
        return by_cpu
    if num_gpus < 1:  # Ray puts fractions on one GPU, never across two
        return min(by_cpu, math.floor(node.num_gpus) * math.floor(1 / num_gpus + 1e-9))
    return min(by_cpu, math.floor(node.num_gpus / num_gpus))
