"""Fisher's irises, 150 flowers of three species, as scikit-learn has them: every fifth row is a test row."""


def build_model(dropout=0.2, units=32):
    """A small multi-layer perceptron."""
    import keras

    model = keras.Sequential(
        [
            keras.Input((4,)),
            keras.layers.Dense(units, activation="relu"),
            keras.layers.Dropout(dropout),
            keras.layers.Dense(3, activation="softmax"),
        ]
    )
    model.compile(optimizer=keras.optimizers.Adam(0.01), loss="sparse_categorical_crossentropy", metrics=["accuracy"])
    return model
