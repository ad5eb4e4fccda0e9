"""The callbacks of one member: Keras' own two, made from the job's settings, and ours around them."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np

from orchestrator.spec import TrainSpec
from orchestrator.training.feed import Feed

Logs = Mapping[str, float]


def make_checkpoint(train: TrainSpec, folder: Path, *, has_validation: bool) -> keras.callbacks.ModelCheckpoint:
    """The member's own `ModelCheckpoint`, writing to local scratch. Keras asks for the name with weights alone."""
    name = "best.weights.h5" if train.checkpoint.save_weights_only else "best.keras"
    arguments = _arguments(train.checkpoint, has_validation)
    return keras.callbacks.ModelCheckpoint(filepath=str(folder / name), **arguments)


def make_early_stopping(train: TrainSpec, *, has_validation: bool) -> keras.callbacks.EarlyStopping | None:
    """The member's own `EarlyStopping`, or None where the job switches it off."""
    if train.early_stopping is None:
        return None
    return keras.callbacks.EarlyStopping(**_arguments(train.early_stopping, has_validation))


def _arguments(settings: Any, has_validation: bool) -> dict[str, Any]:
    """Keras' own arguments; the default monitor follows whether there is anything to validate on."""
    arguments = dict(settings.model_dump())
    if arguments["monitor"] is None:
        arguments["monitor"] = "val_loss" if has_validation else "loss"
    return arguments


def stopped_epoch(early_stopping: keras.callbacks.EarlyStopping | None) -> int | None:
    """The 1-based epoch at which training stopped early, or None (Keras: from 0, and 0 means that it did not)."""
    if early_stopping is None or not early_stopping.stopped_epoch:
        return None
    return int(early_stopping.stopped_epoch) + 1


class SeedEachEpoch(keras.callbacks.Callback):  # type: ignore[misc]  # keras is untyped here
    """Starts every epoch from (member seed, epoch) alone: data order, Python's and NumPy's seed, every `SeedGenerator`.

    An epoch is then the same whether or not the process had trained the epochs before it. TensorFlow's own global seed
    is set once, before the build: setting it drops TensorFlow's compiled kernels (0.1 s per epoch and function), and
    no stock layer of Keras draws from it.
    """

    def __init__(self, feed: Feed, seed: int) -> None:
        super().__init__()
        self._feed = feed
        self._seed = seed

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        self._feed.start_epoch(epoch + 1)
        words = np.random.SeedSequence(self._seed, spawn_key=(epoch + 1,)).generate_state(3)
        random.seed(int(words[0]))
        np.random.seed(int(words[0]))  # the legacy global state is what user code may draw from
        for number, generator in enumerate(seed_generators(self.model)):
            generator.state.assign(np.asarray([words[1] ^ number, words[2]], dtype=generator.state.dtype))


def seed_generators(model: keras.Model) -> list[keras.random.SeedGenerator]:
    """Every seed generator of the model's layers, in layer order."""
    found: list[keras.random.SeedGenerator] = []
    for layer in model._flatten_layers():
        for generator in getattr(layer, "_seed_generators", []):
            if generator not in found:
                found.append(generator)
    return found


class StopOnDivergence(keras.callbacks.Callback):  # type: ignore[misc]  # keras is untyped here
    """Ends the member at the first epoch whose loss is NaN or infinite, and says at which learning rate.

    It runs before `ModelCheckpoint` and raises: nothing of a diverged epoch is kept.
    """

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        bad = {k: float(v) for k, v in (logs or {}).items() if k.endswith("loss") and not math.isfinite(v)}
        if bad:
            rate = float(keras.ops.convert_to_numpy(self.model.optimizer.learning_rate))
            name, value = next(iter(bad.items()))
            raise Diverged(f"{name} became {value} in epoch {epoch + 1} at learning rate {rate:g}")


class Diverged(Exception):  # a state of the member, not an error of ours
    """The member's loss is no longer a number."""


class TellEpochs(keras.callbacks.Callback):  # type: ignore[misc]  # keras is untyped here
    """Hands each finished epoch (1-based) with its logs to the program: history and progress."""

    def __init__(self, tell: Callable[[int, dict[str, float]], None]) -> None:
        super().__init__()
        self._tell = tell

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        self._tell(epoch + 1, {name: float(value) for name, value in (logs or {}).items()})
