"""The state of callbacks: taken after each epoch, put back after `on_train_begin`, which resets it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import keras
import numpy as np

from orchestrator.errors import InvalidModel
from orchestrator.training.checkpoint import Array, CallbackState

_ATTRIBUTES: Mapping[type, tuple[str, ...]] = {
    keras.callbacks.EarlyStopping: ("wait", "stopped_epoch", "best", "best_epoch", "best_weights"),
    keras.callbacks.ModelCheckpoint: ("best", "_batches_seen_since_last_saving", "_last_batch_seen"),
    keras.callbacks.ReduceLROnPlateau: ("best", "wait", "cooldown_counter"),
    keras.callbacks.History: ("epoch", "history"),
}


def take_states(callbacks: Sequence[keras.callbacks.Callback]) -> tuple[CallbackState, ...]:
    """The state of every callback that has one, in their order.

    Raises:
        InvalidModel: a user's `get_state` returns what cannot be stored.
    """
    return tuple(state for callback in callbacks if (state := _take(callback)) is not None)


def restore_states(callbacks: Sequence[keras.callbacks.Callback], states: Sequence[CallbackState]) -> None:
    """Put states back that `take_states` took from the same callbacks.

    Raises:
        InvalidModel: the job's callbacks are others than those of the checkpoint.
    """
    stateful = [callback for callback in callbacks if _take(callback) is not None]
    if [type(callback).__name__ for callback in stateful] != [state.name for state in states]:
        raise InvalidModel(
            f"the checkpoint has the state of {', '.join(s.name for s in states)}, the job the callbacks "
            f"{', '.join(type(c).__name__ for c in stateful)}",
            where="train.callbacks",
        )
    for callback, state in zip(stateful, states, strict=True):
        values = _join(state)
        if hasattr(callback, "set_state"):
            callback.set_state(values)
        else:
            for name, value in values.items():
                setattr(callback, name, value)


def _take(callback: keras.callbacks.Callback) -> CallbackState | None:
    name = type(callback).__name__
    if hasattr(callback, "get_state") and hasattr(callback, "set_state"):
        return _split(name, callback.get_state())
    for kind, attributes in _ATTRIBUTES.items():
        if isinstance(callback, kind):
            return _split(name, {attribute: getattr(callback, attribute) for attribute in attributes})
    return None


def _split(name: str, state: Any) -> CallbackState:
    """Plain values and arrays apart; a list of arrays becomes arrays `key/0`, `key/1`, …"""
    values: dict[str, Any] = {}
    arrays: dict[str, Array] = {}
    for key, value in _checked(name, state).items():
        if isinstance(value, np.ndarray) and value.ndim > 0:
            arrays[key] = value.copy()
        elif isinstance(value, list | tuple) and any(isinstance(item, np.ndarray) for item in value):
            values[key] = {"arrays": len(value)}
            arrays |= {f"{key}/{number}": np.array(item) for number, item in enumerate(value)}
        else:
            values[key] = _plain(name, key, value)
    return CallbackState(name, values, arrays)


def _checked(name: str, state: Any) -> Mapping[str, Any]:
    if not isinstance(state, Mapping) or not all(isinstance(key, str) for key in state):
        raise InvalidModel(f"get_state of {name} must return a dictionary with text as keys", where="train.callbacks")
    return state


def _plain(name: str, key: str, value: Any) -> Any:
    """A JSON value, copied; NumPy's scalars become Python's."""
    if isinstance(value, np.ndarray | np.generic):
        return value.item()
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list | tuple):
        return [_plain(name, key, item) for item in value]
    if isinstance(value, Mapping):
        return {str(k): _plain(name, key, item) for k, item in value.items()}
    raise InvalidModel(
        f"get_state of {name} gives a {type(value).__name__} for {key!r}",
        where="train.callbacks",
        hint="numbers, text, lists, dictionaries and NumPy arrays can be stored",
    )


def _join(state: CallbackState) -> dict[str, Any]:
    return dict(_joined(state))


def _joined(state: CallbackState) -> Iterator[tuple[str, Any]]:
    for key, value in state.values.items():
        if isinstance(value, Mapping) and set(value) == {"arrays"} and f"{key}/0" in state.arrays:
            yield key, [state.arrays[f"{key}/{number}"] for number in range(value["arrays"])]
        else:
            yield key, value
    yield from ((key, array) for key, array in state.arrays.items() if "/" not in key)
