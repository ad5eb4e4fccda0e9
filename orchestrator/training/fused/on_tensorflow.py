"""The pack's programs on Keras' TensorFlow backend: `vectorized_map` over the members, one XLA loop over the steps."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from orchestrator.models.outputs import in_models_form
from orchestrator.training.checkpoint import Array
from orchestrator.training.data import Split
from orchestrator.training.feed import fit_arguments
from orchestrator.training.fused.program import Leaves, Logs
from orchestrator.training.fused.stateless import StatelessMember

_ALIGNED = 64
"""TensorFlow's kernels want memory to begin at a multiple of so many bytes."""


class TensorFlowProgram:
    """See `Program`."""

    def __init__(self, member: StatelessMember, num_rows: int, batch_size: int, validation_batch: int) -> None:
        self.member, self.num_rows = member, num_rows
        self._batch_size, self._validation_batch = batch_size, validation_batch
        self._compiled: dict[tuple[str, int], Callable[..., Any]] = {}

    def put(self, array: Array) -> Any:
        return tf.constant(array)

    def put_data(self, split: Split) -> Any:
        form = partial(in_models_form, self.member.model)
        return tuple(keras.tree.map_structure(_shared, part) for part in fit_arguments(split, form))

    def get(self, leaves: Sequence[Any]) -> list[Array]:
        return [np.array(leaf.numpy()) for leaf in leaves]

    def train(
        self, state: Leaves, metrics: Leaves, data: Any, order: Any, size: int, steps: tuple[int, int], active: Any
    ) -> tuple[Leaves, Leaves, Logs]:
        run = self._function("train", size, self._train_steps)
        result: tuple[Leaves, Leaves, Logs] = run(state, metrics, data, order, *_numbers(steps), active)
        return result

    def test(self, state: Leaves, metrics: Leaves, data: Any, size: int, steps: tuple[int, int]) -> tuple[Leaves, Logs]:
        result: tuple[Leaves, Logs] = self._function("test", size, self._test_steps)(
            state, metrics, data, *_numbers(steps)
        )
        return result

    def _function(self, name: str, size: int, steps: Callable[..., Any]) -> Callable[..., Any]:
        if (name, size) not in self._compiled:
            # TensorFlow counts traces by a function's code, and would warn of the fifth program as of one traced five
            # times; a partial function has no code, and is counted by itself.
            self._compiled[name, size] = tf.function(partial(_trace, steps, size), jit_compile=True, autograph=False)
        return self._compiled[name, size]

    def _train_steps(
        self, size: int, state: Leaves, metrics: Leaves, data: Any, order: Any, start: Any, stop: Any, active: Any
    ) -> tuple[Leaves, Leaves, Logs]:
        def step(number: Any, state: Leaves, metrics: Leaves) -> tuple[Any, Leaves, Leaves]:
            rows = tf.slice(order, [0, number * self._batch_size], [self.num_rows, size])
            batch = tf.nest.map_structure(lambda array: tf.gather(array, rows), data)
            return number + 1, *tf.vectorized_map(self._step, (state, metrics, batch))

        _, trained, metrics = tf.while_loop(lambda number, *_: number < stop, step, (start, list(state), list(metrics)))
        kept = [tf.where(_like(active, new), new, old) for new, old in zip(trained, state, strict=True)]
        return kept, metrics, tf.vectorized_map(self.member.results, metrics)

    def _step(self, arguments: Any) -> tuple[Leaves, Leaves]:
        member = self.member
        state, metrics, (x, y, *weights) = arguments
        w = weights[0] if weights else None
        first, second = len(member.trainable), len(member.trainable) + len(member.rest)
        trainable, rest, optimizer = state[:first], state[first:second], state[second:]
        with tf.GradientTape() as tape:
            tape.watch(trainable)
            loss, (y_pred, rest, metrics) = member.loss(trainable, rest, metrics, x, y, w, training=True)
        # Of embeddings they are slices; of weights that the loss does not reach there are none.
        gradients = [None if each is None else tf.convert_to_tensor(each) for each in tape.gradient(loss, trainable)]
        trainable, optimizer = member.apply(optimizer, gradients, trainable)
        return [*trainable, *rest, *optimizer], member.update_metrics(metrics, loss, x, y, y_pred, w)

    def _test_steps(
        self, size: int, state: Leaves, metrics: Leaves, data: Any, start: Any, stop: Any
    ) -> tuple[Leaves, Logs]:
        member = self.member
        first, second = len(member.trainable), len(member.trainable) + len(member.rest)

        def step(number: Any, metrics: Leaves) -> tuple[Any, Leaves]:
            begin = number * self._validation_batch
            x, y, *weights = tf.nest.map_structure(lambda array: _part(array, begin, size), data)

            def score(arguments: Any) -> Leaves:
                trainable, rest, metrics = arguments
                return member.test_batch(trainable, rest, metrics, x, y, weights[0] if weights else None)

            return number + 1, tf.vectorized_map(score, (state[:first], state[first:second], metrics))

        _, metrics = tf.while_loop(lambda number, _: number < stop, step, (start, list(metrics)))
        return metrics, tf.vectorized_map(member.results, metrics)


def _trace(steps: Callable[..., Any], size: int, *arguments: Any) -> Any:
    """Runs while a function is traced, not when it is called."""
    with _quiet():
        return steps(size, *arguments)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the warning that random numbers are drawn member by member: it says nothing to the user."""
    log = tf.get_logger()
    level = log.level
    log.setLevel("ERROR")
    try:
        yield
    finally:
        log.setLevel(level)


def _shared(array: Array) -> Any:
    """A tensor on the memory of a read-only array, on a CPU. No program writes to its inputs."""
    aligned = array.ctypes.data % _ALIGNED == 0 and array.flags.c_contiguous and array.size > 0
    if not aligned or array.dtype == bool or tf.config.list_logical_devices("GPU"):
        return tf.constant(array)
    memory = (ctypes.c_byte * array.nbytes).from_address(array.ctypes.data)
    memory.owner = array  # type: ignore[attr-defined]  # lives as long as the tensor
    writable = np.frombuffer(memoryview(memory).cast("B"), array.dtype).reshape(
        array.shape
    )  # DLPack cannot say that memory is read-only
    return tf.experimental.dlpack.from_dlpack(writable.__dlpack__())


def _part(array: Any, begin: Any, size: int) -> Any:
    rest = len(array.shape) - 1
    return tf.slice(array, [begin, *([0] * rest)], [size, *array.shape[1:]])


def _numbers(steps: tuple[int, int]) -> tuple[Any, Any]:
    return tf.constant(steps[0]), tf.constant(steps[1])  # tensors: no number has a program of its own


def _like(active: Any, leaf: Any) -> Any:
    return tf.reshape(active, [-1, *([1] * (len(leaf.shape) - 1))])
