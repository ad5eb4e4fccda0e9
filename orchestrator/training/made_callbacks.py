"""The callbacks that a job asks for, fresh ones for each member: Keras' own two, others by name, the user's own."""

from __future__ import annotations

import difflib
import importlib.util
import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any, get_args

import keras

from orchestrator.errors import InvalidJob
from orchestrator.models.user_code import import_function, in_user_code
from orchestrator.spec import TrainSpec
from orchestrator.spec.base import Mode, is_reference
from orchestrator.spec.callbacks import FUNCTIONS
from orchestrator.training.checkpoint import Best
from orchestrator.training.variables import copies

_PATHS: Mapping[str, str] = {"CSVLogger": "filename", "TensorBoard": "log_dir"}
"""Arguments that name a file or folder."""

_NEEDS: Mapping[str, str] = {"RemoteMonitor": "requests", "TensorBoard": "tensorboard"}
"""Packages without which a callback is made but does nothing, or fails when training has begun."""


class BestKeeper:
    """Stands for the model towards `ModelCheckpoint`: what it saves is kept in memory, not written each time.

    A file of a small model takes 25 ms, at every epoch that improves; and a disk that fills would destroy the best
    model so far. The callback decides all the same.
    """

    def __init__(self, model: keras.Model, checkpoint: MemberCheckpoint) -> None:
        self._model = model
        self._checkpoint = checkpoint

    def save(self, filepath: str, overwrite: bool = True) -> None:
        """Keep the weights as they are now."""
        best = Best(self._checkpoint.epoch, copies(self._model.weights), copies(self._model.optimizer.variables))
        self._checkpoint.best_model = best

    save_weights = save

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)


class MemberCheckpoint(keras.callbacks.ModelCheckpoint):  # type: ignore[misc]  # keras is untyped here
    """Keras' `ModelCheckpoint`, deciding as ever; what it would write is in `best_model`.

    Attributes:
        best_model: what was kept last, or None.
        epoch: the one that runs or ended last (1-based).
    """

    best_model: Best | None = None
    epoch = 1

    def set_model(self, model: keras.Model) -> None:
        super().set_model(BestKeeper(model, self))

    def on_epoch_begin(self, epoch: int, logs: Mapping[str, float] | None = None) -> None:
        super().on_epoch_begin(epoch, logs)
        self.epoch = epoch + 1

    def on_train_batch_end(self, batch: int, logs: Mapping[str, float] | None = None) -> None:
        # Keras sets the direction at the end of an epoch: a comparison before that, as in the first epoch of a `fit`
        # that goes on, finds none.
        if self.save_freq != "epoch" and self.monitor_op is None:
            self._set_monitor_op()
        super().on_train_batch_end(batch, logs)


def make_checkpoint(train: TrainSpec, folder: Path, *, has_validation: bool) -> MemberCheckpoint:
    """The member's own `ModelCheckpoint`. Keras asks for the name that goes with weights alone."""
    name = "best.weights.h5" if train.checkpoint.save_weights_only else "best.keras"
    arguments = _arguments(train.checkpoint, has_validation)
    return MemberCheckpoint(filepath=str(folder / name), **arguments)


def make_early_stopping(train: TrainSpec, *, has_validation: bool) -> keras.callbacks.EarlyStopping | None:
    """The member's own `EarlyStopping`, or None where the job switches it off."""
    if train.early_stopping is None:
        return None
    return keras.callbacks.EarlyStopping(**_arguments(train.early_stopping, has_validation))


def stopped_epoch(early_stopping: keras.callbacks.EarlyStopping | None) -> int | None:
    """The 1-based epoch at which training stopped early, or None (Keras: from 0, and 0 means that it did not)."""
    if early_stopping is None or not early_stopping.stopped_epoch:
        return None
    return int(early_stopping.stopped_epoch) + 1


def in_order(
    checkpoint: MemberCheckpoint,
    early_stopping: keras.callbacks.EarlyStopping | None,
    further: Sequence[keras.callbacks.Callback],
) -> list[keras.callbacks.Callback]:
    """A member's callbacks as they are called: the two, then the others.

    But `SwapEMAWeights` first: what is kept as the best model is then what was validated, the averaged weights.
    """
    swaps = [callback for callback in further if isinstance(callback, keras.callbacks.SwapEMAWeights)]
    others = [callback for callback in further if callback not in swaps]
    return [*swaps, checkpoint, *([early_stopping] if early_stopping else []), *others]


