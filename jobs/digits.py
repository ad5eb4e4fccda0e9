"""Handwritten digits, 8×8 pixels, from scikit-learn: 1,797 images, no download."""

import numpy as np


def load_data(seed):
    """80 % to train (a part of which becomes the validation set), 20 % to test."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    x = (digits.data / 16).astype("float32")
    y = digits.target.astype("int64")
    order = np.random.default_rng(seed).permutation(len(x))
    test, train = order[:360], order[360:]
    return {"train": (x[train], y[train]), "test": (x[test], y[test])}


def build_model(dropout=0.2, units=64):
    """A small multi-layer perceptron."""
    import keras

    model = keras.Sequential(
        [
            keras.Input((64,)),
            keras.layers.Dense(units, activation="relu"),
            keras.layers.Dropout(dropout),
            keras.layers.Dense(10, activation="softmax"),
        ]
    )
    model.compile(optimizer=keras.optimizers.Adam(0.007), loss="sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def load_traits(seed):
    """The same pictures; of each digit whether it is even, prime, above four, drawn with a loop: labels [N, 4]."""
    splits = load_data(seed)
    digits = np.arange(10)
    traits = [digits % 2 == 0, np.isin(digits, (2, 3, 5, 7)), digits > 4, np.isin(digits, (0, 6, 8, 9))]
    table = np.stack(traits, axis=1).astype("float32")
    return {name: (x, table[y]) for name, (x, y) in splits.items()}


def build_deep(widths=(64,), extra=None, dropout=0.2):
    """A multi-layer perceptron of any depth.

    Args:
        widths: of the hidden layers.
        extra: a further layer before the last one, or None.
        dropout: rate before the last layer.
    """
    import keras

    model = keras.Sequential([keras.Input((64,))])
    for width in widths:
        model.add(keras.layers.Dense(width, activation="relu"))
    if extra is not None:
        model.add(extra)
    model.add(keras.layers.Dropout(dropout))
    model.add(keras.layers.Dense(10, activation="softmax"))
    model.compile(optimizer="adam", loss="sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def falling_rate(epoch, rate):
    """Keeps the rate for five epochs, then takes a tenth off at each (`epoch` counts from 0)."""
    return rate if epoch < 5 else rate * 0.9
