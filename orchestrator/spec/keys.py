"""Which keys a job has at which path, read off the models; for "did you mean" and for overrides."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import JsonValue

from orchestrator.spec.base import Spec
from orchestrator.spec.job import Job

_KINDS: dict[Any, str] = {int: "a whole number", bool: "true or false", tuple: "a list"}


def annotation_at(path: Sequence[str | int]) -> Any | None:
    """The declared type at a path, `Any` within free values such as `model.kwargs.units`; None where no key is."""
    annotation: Any = Job
    for key in path:
        annotation = _below(annotation, key)
        if annotation is None:
            return None
    return annotation


def spec_at(path: Sequence[str | int]) -> type[Spec] | None:
    """The part of the job at a path, or None where the value is of another kind."""
    annotation = annotation_at(path)
    return next((part for part in _parts(annotation) if _is_spec(part)), None)


def has_int_keys(path: Sequence[str | int]) -> bool:
    """Whether the mapping at a path goes by number: `members.overrides`."""
    opened = _parts(annotation_at(path))
    return any(get_origin(part) is dict and _opens_to_int(get_args(part)[0]) for part in opened)


def nearest_key(path: Sequence[str | int]) -> str | None:
    """The known key, dotted, that the unknown one at the end of `path` most likely means."""
    *parent, name = path
    spec = spec_at(parent)
    siblings = difflib.get_close_matches(str(name), list(spec.model_fields) if spec else [], n=1, cutoff=0.6)
    if siblings:
        return ".".join(map(str, [*parent, siblings[0]]))
    leaves = {known.rpartition(".")[2]: known for known in reversed(list(all_keys()))}
    elsewhere = difflib.get_close_matches(str(name), leaves, n=1, cutoff=0.75)
    return leaves[elsewhere[0]] if elsewhere else None


def kinds_at(path: Sequence[str | int]) -> tuple[str, ...]:
    """Which kinds of value, besides words, a union at a path takes: for messages about a wrong word."""
    kinds = (_KINDS.get(get_origin(part) or part) for part in _parts(annotation_at(path)))
    return tuple(kind for kind in kinds if kind is not None)


def all_keys(spec: type[Spec] = Job, prefix: str = "") -> Iterator[str]:
    """Every key of the job, dotted, parents first; what stands below numbered or free keys is left out."""
    for name, info in spec.model_fields.items():
        yield prefix + name
        for part in _parts(info.annotation):
            if _is_spec(part):
                yield from all_keys(part, f"{prefix}{name}.")


def _below(annotation: Any, key: str | int) -> Any | None:
    for part in _parts(annotation):
        if part is Any or part is JsonValue:
            return Any
        if _is_spec(part) and key in part.model_fields:
            return part.model_fields[str(key)].annotation
        if get_origin(part) is dict:
            return get_args(part)[1]
        if get_origin(part) is tuple and str(key).isdecimal():
            return get_args(part)[0]
    return None


def _parts(annotation: Any) -> Iterator[Any]:
    """The alternatives of a type, with `Annotated` and unions opened."""
    if annotation is JsonValue:
        yield annotation
    elif get_origin(annotation) is Annotated:
        yield from _parts(get_args(annotation)[0])
    elif get_origin(annotation) in (Union, UnionType):
        for part in get_args(annotation):
            yield from _parts(part)
    else:
        yield annotation


def _is_spec(part: Any) -> bool:
    return isinstance(part, type) and issubclass(part, Spec)


def _opens_to_int(annotation: Any) -> bool:
    return any(part is int for part in _parts(annotation))
