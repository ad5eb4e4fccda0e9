"""The check on the first warm worker before any member starts: build, one batch, monitors, callbacks, labels."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import keras

from orchestrator.ensemble.asked import check_rows
from orchestrator.ensemble.tasks import TaskKind
from orchestrator.errors import InvalidJob, InvalidModel
from orchestrator.models.build import build_member
from orchestrator.models.first_batch import call_first_batch, first_line, score_first_batch
from orchestrator.planning.members import MemberPlan
from orchestrator.planning.packs import Architecture
from orchestrator.spec import Job, KerasObject, TrainSpec
from orchestrator.training.callback_state import take_states
from orchestrator.training.data import Dataset
from orchestrator.training.fused.architecture import layer_kinds, signature, why_not_fused
from orchestrator.training.made_callbacks import make_callbacks, make_checkpoint, make_early_stopping
from orchestrator.training.output_checks import check_asked_of_outputs, check_outputs, describe
from orchestrator.training.prepared import prepare
from orchestrator.training.rows import member_rows

MOST_CHECKED = 16
"""How many different models the preflight runs a batch through. Of further ones it sees whether they can be stacked;
what is wrong with their data, loss or metrics they show when their turn comes."""

_RATE = "optimizer.config.learning_rate"


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
    kinds: dict[str, str] = {}
    architectures: dict[int, Architecture] = {}
    alike = list(_distinct(members).values())
    for same in alike[:MOST_CHECKED]:
        member = same[0]
        train = member.train
        model = _build(member, dataset)
        where = f"{member.builder} (member {member.index})"
        batch = dataset.train.take(slice(0, train.batch_size))
        raw = call_first_batch(model, batch.x, where)
        tells = check_outputs(model, raw, dataset, where)
        names = score_first_batch(model, batch.x, batch.y, raw, where)
        _check_monitors(train, names, has_validation=dataset.validation is not None)
        with TemporaryDirectory() as folder:
            callbacks = _check_callbacks(train, model, Path(folder), has_validation=dataset.validation is not None)
        kinds.setdefault(describe(tells), where)
        if len(kinds) > 1:
            told = " and ".join(f"{kind} ({place})" for kind, place in kinds.items())
            raise InvalidModel(f"members tell different things, which cannot be averaged: {told}")
        seen = _look_at(model, member, callbacks, streamed=streamed)
        architectures |= {each.index: seen for each in same}
    if job.train.engine != "solo":
        for same in alike[MOST_CHECKED:]:
            seen = _look_at(_built(same[0], dataset), same[0], callbacks, streamed=streamed)
            architectures |= {each.index: seen for each in same}
    check_asked_of_outputs(tells, job, dataset, len(members) if job.search is None else job.members.count)
    return Checked({output: told.task for output, told in tells.items()}, architectures)


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
    check_rows(job.ensemble, {name: split.num_rows for name, split in dataset.splits() if name != "train"})


def _distinct(members: Sequence[MemberPlan]) -> Mapping[object, Sequence[MemberPlan]]:
    """Members in groups that differ in nothing but seed, dropout rate and the learning rate that the job gives.

    Those without dropout are a group of their own: `if dropout: …` is how many builders leave the layer out.
    """
    groups: dict[object, list[MemberPlan]] = {}
    for member in members:
        others = repr(sorted((k, v) for k, v in member.kwargs.items() if k != "dropout"))
        settings = repr(sorted((k, v) for k, v in member.train_values.items() if k != _RATE))
        prepared_by = repr(member.fold) if member.preprocess else None  # other rows give other figures
        key = (member.builder, others, settings, bool(member.kwargs.get("dropout")), prepared_by)
        groups.setdefault(key, []).append(member)
    return groups


def _build(member: MemberPlan, dataset: Dataset) -> keras.Model:
    """The member's model with its own preprocessing. Raises as `prepare` and `build_member`."""
    preprocessing = prepare(member, member_rows(dataset, member).train) if member.preprocess else None
    return build_member(member.builder, member.kwargs, member.seed, member.train, preprocessing)


