"""The upper bound: `mlp` written by hand in JAX, members by `vmap`, the steps of an epoch by `lax.scan`, warm.

Its own Adam, dropout, shuffling and validation; no callbacks, no checkpoints, no Keras. TASK REPORT.
"""

from __future__ import annotations

import json
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from tests.bench.rivals.common import load
from tests.bench.tasks import Task

RATE, BETA_1, BETA_2, EPSILON = 1e-3, 0.9, 0.999, 1e-7


def init(key: Any) -> dict[str, Any]:
    """Glorot's uniform kernels and biases of zero, as Keras has."""
    first, second = jax.random.split(key)
    uniform = jax.nn.initializers.glorot_uniform()
    return {
        "w1": uniform(first, (784, 100)),
        "b1": jnp.zeros(100),
        "w2": uniform(second, (100, 10)),
        "b2": jnp.zeros(10),
    }


def logits(params: dict[str, Any], x: Any, key: Any = None, rate: Any = 0.0) -> Any:
    hidden = jax.nn.relu(x @ params["w1"] + params["b1"])
    if key is not None:
        hidden = jnp.where(jax.random.bernoulli(key, 1 - rate, hidden.shape), hidden / (1 - rate), 0)
    return hidden @ params["w2"] + params["b2"]


def loss_and_hits(params: dict[str, Any], x: Any, y: Any, key: Any = None, rate: Any = 0.0) -> tuple[Any, Any]:
    scores = logits(params, x, key, rate)
    loss = -jnp.take_along_axis(jax.nn.log_softmax(scores), y[:, None], axis=1).mean()
    return loss, (scores.argmax(axis=1) == y).sum()


def adam(params: Any, grads: Any, m: Any, v: Any, step: Any) -> tuple[Any, Any, Any]:
    m = jax.tree.map(lambda a, g: BETA_1 * a + (1 - BETA_1) * g, m, grads)
    v = jax.tree.map(lambda a, g: BETA_2 * a + (1 - BETA_2) * g * g, v, grads)
    scale = RATE * jnp.sqrt(1 - BETA_2**step) / (1 - BETA_1**step)
    params = jax.tree.map(lambda p, a, b: p - scale * a / (jnp.sqrt(b) + EPSILON), params, m, v)
    return params, m, v


@partial(jax.jit, donate_argnums=0)
def train_epoch(state: Any, data: tuple[Any, Any], orders: Any, keys: Any, rates: Any) -> tuple[Any, Any]:
    """One epoch of all members; `orders` [M, steps, batch] names each member's rows."""
    x, y = data

    def member_step(member: Any, rows: Any, key: Any, rate: Any, step: Any) -> tuple[Any, Any]:
        params, m, v = member
        picked = x[rows], y[rows]
        (loss, hits), grads = jax.value_and_grad(loss_and_hits, has_aux=True)(
            params, *picked, jax.random.fold_in(key, step), rate
        )
        return adam(params, grads, m, v, step), (loss, hits)

    def step(carry: Any, rows: Any) -> tuple[Any, Any]:
        members, count = carry
        count = count + 1
        members, logs = jax.vmap(member_step, in_axes=(0, 0, 0, 0, None))(members, rows, keys, rates, count)
        return (members, count), logs

    state, logs = jax.lax.scan(step, state, orders.swapaxes(0, 1))
    return state, jax.tree.map(lambda each: each.sum(axis=0), logs)


@jax.jit
def validate(params: Any, x: Any, y: Any) -> Any:
    return jax.vmap(loss_and_hits, in_axes=(0, None, None))(params, x, y)


def main(task_path: str, report_path: str) -> None:
    task = Task.read(task_path)
    x, y, x_val, y_val = load(task)
    data = jnp.asarray(x.reshape(len(x), -1)), jnp.asarray(y)
    held_out = jnp.asarray(x_val.reshape(len(x_val), -1)), jnp.asarray(y_val)
    roots = jnp.stack([jax.random.key(seed) for seed in task.seeds])
    params = jax.vmap(init)(roots)
    zeros = jax.tree.map(jnp.zeros_like, params)
    state = ((params, zeros, jax.tree.map(jnp.zeros_like, params)), jnp.asarray(0))
    steps = len(x) // task.batch_size
    epoch_s = []
    for epoch in range(task.epochs):
        began = time.perf_counter()
        orders = np.stack([np.random.default_rng([seed, epoch]).permutation(len(x)) for seed in task.seeds])
        orders = orders[:, : steps * task.batch_size].reshape(len(task.seeds), steps, task.batch_size)
        keys = jax.vmap(jax.random.fold_in, in_axes=(0, None))(roots, epoch)
        state, _ = train_epoch(state, data, jnp.asarray(orders), keys, jnp.asarray(task.dropouts))
        _, hits = validate(state[0][0], *held_out)
        hits.block_until_ready()
        epoch_s.append(time.perf_counter() - began)
    facts = {"epoch_s": epoch_s, "members_accuracy": round(float(hits.mean()) / len(y_val), 4)}
    Path(report_path).write_text(json.dumps(facts))


if __name__ == "__main__":
    main(*sys.argv[1:])
