"""Models and data of the rows, for the orchestrator's jobs and for all rivals alike.

A builder returns the model that it compiled with `COMPILE`; a data function returns training and validation rows.
"""

from __future__ import annotations

from typing import Any

import numpy as np

COMPILE = {"optimizer": "adam", "loss": "sparse_categorical_crossentropy", "metrics": ["accuracy"]}


def mlp(dropout: float = 0.2) -> Any:
    """784-100-10, the textbook's network."""
    from keras import Input, Sequential, layers

    model = Sequential(
        [
            Input((28, 28)),
            layers.Flatten(),
            layers.Dense(100, activation="relu"),
            layers.Dropout(dropout),
            layers.Dense(10, activation="softmax"),
        ]
    )
    model.compile(**COMPILE)
    return model


def small_cnn(dropout: float = 0.3) -> Any:
    """Two convolutions with a stride and a softmax."""
    from keras import Input, Sequential, layers

    model = Sequential(
        [
            Input((28, 28)),
            layers.Reshape((28, 28, 1)),
            layers.Conv2D(8, 3, strides=2, activation="relu"),
            layers.Conv2D(16, 3, strides=2, activation="relu"),
            layers.Flatten(),
            layers.Dropout(dropout),
            layers.Dense(10, activation="softmax"),
        ]
    )
    model.compile(**COMPILE)
    return model


def batchnorm_cnn(dropout: float = 0.3) -> Any:
    """The same with batch normalisation after each convolution."""
    from keras import Input, Sequential, layers

    model = Sequential(
        [
            Input((28, 28)),
            layers.Reshape((28, 28, 1)),
            layers.Conv2D(8, 3, strides=2, use_bias=False),
            layers.BatchNormalization(),
            layers.Activation("relu"),
            layers.Conv2D(16, 3, strides=2, use_bias=False),
            layers.BatchNormalization(),
            layers.Activation("relu"),
            layers.Flatten(),
            layers.Dropout(dropout),
            layers.Dense(10, activation="softmax"),
        ]
    )
    model.compile(**COMPILE)
    return model


def two_inputs(dropout: float = 0.2) -> Any:
    """The functional API: the picture through one layer, its rows' and columns' means through another."""
    from keras import Input, Model, layers

    picture, means = Input((28, 28), name="picture"), Input((56,), name="means")
    seen = layers.Dense(64, activation="relu")(layers.Flatten()(picture))
    told = layers.Dense(32, activation="relu")(means)
    both = layers.Dropout(dropout)(layers.Concatenate()([seen, told]))
    model = Model({"picture": picture, "means": means}, layers.Dense(10, activation="softmax")(both))
    model.compile(**COMPILE)
    return model


def lenet5() -> Any:
    """That of `jobs/lenet_ensemble.yaml`."""
    from jobs.fashion_mnist import build_lenet

    return build_lenet()


def fashion_mnist() -> dict[str, Any]:
    """The complete Fashion-MNIST: 48,000 to train, 12,000 to validate."""
    from jobs.fashion_mnist import load_data

    splits = load_data()
    return {"train": splits["train"], "validation": splits["validation"]}


def fashion_12k() -> dict[str, Any]:
    """A quarter of Fashion-MNIST's training rows, and 2,000 to validate."""
    return _first(fashion_mnist(), 12_000, 2_000)


def fashion_12k_two_inputs() -> dict[str, Any]:
    """The same for `two_inputs`."""
    return {name: (_pictures_and_means(x), y) for name, (x, y) in fashion_12k().items()}


def fashion_50k() -> dict[str, Any]:
    """50,000 to train and the 10,000 of the test set, as google/uncertainty-baselines has it."""
    from jobs.fashion_mnist import load_data

    splits = load_data()
    both = [np.concatenate(parts) for parts in zip(splits["train"], splits["validation"], strict=True)]
    return {"train": tuple(part[:50_000] for part in both), "test": splits["test"]}


def pictures() -> dict[str, Any]:
    """Invented pictures for quick runs, which need no file: 640 to train, 320 to validate."""
    rng = np.random.default_rng(0)
    y = rng.integers(10, size=960)
    x = 0.5 * rng.random((10, 28, 28))[y] + 0.5 * rng.random((960, 28, 28))
    return {
        name: (x[rows].astype("float32"), y[rows])
        for name, rows in (("train", slice(0, 640)), ("validation", slice(640, None)))
    }


def pictures_test() -> dict[str, Any]:
    """The same, with a test set instead of the validation set; whole batches of 256 alone, for one program less."""
    splits = pictures()
    return {"train": tuple(part[:512] for part in splits["train"]), "test": splits["validation"]}


def pictures_two_inputs() -> dict[str, Any]:
    """The same for `two_inputs`."""
    return {name: (_pictures_and_means(x), y) for name, (x, y) in pictures().items()}


def _first(splits: dict[str, Any], num_train: int, num_validation: int) -> dict[str, Any]:
    counts = {"train": num_train, "validation": num_validation}
    return {name: tuple(np.ascontiguousarray(part[: counts[name]]) for part in splits[name]) for name in splits}


def _pictures_and_means(x: Any) -> dict[str, Any]:
    return {"picture": x, "means": np.concatenate([x.mean(axis=1), x.mean(axis=2)], axis=1)}
