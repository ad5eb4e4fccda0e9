"""A job that trains in a second: a folder with its code and its job file, for runs through the command line."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.support.processes import without_ray

MODULE = """
import os
from pathlib import Path

import numpy as np


def load_data(seed):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(120, 4)).astype("float32")
    y = x[:, :2].argmax(axis=1)
    return {"train": (x[:60], y[:60]), "validation": (x[60:90], y[60:90]), "test": (x[90:], y[90:])}


def build_model(dropout, diary=None):
    import keras

    if diary is not None:
        with Path(diary).open("a") as file:
            file.write(os.getcwd() + "\\n")
    layers = [keras.Input((4,)), keras.layers.Dropout(dropout), keras.layers.Dense(2, activation="softmax")]
    model = keras.Sequential(layers)
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model
"""


def write_tiny_job(folder: Path, storage: Mapping[str, Any], **settings: Any) -> Path:
    """Write `tiny.py` and `job.yaml` into `folder` and return the job file's path.

    Args:
        folder: exists.
        storage: the job's `storage:`.
        settings: more of the job's keys; `diary`, a file to which the build function adds its working directory.
    """
    (folder / "tiny.py").write_text(MODULE, encoding="utf-8")
    diary = settings.pop("diary", None)
    job = {
        "name": "tiny",
        "model": {"builder": "tiny:build_model", "kwargs": {"diary": str(diary)} if diary else {}},
        "data": "tiny:load_data",
        "members": 2,
        "train": {"epochs": 2, "batch_size": 20},
        "storage": dict(storage),
        **settings,
    }
    path = folder / "job.yaml"
    path.write_text(json.dumps(job), encoding="utf-8")  # JSON is YAML
    return path


def orchestrator(
    job: Path, command: str, *arguments: str, environ: Mapping[str, str] | None = None, timeout_s: float = 300.0
) -> subprocess.CompletedProcess[str]:
    """`orchestrator COMMAND JOB …` in the job's folder, as a user types it, on no Ray but its own."""
    base = without_ray()
    return subprocess.run(
        [sys.executable, "-m", "orchestrator", command, job.name, *arguments],
        cwd=job.parent,
        env=dict(environ) if environ is not None else base,
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )
