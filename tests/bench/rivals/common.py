"""What every rival's user has at hand: the task, its data, and a place for the figures. No framework of ours."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tests.bench import models
from tests.bench.tasks import Task

NUM_WORKERS = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
"""One worker for each core, as our own solo engine has."""


def load(task: Task) -> tuple[Any, Any, Any, Any]:
    """x, y, x_val, y_val."""
    splits = getattr(models, task.data)()
    return (*splits["train"], *splits["validation"])


def report(path: str, predictions: Sequence[Any], y_val: Any, epochs: int) -> None:
    """Average the members' predictions [M, N, C] and note the accuracy."""
    mean = np.mean(predictions, axis=0)
    accuracies = [float(np.mean(np.argmax(each, axis=1) == y_val)) for each in predictions]
    facts = {
        "accuracy": round(float(np.mean(mean.argmax(axis=1) == y_val)), 4),
        "members_accuracy": round(float(np.mean(accuracies)), 4),
        "epochs": epochs,
    }
    Path(path).write_text(json.dumps(facts))


def fit_member(
    task: Task, index: int, data: tuple[Any, Any, Any, Any], folder: str, steps_per_execution: int = 1
) -> tuple[Any, int]:
    """The body of everybody's loop: build, `fit` with the two callbacks, the best model's predictions.

    Returns:
        Predicted probabilities of the validation rows [N, C], and how many epochs were trained.
    """
    import keras

    x, y, x_val, y_val = data
    keras.utils.clear_session()
    keras.utils.set_random_seed(task.seeds[index])
    model = getattr(models, task.model)(**task.arguments[index])
    model.compile(**models.COMPILE, steps_per_execution=steps_per_execution)
    callbacks = [keras.callbacks.ModelCheckpoint(f"{folder}/member-{index}.keras", save_best_only=True)]
    if task.patience is not None:
        callbacks.append(keras.callbacks.EarlyStopping(patience=task.patience, restore_best_weights=True))
    history = model.fit(
        x,
        y,
        batch_size=task.batch_size,
        epochs=task.epochs,
        validation_data=(x_val, y_val),
        callbacks=callbacks,
        verbose=0,
    )
    best = keras.models.load_model(f"{folder}/member-{index}.keras")
    return best.predict(x_val, verbose=0), len(history.epoch)
