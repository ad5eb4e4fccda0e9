"""Penguins of the Palmer Archipelago: species and body mass from measures, island and sex; 342 birds, no download.

The table beside this file is Palmer Penguins, in the public domain (CC0): K. B. Gorman, T. D. Williams, W. R. Fraser
2014, PLoS ONE 9(3) e90081.
"""

import csv
from pathlib import Path

import numpy as np

TABLE = Path(__file__).with_name("penguins.csv")
SPECIES = ["Adelie", "Chinstrap", "Gentoo"]
ISLANDS = ["Biscoe", "Dream", "Torgersen"]
SEXES = ["female", "male", "NA"]
MEASURES = ["bill_length_mm", "bill_depth_mm", "flipper_length_mm"]


def load_data(seed):
    """Three inputs, two outputs; 80 % to train (a part of which becomes the validation set), 20 % to test."""
    with TABLE.open(encoding="utf-8", newline="") as file:
        birds = [row for row in csv.DictReader(file) if row["body_mass_g"] != "NA"]
    x = {
        "measures": np.array([[row[name] for name in MEASURES] for row in birds]).astype("float32"),
        "island": np.array([[ISLANDS.index(row["island"])] for row in birds], "int32"),
        "sex": np.array([[SEXES.index(row["sex"])] for row in birds], "int32"),
    }
    y = {
        "species": np.array([SPECIES.index(row["species"]) for row in birds]),
        "mass": np.array([row["body_mass_g"] for row in birds]).astype("float32") / 1000,  # kg
    }
    order = np.random.default_rng(seed).permutation(len(birds))
    test, train = order[: len(birds) // 5], order[len(birds) // 5 :]

    def part(rows):
        return {name: array[rows] for name, array in x.items()}, {name: array[rows] for name, array in y.items()}

    return {"train": part(train), "test": part(test)}


def build_model(dropout=0.2, units=32):
    """A branch for numbers and one for each category, joined by a hidden layer that both outputs share."""
    import keras
    from keras import layers

    measures = keras.Input((len(MEASURES),), name="measures")
    island = keras.Input((1,), dtype="int32", name="island")
    sex = keras.Input((1,), dtype="int32", name="sex")
    branches = [
        layers.BatchNormalization(momentum=0.9)(measures),  # 14 steps an epoch: averages that follow soon
        layers.Flatten()(layers.Embedding(len(ISLANDS), 2)(island)),
        layers.CategoryEncoding(len(SEXES), "one_hot")(sex),
    ]
    hidden = layers.Dense(units, "relu")(layers.Concatenate()(branches))
    hidden = layers.Dropout(dropout)(hidden)
    outputs = {
        "species": layers.Dense(len(SPECIES), "softmax", name="species")(hidden),
        "mass": layers.Dense(1, name="mass")(hidden),
    }
    model = keras.Model([measures, island, sex], outputs)
    model.compile(
        optimizer=keras.optimizers.Adam(0.01),
        loss={"species": "sparse_categorical_crossentropy", "mass": "mse"},
        loss_weights={"species": 1.0, "mass": 0.5},
        metrics={"species": ["accuracy"], "mass": ["mae"]},
    )
    return model
