"""Which models count as one architecture: those, and only those, that compute the same function of their weights."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("device")]


def mlp(rate: float = 0.1, units: int = 8, activation: Any = "relu", name: str | None = None, **last: Any) -> Any:
    import keras

    keras.utils.clear_session(free_memory=False)  # as for each member: or the inputs' own names differ
    start = keras.initializers.GlorotUniform(seed=int(100 * rate))
    return keras.Sequential(
        [
            keras.Input((4,)),
            keras.layers.Dense(units, activation=activation, name=name, kernel_initializer=start),
            keras.layers.Dropout(rate, seed=int(100 * rate)),
            keras.layers.Dense(3, **last),
        ]
    )


def graph(
    rate: float = 0.1, *, name: str = "a", axis: int = 1, factor: float = 2.0, swapped: bool = False, side: str = "side"
) -> Any:
    import keras

    keras.utils.clear_session(free_memory=False)
    main, other = keras.Input((4,), name="main"), keras.Input((4,), name=side)
    left, right = keras.layers.Dense(4, name=name)(main), keras.layers.Dense(4)(other)
    both = keras.layers.Dropout(rate)(keras.layers.Concatenate()([right, left] if swapped else [left, right]))
    summed = both * factor + keras.ops.sum(both, axis=axis, keepdims=True)
    return keras.Model([main, other], keras.layers.Dense(2)(summed))


def nested(inner: Any) -> Any:
    import keras

    return keras.Sequential([keras.Input((4,)), inner, keras.layers.Dense(1)])


def sequence(**cell: Any) -> Any:
    import keras

    keras.utils.clear_session(free_memory=False)
    rnn = keras.layers.Bidirectional(keras.layers.LSTM(3, **cell))
    return keras.Sequential([keras.Input((5,)), keras.layers.Embedding(9, 4, mask_zero=True), rnn])


def relu(values: Any) -> Any:
    """Not Keras' own, for all its name."""
    return values * 0.1


Build = Callable[[], Any]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (mlp, lambda: mlp(0.4, name="x")),
        (mlp, lambda: mlp(0.0)),
        (graph, lambda: graph(0.5, name="relu")),
        (lambda: nested(mlp()), lambda: nested(mlp(0.4))),
        (sequence, sequence),
    ],
    ids=["names, seeds, rates", "no dropout", "a graph", "a model in a model", "recurrent"],
)
def test_names_seeds_and_dropout_rates_make_no_difference(one: Build, other: Build) -> None:
    from orchestrator.models.architecture import signature

    assert signature(one()) is not None
    assert signature(one()) == signature(other())


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (mlp, lambda: mlp(units=9)),
        (mlp, lambda: mlp(activation="tanh")),
        (mlp, lambda: mlp(use_bias=False)),
        (mlp, lambda: mlp(activation="gelu")),
        (mlp, lambda: mlp(kernel_regularizer="l2")),
        (mlp, lambda: mlp(dtype="float16")),
        (graph, lambda: graph(factor=3.0)),
        (graph, lambda: graph(axis=0)),
        (graph, lambda: graph(swapped=True)),
        (graph, lambda: graph(side="else")),
        (lambda: nested(mlp()), lambda: nested(mlp(units=9))),
        (sequence, lambda: sequence(activation="sigmoid")),
        (sequence, lambda: sequence(recurrent_dropout=0.1)),
    ],
)
def test_what_changes_the_function_makes_a_difference(one: Build, other: Build) -> None:
    from orchestrator.models.architecture import signature

    assert None not in (signature(one()), signature(other()))
    assert signature(one()) != signature(other())


def own_layer() -> Any:
    import keras

    class Scale(keras.layers.Layer):
        """Its configuration says nothing of its factor."""

        def __init__(self, factor: float = 2.0, **kwargs: Any) -> None:
            super().__init__(**kwargs)
            self._factor = factor

        def call(self, inputs: Any) -> Any:
            return inputs * self._factor

    return keras.Sequential([keras.Input((4,)), Scale(), keras.layers.Dense(1)])


def own_model() -> Any:
    import keras

    class Net(keras.Model):
        def __init__(self) -> None:
            super().__init__()
            self._dense = keras.layers.Dense(2)

        def call(self, inputs: Any) -> Any:
            return self._dense(inputs)

    model = Net()
    model(np.ones((2, 3), np.float32))
    return model


def changed_call() -> Any:
    model = mlp()
    model.layers[0].call = relu
    return model


def random_at_inference() -> Any:
    import keras

    entry = keras.Input((4,))
    return keras.Model(entry, keras.layers.Dense(1)(keras.layers.Dropout(0.5)(entry, training=True)))


def adapted() -> Any:
    import keras

    normal = keras.layers.Normalization()
    normal.adapt(np.arange(12, dtype=np.float32).reshape(3, 4))
    return keras.Sequential([keras.Input((4,)), normal, keras.layers.Dense(1)])


def in_a_lambda() -> Any:
    import keras

    return keras.Sequential([keras.Input((4,)), keras.layers.Lambda(lambda x: x * 2), keras.layers.Dense(1)])


def unbuilt() -> Any:
    import keras

    return keras.Sequential([keras.layers.Dense(3)])


def stateful() -> Any:
    import keras

    return keras.Sequential([keras.Input(batch_shape=(2, 5, 4)), keras.layers.LSTM(3, stateful=True)])


@pytest.mark.parametrize(
    "build",
    [
        lambda: mlp(activation=relu),
        lambda: mlp(activation=lambda x: x),
        lambda: mlp(activation=functools.partial(relu)),
        lambda: nested(mlp(activation=relu)),
        own_layer,
        own_model,
        changed_call,
        random_at_inference,
        adapted,
        in_a_lambda,
        unbuilt,
        stateful,
    ],
)
def test_of_what_keras_cannot_tell_nothing_is_said(build: Build) -> None:
    from orchestrator.models.architecture import signature

    assert signature(build()) is None


def test_compiling_and_training_change_no_architecture() -> None:
    import keras

    from orchestrator.models.architecture import signature

    model = mlp()
    before = signature(model)
    keras.utils.set_random_seed(1)  # which deterministic operations ask for
    model.compile("adam", "mse")
    model.train_on_batch(np.ones((8, 4), np.float32), np.ones((8, 3), np.float32))
    assert signature(model) == before is not None
