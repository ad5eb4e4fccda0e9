"""The preflight's look at callbacks: they can be made, watch something that is there, and suit the optimizer."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import keras

from orchestrator.errors import InvalidJob
from orchestrator.models.first_batch import first_line
from orchestrator.spec import TrainSpec
from orchestrator.training.callback_state import take_states
from orchestrator.training.made_callbacks import make_callbacks, make_checkpoint, make_early_stopping

_SET_THE_RATE = (keras.callbacks.LearningRateScheduler, keras.callbacks.ReduceLROnPlateau)


def check_callbacks(
    train: TrainSpec, model: keras.Model, names: Sequence[str], *, has_validation: bool
) -> Sequence[keras.callbacks.Callback]:
    """Make all callbacks of a member once, and refuse what would fail when training has begun.

    Args:
        train: the member's settings.
        model: compiled, its optimizer built.
        names: of its loss and metrics.
        has_validation: whether there are validation rows.

    Returns:
        The further ones, of `train.callbacks`.

    Raises:
        InvalidJob: one cannot be made, watches what is not there, or does not suit the optimizer.
        InvalidModel: the state of one cannot be stored.
    """
    with TemporaryDirectory() as folder:
        files = Path(folder)
        callbacks = make_callbacks(train, files / "files", has_validation=has_validation)
        take_states(callbacks)
        further = _by_key(callbacks)
        _check_monitors(train, further, names, has_validation=has_validation)
        watching = dict(further)
        with _refused_by_keras("train.checkpoint"):
            watching["train.checkpoint"] = make_checkpoint(train, files, has_validation=has_validation)
        with _refused_by_keras("train.early_stopping"):
            watching["train.early_stopping"] = make_early_stopping(train, has_validation=has_validation)
    for key, callback in watching.items():
        _check_optimizer(key, callback, model.optimizer)
        if hasattr(callback, "_set_monitor_op"):
            with _refused_by_keras(key):
                callback.set_model(model)
                knows = _knows_what_is_better(callback)
            if not knows:
                raise InvalidJob(
                    f"Keras cannot tell whether more or less of {callback.monitor!r} is better",
                    where=key,
                    hint="say which: `mode: max` or `mode: min`",
                )
    return callbacks


def _knows_what_is_better(callback: Any) -> bool:
    """Keras knows it of the loss and of the metrics of an only output."""
    try:
        callback._set_monitor_op()
    except ValueError:
        if callback.mode != "auto":
            raise
        return False
    return True


def made_callbacks(train: TrainSpec, *, has_validation: bool) -> Sequence[keras.callbacks.Callback]:
    """A member's further callbacks, to be looked at alone: their files have no folder. Raises as `make_callbacks`."""
    with TemporaryDirectory() as folder:
        return make_callbacks(train, Path(folder) / "files", has_validation=has_validation)


def watches_known(train: TrainSpec, names: Iterable[str], *, has_validation: bool) -> bool:
    """Whether all that a member's callbacks watch is among these losses and metrics. Raises as `make_callbacks`."""
    known = _known(names, has_validation)
    further = _by_key(made_callbacks(train, has_validation=has_validation))
    return all(monitor in known for _, monitor in _monitors(train, further))


def _known(names: Iterable[str], has_validation: bool) -> list[str]:
    """All that can be watched where these are the losses and metrics."""
    names = list(names)
    return [*names, *(f"val_{name}" for name in names if has_validation)]


def _by_key(callbacks: Sequence[keras.callbacks.Callback]) -> dict[str, keras.callbacks.Callback]:
    return {f"train.callbacks.{number}": callback for number, callback in enumerate(callbacks)}


def _check_monitors(
    train: TrainSpec, further: Mapping[str, keras.callbacks.Callback], names: Sequence[str], *, has_validation: bool
) -> None:
    known = _known(names, has_validation)
    for key, monitor in _monitors(train, further):
        if monitor not in known:
            raise InvalidJob(
                f"there is nothing called {monitor!r} to monitor",
                where=key,
                hint=f"there are: {', '.join(known)}"
                + ("" if has_validation else "; without a validation set there is nothing that begins with val_"),
            )
    checkpoint = train.checkpoint
    at_batches = checkpoint.save_freq != "epoch" and checkpoint.save_best_only
    if at_batches and (checkpoint.monitor or ("val_loss" if has_validation else "loss")).startswith("val_"):
        raise InvalidJob(
            "save_freq counts batches, but validation figures are known only at the end of an epoch",
            where="train.checkpoint.save_freq",
            hint="use save_freq: epoch, or a monitor of the training data such as loss",
        )


def _monitors(train: TrainSpec, further: Mapping[str, keras.callbacks.Callback]) -> Iterator[tuple[str, str]]:
    """What is watched, by the key that says so: by the two, and by whatever else has a `monitor`."""
    for key, settings in (("early_stopping", train.early_stopping), ("checkpoint", train.checkpoint)):
        if settings is not None and settings.monitor is not None:
            yield f"train.{key}.monitor", settings.monitor
    for key, callback in further.items():
        monitor = getattr(callback, "monitor", None)
        if isinstance(monitor, str):
            yield f"{key}.config.monitor", monitor


def _check_optimizer(key: str, callback: keras.callbacks.Callback, optimizer: Any) -> None:
    inner = getattr(optimizer, "inner_optimizer", optimizer)
    several = getattr(inner, "optimizers", [inner])
    if isinstance(callback, keras.callbacks.SwapEMAWeights) and not any(each.use_ema for each in several):
        raise InvalidJob(
            "SwapEMAWeights needs an optimizer that averages weights",
            where=key,
            hint="set train.optimizer to {class_name: Adam, config: {use_ema: true}}, or compile with such a one",
        )
    by_schedule = [each for each in several if not isinstance(each._learning_rate, keras.Variable)]
    if isinstance(callback, _SET_THE_RATE) and by_schedule:
        raise InvalidJob(
            f"{type(callback).__name__} sets the learning rate, which a schedule gives",
            where=key,
            hint="give the optimizer a number as learning rate, or leave the callback out",
        )


@contextmanager
def _refused_by_keras(key: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        raise InvalidJob(f"Keras refuses these settings: {first_line(error)}", where=key) from error
