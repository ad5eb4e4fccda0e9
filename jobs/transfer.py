"""Transfer learning on Fashion-MNIST: what eight classes teach helps to tell the two that are left from 200 pictures.

First `transfer_base.yaml` with `--run-id transfer-base`, then `transfer.yaml`; `transfer_scratch.yaml` learns from the
same 200 pictures without a base.
"""

import numpy as np

from jobs.fashion_mnist import load_data

TWO = (5, 7)
"""Sandals and sneakers; all others are the base's."""

NUM_TRAIN = 200


def load_eight():
    """All pictures of the eight other classes, which are numbered anew from 0."""
    number = {label: place for place, label in enumerate(sorted(set(range(10)) - set(TWO)))}
    return {name: _only(x, y, number) for name, (x, y) in load_data().items()}


def load_two():
    """200 pictures of the two classes to learn from; those to validate and test on are all there are."""
    number = {label: place for place, label in enumerate(TWO)}
    parts = {name: _only(x, y, number) for name, (x, y) in load_data().items()}
    x, y = parts["train"]
    return {**parts, "train": (x[:NUM_TRAIN], y[:NUM_TRAIN])}


def build_base(dropout=0.2):
    """A small convolutional network for the eight classes."""
    return _compiled([*_convolutions(), *_head(dropout, 8)])


def build_two(base=None, dropout=0.2):
    """The base's convolutions, or such that know nothing yet, and a head of its own for two classes."""
    import keras

    below = _convolutions() if base is None else [keras.Input((28, 28)), *base.layers]
    return _compiled([*below, *_head(dropout, 2)])


def _convolutions():
    import keras
    from keras import layers

    return [
        keras.Input((28, 28)),
        layers.Reshape((28, 28, 1)),
        layers.Conv2D(16, 3, strides=2, activation="relu"),
        layers.Conv2D(32, 3, strides=2, activation="relu"),
        layers.Flatten(name="flatten"),
    ]


def _head(dropout, num_classes):
    from keras import layers

    return [
        layers.Dropout(dropout),
        layers.Dense(64, activation="relu"),
        layers.Dense(num_classes, activation="softmax"),
    ]


def _compiled(layers):
    import keras

    model = keras.Sequential(layers)
    model.compile(optimizer="adam", loss="sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def _only(x, y, number):
    """The rows of some classes, under other numbers."""
    rows = np.isin(y, list(number))
    return x[rows], np.array([number[label] for label in y[rows].tolist()], "int64")
