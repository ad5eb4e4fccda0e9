"""Layers that a job writes down: what the build function gets in the place of `{class_name, config}`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from orchestrator.errors import InvalidJob
from orchestrator.models.objects import with_modules
from orchestrator.models.user_code import import_function
from orchestrator.spec.base import is_reference

if TYPE_CHECKING:
    import keras

_KEYS = {"class_name", "config"}


def make_layers(kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of a build function, with a new Keras layer wherever one is written down.

    Args:
        kwargs: JSON values. A mapping with `class_name` and perhaps `config`, at any depth, is a layer of Keras, or one
            of the job's own as `module:Class`; all else stays as it is.

    Raises:
        InvalidJob: there is no such layer, or it refuses its arguments.
    """
    return {name: _made(value, name) for name, value in kwargs.items()}


def _made(value: Any, where: str) -> Any:
    if isinstance(value, Mapping):
        if "class_name" in value and set(value) <= _KEYS:
            return _layer(str(value["class_name"]), dict(value.get("config") or {}), where)
        return {key: _made(item, f"{where}.{key}") for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_made(item, f"{where}.{number}") for number, item in enumerate(value)]
    return value


def _reason(error: Exception) -> str:
    """The last line of what Keras says: it is what the layer itself said; the lines above tell who asked it."""
    return str(error).strip().splitlines()[-1].removeprefix("Exception encountered: ")


def _layer(name: str, config: dict[str, Any], where: str) -> keras.layers.Layer:
    import keras

    try:
        if is_reference(name):
            made = import_function(name)(**config)
        else:
            made = keras.layers.deserialize(with_modules({"class_name": name, "config": config}))
    except InvalidJob:
        raise
    except Exception as error:
        raise InvalidJob(
            f"the layer {name} cannot be made: {type(error).__name__}: {_reason(error)}",
            where=f"{where} (an argument of the build function)",
            hint="a mapping with class_name is a layer: one of keras.layers, or yours as module:Class",
        ) from error
    if not isinstance(made, keras.layers.Layer):
        raise InvalidJob(f"{name} is no Keras layer but a {type(made).__name__}", where=where)
    return made
