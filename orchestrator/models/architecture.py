"""When two models compute the same function of their weights: one program then serves both.

Configurations tell it for Keras' own layers alone. A layer, a function or a model class of the user's may do what its
configuration does not say; so a model with one of those is like no other.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import keras

_NOISE = {
    "AlphaDropout": "rate",
    "Dropout": "rate",
    "GaussianDropout": "rate",
    "GaussianNoise": "stddev",
    "SpatialDropout1D": "rate",
    "SpatialDropout2D": "rate",
    "SpatialDropout3D": "rate",
}
"""Layers that do nothing at inference, and the number that members vary."""

_CARRIES_MORE = ("adapt", "finalize_state", "save_assets")
"""Methods of layers with state outside of their variables: vocabularies, statistics kept as constants."""

_NAMED = ("keras.layers", "keras.src.layers", "keras.models", "keras.src.models", "keras.ops", "keras.src.ops")
_MODELS = ("Functional", "Model", "Sequential")
_BUILT_ON = ("build_config", "build_input_shape", "compile_config")
_CODE = ("__lambda__", "function")


class _Unknown(Exception):
    """The configuration does not tell what is computed."""


def signature(model: keras.Model) -> str | None:
    """What a model is but for names, seeds, initial values, dropout rates and the values of its weights.

    Two models with the same signature have variables of the same shapes and types in the same order, and give the same
    outputs for the same values of them, bit for bit, on one machine. Names of inputs count: data comes by them.
    Optimizer, loss and metrics are no part of it.

    Args:
        model: built.

    Returns:
        A sha256 in hex. None where nothing can be said: the model is not built, or has a layer, function or class that
        is not Keras' own, state besides its variables (an adapted vocabulary), or is random or stateful at inference.
    """
    if not model.built:
        return None
    try:
        _check_code(model)
        config = _of_object({"class_name": type(model).__name__, "module": _NAMED[0], "config": model.get_config()}, {})
        text = json.dumps([config, _variables(model.weights)], sort_keys=True, default=_plain)
    except (_Unknown, NotImplementedError, TypeError, ValueError):  # the latter: a get_config that cannot tell
        return None
    return hashlib.sha256(text.encode()).hexdigest()


def _variables(variables: Iterable[Any]) -> list[list[Any]]:
    return [[list(v.shape), str(v.dtype), bool(v.trainable)] for v in variables]


def _check_code(model: keras.Model) -> None:
    """Refuse code that is not Keras' own: in classes, and in functions that instances hold (activations)."""
    for layer in model._flatten_layers():  # with those within wrappers, cells and models
        if not _is_keras(type(layer).__module__) or type(layer).__name__ == "Lambda":
            raise _Unknown
        if any(hasattr(layer, name) and not _inherited(layer, name) for name in _CARRIES_MORE):
            raise _Unknown
        if getattr(layer, "stateful", False):
            raise _Unknown
        for name, value in vars(layer).items():
            if name == "loss":  # of a compiled model: no part of what it computes
                continue
            if callable(value) and not name.endswith("initializer") and not _is_keras(value.__module__):
                raise _Unknown


def _inherited(layer: Any, name: str) -> bool:
    """Whether a method is the empty one that every layer has."""
    import keras

    return getattr(type(layer), name, None) is getattr(keras.layers.Layer, name, ...)


def _is_keras(module: str | None) -> bool:
    return module is not None and module.partition(".")[0] == "keras"


def _of_object(entry: Mapping[str, Any], names: Mapping[str, int]) -> dict[str, Any]:
    """A serialized layer, operation, model or other object, without what does not matter."""
    kind, module = entry["class_name"], entry.get("module")
    if kind in _CODE or not (module is None or module == "builtins" or _is_keras(module)):
        raise _Unknown
    named = kind in _MODELS or (module or "").startswith(_NAMED)
    plain = {key: _value(value, names) for key, value in _kept(entry, without=("config", *_BUILT_ON, *_name(named)))}
    config = entry.get("config")
    if not isinstance(config, Mapping):
        return {**plain, "config": _value(config, names)}
    if kind == "__keras_tensor__":
        layer, *place = config["keras_history"]
        return {**plain, "config": {**config, "keras_history": [names[layer], *place]}}
    dropped = {"seed", *_BUILT_ON, *_name(named and kind != "InputLayer"), *filter(None, [_NOISE.get(kind)])}
    kept = dict(_kept(config, without=dropped))
    if "layers" in kept and "input_layers" in kept:
        return {**plain, "config": _of_graph(kept)}
    return {**plain, "config": {key: _value(value, names) for key, value in kept.items()}}


def _of_graph(config: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration of a functional model: its layers are known by their places, not by their names."""
    names = {entry["name"]: place for place, entry in enumerate(config["layers"])}
    ends = {key: _ends(config[key], names) for key in ("input_layers", "output_layers")}
    rest = {key: _value(value, names) for key, value in config.items() if key not in ends}
    return {**rest, **ends}


def _ends(value: Any, names: Mapping[str, int]) -> Any:
    """Where a graph begins or ends: any structure of `[name, node, tensor]`."""
    if isinstance(value, Mapping):
        return {key: _ends(part, names) for key, part in value.items()}
    if len(value) == 3 and isinstance(value[0], str):
        return [names[value[0]], *value[1:]]
    return [_ends(part, names) for part in value]


def _value(value: Any, names: Mapping[str, int]) -> Any:
    if isinstance(value, Mapping):
        if "class_name" in value:
            return _of_object(value, names)
        if value.get("training"):  # an argument of a call in the graph
            raise _Unknown
        return {key: _value(part, names) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_value(part, names) for part in value]
    return value


def _kept(config: Mapping[str, Any], without: Iterable[str]) -> Iterator[tuple[str, Any]]:
    return ((k, v) for k, v in config.items() if k not in without and not k.endswith("initializer"))


def _name(dropped: bool) -> tuple[str, ...]:
    return ("name",) if dropped else ()


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray | np.generic):
        return [str(value.dtype), value.shape, hashlib.sha256(np.ascontiguousarray(value).tobytes()).hexdigest()]
    raise TypeError(f"{type(value).__name__} says nothing of itself")
