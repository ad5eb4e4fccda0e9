"""The stages in which a member is trained, and which layers of its base each of them leaves alone. Pure."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass

from orchestrator.errors import InvalidJob
from orchestrator.spec import AllButLast, BestOver, Freeze, KerasObject, ModelSpec, StageSpec, TrainSpec
from orchestrator.spec.varied import train_with

STAGE = "stage"
"""Column of the history of a member that is trained in stages: the number of the stage, from 1."""

NO_METRICS = ("epoch", STAGE)
"""Columns of a history that say where a row stands; all others are metrics."""

_RATE, _RATE_OF_OPTIMIZER = "learning_rate", "optimizer.config.learning_rate"


@dataclass(frozen=True)
class StagePlan:
    """One stage of a member's training.

    Attributes:
        number: from 1; 0 for the only one of a member that is not trained in stages.
        train: how it is trained then.
        freeze: which of the base's layers are not trained; None: the build function's say stands.
    """

    number: int
    train: TrainSpec
    freeze: Freeze | None = None


def stages_of(train: TrainSpec, asked: Sequence[StageSpec], best_over: BestOver = "last") -> tuple[StagePlan, ...]:
    """The stages of a member in their order; one where the job asks for none.

    Args:
        train: the member's settings, which hold wherever a stage says nothing else.
        asked: `model.stages`.
        best_over: `model.best_over`.

    Raises:
        InvalidJob: `best_over` contradicts what `train` says.
    """
    if not asked:
        return (StagePlan(0, train),)
    if best_over == "all" and not train.checkpoint.save_best_only:
        raise InvalidJob(
            "`all` chooses the best epoch of all stages, but with train.checkpoint.save_best_only off the member's "
            "model is the one after the last epoch",
            where="model.best_over",
            hint="leave one of them out",
        )
    return tuple(StagePlan(n, _settings(train, stage), stage.freeze) for n, stage in enumerate(asked, 1))


def _settings(train: TrainSpec, stage: StageSpec) -> TrainSpec:
    values = stage.train_values
    if stage.optimizer is None and _RATE in values and _has_rate(train):
        values[_RATE_OF_OPTIMIZER] = values.pop(_RATE)  # the stage's rate replaces the one that stands there
    return train_with(train, values)


def _has_rate(train: TrainSpec) -> bool:
    return isinstance(train.optimizer, KerasObject) and _RATE in train.optimizer.config


def stages_text(model: ModelSpec, train: TrainSpec) -> str | None:
    """Base and stages for people, as most members have them; None where there is neither."""
    if model.base is None and not model.stages:
        return None
    parts = [] if model.base is None else [f"from {model.base.source}"]
    for stage in stages_of(train, model.stages, model.best_over):
        rate = "" if stage.train.learning_rate is None else f" at {stage.train.learning_rate:g}"
        match stage.freeze:
            case None | "none":
                frozen = ""
            case "all":
                frozen = ", all layers of the base frozen"
            case AllButLast(all_but_last=last):
                frozen = f", all layers of the base but the last {last} frozen"
            case names:
                frozen = f", {', '.join(names)} frozen"
        parts.append(f"up to {stage.train.epochs} epochs{rate}{frozen}")
    return "; then ".join(parts)


def frozen_layers(layers: Sequence[str], freeze: Freeze, where: str) -> tuple[bool, ...]:
    """Of each of the base's layers, whether a stage leaves it alone.

    Args:
        layers: names of the base's layers from its inputs on, inputs left out. A name may stand there twice: in models
            within the base.
        freeze: what the stage says.
        where: the key that says so, for messages.

    Raises:
        InvalidJob: a name that is not there, or more layers left out than there are.
    """
    if freeze == "all":
        return (True,) * len(layers)
    if freeze == "none":
        return (False,) * len(layers)
    if isinstance(freeze, AllButLast):
        if freeze.all_but_last > len(layers):
            raise InvalidJob(
                f"there are {len(layers)} layers in the base, so not all but the last {freeze.all_but_last}",
                where=where,
                hint="`none` trains them all",
            )
        return tuple(number < len(layers) - freeze.all_but_last for number in range(len(layers)))
    for name in freeze:
        if name not in layers:
            raise no_such_layer(name, layers, where)
    return tuple(name in freeze for name in layers)


def no_such_layer(name: str, layers: Sequence[str], where: str) -> InvalidJob:
    """The error for a layer that the base does not have; it names the nearest."""
    close = difflib.get_close_matches(name, layers, n=1, cutoff=0.5)
    return InvalidJob(
        f"the base has no layer {name!r}",
        where=where,
        hint=f"did you mean {close[0]}?" if close else f"it has {', '.join(layers)}",
    )