def make_callbacks(train: TrainSpec, files: Path, *, has_validation: bool) -> list[keras.callbacks.Callback]:
    """Fresh copies of the job's further callbacks, in their order.

    Args:
        train: the job's `train:` settings.
        files: the attempt's folder, made where somebody wants it: paths of `CSVLogger` and `TensorBoard` lie in it, and
            a user's class whose constructor takes `folder` is given it.
        has_validation: what `ReduceLROnPlateau` watches by default: `val_loss`, or else `loss`.

    Raises:
        InvalidJob: there is no such callback, it refuses its arguments, or a path leads out of the folder.
    """
    return [_make(f"train.callbacks.{i}", asked, files, has_validation) for i, asked in enumerate(train.callbacks)]


def _make(place: str, asked: Any, files: Path, has_validation: bool) -> keras.callbacks.Callback:
    name, config = (asked, {}) if isinstance(asked, str) else (asked.class_name, dict(asked.config))
    where = f"{place}: {name}"
    cls = _class(name, where)
    if name == "ReduceLROnPlateau":
        config.setdefault("monitor", "val_loss" if has_validation else "loss")
    if not is_reference(name):
        _check_arguments(cls, config, where)
    _check_installed(name, where)
    if name == "TensorBoard":
        config.setdefault("log_dir", "logs")
    config |= {
        argument: import_function(config[argument]) for argument in FUNCTIONS.get(name, ()) if argument in config
    }
    if _PATHS.get(name) in config:
        config[_PATHS[name]] = _inside(files, config[_PATHS[name]], where=f"{where}, {_PATHS[name]}")
    try:
        if is_reference(name) and "folder" in inspect.signature(cls).parameters:
            files.mkdir(parents=True, exist_ok=True)
            config.setdefault("folder", str(files))
        return cls(**config)
    except Exception as error:
        told = f"{where}, {in_user_code(error, name)}" if is_reference(name) else where
        raise InvalidJob(f"it cannot be made: {type(error).__name__}: {error}", where=told) from error


def _class(name: str, where: str) -> type[keras.callbacks.Callback]:
    cls = import_function(name) if is_reference(name) else getattr(keras.callbacks, name, None)
    if isinstance(cls, type) and issubclass(cls, keras.callbacks.Callback):
        return cls
    raise InvalidJob("this is no Keras callback", where=where, hint="derive your class from keras.callbacks.Callback")


def _check_arguments(cls: type[keras.callbacks.Callback], config: Mapping[str, Any], where: str) -> None:
    """Refuse what a callback of Keras would pass over in silence: some take any argument, and any text as `mode`."""
    known = [name for name, each in inspect.signature(cls).parameters.items() if each.kind is not each.VAR_KEYWORD]
    unknown = [name for name in config if name not in known]
    if unknown:
        close = difflib.get_close_matches(unknown[0], known, n=1, cutoff=0.6)
        hint = f"did you mean {close[0]}?" if close else f"it takes {', '.join(known) or 'none'}"
        raise InvalidJob(f"it has no argument {unknown[0]!r}", where=where, hint=hint)
    if config.get("mode", "auto") not in get_args(Mode):
        wrong = config["mode"]
        raise InvalidJob(f"the mode {wrong!r} is none", where=where, hint=f"there are {', '.join(get_args(Mode))}")


def _check_installed(name: str, where: str) -> None:
    package = _NEEDS.get(name)
    if package is not None and importlib.util.find_spec(package) is None:
        raise InvalidJob(
            f"Keras' {name} needs the package {package}, which is not installed here",
            where=where,
            hint=f"install {package} where the workers run",
        )


def _inside(files: Path, value: Any, where: str) -> str:
    """The path within the attempt's folder; the folder that it stands in is there afterwards."""
    if not isinstance(value, str) or PurePath(value).is_absolute() or ".." in PurePath(value).parts:
        raise InvalidJob(
            f"this must be a relative path, not {value!r}",
            where=where,
            hint="it lies in the attempt's folder, which goes to storage: name a file or folder in it",
        )
    path = files / value
    path.parent.mkdir(parents=True, exist_ok=True)
    return str(path)


def _arguments(settings: Any, has_validation: bool) -> dict[str, Any]:
    """Keras' own arguments; the default monitor follows whether there is anything to validate on."""
    arguments = dict(settings.model_dump())
    if arguments["monitor"] is None:
        arguments["monitor"] = "val_loss" if has_validation else "loss"
    return arguments
