"""Which members are trained as one program, and how: from what the preflight saw of their models. Pure.

The table is static: device, kinds of layers and sizes decide, never a timing, and on a CPU never how many workers there
happen to be. So the same job is packed the same way everywhere, and its members come out the same.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

from orchestrator.spec import Job

Engine = Literal["solo", "fused"]
EngineChoice = Literal["auto", "solo", "fused"]

MOST_ON_CPU = 8
"""Where the time per member stops falling on a CPU: row P2 of `tests/bench` tells it for packs of 2 to 16."""

MOST_ON_GPU = 64
"""Beyond that a small model's pack gains little, and a failure costs more members an interval."""

FEW_STEPS = 2_000
"""Below so many gradient steps of a pack in all, on a CPU, compiling (some 2.5 s) costs about what fusing saves."""

SLOW_ON_CPU = frozenset({"convolution", "recurrent"})
"""Kinds of layers whose fused program is slower than `fit` on a CPU."""


@dataclass(frozen=True)
class Pack:
    """Members that are trained as one unit on one device; `engine` says how. `index` is its place in the record."""

    index: int
    members: tuple[int, ...]
    engine: Engine


@dataclass(frozen=True)
class Architecture:
    """What decides of a member's model.

    Attributes:
        signature: equal exactly where members can be stacked.
        kinds: of layers: `convolution`, `recurrent`, or `other`.
        obstacle: why it cannot be fused at all; None: it can.
        epochs, batch_size: of its own `train`; None: those of the rules.
        num_rows: that it learns from; None: all training rows.
    """

    signature: str
    kinds: frozenset[str] = frozenset()
    obstacle: str | None = None
    epochs: int | None = None
    batch_size: int | None = None
    num_rows: int | None = None


@dataclass(frozen=True)
class PackingRules:
    """What the job and its data say.

    Attributes:
        engine: `train.engine`.
        epochs, batch_size: of the job's `train`.
        max_members: the largest pack that `ensemble.stop_when` allows; None: any.
    """

    engine: EngineChoice = "solo"
    epochs: int = 1
    batch_size: int = 32
    max_members: int | None = None


def packing_rules(job: Job) -> PackingRules:
    """What a job says of packs."""
    rule = job.ensemble.stop_when
    most = None if rule is None else rule.patience
    return PackingRules(job.train.engine, job.train.epochs, job.train.batch_size, max_members=most)


@dataclass(frozen=True)
class PackDecision:
    """All packs, in the order of their first members, and why they are as they are."""

    packs: tuple[Pack, ...]
    reason: str


def decide_packs(
    architectures: Mapping[int, Architecture], rules: PackingRules, *, device: str, num_rows: int, num_workers: int
) -> PackDecision:
    """Pack all members of a run.

    Args:
        architectures: of each member.
        rules: what the job says.
        device: `cpu` or `gpu`.
        num_rows: training rows.
        num_workers: how many workers there will be: on GPUs each gets its share of the members.
    """
    groups: dict[str, list[int]] = {}
    for member, architecture in architectures.items():
        groups.setdefault(architecture.signature, []).append(member)
    made: list[tuple[tuple[int, ...], Engine]] = []
    reasons: dict[str, None] = {}
    for members in groups.values():
        size, engine, reason = _decide(architectures[members[0]], members, rules, device, num_rows, num_workers)
        made += [(part, engine) for part in split_evenly(members, size)]
        reasons[reason] = None
    made.sort()
    packs = tuple(Pack(index, members, engine) for index, (members, engine) in enumerate(made))
    return PackDecision(packs, "; ".join(reasons))


def _decide(
    architecture: Architecture,
    members: Sequence[int],
    rules: PackingRules,
    device: str,
    num_rows: int,
    num_workers: int,
) -> tuple[int, Engine, str]:
    if rules.engine == "solo":
        return 1, "solo", "solo: the job says so"
    if architecture.obstacle is not None:
        return 1, "solo", f"solo: {architecture.obstacle}"
    most = _largest(len(members), rules, device, num_workers)
    if rules.engine == "fused":
        return most, "fused", f"fused, up to {most} at a time: the job says so"
    if device != "cpu":
        return most, "fused", f"fused, up to {most} at a time: one program keeps a {device} busy"
    slow = sorted(architecture.kinds & SLOW_ON_CPU)
    if slow:
        return 1, "solo", f"solo: {' and '.join(slow)} layers are slower fused on a CPU"
    if most == 1:
        return 1, "solo", "solo: a pack of one gains nothing on a CPU"
    size = math.ceil(len(members) / math.ceil(len(members) / most))
    epochs, batch_size = architecture.epochs or rules.epochs, architecture.batch_size or rules.batch_size
    steps = size * epochs * math.ceil((architecture.num_rows or num_rows) / batch_size)
    if steps < FEW_STEPS:
        return 1, "solo", f"solo: {steps:,} gradient steps are too few to pay for compiling (from {FEW_STEPS:,} on)"
    return most, "fused", f"fused, up to {most} at a time: small layers on a CPU wait for their dispatch"


def _largest(num_members: int, rules: PackingRules, device: str, num_workers: int) -> int:
    on_gpu = min(MOST_ON_GPU, math.ceil(num_members / max(1, num_workers)))
    share = most_on_cpu(num_members) if device == "cpu" else on_gpu
    return max(1, min(share, num_members, num_members if rules.max_members is None else rules.max_members))


def most_on_cpu(num_members: int) -> int:
    """The largest pack of so many members of one architecture on a CPU, from their number alone.

    Several packs are an even number where that is possible, as cores are: of three packs on two workers, the last one
    would leave a worker idle. From four members on, a larger pack hardly saves any of them time (measured: 0.25 s an
    epoch in a pack of four, 0.24 in one of eight).
    """
    num_packs = math.ceil(num_members / MOST_ON_CPU)
    return math.ceil(num_members / (num_packs if num_packs == 1 else num_packs + num_packs % 2))


def split_evenly(members: Sequence[int], most: int) -> list[tuple[int, ...]]:
    """Parts of at most so many members, in order, whose sizes differ by one at most: few sizes, few programs."""
    num_parts = math.ceil(len(members) / most)
    cuts = [round(len(members) * part / num_parts) for part in range(num_parts + 1)]
    return [tuple(members[a:b]) for a, b in pairwise(cuts)]


def packs_to_json(packs: Iterable[Pack]) -> list[Any]:
    """For the `packed` record."""
    return [{"members": list(pack.members), "engine": pack.engine} for pack in packs]


def packs_from_json(stored: Sequence[Mapping[str, Any]]) -> tuple[Pack, ...]:
    """From a `packed` record."""
    return tuple(Pack(index, tuple(pack["members"]), pack["engine"]) for index, pack in enumerate(stored))
