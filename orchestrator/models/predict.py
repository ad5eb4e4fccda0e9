"""Probabilities from a model, the same way for every member."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from orchestrator.errors import InvalidModel

if TYPE_CHECKING:
    import keras

Inputs = npt.NDArray[Any] | Mapping[str, npt.NDArray[Any]]

BATCH = 1024
"""Rows per step of prediction; training's batch size has no bearing on it."""


def predict(model: keras.Model, x: Inputs, on_batch: Callable[[], None] = lambda: None) -> npt.NDArray[np.float32]:
    """Predicted probabilities of all rows.

    The model is called batch by batch without compiling it: with batches this large the layers' own work outweighs
    their dispatch, and tracing a program for each member costs more than it saves.

    Args:
        model: a model with one output of shape [N, C]; [N, 1] for binary targets.
        x: inputs, first axis N; a dictionary by input name where there are several.
        on_batch: called after each batch, as a sign of life.

    Returns:
        float32 of shape [N, C]. A model whose loss says `from_logits=True` gets the softmax (C > 1) or the sigmoid
        (C = 1) that its loss applies, so that what is averaged are always probabilities.

    Raises:
        InvalidModel: the model has several outputs, or an output that is no matrix.
    """
    import keras

    num_rows = len(next(iter(x.values()))) if isinstance(x, Mapping) else len(x)
    from_logits = uses_logits(model)
    parts = []
    for start in range(0, num_rows, BATCH):
        rows = slice(start, start + BATCH)
        batch = {name: array[rows] for name, array in x.items()} if isinstance(x, Mapping) else x[rows]
        raw = model(keras.tree.map_structure(keras.ops.convert_to_tensor, batch), training=False)
        outputs = keras.ops.convert_to_numpy(raw) if hasattr(raw, "shape") else raw
        parts.append(probabilities(outputs, from_logits=from_logits))
        on_batch()
    return np.concatenate(parts)


def probabilities(outputs: Any, *, from_logits: bool) -> npt.NDArray[np.float32]:
    """Outputs of a model as probabilities [N, C], see `predict`."""
    if not isinstance(outputs, np.ndarray):
        raise InvalidModel(
            f"the model has {len(outputs)} outputs",
            hint="models with one output can be averaged; give the build function one output",
        )
    if outputs.ndim == 1:
        outputs = outputs[:, None]
    if outputs.ndim != 2:
        raise InvalidModel(f"the model's output has shape {outputs.shape}, not [examples, classes]")
    logits = np.asarray(outputs, dtype=np.float32)
    if not from_logits:
        return logits
    if logits.shape[1] == 1:
        return np.asarray(0.5 * (1 + np.tanh(0.5 * logits)), dtype=np.float32)
    shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(shifted / shifted.sum(axis=1, keepdims=True), dtype=np.float32)


def uses_logits(model: keras.Model) -> bool:
    """Whether the model's loss takes logits, so that its outputs are not probabilities yet."""
    loss = model.loss
    losses = loss.values() if isinstance(loss, Mapping) else loss if isinstance(loss, list | tuple) else [loss]
    return any(
        bool(getattr(each, "from_logits", False) or getattr(each, "_fn_kwargs", {}).get("from_logits", False))
        for each in losses
    )
