"""Our own callbacks around a member's: seeds, divergence, signs of life, and the state after each epoch."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping, Sequence

import keras
import numpy as np
from keras.src.random.seed_generator import global_seed_generator

from orchestrator.training.callback_state import restore_states
from orchestrator.training.checkpoint import Snapshot
from orchestrator.training.feed import Feed, epoch_seeds
from orchestrator.training.kernels import Kernels

Logs = Mapping[str, float]


class SeedEachEpoch(keras.callbacks.Callback):  # type: ignore[misc]  # keras is untyped here
    """Starts every epoch from (member seed, epoch) alone: data order, Python's and NumPy's seed, every `SeedGenerator`.

    An epoch is then the same whether or not the process had trained the epochs before it. Between epochs Keras has its
    state in the model's variables, with JAX too: what is set here is what the first step of the epoch takes.
    """

    def __init__(self, feed: Feed, seed: int) -> None:
        super().__init__()
        self._feed = feed
        self._seed = seed

    def on_train_begin(self, logs: Logs | None = None) -> None:
        self._is_first = True
        self._kernels = Kernels(self._seed) if keras.config.backend() == "tensorflow" else None

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        self._feed.start_epoch(epoch + 1)
        if self._kernels is not None and not self._is_first:  # in the first epoch of this `fit` its kernels are new
            self._kernels.forget(self.model)
        self._is_first = False
        generators = seed_generators(self.model)  # before the seeds: making one draws from Python's
        words = epoch_seeds(self._seed, epoch + 1)
        random.seed(int(words[0]))
        np.random.seed(int(words[0]))  # the legacy global state is what user code may draw from
        for number, generator in enumerate(generators):
            generator.state.assign(np.asarray([words[1] ^ number, words[2]], dtype=generator.state.dtype))


def seed_generators(model: keras.Model) -> list[keras.random.SeedGenerator]:
    """Every seed generator of the model's layers, in layer order, then Keras' own: `keras.random` draws without a seed.

    Keras makes its own when it is first asked for: here, and not in the middle of a training step.
    """
    found: list[keras.random.SeedGenerator] = []
    for layer in model._flatten_layers():
        for generator in getattr(layer, "_seed_generators", []):
            if generator not in found:
                found.append(generator)
    shared = global_seed_generator()
    return found if shared in found else [*found, shared]


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


class Watch(keras.callbacks.Callback):  # type: ignore[misc]  # keras is untyped here
    """Looks up between batches: `check` may end the training by raising; validation gives signs of life as well."""

    def __init__(self, check: Callable[[], None], on_batch: Callable[[], None]) -> None:
        super().__init__()
        self._check = check
        self._on_batch = on_batch

    def on_train_batch_begin(self, batch: int, logs: Logs | None = None) -> None:
        self._check()

    def on_test_batch_begin(self, batch: int, logs: Logs | None = None) -> None:
        self._check()
        self._on_batch()


class KeepStates(keras.callbacks.Callback):  # type: ignore[misc]  # keras is untyped here
    """Comes last: puts callbacks' states back when all have begun, and hands each finished epoch to `keep`."""

    def __init__(
        self,
        stateful: Sequence[keras.callbacks.Callback],
        start_from: Snapshot | None,
        keep: Callable[[int, Logs], None],
    ) -> None:
        super().__init__()
        self._stateful = stateful
        self._start_from = start_from
        self._keep = keep

    def on_train_begin(self, logs: Logs | None = None) -> None:
        if self._start_from is not None:
            restore_states(self._stateful, self._start_from.callbacks)

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        self._keep(epoch + 1, {name: float(value) for name, value in (logs or {}).items()})


class TellEpochs(keras.callbacks.Callback):  # type: ignore[misc]  # keras is untyped here
    """Hands each finished epoch (1-based) with its logs to the program: history and progress."""

    def __init__(self, tell: Callable[[int, dict[str, float]], None]) -> None:
        super().__init__()
        self._tell = tell

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        self._tell(epoch + 1, {name: float(value) for name, value in (logs or {}).items()})


class PrintEpochs(keras.callbacks.ProgbarLogger):  # type: ignore[misc]  # keras is untyped here
    """What Keras prints of an epoch, when it has ended: members of a pack have theirs at the same time."""

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        self._reset_progbar()
        self._maybe_init_progbar()

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        print(f"Epoch {epoch + 1}/{self.epochs}")  # noqa: T201  # what is asked for
        super().on_epoch_end(epoch, logs)
