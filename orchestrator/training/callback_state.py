"""The state of callbacks: taken after each epoch, put back after `on_train_begin`, which resets it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np

from orchestrator.errors import InvalidModel
from orchestrator.training.checkpoint import Array, CallbackState
from orchestrator.training.variables import storable

_ATTRIBUTES: Mapping[type, tuple[str, ...]] = {
    keras.callbacks.EarlyStopping: ("wait", "stopped_epoch", "best", "best_epoch", "best_weights"),
    keras.callbacks.ModelCheckpoint: ("best", "_batches_seen_since_last_saving", "_last_batch_seen"),
    keras.callbacks.ReduceLROnPlateau: ("best", "wait", "cooldown_counter"),
    keras.callbacks.History: ("epoch", "history"),
    keras.callbacks.SwapEMAWeights: ("_ema_weights_in_model",),
}


def take_states(callbacks: Sequence[keras.callbacks.Callback]) -> tuple[CallbackState, ...]:
    """The state of every callback that has one, in their order. A tuple in it comes back as a list.

    Raises:
        InvalidModel: a user's `get_state` returns what cannot be stored.
    """
    return tuple(_take(callback) for callback in callbacks if _has_state(callback))


def restore_states(callbacks: Sequence[keras.callbacks.Callback], states: Sequence[CallbackState]) -> None:
    """Put states back that `take_states` took from the same callbacks.

    Raises:
        InvalidModel: the job's callbacks are others than those of the checkpoint.
    """
    stateful = [callback for callback in callbacks if _has_state(callback)]
    if [type(callback).__name__ for callback in stateful] != [state.name for state in states]:
        raise InvalidModel(
            f"the checkpoint has the state of {', '.join(s.name for s in states)}, the job the callbacks "
            f"{', '.join(type(c).__name__ for c in stateful)}",
            where="train.callbacks",
        )
    for callback, state in zip(stateful, states, strict=True):
        values = {key: _join(value, key, state.arrays) for key, value in state.values.items()}
        if _offers_state(callback):
            callback.set_state(values)
        else:
            for name, value in values.items():
                setattr(callback, name, value)


def _offers_state(callback: keras.callbacks.Callback) -> bool:
    return hasattr(callback, "get_state") and hasattr(callback, "set_state")


def _has_state(callback: keras.callbacks.Callback) -> bool:
    return _offers_state(callback) or isinstance(callback, tuple(_ATTRIBUTES))


def _take(callback: keras.callbacks.Callback) -> CallbackState:
    name = type(callback).__name__
    if _offers_state(callback):
        state = callback.get_state()
    else:
        attributes = next(names for kind, names in _ATTRIBUTES.items() if isinstance(callback, kind))
        state = {name: getattr(callback, name, None) for name in attributes}  # before `fit` some are not there yet
    arrays: dict[str, Array] = {}
    try:
        if not isinstance(state, Mapping):
            raise TypeError(f"a {type(state).__name__}, and not a dictionary")
        values = {_text(key): _split(value, key, arrays) for key, value in state.items()}
    except TypeError as error:
        raise InvalidModel(
            f"get_state of {name} returns what cannot be stored: {error}",
            where="train.callbacks",
            hint="a dictionary with text as keys can be stored; numbers, text, lists, dictionaries and arrays in it",
        ) from error
    return CallbackState(name, values, arrays)


def _split(value: Any, path: str, arrays: dict[str, Array]) -> Any:
    """A copy of a JSON value; each array or NumPy number in it goes to `arrays`, and its path stands in its place."""
    if isinstance(value, np.ndarray | np.generic):
        if path in arrays:
            raise TypeError(f"two arrays at {path!r}")
        arrays[path] = storable(np.asarray(value))
        return {"array": path}
    if isinstance(value, list | tuple):
        return [_split(item, f"{path}/{number}", arrays) for number, item in enumerate(value)]
    if isinstance(value, Mapping):
        return {_text(key): _split(item, f"{path}/{key}", arrays) for key, item in value.items()}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"a {type(value).__name__} at {path!r}")


def _join(value: Any, path: str, arrays: Mapping[str, Array]) -> Any:
    """What `_split` took apart."""
    if value == {"array": path} and path in arrays:
        return arrays[path] if arrays[path].ndim else arrays[path][()]  # a NumPy number is an array without axes
    if isinstance(value, list):
        return [_join(item, f"{path}/{number}", arrays) for number, item in enumerate(value)]
    if isinstance(value, Mapping):
        return {key: _join(item, f"{path}/{key}", arrays) for key, item in value.items()}
    return value


def _text(key: Any) -> str:
    if not isinstance(key, str):
        raise TypeError(f"the key {key!r}, which is no text")
    return key
