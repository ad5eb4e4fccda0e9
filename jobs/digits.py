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
