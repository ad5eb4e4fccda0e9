"""Keras objects that a job writes down as `{class_name, config}`, as briefly as people do: without their modules."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_PLACES = (
    *("layers", "regularizers", "initializers", "constraints"),
    *("optimizers.schedules", "optimizers", "losses", "metrics"),
)


def with_modules(value: Any, key: str = "") -> Any:
    """JSON values in which every object of Keras says in which module it is, so that Keras finds it.

    Args:
        value: any JSON value.
        key: of the argument that it is: `kernel_initializer` looks among initializers first, for some names stand in
            several places.
    """
    if isinstance(value, list | tuple):
        return [with_modules(item, key) for item in value]
    if not isinstance(value, Mapping):
        return value
    within = {name: with_modules(item, name) for name, item in value.items()}
    if "class_name" in value and "module" not in value:
        place = _place_of(str(value["class_name"]), key)
        return within if place is None else {**within, "module": place, "registered_name": None}
    return within


def _place_of(name: str, key: str) -> str | None:
    import keras

    for place in sorted(_PLACES, key=lambda place: not key.endswith(place.removesuffix("s"))):
        module: Any = keras
        for part in place.split("."):
            module = getattr(module, part)
        if isinstance(getattr(module, name, None), type):
            return f"keras.{place}"
    return None
