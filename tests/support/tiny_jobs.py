"""Tiny jobs on real rows: a module with data and build functions, written where the test wants it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from orchestrator.spec import Job, parse_job

MODULE = """
import numpy as np


def digits(num_rows, start=0):
    from sklearn.datasets import load_digits

    digits = load_digits()
    rows = slice(start, start + num_rows)
    return (digits.data[rows] / 16).astype("float32"), digits.target[rows].astype("int64")


def load_data():
    return {"train": digits(160), "validation": digits(60, 160), "test": digits(50, 220)}


def build_model(dropout=0.2, units=16, rate=0.01, compiled=True, head="softmax"):
    import keras

    model = keras.Sequential(
        [
            keras.Input((64,)),
            keras.layers.Dense(units, activation="relu"),
            keras.layers.Dropout(dropout),
            keras.layers.Dense(10, activation=head),
        ]
    )
    if compiled:
        model.compile(keras.optimizers.Adam(rate), "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model
"""


class TinyProject:
    """A folder with a module of its own name, on the import path for the length of a test.

    Args:
        folder: where the module and the runs go.
        name: of the module; unique in the test session, for modules once imported stay in the process.
    """

    def __init__(self, folder: Path, name: str, source: str = "") -> None:
        self.folder = folder
        self.name = name
        (folder / f"{name}.py").write_text(MODULE + source, encoding="utf-8")

    def job(self, *, store: str = "runs", **parts: Any) -> Job:
        """A job of two members; `parts` replace what stands here, `train` key by key."""
        document: dict[str, Any] = {
            "name": "tiny",
            "model": f"{self.name}:build_model",
            "data": f"{self.name}:load_data",
            "members": 2,
            "storage": {"url": str(self.folder / store)},
        }
        train: Mapping[str, Any] = {"epochs": 2, "batch_size": 32, **parts.pop("train", {})}
        return parse_job({**document, "train": dict(train), **parts})
