"""What training a member ends with, by either engine: its best model, as a file."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import keras

from orchestrator.errors import InvalidModel
from orchestrator.models.preprocess_fit import Preprocessing
from orchestrator.spec import TrainSpec
from orchestrator.training.made_callbacks import MemberCheckpoint
from orchestrator.training.variables import assign


@dataclass(frozen=True)
class Trained:
    """What training a member gave.

    Attributes:
        model: holds the best model's weights.
        path: the best model in local scratch: a `.keras` file, or `.weights.h5` where the job keeps weights alone.
        history: one row per epoch: `epoch` (1-based) and what Keras reported.
        best_epoch: the epoch (1-based) whose weights the best model has.
        stopped_epoch: the epoch (1-based) at which training stopped early, or None.
        preprocessing: what the model does with raw rows first, or None.
    """

    model: keras.Model
    path: Path
    history: tuple[Mapping[str, float], ...]
    best_epoch: int
    stopped_epoch: int | None
    preprocessing: Preprocessing | None = None


def best_epoch_of(checkpoint: MemberCheckpoint, early_stopping: keras.callbacks.EarlyStopping | None) -> int | None:
    """The epoch (1-based) whose weights the member's model has; None: the last one."""
    if checkpoint.save_best_only and checkpoint.best_model is not None:
        return checkpoint.best_model.epoch
    if early_stopping is not None and early_stopping.best_weights is not None:  # put back whether it stopped or not
        return int(early_stopping.best_epoch) + 1
    return None


def save_best(model: keras.Model, train: TrainSpec, checkpoint: MemberCheckpoint, folder: Path) -> Path:
    """One file: what `ModelCheckpoint` kept if `save_best_only`, else the weights after fit.

    A whole model as `.keras`, or with `save_weights_only` its weights as `.weights.h5`.

    It appears under its name when it is complete: a full disk leaves no half of it.
    """
    if train.checkpoint.save_best_only:
        best = checkpoint.best_model
        if best is None:
            raise InvalidModel(
                f"ModelCheckpoint kept no model: {checkpoint.monitor} never went beyond initial_value_threshold "
                f"{train.checkpoint.initial_value_threshold}",
                where="train.checkpoint",
                hint="change initial_value_threshold, or train for more epochs",
            )
        model.set_weights(best.weights)
        assign(model.optimizer.variables, best.optimizer, where="the best model's optimizer")
    weights_only = train.checkpoint.save_weights_only
    suffix = ".weights.h5" if weights_only else ".keras"
    unfinished, published = folder / f"unfinished{suffix}", folder / f"best{suffix}"
    (model.save_weights if weights_only else model.save)(unfinished)
    with unfinished.open("rb") as file:
        os.fsync(file.fileno())
    return unfinished.replace(published)
