"""Fashion-MNIST: 70,000 grey pictures of clothes, 28×28 pixels, ten classes (Xiao, Rasul, Vollgraf 2017)."""

import gzip
import os
from pathlib import Path

import numpy as np

FOLDER = Path(os.environ.get("FASHION_MNIST", "/usr/share/datasets/fashion-mnist"))
"""Where Debian's package `dataset-fashion-mnist` puts the four files."""

HOW_TO_GET_IT = (
    "Fashion-MNIST is not on this machine: `apt install dataset-fashion-mnist` puts it where this job looks, or set "
    "FASHION_MNIST to a folder with the four idx-ubyte.gz files, or let Keras download it on a machine with internet"
)

NUM_VALIDATION = 12_000


def load_data():
    """48,000 to train, 12,000 to validate (the last ones, as Keras splits), 10,000 to test; pixels from 0 to 1."""
    (x, y), test = _load()
    split = len(x) - NUM_VALIDATION if len(x) > 2 * NUM_VALIDATION else len(x) * 4 // 5
    return {"train": (x[:split], y[:split]), "validation": (x[split:], y[split:]), "test": test}


def load_50k():
    """50,000 to train, 10,000 to validate, 10,000 to test, as google/uncertainty-baselines (baselines/mnist) splits."""
    (x, y), test = _load()
    split = len(x) * 5 // 6
    return {"train": (x[:split], y[:split]), "validation": (x[split:], y[split:]), "test": test}


def build_mlp(dropout=0.2, units=100):
    """The textbook's network: one hidden layer, dropout, softmax."""
    import keras

    model = keras.Sequential(
        [
            keras.Input((28, 28)),
            keras.layers.Flatten(),
            keras.layers.Dense(units, activation="relu"),
            keras.layers.Dropout(dropout),
            keras.layers.Dense(10, activation="softmax"),
        ]
    )
    model.compile(optimizer="adam", loss="sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def build_cnn(dropout=0.3, filters=8):
    """A small convolutional network by the functional API."""
    import keras
    from keras import layers

    image = keras.Input((28, 28), name="image")
    x = layers.Reshape((28, 28, 1))(image)
    x = layers.Conv2D(filters, 3, strides=2, activation="relu")(x)
    x = layers.Conv2D(2 * filters, 3, strides=2, activation="relu")(x)
    x = layers.Flatten()(x)
    x = layers.Dropout(dropout)(x)
    label = layers.Dense(10, activation="softmax", name="label")(x)
    model = keras.Model(image, label)
    model.compile(optimizer="adam", loss="sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def build_lenet():
    """LeNet-5 as google/uncertainty-baselines trains it (baselines/mnist): wide last convolution, Adam, no dropout."""
    import keras
    from keras import layers

    model = keras.Sequential(
        [
            keras.Input((28, 28)),
            layers.Reshape((28, 28, 1)),
            layers.Conv2D(6, 5, padding="same", activation="relu"),
            layers.MaxPooling2D(2),
            layers.Conv2D(16, 5, padding="same", activation="relu"),
            layers.MaxPooling2D(2),
            layers.Conv2D(120, 5, padding="same", activation="relu"),
            layers.Flatten(),
            layers.Dense(84, activation="relu"),
            layers.Dense(10, activation="softmax"),
        ]
    )
    model.compile(optimizer=keras.optimizers.Adam(1e-3), loss="sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def _load():
    if FOLDER.is_dir():
        return _part("train"), _part("t10k")
    try:
        import keras

        train, test = keras.datasets.fashion_mnist.load_data()
    except Exception as error:
        raise FileNotFoundError(HOW_TO_GET_IT) from error
    return tuple((x.astype("float32") / 255, y.astype("int64")) for x, y in (train, test))


def _part(name):
    x = read_idx(FOLDER / f"{name}-images-idx3-ubyte.gz")
    y = read_idx(FOLDER / f"{name}-labels-idx1-ubyte.gz")
    return x.astype("float32") / 255, y.astype("int64")


def read_idx(path):
    """An array of unsigned bytes from a gzipped IDX file: two zero bytes, type 8, the number of axes, their sizes."""
    body = gzip.decompress(Path(path).read_bytes())
    if body[:3] != b"\x00\x00\x08":
        raise ValueError(f"{path} is not an IDX file of unsigned bytes")
    num_axes = body[3]
    shape = np.frombuffer(body, ">u4", num_axes, offset=4)
    return np.frombuffer(body, np.uint8, offset=4 + 4 * num_axes).reshape(shape)