def _built(member: MemberPlan, dataset: Dataset) -> keras.Model:
    """The member's model with all its variables. Raises as `_build`, and InvalidData."""
    model = _build(member, dataset)
    if not model.built:
        first = dataset.train.take(slice(0, member.train.batch_size))
        call_first_batch(model, first.x, f"{member.builder} (member {member.index})")
    return model


def _look_at(
    model: keras.Model, member: MemberPlan, callbacks: Sequence[keras.callbacks.Callback], *, streamed: bool
) -> Architecture:
    return Architecture(
        (signature(model) or f"like no other {id(model)}") + _shared_settings(member),
        layer_kinds(model),
        why_not_fused(model, member.train, callbacks, streamed=streamed),
        epochs=member.train.epochs,
        batch_size=member.train.batch_size,
    )


def _shared_settings(member: MemberPlan) -> str:
    """The member's own settings of `train` that all members of a pack have in common.

    Those of optimizer, loss and metrics are in the model's signature; those of callbacks are each member's own.
    """
    own = {"early_stopping", "checkpoint", "callbacks", "optimizer", "loss", "metrics"}
    shared = sorted((key, value) for key, value in member.train_values.items() if key.partition(".")[0] not in own)
    return f" {shared}" if shared else ""


def _check_monitors(train: TrainSpec, names: list[str], *, has_validation: bool) -> None:
    known = names + ([f"val_{name}" for name in names] if has_validation else [])
    for key, monitor in _monitors(train):
        if monitor not in known:
            raise InvalidJob(
                f"there is nothing called {monitor!r} to monitor",
                where=key,
                hint=f"there are: {', '.join(known)}"
                + ("" if has_validation else "; without a validation set there is nothing that begins with val_"),
            )
    checkpoint = train.checkpoint
    at_batches = checkpoint.save_freq != "epoch" and checkpoint.save_best_only
    if at_batches and (checkpoint.monitor or ("val_loss" if has_validation else "loss")).startswith("val_"):
        raise InvalidJob(
            "save_freq counts batches, but validation figures are known only at the end of an epoch",
            where="train.checkpoint.save_freq",
            hint="use save_freq: epoch, or a monitor of the training data such as loss",
        )


def _monitors(train: TrainSpec) -> Iterator[tuple[str, Any]]:
    """What the job asks to watch, by the key that says so."""
    for key, settings in (("early_stopping", train.early_stopping), ("checkpoint", train.checkpoint)):
        if settings is not None and settings.monitor is not None:
            yield f"train.{key}.monitor", settings.monitor
    for number, asked in enumerate(train.callbacks):
        if isinstance(asked, KerasObject) and asked.class_name == "ReduceLROnPlateau" and "monitor" in asked.config:
            yield f"train.callbacks.{number}.config.monitor", asked.config["monitor"]


def _check_callbacks(
    train: TrainSpec, model: keras.Model, folder: Path, *, has_validation: bool
) -> Sequence[keras.callbacks.Callback]:
    """Make them all, let those that watch something say whether more of it is better, and take their first state."""
    callbacks = make_callbacks(train, folder / "files", has_validation=has_validation)
    take_states(callbacks)
    watching = {f"train.callbacks.{number}": callback for number, callback in enumerate(callbacks)}
    with _refused_by_keras("train.checkpoint"):
        watching["train.checkpoint"] = make_checkpoint(train, folder, has_validation=has_validation)
    with _refused_by_keras("train.early_stopping"):
        watching["train.early_stopping"] = make_early_stopping(train, has_validation=has_validation)
    for key, callback in watching.items():
        if hasattr(callback, "_set_monitor_op"):
            with _refused_by_keras(key):
                callback.set_model(model)
                callback._set_monitor_op()
    return callbacks


@contextmanager
def _refused_by_keras(key: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        raise InvalidJob(f"Keras refuses these settings: {first_line(error)}", where=key) from error
