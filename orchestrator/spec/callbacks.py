"""Which of Keras' callbacks a job may name, and why not the others. Static, for Keras is not imported here."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping

from orchestrator.spec.base import KerasObject, is_reference

KERAS_CALLBACKS = (
    "CSVLogger",
    "LambdaCallback",
    "LearningRateScheduler",
    "ReduceLROnPlateau",
    "RemoteMonitor",
    "SwapEMAWeights",
    "TensorBoard",
    "TerminateOnNaN",
)

_KERAS_MODULES = ("keras.callbacks", "tensorflow.keras.callbacks", "tf_keras.callbacks")

_OURS = "is not needed: every member is checkpointed, and goes on from there exactly as if nothing had happened"
_HOOKS = ("on_epoch_begin", "on_epoch_end", "on_train_begin", "on_train_end")
FUNCTIONS = {
    "LambdaCallback": (*_HOOKS, "on_train_batch_begin", "on_train_batch_end"),
    "LearningRateScheduler": ("schedule",),
}
"""Arguments of Keras' callbacks that are functions: in a job `module:function`."""

_REFUSED = {
    "EarlyStopping": "has a key of its own: train.early_stopping",
    "ModelCheckpoint": "has a key of its own: train.checkpoint",
    "BackupAndRestore": _OURS,
    "OrbaxCheckpoint": _OURS,
    "History": "is not needed: the history of every member is kept",
    "ProgbarLogger": "has a key of its own: train.verbose",
    "Callback": "does nothing: name a class that is derived from it",
    "CallbackList": "is no callback: name each one",
}


def callback_name(callback: str | KerasObject) -> str:
    """Its class: one of `KERAS_CALLBACKS`, or `module:Class`."""
    return callback if isinstance(callback, str) else callback.class_name


def references_of(callback: str | KerasObject) -> Iterator[str]:
    """What it names of the job's own modules: its class, or functions that a callback of Keras is given."""
    name = callback_name(callback)
    if is_reference(name):
        yield name
    config = {} if isinstance(callback, str) else callback.config
    yield from (str(config[argument]) for argument in FUNCTIONS.get(name, ()) if argument in config)


def wrong_callback(callback: str | KerasObject) -> str | None:
    """What is wrong with the name, or with functions that it needs, in words that follow it; None where nothing is."""
    name = callback_name(callback)
    module, _, own = name.partition(":")
    if module in _KERAS_MODULES:
        return wrong_callback(own) or f"{name} is Keras' own: name it without its module, as {own}"
    if name in FUNCTIONS:
        return _wrong_functions(name, {} if isinstance(callback, str) else callback.config)
    if name in KERAS_CALLBACKS or is_reference(name):
        return None
    if name in _REFUSED:
        return f"{name} {_REFUSED[name]}"
    close = difflib.get_close_matches(name, [*KERAS_CALLBACKS, *_REFUSED], n=1, cutoff=0.5)
    means = f"did you mean {close[0]}?" if close else f"there are {', '.join(KERAS_CALLBACKS)}"
    return f"{name!r} is no callback of Keras: {means} Yours are named as module:Class"


def _wrong_functions(name: str, config: Mapping[str, object]) -> str | None:
    given = {argument: config[argument] for argument in FUNCTIONS[name] if argument in config}
    wrong = [argument for argument, value in given.items() if not is_reference(str(value))]
    if wrong:
        return f"{name} takes a function as {wrong[0]}: name one of yours as module:function"
    if not given:
        return f"{name} needs a function as {' or '.join(FUNCTIONS[name])}: name one of yours as module:function"
    known = (*FUNCTIONS[name], "verbose") if name == "LearningRateScheduler" else FUNCTIONS[name]
    unknown = [argument for argument in config if argument not in known]
    return f"{name} has no argument {unknown[0]}: it takes {', '.join(known)}" if unknown else None
