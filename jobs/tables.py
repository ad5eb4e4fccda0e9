"""Tables that scikit-learn ships, one for each kind of target: yes or no, one of several as one-hot, a number."""

import numpy as np


def load_breast_cancer(seed):
    """569 tumours, 30 measures each: malignant (1) or benign (0). Labels [N]."""
    from sklearn.datasets import load_breast_cancer

    table = load_breast_cancer()
    return _split(table.data, 1 - table.target, seed)


def load_wine(seed):
    """178 wines, 13 measures each, of three growers. Labels [N, 3], one-hot."""
    from sklearn.datasets import load_wine

    table = load_wine()
    return _split(table.data, np.eye(3, dtype="float32")[table.target], seed)


def load_diabetes(seed):
    """442 patients, 10 measures each, and how far the disease went on in a year, in hundreds. Labels [N]."""
    from sklearn.datasets import load_diabetes

    table = load_diabetes(scaled=False)
    return _split(table.data, (table.target / 100).astype("float32"), seed)


def build_network(inputs, outputs, activation="linear", widths=(32, 16), dropout=0.1):
    """Dense layers of these widths. Not compiled: optimizer, loss and metrics are the job's."""
    import keras

    model = keras.Sequential([keras.Input((inputs,))])
    for width in widths:
        model.add(keras.layers.Dense(width, activation="relu"))
    model.add(keras.layers.Dropout(dropout))
    model.add(keras.layers.Dense(outputs, activation=activation))
    return model


def _split(x, y, seed):
    """80 % to train (a part of which becomes the validation set), 20 % to test."""
    order = np.random.default_rng(seed).permutation(len(x))
    cut = len(x) // 5
    x = x.astype("float32")
    return {"train": (x[order[cut:]], y[order[cut:]]), "test": (x[order[:cut]], y[order[:cut]])}
