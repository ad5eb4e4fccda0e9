"""Which of Keras' callbacks a job may name, and why not the others. Static, for Keras is not imported here."""

from __future__ import annotations

import difflib

from orchestrator.spec.base import KerasObject
from orchestrator.spec.members import is_reference

KERAS_CALLBACKS = (
    "CSVLogger",
    "ReduceLROnPlateau",
    "RemoteMonitor",
    "SwapEMAWeights",
    "TensorBoard",
    "TerminateOnNaN",
)

_OURS = "is not needed: every member is checkpointed, and goes on from there exactly as if nothing had happened"
_NEEDS_FUNCTIONS = (
    "takes functions, which a job file cannot hold: write a class derived from keras.callbacks.Callback in a module of "
    "yours, and name it as module:Class"
)
_REFUSED = {
    "EarlyStopping": "has a key of its own: train.early_stopping",
    "ModelCheckpoint": "has a key of its own: train.checkpoint",
    "BackupAndRestore": _OURS,
    "OrbaxCheckpoint": _OURS,
    "LambdaCallback": _NEEDS_FUNCTIONS,
    "LearningRateScheduler": _NEEDS_FUNCTIONS,
    "History": "is not needed: the history of every member is kept",
    "ProgbarLogger": "is not needed: the progress of all members is shown",
    "Callback": "does nothing: name a class that is derived from it",
    "CallbackList": "is no callback: name each one",
}


def callback_name(callback: str | KerasObject) -> str:
    """Its class: one of `KERAS_CALLBACKS`, or `module:Class`."""
    return callback if isinstance(callback, str) else callback.class_name


def wrong_callback(callback: str | KerasObject) -> str | None:
    """What is wrong with the name, in words that follow it; None where nothing is."""
    name = callback_name(callback)
    if name in KERAS_CALLBACKS or is_reference(name):
        return None
    if name in _REFUSED:
        return f"{name} {_REFUSED[name]}"
    close = difflib.get_close_matches(name, [*KERAS_CALLBACKS, *_REFUSED], n=1, cutoff=0.5)
    means = f"did you mean {close[0]}?" if close else f"there are {', '.join(KERAS_CALLBACKS)}"
    return f"{name!r} is no callback of Keras: {means} Yours are named as module:Class"
