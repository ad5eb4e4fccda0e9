"""From the job to its members: who they are, with which seed, dropout and keywords. Pure."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from orchestrator.errors import InvalidJob
from orchestrator.planning.folds import FoldPlan, fold_plan
from orchestrator.planning.seeds import member_seed
from orchestrator.planning.stages import stages_of
from orchestrator.spec import BaseSpec, BestOver, Job, MemberOverride, ModelSpec, Range, StageSpec, TrainSpec
from orchestrator.spec.preprocess import Preprocess
from orchestrator.spec.varied import PREFIX, train_with

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
        train: how it is trained.
        train_values: what of that is its own, by dotted key below `train`.
        fold: the fold that it is held out from; None: it learns from all training rows.
        preprocess: the job's `data.preprocess`: steps that are fitted to the rows that this member learns from.
        base: the saved model that the build function gets as `base`; None: it gets none.
        stages: in which it is trained; none: in one go.
        best_over: the stages among whose epochs its best model is.
    """

    index: int
    seed: int
    builder: str
    kwargs: Mapping[str, Any]
    train: TrainSpec = field(default_factory=TrainSpec)
    train_values: Mapping[str, Any] = field(default_factory=dict)
    fold: FoldPlan | None = None
    preprocess: Preprocess = ()
    base: BaseSpec | None = None
    stages: tuple[StageSpec, ...] = ()
    best_over: BestOver = "last"

    @property
    def epochs(self) -> int:
        """The most epochs that it is trained for, all stages together."""
        return sum(stage.train.epochs for stage in stages_of(self.train, self.stages))

    @property
    def configuration(self) -> int:
        """What it shares its hyperparameters with: the members of all folds; without folds each is one by itself."""
        return self.index if self.fold is None else self.fold.configuration

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
    return tuple(plan_member(job, index, takes_dropout) for index in range(job.members.total))


def plan_member(job: Job, index: int, takes_dropout: Mapping[str, bool | None]) -> MemberPlan:
    """Member `index` of the job; depends on nothing but the job and the index.

    With folds, members are numbered configuration by configuration, in it repeat by repeat, in that fold by fold.
    Hyperparameters and overrides follow the configuration, seeds the member; so whoever asks for one configuration
    more gets further members, and those before stay as they are.

    An override's `model` replaces builder and keywords, so what of the job's `vary` names keywords of the job's own
    builder does not reach it; settings of `train` do, and the job's dropout where that builder takes one.

    Raises:
        InvalidJob: its own settings of `train`, or what its stages say, contradict each other.
    """
    configuration = index // job.members.per_configuration
    override = job.members.overrides.get(configuration, MemberOverride())
    model = job.model if override.model is None else override.model
    replaced = override.model is not None
    kwargs = dict(model.kwargs)
    varied = {
        name: value_at(job.members.vary[name], configuration, axis)
        for axis, name in enumerate(sorted(job.members.vary), 1)
    }
    train_values = {name.removeprefix(PREFIX): value for name, value in varied.items() if name.startswith(PREFIX)}
    train_values |= override.train
    if not replaced:
        kwargs |= {name: value for name, value in varied.items() if not name.startswith(PREFIX)}
    dropout = _dropout_of(job, configuration, model, takes_dropout.get(model.builder), replaced=replaced)
    if dropout is not None:
        kwargs["dropout"] = dropout
    kwargs.update(override.kwargs)
    if override.dropout is not None:
        kwargs["dropout"] = override.dropout
    seed = member_seed(job.seed, index) if override.seed is None else override.seed
    train = train_of(job, index, train_values)
    stages_of(train, model.stages, model.best_over)  # that it can be so is told before anything starts
    folds = job.members.folds
    return MemberPlan(
        index,
        seed,
        model.builder,
        kwargs,
        train,
        train_values,
        fold=None if folds is None else fold_plan(folds, index, job.seed),
        preprocess=job.data.preprocess,
        base=model.base,
        stages=model.stages,
        best_over=model.best_over,
    )


def whole_configurations(members: Iterable[MemberPlan], good: Collection[int]) -> tuple[int, ...]:
    """The configurations all of whose members are good, ascending: a hole in their folds could not be filled.

    Args:
        members: of the run.
        good: indices of the good ones.
    """
    whole: dict[int, bool] = {}
    for member in members:
        whole[member.configuration] = whole.get(member.configuration, True) and member.index in good
    return tuple(sorted(configuration for configuration, complete in whole.items() if complete))


def train_of(job: Job, index: int, values: Mapping[str, Any]) -> TrainSpec:
    """How member `index` is trained, from its own values by dotted key below `train`.

    Each value alone was looked at when the job was read; together they may still contradict each other.

    Raises:
        InvalidJob: they do.
    """
    try:
        return train_with(job.train, values)
    except (LookupError, ValueError) as error:
        told = ", ".join(f"train.{key} = {value!r}" for key, value in values.items())
        raise InvalidJob(
            f"the settings {told} do not go together: {error}",
            where=f"member {index}",
            hint="look at members.vary, members.overrides and search.space, which all name settings of `train`",
        ) from error


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
