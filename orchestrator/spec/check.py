"""Checks a job against the user's own modules, without importing them."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from orchestrator.errors import InvalidJob
from orchestrator.spec.base import KerasObject, is_reference
from orchestrator.spec.callbacks import callback_name, references_of
from orchestrator.spec.job import Job
from orchestrator.spec.members import MemberOverride, ModelSpec
from orchestrator.spec.references import FoundFunction, find_function
from orchestrator.spec.varied import PREFIX


@dataclass(frozen=True)
class CheckedJob:
    """What the job's references lead to.

    Attributes:
        builders: build functions by reference, the members' own included.
        data: the data function; None where the data lie in files.
        builder_takes_dropout: by reference, whether its signature names `dropout`; None when that cannot be known
            without importing it.
        callbacks: the user's own callback classes by reference.
    """

    builders: Mapping[str, FoundFunction]
    data: FoundFunction | None
    builder_takes_dropout: Mapping[str, bool | None]
    callbacks: Mapping[str, FoundFunction] = field(default_factory=dict)


def check_job(job: Job, root: str) -> CheckedJob:
    """Check that all functions exist and can be called with what the job gives them.

    Args:
        job: the job.
        root: folder that comes first on the import path, normally the working directory.

    Raises:
        InvalidJob: a function is missing, would get a keyword that it does not take, or lacks one that it needs.
    """
    places = {job.model.builder: "model.builder"}
    for index, override in sorted(job.members.overrides.items()):
        if override.model is not None:
            places.setdefault(override.model.builder, f"members.overrides.{index}.model.builder")
    builders = {ref: find_function(ref, root, where=f"{place}: {ref}") for ref, place in places.items()}
    data = _find_data(job.data.function, root)
    _check_members(job, builders)
    for key in ("optimizer", "loss", "metrics"):
        for place, ref in _own_parts(getattr(job.train, key), f"train.{key}"):
            find_function(ref, root, where=f"{place}: {ref}", kind="function or class")
    takes_dropout = {ref: _takes_dropout(builder) for ref, builder in builders.items()}
    return CheckedJob(builders, data, takes_dropout, dict(_check_callbacks(job, root)))


def exactness(job: Job, checked: CheckedJob) -> tuple[str, ...]:
    """Why a member that is interrupted may end differently from one that is not, a sentence each; empty: it will not.

    What decides where there is a GPU, or in the user's data function, is known only when it runs.
    """
    train = job.train
    reasons = []
    if train.deterministic is False:
        reasons.append("train.deterministic is false")
    elif train.wants_determinism is False:
        reasons.append("train.jit_compile is true, and XLA is not deterministic")
    elif train.deterministic is None and job.resources.num_gpus:
        reasons.append("training on a GPU is not deterministic unless train.deterministic is true")
    for ref, found in checked.callbacks.items():
        if not {"get_state", "set_state"} <= (found.methods or frozenset()):
            reasons.append(f"{ref} has no get_state and set_state that could be seen: what it remembers is lost")
    if any(callback_name(callback) == "LambdaCallback" for callback in train.callbacks):
        reasons.append("what the functions of LambdaCallback remember, in variables of their module, is lost")
    return tuple(reasons)


def _own_parts(value: object, place: str) -> Iterator[tuple[str, str]]:
    """References among what `compile` is given, with the key of each."""
    if isinstance(value, Mapping | tuple):
        for key, part in value.items() if isinstance(value, Mapping) else enumerate(value):
            yield from _own_parts(part, f"{place}.{key}")
    else:
        name = value.class_name if isinstance(value, KerasObject) else value
        if isinstance(name, str) and is_reference(name):
            yield place, name


def _check_callbacks(job: Job, root: str) -> Iterator[tuple[str, FoundFunction]]:
    for number, callback in enumerate(job.train.callbacks):
        name, place = callback_name(callback), f"train.callbacks.{number}"
        for ref in references_of(callback):
            is_class = ref == name
            found = find_function(ref, root, where=f"{place}: {ref}", kind="class" if is_class else "function")
            if is_class:
                _check_call(found, _config_keys(callback, place), place, _CONSTRUCTOR)
                yield ref, found


def _config_keys(callback: str | KerasObject, place: str) -> dict[str, str]:
    names = () if isinstance(callback, str) else tuple(callback.config)
    return {name: f"{place}.config.{name}" for name in names}


def _takes_dropout(builder: FoundFunction) -> bool | None:
    return None if builder.parameters is None else "dropout" in builder.parameters


def _find_data(ref: str | None, root: str) -> FoundFunction | None:
    if ref is None:
        return None
    data = find_function(ref, root, where=f"data.source: {ref}")
    needed = [name for name in data.required if name != "seed"]
    if needed:
        raise InvalidJob(
            f"the data function {data.name} requires {_listed(needed)}, but is called without arguments",
            where=f"{data.file}:{data.line}",
            hint="give each a default; only `seed` is passed, where the function asks for it",
        )
    return data


def _check_members(job: Job, builders: Mapping[str, FoundFunction]) -> None:
    shared = {name: f"model.kwargs.{name}" for name in job.model.kwargs} | _base(job.model, "model")
    shared |= {name: f"members.vary.{name}" for name in job.members.vary if not name.startswith(PREFIX)}
    if job.search is not None:
        shared |= {name: f"search.space.{name}" for name in job.search.space if not name.startswith(PREFIX)}
    if job.members.dropout is not None:
        shared["dropout"] = "members.dropout"
    plain = [index for index in range(job.members.count) if index not in job.members.overrides]
    if plain:
        _check_call(builders[job.model.builder], shared, "model.builder")
    for index, override in sorted(job.members.overrides.items()):
        place = f"members.overrides.{index}"
        if override.model is None:
            ref, given = job.model.builder, dict(shared)
        else:
            # `vary` names keywords of the job's own builder; the job's dropout is passed where this one takes it.
            ref = override.model.builder
            given = {name: f"{place}.model.kwargs.{name}" for name in override.model.kwargs}
            given |= _base(override.model, f"{place}.model")
        _check_call(builders[ref], given | _own_keywords(override, place), place)


def _base(model: ModelSpec, place: str) -> dict[str, str]:
    return {} if model.base is None else {"base": f"{place}.base"}


def _own_keywords(override: MemberOverride, place: str) -> dict[str, str]:
    own = {name: f"{place}.kwargs.{name}" for name in override.kwargs}
    return own if override.dropout is None else own | {"dropout": f"{place}.dropout"}


@dataclass(frozen=True)
class _Kind:
    """What is called, in words; the key that gives its arguments; and what is passed without a word in the job."""

    words: str
    arguments: str
    unasked: str


_BUILDER = _Kind("build function", "model.kwargs", "dropout")  # by index, wherever the signature has it
_CONSTRUCTOR = _Kind("constructor of", "config", "folder")


def _check_call(called: FoundFunction, given: Mapping[str, str], place: str, kind: _Kind = _BUILDER) -> None:
    """Check one call; `given` maps each keyword to the key of the job that gives it."""
    for name, key in given.items():
        if not called.accepts(name):
            close = difflib.get_close_matches(name, called.parameters or (), n=1, cutoff=0.5)
            takes = f"it takes {_listed(called.parameters)}" if called.parameters else "it takes no parameters"
            raise InvalidJob(
                f"the {kind.words} {called.name} ({called.file}:{called.line}) has no parameter {name}",
                where=key,
                hint=f"did you mean {close[0]}?" if close else takes,
            )
    missing = [name for name in called.required if name not in given and name != kind.unasked]
    if missing:
        key = "model.base" if kind is _BUILDER and missing[0] == "base" else f"{kind.arguments}.{missing[0]}"
        raise InvalidJob(
            f"the {kind.words} {called.name} ({called.file}:{called.line}) requires {_listed(missing)}",
            where=place,
            hint=f"set {key}, or give the parameter a default",
        )


def _listed(names: tuple[str, ...] | list[str] | None) -> str:
    return ", ".join(names or ())
