"""From the job to its members: who they are, with which seed, dropout and keywords. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from orchestrator.planning.seeds import member_seed
from orchestrator.spec import Job, MemberOverride, ModelSpec, Range

DEFAULT_DROPOUT = Range(min=0.1, max=0.5)
"""What the short form varies when the build function takes `dropout` and the job does not mention it."""

_BASES = (2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41, 43, 47, 53)


@dataclass(frozen=True)
class MemberPlan:
    """One network of the ensemble, fixed before the start.

    Attributes:
        index: 0-based place in the ensemble.
        seed: 32-bit seed of everything random in this member.
        builder: `module:function` of the build function.
        kwargs: exactly what the build function is called with, `dropout` included where it is set.
    """

    index: int
    seed: int
    builder: str
    kwargs: Mapping[str, Any]

    @property
    def dropout(self) -> float | None:
        """The dropout rate that the build function gets, or None where it gets none."""
        return self.kwargs.get("dropout")


def plan_members(job: Job, takes_dropout: Mapping[str, bool | None]) -> tuple[MemberPlan, ...]:
    """All members of the job, in order.

    Args:
        job: the job.
        takes_dropout: for each builder reference, whether its signature names `dropout` (None: cannot be known
            without importing it, then only an explicit `dropout` is passed).
    """
    return tuple(plan_member(job, index, takes_dropout) for index in range(job.members.count))


def plan_member(job: Job, index: int, takes_dropout: Mapping[str, bool | None]) -> MemberPlan:
    """Member `index` of the job; depends on nothing but the job and the index.

    An override's `model` replaces builder and keywords, so the job's `vary` (which names keywords of the job's own
    builder) does not reach it; the job's dropout does, where that builder takes one.
    """
    override = job.members.overrides.get(index, MemberOverride())
    model = job.model if override.model is None else override.model
    replaced = override.model is not None
    kwargs = dict(model.kwargs)
    if not replaced:
        for axis, name in enumerate(sorted(job.members.vary), start=1):
            kwargs[name] = value_at(job.members.vary[name], index, axis)
    dropout = _dropout_of(job, index, model, takes_dropout.get(model.builder), replaced=replaced)
    if dropout is not None:
        kwargs["dropout"] = dropout
    kwargs.update(override.kwargs)
    if override.dropout is not None:
        kwargs["dropout"] = override.dropout
    seed = member_seed(job.seed, index) if override.seed is None else override.seed
    return MemberPlan(index=index, seed=seed, builder=model.builder, kwargs=kwargs)


def value_at(values: Sequence[Any] | Range, index: int, axis: int) -> Any:
    """The value of one axis of diversity for member `index`: a list is cycled, a range is filled evenly.

    A range takes the van der Corput sequence (Halton 1960) in the prime base of its axis, which stays evenly spread
    for every number of members and does not depend on that number. Values lie between the ends, both included; they
    are rounded to about six digits, so that plans stay readable.
    """
    if not isinstance(values, Range):
        return values[index % len(values)]
    fraction = van_der_corput(index + 1, _BASES[axis % len(_BASES)])
    low, high = values.min, values.max
    if isinstance(low, int) and isinstance(high, int):
        # Equal slices of [low, high + 1), so that the last whole number gets as much as the others.
        whole = low * ((high + 1) / low) ** fraction if values.log else low + fraction * (high + 1 - low)
        return min(max(math.floor(whole), low), high)
    if values.log:
        rounded = float(f"{low * (high / low) ** fraction:.6g}")
    else:  # relative to the width of the range: [1e-7, 9e-7] needs other digits than [0.1, 0.5]
        rounded = round(low + fraction * (high - low), 5 - math.floor(math.log10(high - low)))
    return min(max(rounded, low), high)


def van_der_corput(n: int, base: int) -> float:
    """The n-th number (n >= 1) of the van der Corput sequence: the digits of n in `base`, mirrored at the point."""
    fraction, scale = 0.0, 1.0
    while n:
        n, digit = divmod(n, base)
        scale /= base
        fraction += digit * scale
    return fraction


def _dropout_of(job: Job, index: int, model: ModelSpec, takes: bool | None, *, replaced: bool) -> float | None:
    asked = job.members.dropout
    if "dropout" in model.kwargs or "dropout" in job.members.vary:
        return None
    if asked is None:
        return float(value_at(DEFAULT_DROPOUT, index, 0)) if takes else None
    if replaced and not takes:
        return None
    return float(asked if isinstance(asked, int | float) else value_at(asked, index, 0))
