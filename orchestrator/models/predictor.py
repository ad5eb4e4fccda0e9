"""Predicting with many members: one compiled program for each architecture, rows in batches.

A program is traced for one model and serves all members of that architecture: their weights are copied into its model,
one member after another. So a thousand members cost a thousand copies, not a thousand compilations.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from orchestrator.errors import InvalidModel
from orchestrator.models.architecture import signature
from orchestrator.models.outputs import predictions

if TYPE_CHECKING:
    import keras

Array = npt.NDArray[Any]
Inputs = Array | Mapping[str, Array]
Run = Callable[[Any], Any]

MAX_ROWS = 1024
"""Rows of a batch: on a CPU more are no faster. Training's batch size has no bearing on it."""

FEW_ROWS = 32
"""Fewer leave a device idle, so it takes memory for them while it has any to spare."""

GOOD_BYTES, MAX_BYTES = 8 * 2**20, 256 * 2**20
"""What the largest array of a batch, an input or a layer's output, should take (beyond a CPU's caches convolutions get
slower), and may take for the sake of `FEW_ROWS`."""

MAX_PROGRAMS = 4
"""Architectures whose programs are kept; an ensemble rarely mixes more."""


class Predictor:
    """Predicts for one member after another. Make one per process and keep it; not for several threads at once.

    Args:
        max_programs: how many architectures are kept, each with one model and its program; the one that was not used
            for longest goes first. Models that are like no other (`architecture.signature`) are not kept.
    """

    def __init__(self, max_programs: int = MAX_PROGRAMS) -> None:
        self._max_programs = max_programs
        self._programs: OrderedDict[str, tuple[keras.Model, Run]] = OrderedDict()

    @property
    def num_programs(self) -> int:
        """How many architectures are kept now."""
        return len(self._programs)

    def predict(
        self, model: keras.Model, x: Inputs, on_batch: Callable[[], None] = lambda: None
    ) -> dict[str, npt.NDArray[np.float32]]:
        """What the model predicts for all rows, bit for bit the same whichever members were predicted before.

        Args:
            model: built, holding the member's weights, with outputs [N, C]; [N, 1] for binary targets. It is the
                predictor's from now on: later members' weights may be written into it.
            x: inputs, first axis N; a dictionary by input name where there are several.
            on_batch: called after each batch, as a sign of life.

        Returns:
            By output name (`planning.outputs`) float32 [N, C]: probabilities, or the numbers of a regression. An output
            whose loss says `from_logits=True` gets the softmax or sigmoid that its loss applies, so that no logits are
            averaged.

        Raises:
            InvalidModel: outputs that cannot be told apart, or one that is no matrix.
        """
        run = self._program(model)
        parts: dict[str, list[npt.NDArray[np.float32]]] = {}
        for batch, num_rows in _batches(x, rows_per_batch(model, x)):
            for name, values in predictions(model, run(batch)).items():
                parts.setdefault(name, []).append(values[:num_rows])
            on_batch()
        return {name: np.concatenate(values) for name, values in parts.items()}

    def _program(self, model: keras.Model) -> Run:
        """The program of the model's architecture, with this model's weights in it."""
        key = signature(model)
        if key is None:
            return _compile(model)
        kept = self._programs.get(key)
        if kept is None:
            self._programs[key] = kept = (model, _compile(model))
        elif kept[0] is not model:
            for variable, own in zip(kept[0].weights, model.weights, strict=True):
                variable.assign(own)
        self._programs.move_to_end(key)
        while len(self._programs) > self._max_programs:
            self._programs.popitem(last=False)
        return kept[1]


def rows_per_batch(model: keras.Model, x: Inputs) -> int:
    """Rows of a batch, a power of two: what architecture and data allow, so it is the same for all members alike.

    Args:
        model: built.
        x: inputs, first axis N.
    """
    num_rows, row_bytes = len(next(_arrays(x))), _bytes_per_row(model, x)
    good = max(GOOD_BYTES // row_bytes, min(FEW_ROWS, MAX_BYTES // row_bytes), 1)
    return int(2 ** math.floor(math.log2(min(MAX_ROWS, good, 2 ** math.ceil(math.log2(num_rows))))))


def _bytes_per_row(model: keras.Model, x: Inputs) -> int:
    """Of the largest array: an input, or an output of a layer whose shape is known."""
    import keras

    sizes = [array[:1].nbytes for array in _arrays(x)]
    for layer in model._flatten_layers(include_self=False):
        try:
            outputs = keras.tree.flatten(layer.output)
        except (AttributeError, ValueError):  # it stands in no graph, or in several places
            continue
        sizes += [4 * math.prod(length or 1 for length in output.shape[1:]) for output in outputs]
    return max(1, *sizes)


def _batches(x: Inputs, size: int) -> Iterator[tuple[Inputs, int]]:
    """Batches of exactly `size` rows with the number that counts: the last one's row is repeated to fill it.

    Because of the one size there is one program, and no row's bits depend on what was predicted before.
    """
    num_rows = len(next(_arrays(x)))
    for start in range(0, num_rows, size):
        rows = np.minimum(np.arange(start, start + size), num_rows - 1)
        whole = start + size <= num_rows
        wanted: Any = slice(start, start + size) if whole else rows  # a slice copies nothing
        batch = {name: array[wanted] for name, array in x.items()} if isinstance(x, Mapping) else x[wanted]
        yield batch, min(size, num_rows - start)


def _arrays(x: Inputs) -> Iterator[Array]:
    return iter(x.values()) if isinstance(x, Mapping) else iter([x])


def _compile(model: keras.Model) -> Run:
    """The model's inference as a compiled function of one batch; it reads the weights anew at each call.

    Raises:
        InvalidModel: Keras runs on a backend that is not known here.
    """
    import keras

    match keras.backend.backend():
        case "tensorflow":
            call = _compile_tensorflow(model)
        case "jax":
            call = _compile_jax(model)
        case other:
            raise InvalidModel(f"no prediction with Keras' backend {other}", hint="use tensorflow or jax")

    def run(batch: Inputs) -> Any:
        outputs = call(keras.tree.map_structure(keras.ops.convert_to_tensor, batch))
        return keras.tree.map_structure(keras.ops.convert_to_numpy, outputs)

    return run


def _compile_tensorflow(model: keras.Model) -> Run:
    import tensorflow as tf

    # Keras trains and predicts without autograph too: a layer that needs it does not work there either.
    return tf.function(lambda batch: model(batch, training=False), autograph=False)  # type: ignore[no-any-return]


def _compile_jax(model: keras.Model) -> Run:
    import jax

    @jax.jit
    def infer(trainable: Any, other: Any, batch: Any) -> Any:
        return model.stateless_call(trainable, other, batch, training=False)[0]

    def call(batch: Any) -> Any:
        return infer(
            [variable.value for variable in model.trainable_variables],
            [variable.value for variable in model.non_trainable_variables],
            batch,
        )

    return call
