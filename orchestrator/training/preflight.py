"""The check on the first warm worker before any member starts: build, one batch, monitors, callbacks, labels."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import keras

from orchestrator.ensemble.asked import check_rows
from orchestrator.ensemble.tasks import TaskKind, to_targets
from orchestrator.errors import InvalidJob, InvalidModel
from orchestrator.models.build import Built, build
from orchestrator.models.first_batch import call_first_batch, score_first_batch
from orchestrator.models.stages import enter_stage
from orchestrator.planning.alike import alike_members
from orchestrator.planning.members import MemberPlan
from orchestrator.planning.packs import Architecture
from orchestrator.planning.stages import StagePlan, stages_of
from orchestrator.spec import Job
from orchestrator.training.check_callbacks import check_callbacks, made_callbacks, watches_known
from orchestrator.training.class_weight import check_class_weight
from orchestrator.training.data import Dataset
from orchestrator.training.fused.architecture import layer_kinds, signature, why_not_fused
from orchestrator.training.output_checks import Tells, check_asked_of_outputs, check_outputs, describe
from orchestrator.training.prepared import check_categories, prepare
from orchestrator.training.rows import PackRows, check_classes, member_rows, pack_rows

MOST_CHECKED = 16
"""How many different models the preflight runs a batch through in any case. Of further ones it sees whether they can be
stacked, and runs a batch through those that watch what none before has; what is wrong else they show when their turn
comes."""


@dataclass(frozen=True)
class Checked:
    """What the preflight found.

    Attributes:
        tasks: what the models are asked to tell, by output name (`planning.outputs`), in the order of the model.
        architectures: of the members whose models were looked at.
    """

    tasks: Mapping[str, TaskKind]
    architectures: Mapping[int, Architecture]


def check_before_training(job: Job, members: Sequence[MemberPlan], dataset: Dataset) -> Checked:
    """Check all that can be known without training, and look at what decides about packs.

    Raises:
        InvalidJob, InvalidModel, InvalidData: what is wrong, where, and how to mend it.
    """
    check_asked_for_rows(job, dataset)
    streamed = job.data.streaming is not None
    check_categories(job.data.preprocess, dataset)
    tells: Tells = {}  # of the first member, whose order of outputs is that of the run
    rows = pack_rows(dataset, members)
    watched = job.members.folds is not None or dataset.validation is not None
    kinds: dict[str, str] = {}
    names: set[str] = set()
    architectures: dict[int, Architecture] = {}
    for number, same in enumerate(alike_members(members).values()):
        member = same[0]
        if number < MOST_CHECKED or not _watches_known(member, names, has_validation=watched):
            model, told, callbacks = _check_model(member, dataset, names, has_validation=watched)
            tells = tells or told
            kinds.setdefault(describe(told), _place(member))
            if len(kinds) > 1:
                different = " and ".join(f"{kind} ({place})" for kind, place in kinds.items())
                raise InvalidModel(f"members tell different things, which cannot be averaged: {different}")
        elif job.train.engine == "solo":
            continue
        else:
            model, callbacks = _built(member, dataset), made_callbacks(member.train, has_validation=watched)
        seen = _look_at(model, member, callbacks, streamed=streamed)
        architectures |= {each.index: _on_own_rows(seen, rows.get(each.index)) for each in same}
    check_asked_of_outputs(tells, job, dataset)
    _check_folds(tells, members, dataset)
    return Checked({output: told.task for output, told in tells.items()}, architectures)


def _check_model(
    member: MemberPlan, dataset: Dataset, names: set[str], *, has_validation: bool
) -> tuple[keras.Model, Tells, Sequence[keras.callbacks.Callback]]:
    """Run a batch through a member's model, stage by stage; what can be watched of it is added to `names`.

    Returns:
        The model, what it tells, and the further callbacks of its last stage.

    Raises:
        InvalidJob, InvalidModel, InvalidData: what is wrong, where, and how to mend it.
    """
    built, where = _build(member, dataset), _place(member)
    model = built.model
    callbacks: Sequence[keras.callbacks.Callback] = ()
    batch = dataset.train.take(slice(0, member.train.batch_size))
    raw = call_first_batch(model, batch.x, where)
    told = check_outputs(model, raw, dataset, where)
    check_class_weight(member.train.class_weight, told, dataset.train)
    for stage in _stages(member):
        enter_stage(built, stage, member.builder)
        known = score_first_batch(model, batch.x, batch.y, raw, where)
        callbacks = check_callbacks(stage.train, model, known, has_validation=has_validation)
        names |= set(known)
    return model, told, callbacks


def _watches_known(member: MemberPlan, names: Collection[str], *, has_validation: bool) -> bool:
    return all(watches_known(stage.train, names, has_validation=has_validation) for stage in _stages(member))


def _stages(member: MemberPlan) -> Sequence[StagePlan]:
    return stages_of(member.train, member.stages, member.best_over)


def _place(member: MemberPlan) -> str:
    return f"{member.builder} (member {member.index})"


def check_asked_for_rows(job: Job, dataset: Dataset) -> None:
    """Refuse settings that need a validation or test set which the data does not have.

    Raises:
        InvalidJob: weights, a gate or a monitor asks for rows that are not there.
    """
    if job.search is not None and dataset.validation is None:
        raise InvalidJob(
            "trials are compared on the validation set, and there is none",
            where="search",
            hint="set data.validation_split, or return a validation set from the data function",
        )
    scored = dataset.scored(held_out=job.members.folds is not None)
    check_rows(job.ensemble, {name: split.num_rows for name, split in scored.items()})


def _check_folds(tells: Tells, members: Sequence[MemberPlan], dataset: Dataset) -> None:
    """Refuse folds whose members could not learn some class."""
    for output, told in tells.items():
        if told.task in (TaskKind.MULTICLASS, TaskKind.BINARY):
            classes = to_targets(told.task, dataset.train.labels[output])
            check_classes(dataset, members, classes, f"labels of output {output}" if output else "labels")


def _build(member: MemberPlan, dataset: Dataset) -> Built:
    """The member's model with its own preprocessing. Raises as `prepare` and `build`."""
    preprocessing = prepare(member, member_rows(dataset, member).train) if member.preprocess else None
    return build(member.builder, member.kwargs, member.seed, member.train, preprocessing, member.base)


