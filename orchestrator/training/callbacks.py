"""The callbacks of one member: Keras' own and the user's, made from the job's settings, and ours around them."""

from __future__ import annotations

import inspect
import math
import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from orchestrator.errors import InvalidJob
from orchestrator.models.build import import_function
from orchestrator.spec import TrainSpec
from orchestrator.spec.members import is_reference
from orchestrator.training.callback_state import restore_states
from orchestrator.training.checkpoint import Array, Best, Snapshot
from orchestrator.training.feed import Feed

Logs = Mapping[str, float]


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

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        super().on_epoch_begin(epoch, logs)
        self.epoch = epoch + 1


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


def make_callbacks(train: TrainSpec, files: Path) -> list[keras.callbacks.Callback]:
    """Fresh copies of the job's further callbacks, in their order.

    Args:
        train: the job's `train:` settings.
        files: the attempt's folder: relative paths of `CSVLogger` and `TensorBoard` lie in it, and a user's class whose
            constructor takes `folder` is given it.

    Raises:
        InvalidJob: there is no such callback, or it refuses its arguments.
    """
    return [_make_callback(number, asked, files) for number, asked in enumerate(train.callbacks)]


def _make_callback(number: int, asked: Any, files: Path) -> keras.callbacks.Callback:
    name, config = (asked, {}) if isinstance(asked, str) else (asked.class_name, dict(asked.config))
    where = f"train.callbacks.{number}: {name}"
    cls = import_function(name) if is_reference(name) else getattr(keras.callbacks, name, None)
    if not (isinstance(cls, type) and issubclass(cls, keras.callbacks.Callback)):
        raise InvalidJob(
            "this is no Keras callback", where=where, hint="name a class of keras.callbacks, or module:Class"
        )
    parameters = inspect.signature(cls).parameters
    if is_reference(name) and "folder" in parameters:
        files.mkdir(exist_ok=True)
        config["folder"] = str(files)
    for argument in _PATHS.get(name, ()):
        path = Path(config.get(argument, "logs"))
        if path.is_absolute() or ".." in path.parts:
            raise InvalidJob(
                f"{argument} must be a relative path, not {str(path)!r}",
                where=where,
                hint="it lies in the attempt's folder, which goes to storage",
            )
        files.mkdir(exist_ok=True)
        config[argument] = str(files / path)
    try:
        return cls(**config)
    except Exception as error:
        raise InvalidJob(f"it cannot be made: {type(error).__name__}: {error}", where=where) from error


_PATHS: Mapping[str, tuple[str, ...]] = {"CSVLogger": ("filename",), "TensorBoard": ("log_dir",)}


def copies(variables: Sequence[Any]) -> tuple[Array, ...]:
    """The values of variables, in arrays that no later step writes to."""
    return tuple(np.array(keras.ops.convert_to_numpy(variable)) for variable in variables)


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
    no stock layer of Keras draws from it. Only where the user's own code does (`tf.random.normal` in a layer) the
    kernels, which remember how much they have drawn, are dropped at each epoch.
    """

    def __init__(self, feed: Feed, seed: int) -> None:
        super().__init__()
        self._feed = feed
        self._seed = seed

    def on_train_begin(self, logs: Logs | None = None) -> None:
        self._is_first = True
        self._draws = False

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        self._feed.start_epoch(epoch + 1)
        if not self._is_first:  # in the first epoch of this `fit` its functions are new, and so are their kernels
            self._draws = self._draws or draws_by_state(self.model.train_function)
            if self._draws:
                tf.random.set_seed(self._seed)  # drops kernels, and with them what they have drawn so far
        self._is_first = False
        words = np.random.SeedSequence(self._seed, spawn_key=(epoch + 1,)).generate_state(3)
        random.seed(int(words[0]))
        np.random.seed(int(words[0]))  # the legacy global state is what user code may draw from
        for number, generator in enumerate(seed_generators(self.model)):
            generator.state.assign(np.asarray([words[1] ^ number, words[2]], dtype=generator.state.dtype))


_STATEFUL_DRAWS = frozenset(
    {
        *("Multinomial", "ParameterizedTruncatedNormal", "RandomGamma", "RandomPoisson", "RandomPoissonV2"),
        *("RandomShuffle", "RandomStandardNormal", "RandomUniform", "RandomUniformInt", "TruncatedNormal"),
        *("RandomCrop", "SampleDistortedBoundingBox", "SampleDistortedBoundingBoxV2"),
    }
)
"""TensorFlow's random operations whose state lives in their kernel."""


def draws_by_state(train_function: Callable[..., Any]) -> bool:
    """Whether a traced training function draws random numbers from the state of kernels; true where that is not known.

    Keras keeps the traced functions in the closure of `model.train_function`.
    """
    inner = inspect.getclosurevars(train_function).nonlocals.values()
    traced = [each for each in inner if hasattr(each, "_list_all_concrete_functions")]
    graphs = [concrete.graph.as_graph_def() for each in traced for concrete in each._list_all_concrete_functions()]
    if not graphs:
        return True
    bodies = [graph.node for graph in graphs] + [body.node_def for graph in graphs for body in graph.library.function]
    return any(node.op in _STATEFUL_DRAWS for nodes in bodies for node in nodes)


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
