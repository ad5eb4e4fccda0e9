"""Ensembles to predict with, and the check that a shared program changes no bit: run on either backend of Keras."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import keras
import numpy as np
import numpy.typing as npt

from orchestrator.models.predictor import Inputs, Predictor
from orchestrator.planning.outputs import ONLY

layers = keras.layers
ROWS = 700  # more than a batch, and no multiple of one
Build = Callable[[int], "keras.Model"]


def rows(num_rows: int = ROWS, width: int = 16) -> npt.NDArray[np.float32]:
    return np.random.default_rng(7).normal(size=(num_rows, width)).astype("float32")


def mlp(k: int, units: int = 8, activation: Any = "relu") -> keras.Model:
    hidden = layers.Dense(units, activation=activation, name=f"hidden_of_{k}")
    return keras.Sequential([keras.Input((16,)), hidden, layers.Dropout(k / 10), layers.Dense(3, activation="softmax")])


def batch_norm(k: int) -> keras.Model:
    normal = layers.BatchNormalization()
    return keras.Sequential(
        [keras.Input((16,)), layers.Dense(8), normal, layers.Dropout(k / 10, seed=k), layers.Dense(3, "softmax")]
    )


def convolution(k: int) -> keras.Model:
    image = [keras.Input((16,)), layers.Reshape((4, 4, 1)), layers.Conv2D(4, 2, activation="relu")]
    head = [layers.BatchNormalization(), layers.Flatten(), layers.Dropout(k / 10), layers.Dense(3, "softmax")]
    return keras.Sequential([*image, *head])


def two_inputs(k: int) -> keras.Model:
    left, right = keras.Input((9,), name="left"), keras.Input((7,), name="right")
    both = layers.Concatenate()([layers.Dense(5, "tanh")(left), layers.Dropout(k / 10)(right)])
    return keras.Model({"left": left, "right": right}, layers.Dense(1, "sigmoid")(both))


def logits(k: int) -> keras.Model:
    """The second and later members' losses differ in what they make of the outputs."""
    model = keras.Sequential([keras.Input((16,)), layers.Dropout(k / 10), layers.Dense(3)])
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=k > 1))
    return model


def two_outputs(k: int, *, by_name: bool) -> keras.Model:
    """Not in the order of the alphabet, in which JAX gives a dictionary back."""
    entry = keras.Input((16,))
    heads = {"size": layers.Dense(2, name="size")(entry), "kind": layers.Dense(3, "softmax", name="kind")(entry)}
    model = keras.Model(entry, heads if by_name else list(heads.values()))
    model.compile("sgd", {"size": "mse", "kind": "sparse_categorical_crossentropy"})
    return model


ENSEMBLES: Mapping[str, Build] = {
    "mlp": mlp,
    "batch_norm": batch_norm,
    "convolution": convolution,
    "two_inputs": two_inputs,
    "logits": logits,
}


def member(build: Build, k: int) -> keras.Model:
    """Member `k`: built as in a worker, with weights of its own, moving averages too."""
    keras.utils.clear_session(free_memory=False)
    model = build(k)
    rng = np.random.default_rng(k)
    for variable in model.weights:
        variable.assign(rng.uniform(0.1, 1.0, variable.shape) * rng.choice([-1, 1] if variable.trainable else [1]))
    return model


def inputs_of(build: Build) -> Inputs:
    x = rows()
    return {"left": x[:, :9], "right": x[:, 9:]} if build is two_inputs else x


def check_ensemble(name: str) -> None:
    """Three members in one predictor, and one again, give what each gives in its own predictor, and in Keras."""
    build, shared = ENSEMBLES[name], Predictor()
    x, expected = inputs_of(build), dict[int, npt.NDArray[np.float32]]()
    for k in (1, 2, 3):
        own = member(build, k)
        expected[k] = Predictor().predict(own, x)[ONLY]
        if name != "logits":
            np.testing.assert_allclose(expected[k], own.predict(x, verbose=0), atol=1e-6)
    for k in (1, 2, 3, 1):
        found = shared.predict(member(build, k), x)[ONLY]
        assert found.dtype == np.float32
        assert found.tobytes() == expected[k].tobytes(), f"{name}: member {k}"
    assert len({values.tobytes() for values in expected.values()}) == 3, "members must differ, or nothing is shown"
    assert shared.num_programs == 1


def check_architectures() -> None:
    """Members that differ in more than their weights are never mixed up, however few programs are kept."""
    steep = lambda values: 3 * values  # noqa: E731  # it has to have no name
    builds: list[Build] = [mlp, lambda k: mlp(k, 9), lambda k: mlp(k, 8, "tanh"), lambda k: mlp(k, 8, steep)]
    expected = [Predictor().predict(member(build, 1), rows())[ONLY] for build in builds]
    for most in (2, 4):
        shared = Predictor(max_programs=most)
        for _ in range(2):
            for build, values in zip(builds, expected, strict=True):
                assert shared.predict(member(build, 1), rows())[ONLY].tobytes() == values.tobytes()
            assert shared.num_programs == min(most, 3), "the last is like no other, and not kept"
    assert len({values.tobytes() for values in expected}) == len(builds)


def check_outputs() -> None:
    """Each output is predicted under its own name, also by a program that was made for another member."""
    for by_name in (True, False):
        build, shared = partial(two_outputs, by_name=by_name), Predictor()
        for k in (1, 2):
            says = member(build, k).predict(rows(), verbose=0)
            expected = says if by_name else dict(zip(("size", "kind"), says, strict=True))
            found = shared.predict(member(build, k), rows())
            assert set(found) == {"size", "kind"}
            for name, values in found.items():
                np.testing.assert_allclose(values, expected[name], rtol=1e-5, atol=1e-6)
        assert shared.num_programs == 1


if __name__ == "__main__":
    for each in ENSEMBLES:
        check_ensemble(each)
    check_architectures()
    check_outputs()
    print(f"same bits on {keras.backend.backend()}")  # noqa: T201  # what the test waits for
