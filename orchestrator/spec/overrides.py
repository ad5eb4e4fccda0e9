"""`key=value` from the command line, applied to the document before it is checked."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from orchestrator.errors import InvalidJob
from orchestrator.spec.base import KerasObject, Spec
from orchestrator.spec.keys import annotation_at, has_int_keys, nearest_key, spec_at
from orchestrator.spec.secrets import redact
from orchestrator.spec.yaml import Document, Path, load_yaml, parse_scalar

_FORM = "an override is key=value with the key dotted, such as train.epochs=20"


def apply_overrides(document: Document, overrides: Sequence[str]) -> Document:
    """The document with each `key=value` set, in order; short forms are expanded where a key goes below them.

    A value is a plain scalar as in the file (`1e-4`, `true`, `null`, any text), or, when it starts with a bracket,
    brace or quote, a list, mapping or quoted text in YAML.

    Raises:
        InvalidJob: not `key=value`, no such key, or a value that is not YAML; names the override and the nearest key.
    """
    if not isinstance(document.data, Mapping) or not overrides:
        return document
    data = copy.deepcopy(dict(document.data))
    origins = dict(document.overridden)
    for override in overrides:
        path, value = _parse(override)
        _set(data, path, value, _name(path))
        # What an earlier override said below this path is gone with its value.
        origins = {known: name for known, name in origins.items() if known[: len(path)] != path}
        origins[path] = _name(path)
    return replace(document, data=data, overridden=origins)


def _parse(override: str) -> tuple[Path, Any]:
    dotted, separator, text = override.partition("=")
    names = dotted.strip().split(".")
    if not separator or not all(names):
        raise InvalidJob("this is no override", where=f"override {redact(override)!r}", hint=_FORM)
    path: Path = ()
    for name in names:
        path = (*path, _key(path, name))
        if annotation_at(path) is None:
            hint = _did_you_mean(path, names[len(path) :]) or _keys_hint(path[:-1])
            raise InvalidJob(f"there is no key {'.'.join(map(str, path))}", where=_name(tuple(names)), hint=hint)
    return path, _value(text.strip(), _name(path))


def _did_you_mean(path: Path, rest: Sequence[str]) -> str | None:
    nearest = nearest_key(path)
    if nearest is None:
        return None
    whole = [*nearest.split("."), *rest]
    return f"did you mean {'.'.join(whole) if annotation_at(whole) is not None else nearest}?"


def _key(path: Path, name: str) -> str | int:
    if not has_int_keys(path):
        return name
    if not (name.isascii() and name.isdecimal()) or len(name) > 9:
        where = _name((*path, name))
        raise InvalidJob(f"below {'.'.join(map(str, path))} stand whole numbers from 0, not {name!r}", where=where)
    return int(name)


def _value(text: str, where: str) -> Any:
    if text[:1] in ("[", "{", '"', "'"):
        return load_yaml(text, where).data
    try:
        return parse_scalar(text)
    except ValueError as error:
        raise InvalidJob(str(error), where=where) from None


def _set(data: dict[str | int, Any], path: Path, value: Any, where: str) -> None:
    container: dict[str | int, Any] | list[Any] = data
    for depth, key in enumerate(path[:-1], start=1):
        key = _index(container, path[:depth], where)
        below = container.get(key) if isinstance(container, dict) else container[int(key)]
        if not isinstance(below, dict | list):
            below = _expanded(below, path[: depth + 1], where)
            container[key] = below  # type: ignore[index]  # `_index` made the key fit the container
        container = below
    container[_index(container, path, where)] = value  # type: ignore[index]


def _index(container: dict[str | int, Any] | list[Any], path: Path, where: str) -> str | int:
    """The last key of the path, fit for the container: a list takes the index of an entry that is there."""
    key = path[-1]
    if isinstance(container, dict):
        return key
    name = str(key)
    if not (name.isascii() and name.isdecimal()) or int(name[:9]) >= len(container):
        what = f"{'.'.join(map(str, path[:-1]))} is a list of {len(container)}, without an entry {key}"
        raise InvalidJob(what, where=where, hint="give the whole list: key=[…]")
    return int(name)


def _expanded(value: Any, path: Path, where: str) -> dict[str | int, Any]:
    """The mapping that a missing, switched off or short value stands for, so that the last key can be set below it."""
    *parent, key = path
    spec = spec_at(parent)
    if isinstance(key, str) and key.isdecimal():
        what = f"{'.'.join(map(str, parent))} is no list yet, so it has no entry {key}"
        raise InvalidJob(what, where=where, hint="give the whole list: key=[…]")
    if value is None or value is False:
        return {}
    short_form = _short_form(spec) if spec else None
    if short_form is None:
        raise InvalidJob(f"{'.'.join(map(str, parent))} is a plain value: it has no keys below it", where=where)
    return {short_form: value}


def _short_form(spec: type[Spec]) -> str | None:
    return "class_name" if spec is KerasObject else spec.short_form


def _keys_hint(path: Path) -> str | None:
    spec = spec_at(path)
    return f"the keys there are {', '.join(spec.model_fields)}" if spec else None


def _name(path: Path) -> str:
    """How messages name an override: by its key alone, since the value may be what should not be shown."""
    return f"override {'.'.join(map(str, path))}"
