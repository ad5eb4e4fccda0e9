"""One batch through a model before it is trained: no training step is compiled and no weight changes."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from orchestrator.errors import InvalidData, InvalidModel
from orchestrator.models.outputs import in_models_form

if TYPE_CHECKING:
    import keras


_ANSI = re.compile(r"\x1b\[[0-9;]*m")
"""Keras colours its messages, wherever they go."""


def run_first_batch(model: keras.Model, x: Any, y: Any, where: str) -> list[str]:
    """Run a batch forward and through loss and metrics, and leave no trace of it in the metrics.

    Afterwards everything that a model makes on its first batch exists: weights, metrics' and optimizer's variables.
    TensorFlow then traces a training step once; it traces a function twice in which variables are made.

    Args:
        model: compiled.
        x: inputs of the batch, an array or a dictionary of arrays; first axis N.
        y: labels of the batch, an array or a dictionary of arrays by output name; first axis N.
        where: names the model in messages.

    Returns:
        The names of loss and metrics.

    Raises:
        InvalidData: the model does not take x, or its loss and metrics do not take y.
        InvalidModel: the optimizer does not take the model's weights.
    """
    return score_first_batch(model, x, y, call_first_batch(model, x, where), where)


def call_first_batch(model: keras.Model, x: Any, where: str) -> Any:
    """What the model returns for the batch: the first half of `run_first_batch`."""
    import keras

    try:
        return model(keras.tree.map_structure(keras.ops.convert_to_tensor, x), training=False)
    except Exception as error:
        shapes = {name: array.shape for name, array in x.items()} if isinstance(x, dict) else x.shape
        raise InvalidData(
            f"the model does not take the data: inputs have shape {shapes}: {first_line(error)}",
            where=where,
            hint="x has one array for each Input of the model, by its name, and each Input the shape of one row"
            if isinstance(x, dict)
            else "the model's Input must have the shape of one row",
        ) from error


def score_first_batch(model: keras.Model, x: Any, y: Any, outputs: Any, where: str) -> list[str]:
    """Names of loss and metrics, once they have taken the batch: the second half of `run_first_batch`."""
    import keras

    try:
        inputs = keras.tree.map_structure(keras.ops.convert_to_tensor, x)
        labels = keras.tree.map_structure(keras.ops.convert_to_tensor, in_models_form(model, y))
        _compute(model.compute_loss, x=inputs, y=labels, y_pred=outputs, training=False)
        names = sorted({"loss", *_compute(model.compute_metrics, inputs, labels, outputs)})
        model.reset_metrics()
    except Exception as error:
        shapes = {name: array.shape for name, array in y.items()} if isinstance(y, dict) else y.shape
        raise InvalidData(
            f"loss or metrics do not take labels of shape {shapes}: {first_line(error)}",
            where=where,
            hint="integer labels go with sparse_categorical_crossentropy, one-hot labels with categorical_crossentropy"
            + ("; loss, loss_weights and metrics are given by output name" if isinstance(y, dict) else ""),
        ) from error
    try:
        if not model.optimizer.built:
            model.optimizer.build(model.trainable_variables)
    except Exception as error:
        raise InvalidModel(f"the optimizer cannot be set up: {first_line(error)}", where=where) from error
    return names


def _compute(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Call a function; with JAX only for what it makes, not for its values: JAX compiles each operation on its own
    when it is called eagerly, which takes 1.5 s for a loss and a metric."""
    import keras
    from keras.src.backend import compute_output_spec

    if keras.config.backend() == "jax":
        return compute_output_spec(function, *args, **kwargs)
    return function(*args, **kwargs)


def first_line(error: Exception) -> str:
    """An error in one line of at most 400 characters."""
    lines = [line.strip() for line in _ANSI.sub("", str(error)).splitlines() if line.strip()]
    return f"{type(error).__name__}: {' '.join(lines)[:400]}"
