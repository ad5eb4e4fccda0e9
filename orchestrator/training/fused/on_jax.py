"""The pack's programs on Keras' JAX backend: `vmap` over the members, one loop over the steps."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from orchestrator.models.outputs import in_models_form
from orchestrator.training.checkpoint import Array
from orchestrator.training.data import Split
from orchestrator.training.fused.program import Leaves, Logs
from orchestrator.training.fused.stateless import StatelessMember


class JaxProgram:
    """See `Program`."""

    def __init__(self, member: StatelessMember, num_rows: int, batch_size: int, validation_batch: int) -> None:
        self.member, self.num_rows = member, num_rows
        self._batch_size, self._validation_batch = batch_size, validation_batch
        # The compiled function is looked up by its static argument, the number of rows in a batch.
        self._train = jax.jit(self._train_steps, static_argnums=4, donate_argnums=(0, 1))
        self._test = jax.jit(self._test_steps, static_argnums=3, donate_argnums=1)

    def put(self, array: Array) -> Any:
        return jnp.array(array)

    def put_data(self, split: Split) -> Any:
        form = partial(in_models_form, self.member.model)
        parts = (split.x, form(split.y), form(split.w))
        return jax.tree.map(partial(jax.device_put, may_alias=True), parts)

    def get(self, leaves: Sequence[Any]) -> list[Array]:
        return [np.array(leaf) for leaf in jax.device_get(leaves)]

    def train(
        self, state: Leaves, metrics: Leaves, data: Any, order: Any, size: int, steps: tuple[int, int], active: Any
    ) -> tuple[Leaves, Leaves, Logs]:
        result: tuple[Leaves, Leaves, Logs] = self._train(state, metrics, data, order, size, *_numbers(steps), active)
        return result

    def test(self, state: Leaves, metrics: Leaves, data: Any, size: int, steps: tuple[int, int]) -> tuple[Leaves, Logs]:
        result: tuple[Leaves, Logs] = self._test(state, metrics, data, size, *_numbers(steps))
        return result

    def _train_steps(
        self, state: Leaves, metrics: Leaves, data: Any, order: Any, size: int, start: Any, stop: Any, active: Any
    ) -> tuple[Leaves, Leaves, Logs]:
        def step(number: Any, carried: tuple[Leaves, Leaves]) -> tuple[Leaves, Leaves]:
            rows = jax.lax.dynamic_slice(order, (0, number * self._batch_size), (self.num_rows, size))
            x, y, w = jax.tree.map(lambda array: array.at[rows].get(mode="promise_in_bounds"), data)
            stepped: tuple[Leaves, Leaves] = jax.vmap(self._step)(*carried, x, y, w)
            return stepped

        trained, metrics = jax.lax.fori_loop(start, stop, step, (state, metrics))
        kept = [jnp.where(_like(active, new), new, old) for new, old in zip(trained, state, strict=True)]
        return kept, metrics, jax.vmap(self.member.results)(metrics)

    def _step(self, state: Leaves, metrics: Leaves, x: Any, y: Any, w: Any) -> tuple[Leaves, Leaves]:
        member = self.member
        first, second = len(member.trainable), len(member.trainable) + len(member.rest)
        trainable, rest, optimizer = state[:first], state[first:second], state[second:]
        differentiate = jax.value_and_grad(partial(member.loss, training=True), has_aux=True)
        (loss, (y_pred, rest, metrics)), gradients = differentiate(trainable, rest, metrics, x, y, w)
        trainable, optimizer = member.apply(optimizer, gradients, trainable)
        return [*trainable, *rest, *optimizer], member.update_metrics(metrics, loss, x, y, y_pred, w)

    def _test_steps(
        self, state: Leaves, metrics: Leaves, data: Any, size: int, start: Any, stop: Any
    ) -> tuple[Leaves, Logs]:
        member = self.member
        first, second = len(member.trainable), len(member.trainable) + len(member.rest)

        def step(number: Any, metrics: Leaves) -> Leaves:
            begin = number * self._validation_batch
            batch = jax.tree.map(lambda array: jax.lax.dynamic_slice_in_dim(array, begin, size), data)
            scored: Leaves = jax.vmap(member.test_batch, in_axes=(0, 0, 0, None, None, None))(
                state[:first], state[first:second], metrics, *batch
            )
            return scored

        metrics = jax.lax.fori_loop(start, stop, step, metrics)
        return metrics, jax.vmap(member.results)(metrics)


def _numbers(steps: tuple[int, int]) -> tuple[Any, Any]:
    return np.int32(steps[0]), np.int32(steps[1])  # arrays, not constants: no number has a program of its own


def _like(active: Any, leaf: Any) -> Any:
    return active.reshape(-1, *(1 for _ in leaf.shape[1:]))
