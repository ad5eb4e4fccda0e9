"""Dropout whose rate is a variable: members that differ in it share one program.

Keras tests a rate by `if`, which no traced value passes, and `Dropout(0)` makes no seed, so that the variables of two
members would not stack. Only the program's model is changed so; what is saved is the user's own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import keras

_KINDS = (
    keras.layers.Dropout,
    keras.layers.SpatialDropout1D,
    keras.layers.SpatialDropout2D,
    keras.layers.SpatialDropout3D,
)


@dataclass(frozen=True)
class RateVariable:
    """Variables of one dropout layer of the program's model.

    Attributes:
        rate: its rate, a scalar.
        seed: the state of its seed generator; a member whose rate is 0 has none.
    """

    rate: keras.Variable
    seed: keras.Variable


def rates_of(model: keras.Model) -> list[float]:
    """Rates of the dropout layers of a model, in the order of its layers."""
    return [float(layer.rate) for layer in _dropouts(model)]


def make_rates_variable(model: keras.Model) -> list[RateVariable]:
    """Turn the dropout layers of a model into ones whose rate is a variable, in the order of `rates_of`."""
    return [_make_variable(layer) for layer in _dropouts(model)]


def _dropouts(model: keras.Model) -> list[Any]:
    return [layer for layer in model._flatten_layers() if type(layer) in _KINDS]


def _make_variable(layer: Any) -> RateVariable:
    layer._tracker.unlock()  # Keras lets no built layer have further state
    if not hasattr(layer, "seed_generator"):
        layer.seed_generator = keras.random.SeedGenerator(0)
    layer.variable_rate = layer.add_weight(
        shape=(), dtype="float32", autocast=False, initializer="zeros", trainable=False, name="rate"
    )
    layer._tracker.lock()
    layer.__class__ = _VariableRate if type(layer) is keras.layers.Dropout else _SpatialVariableRate
    return RateVariable(layer.variable_rate, layer.seed_generator.state)


class _VariableRate(keras.layers.Dropout):  # type: ignore[misc]  # keras is untyped here
    """Drops at any rate from 0 to 1."""

    def call(self, inputs: Any, training: bool = False) -> Any:
        if not training:
            return inputs
        ops = keras.ops
        rate = ops.convert_to_tensor(self.variable_rate)
        # On JAX these are the very numbers that Keras' own layer draws; XLA's on TensorFlow are others.
        kept = keras.random.uniform(self._drawn_shape(inputs), dtype="float32", seed=self.seed_generator) < 1.0 - rate
        scale = ops.where(rate < 1.0, 1.0 / ops.maximum(1.0 - rate, 1e-7), 0.0)  # a rate of 1 keeps nothing
        return inputs * ops.where(kept, ops.cast(scale, inputs.dtype), ops.cast(0.0, inputs.dtype))

    def _drawn_shape(self, inputs: Any) -> tuple[Any, ...]:
        shape = tuple(inputs.shape)
        if self.noise_shape is None:
            return shape
        return tuple(have if asked is None else asked for asked, have in zip(self.noise_shape, shape, strict=True))


class _SpatialVariableRate(_VariableRate):
    """Drops whole channels: one draw for all places of a row."""

    def _drawn_shape(self, inputs: Any) -> tuple[Any, ...]:
        shape = tuple(inputs.shape)
        if getattr(self, "data_format", "channels_last") == "channels_first":
            return (*shape[:2], *(1 for _ in shape[2:]))
        return (shape[0], *(1 for _ in shape[1:-1]), shape[-1])
