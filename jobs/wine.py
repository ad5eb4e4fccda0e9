"""Wine from scikit-learn: 178 rows of 13 measurements, each in its own unit, proline up to 1,680 and hue below 2."""

import numpy as np


def load_data(seed):
    """Rows as they were measured; a fifth to test, of the rest a part becomes the validation set."""
    from sklearn.datasets import load_wine

    wine = load_wine()
    order = np.random.default_rng(seed).permutation(len(wine.target))
    test, train = order[:36], order[36:]
    return {"train": (wine.data[train], wine.target[train]), "test": (wine.data[test], wine.target[test])}


def build_model(dropout=0.2, units=16, features=13):
    """A small network; its Input has the shape that rows have after `data.preprocess`."""
    import keras

    model = keras.Sequential(
        [
            keras.Input((features,)),
            keras.layers.Dense(units, activation="relu"),
            keras.layers.Dropout(dropout),
            keras.layers.Dense(3, activation="softmax"),
        ]
    )
    model.compile(optimizer=keras.optimizers.Adam(0.01), loss="sparse_categorical_crossentropy", metrics=["accuracy"])
    return model
