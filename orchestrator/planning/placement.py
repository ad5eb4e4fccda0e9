"""How many workers, and with what: decided from the nodes that are there. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass

from orchestrator.planning.packs import most_on_cpu
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
class Crew:
    """So many workers with so many CPU cores each; None: as many cores as the cluster gives them by itself."""

    num_workers: int
    num_cpus: int | None = None


@dataclass(frozen=True)
class Placement:
    """Decision: that many workers, each with so many CPUs and GPUs, and why."""

    num_workers: int
    num_cpus: int
    num_gpus: float
    reason: str

    @property
    def crew(self) -> Crew:
        """The workers, as the schedule knows them."""
        return Crew(self.num_workers, self.num_cpus)


def place_workers(
    shape: ClusterShape, resources: ResourcesSpec, num_members: int, *, may_fuse: bool = False
) -> Placement:
    """Decide how many workers train side by side.

    One GPU per worker where there are GPUs (or the fraction that the job says), else `num_cpus` cores per worker;
    never more workers than members, nor than `concurrency`. `num_workers` is 0 when no node fits even one worker.

    Args:
        shape: the nodes.
        resources: what the job says.
        num_members: of the job.
        may_fuse: members may be trained as one program: where there is no GPU, the job says no other number and the
            machine is the run's own, its cores are shared out among as many workers as there will be packs, or as
            `concurrency` allows: one pack gets them all, several are trained side by side (on half of two cores a pack
            takes 1.6 times as long, and two of them compile at the same time).
    """
    has_gpus = any(node.num_gpus > 0 for node in shape.nodes)
    num_gpus = resources.num_gpus if resources.num_gpus is not None else (1.0 if has_gpus else 0.0)
    num_cpus = resources.num_cpus or 1
    limits = {"one per member": num_members}
    if may_fuse and num_gpus == 0 and resources.num_cpus is None and not shape.can_grow:
        cores = max(1, math.floor(max(node.num_cpus for node in shape.nodes)))
        num_packs = math.ceil(num_members / most_on_cpu(num_members))
        num_cpus = cores // min(cores, num_packs, resources.concurrency or num_packs)
        limits["one per pack"] = num_packs
    demand = f"{num_cpus} CPU" + (f" and {num_gpus:g} GPU" if num_gpus else "")
    fitting = sum(_fit(node, num_cpus, num_gpus) for node in shape.nodes)
    limits = {"as many as fit": fitting, **limits}
    if resources.concurrency is not None:
        limits["resources.concurrency"] = resources.concurrency
    name, num_workers = min(limits.items(), key=lambda limit: limit[1])
    if fitting == 0:
        largest = ", ".join(f"{node.num_cpus:g} CPU and {node.num_gpus:g} GPU" for node in shape.nodes) or "no node"
        reason = f"a worker needs {demand}; there is {largest}"
    else:
        reason = f"{num_workers} × {demand} ({name})"
    return Placement(num_workers, num_cpus, num_gpus, reason)


def _fit(node: NodeShape, num_cpus: float, num_gpus: float) -> int:
    by_cpu = math.floor(node.num_cpus / num_cpus)
    if num_gpus == 0:
        return by_cpu
    if num_gpus < 1:  # Ray puts fractions on one GPU, never across two
        return min(by_cpu, math.floor(node.num_gpus) * math.floor(1 / num_gpus + 1e-9))
    return min(by_cpu, math.floor(node.num_gpus / num_gpus))