def _on_own_rows(seen: Architecture, rows: PackRows | None) -> Architecture:
    """Members of different folds are of one architecture, but a pack is watched on one set of rows."""
    if rows is None:
        return seen
    return replace(seen, signature=f"{seen.signature} {rows}", num_rows=rows.num_rows)


def _built(member: MemberPlan, dataset: Dataset) -> keras.Model:
    """The member's model with all its variables. Raises as `_build`, and InvalidData."""
    model = _build(member, dataset).model
    if not model.built:
        first = dataset.train.take(slice(0, member.train.batch_size))
        call_first_batch(model, first.x, _place(member))
    return model


def _look_at(
    model: keras.Model, member: MemberPlan, callbacks: Sequence[keras.callbacks.Callback], *, streamed: bool
) -> Architecture:
    return Architecture(
        (signature(model) or f"like no other {id(model)}") + _shared_settings(member),
        layer_kinds(model),
        _of_plan(member) or why_not_fused(model, member.train, callbacks, streamed=streamed),
        epochs=member.train.epochs,
        batch_size=member.train.batch_size,
    )


def _of_plan(member: MemberPlan) -> str | None:
    """Why the member's plan keeps it out of packs."""
    if member.stages:
        return "it is trained in stages"
    if member.fold is not None and member.train.class_weight == "balanced":
        return "with folds, balanced class weights are counted in each member's own rows"
    return None


def _shared_settings(member: MemberPlan) -> str:
    """The member's own settings of `train` that all members of a pack have in common.

    Those of optimizer, loss and metrics are in the model's signature; those of callbacks are each member's own.
    """
    own = {"early_stopping", "checkpoint", "callbacks", "optimizer", "learning_rate", "loss", "loss_weights", "metrics"}
    own |= {"mixed_precision", "verbose"}
    shared = sorted((key, value) for key, value in member.train_values.items() if key.partition(".")[0] not in own)
    return f" {shared}" if shared else ""
