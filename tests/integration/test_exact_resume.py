"""Interrupted = uninterrupted, byte for byte: any model, killed anywhere; and Keras' own way fails the same test.

Steps to die at are drawn; a failure shows the seed, and `ORCHESTRATOR_SEED=n pytest …` draws the same steps again.
"""

from __future__ import annotations

import logging
import os
import random
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from orchestrator.planning.members import MemberPlan
from orchestrator.spec import TrainSpec
from orchestrator.training.checkpoint import Snapshot
from orchestrator.training.data import Dataset, load_dataset
from orchestrator.training.device import Device
from orchestrator.training.solo import Trained, make_late, train_solo
from tests.support.lives import Killed, facts, through_files

pytestmark = pytest.mark.slow

ROWS, BATCH = 96, 16
STEPS = ROWS // BATCH
EPOCH = STEPS + 1
"""How often an epoch looks up: before each training step, and before the one batch of validation."""
SEED = int(os.environ.get("ORCHESTRATOR_SEED") or secrets.randbelow(2**32))
logger = logging.getLogger(__name__)


def images(seed: int = 0) -> Any:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(ROWS + 32, 8, 8, 1)).astype("float32")
    y = (x.mean(axis=(1, 2, 3)) > 0).astype("int64")
    return {"train": (x[:ROWS], y[:ROWS]), "validation": (x[ROWS:], y[ROWS:])}


def two_inputs(seed: int = 0) -> Any:
    data = images(seed)
    return {
        name: ({"left": x.reshape(len(x), -1)[:, :32], "right": x.reshape(len(x), -1)[:, 32:]}, y)
        for name, (x, y) in data.items()
    }


def two_outputs(seed: int = 0) -> Any:
    """Labels and sample weights by output name."""
    data, rng = images(seed), np.random.default_rng(1)
    return {
        name: (
            x,
            {"sign": y, "mean": 8 * x.mean(axis=(1, 2, 3))},
            {"sign": rng.uniform(0.2, 3.0, len(x)), "mean": rng.uniform(0.2, 3.0, len(x))},
        )
        for name, (x, y) in data.items()
    }


def compiled(model: keras.Model) -> keras.Model:
    model.compile(keras.optimizers.Adam(0.01), "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def build_mlp(dropout: float = 0.3) -> keras.Model:
    layers = keras.layers
    return compiled(
        keras.Sequential(
            [
                keras.Input((8, 8, 1)),
                layers.Flatten(),
                layers.Dense(12, activation="relu"),
                layers.Dropout(dropout),
                layers.Dense(2, activation="softmax"),
            ]
        )
    )


def build_cnn(dropout: float = 0.3) -> keras.Model:
    layers = keras.layers
    return compiled(
        keras.Sequential(
            [
                keras.Input((8, 8, 1)),
                layers.RandomFlip(),
                layers.Conv2D(4, 3),
                layers.BatchNormalization(),
                layers.ReLU(),
                layers.GlobalAveragePooling2D(),
                layers.Dropout(dropout),
                layers.Dense(2, activation="softmax"),
            ]
        )
    )


def build_two_inputs(dropout: float = 0.3) -> keras.Model:
    layers = keras.layers
    left, right = keras.Input((32,), name="left"), keras.Input((32,), name="right")
    hidden = layers.Dropout(dropout)(layers.concatenate([layers.Dense(8)(left), layers.Dense(4)(right)]))
    return compiled(keras.Model({"left": left, "right": right}, layers.Dense(2, activation="softmax")(hidden)))


def build_two_outputs(dropout: float = 0.3) -> keras.Model:
    """Keras takes sample weights of a list of outputs in a list alone."""
    layers = keras.layers
    entry = keras.Input((8, 8, 1))
    hidden = layers.Dropout(dropout)(layers.Dense(12, activation="relu")(layers.Flatten()(entry)))
    sign, mean = layers.Dense(2, activation="softmax", name="sign")(hidden), layers.Dense(1, name="mean")(hidden)
    model = keras.Model(entry, [sign, mean])
    losses = {"sign": "sparse_categorical_crossentropy", "mean": "mse"}
    model.compile(keras.optimizers.Adam(0.01), losses, loss_weights={"sign": 1.0, "mean": 0.5}, metrics={"mean": "mae"})
    return model


class DrawsFromKernels(keras.layers.Layer):
    """A user's layer that draws in TensorFlow's old way, by state that no checkpoint can hold."""

    def call(self, x: Any, training: bool = False) -> Any:
        return x + tf.random.normal(tf.shape(x), stddev=0.3) if training else x


class DrawsWithoutSeed(keras.layers.Layer):
    """A user's layer that draws from Keras' global seed generator and from Python's and NumPy's global seeds."""

    def call(self, x: Any, training: bool = False) -> Any:
        if not training:
            return x
        drawn = tf.numpy_function(lambda: np.float32(np.random.normal() + random.random()), [], tf.float32)
        return x + keras.random.normal((64,), stddev=0.3) + 0.1 * tf.reshape(drawn, ())


def build_with(layer: keras.layers.Layer) -> keras.Model:
    layers = keras.layers
    return compiled(
        keras.Sequential([keras.Input((8, 8, 1)), layers.Flatten(), layer, layers.Dense(2, activation="softmax")])
    )


def build_stateful(dropout: float = 0.3) -> keras.Model:
    return build_with(DrawsFromKernels())


def build_unseeded(dropout: float = 0.3) -> keras.Model:
    return build_with(DrawsWithoutSeed())


def build_averaged(dropout: float = 0.3) -> keras.Model:
    model = build_mlp(dropout)
    model.compile(keras.optimizers.Adam(0.01, use_ema=True, ema_momentum=0.9), "sparse_categorical_crossentropy")
    return model


class CountsEpochs(keras.callbacks.Callback):
    """A user's callback with a state; it stops at the seventh epoch that it has seen, as a budget would."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = 0
        self.losses = np.zeros(0)

    def get_state(self) -> Mapping[str, Any]:
        return {"seen": self.seen, "losses": self.losses}

    def set_state(self, state: Mapping[str, Any]) -> None:
        self.seen, self.losses = state["seen"], state["losses"]

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self.seen += 1
        self.losses = np.append(self.losses, logs["loss"])
        if self.seen == 7:
            self.model.optimizer.learning_rate.assign(float(self.losses.mean()) * 1e-3)


MODELS: Mapping[str, tuple[str, Callable[..., Any]]] = {
    "mlp": (f"{__name__}:build_mlp", images),
    "cnn": (f"{__name__}:build_cnn", images),
    "two inputs": (f"{__name__}:build_two_inputs", two_inputs),
    "two outputs": (f"{__name__}:build_two_outputs", two_outputs),
    "draws from kernels": (f"{__name__}:build_stateful", images),
    "draws without a seed": (f"{__name__}:build_unseeded", images),
    "averaged weights": (f"{__name__}:build_averaged", images),
}


@dataclass
class Life:
    """Trains a member until it is killed at a step; keeps what was checkpointed, through files."""

    folder: Path
    model: str
    device: Device
    train: TrainSpec
    newest: Snapshot | None = None
    trained_epochs: int = 0

    def __post_init__(self) -> None:
        self.folder.mkdir(exist_ok=True)
        self.builder, load = MODELS[self.model]
        self.dataset: Dataset = load_dataset(load, self.model, validation_split=0.0, seed=0)
        self.member = MemberPlan(index=0, seed=7, builder=self.builder, kwargs={"dropout": 0.3})
        self.steps = 0

    def go_on(self, *, killed_at: int | None = None, lost: int = 0) -> Trained:
        """Train from the newest checkpoint; at look `killed_at` of this life it dies, and the `lost` last are lost."""
        kept: list[Snapshot] = []
        steps = 0

        def check() -> None:
            nonlocal steps
            if steps == killed_at:
                raise Killed
            steps += 1

        folder = self.folder / f"life-{len(list(self.folder.iterdir()))}"
        folder.mkdir()
        try:
            return train_solo(
                replace(self.member, train=self.train),
                self.dataset,
                folder,
                self.device,
                lambda epoch, logs: None,
                lambda: None,
                start_from=self.newest,
                keep=kept.append,
                check=check,
            )
        finally:
            self.trained_epochs += len(kept)
            if kept[: len(kept) - lost]:
                self.newest = through_files(kept[len(kept) - lost - 1], folder)


def spec(**changes: Any) -> TrainSpec:
    settings: dict[str, Any] = {
        "epochs": 9,
        "batch_size": BATCH,
        "early_stopping": {"patience": 3, "min_delta": 0.02},
        "callbacks": [
            {"class_name": "ReduceLROnPlateau", "config": {"patience": 1, "min_delta": 0.05, "factor": 0.5}},
            f"{__name__}:CountsEpochs",
        ],
        **changes,
    }
    return TrainSpec.model_validate(settings)


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory, device: Device) -> Callable[[str, TrainSpec], Any]:
    """Facts of uninterrupted lives, each trained once."""
    known: dict[Any, Any] = {}

    def get(model: str, train: TrainSpec) -> Any:
        key = (model, train.model_dump_json())
        if key not in known:
            known[key] = facts(Life(tmp_path_factory.mktemp("straight"), model, device, train).go_on())
        return known[key]

    return get


def a_step() -> int:
    """A training step within an epoch, not its first."""
    return int(np.random.default_rng(SEED).integers(1, STEPS))


KILLS = {
    "in the first epoch": lambda: [a_step()],
    "in validation": lambda: [EPOCH + STEPS],
    "in a later epoch": lambda: [3 * EPOCH + a_step()],
}


def die_and_go_on(life: Life, kills: list[int]) -> Trained:
    logger.warning("replay with ORCHESTRATOR_SEED=%s", SEED)
    for look in kills:
        with pytest.raises(Killed):
            life.go_on(killed_at=look)
    return life.go_on()


@pytest.mark.parametrize("kill", KILLS)
def test_a_member_killed_anywhere_ends_with_the_same_bits(
    kill: str, tmp_path: Path, device: Device, straight: Callable[[str, TrainSpec], Any]
) -> None:
    assert facts(die_and_go_on(Life(tmp_path, "mlp", device, spec()), KILLS[kill]())) == straight("mlp", spec())


@pytest.mark.parametrize("model", [name for name in MODELS if name != "averaged weights"])
def test_any_model_killed_again_and_again_ends_with_the_same_bits(
    model: str, tmp_path: Path, device: Device, straight: Callable[[str, TrainSpec], Any]
) -> None:
    """Between epochs, in validation, and in the middle of an epoch."""
    life = Life(tmp_path, model, device, spec())
    assert facts(die_and_go_on(life, [EPOCH, STEPS, EPOCH + a_step()])) == straight(model, spec())
    assert life.trained_epochs == len(straight(model, spec())[2]), "an epoch that was kept is not trained again"


@pytest.mark.parametrize(
    ("model", "changes"),
    [
        ("averaged weights", {"callbacks": [{"class_name": "SwapEMAWeights", "config": {"swap_on_epoch": True}}]}),
        (
            "mlp",  # the first comparison after the restart comes before Keras has set its direction
            {"checkpoint": {"monitor": "loss", "save_freq": 4}, "steps_per_execution": 2, "early_stopping": None},
        ),
        ("mlp", {"checkpoint": {"initial_value_threshold": 9.0, "save_weights_only": True}, "batch_size": 13}),
    ],
    ids=["averaged weights", "checkpoint at batches", "threshold"],
)
def test_what_callbacks_remember_survives(
    model: str,
    changes: dict[str, Any],
    tmp_path: Path,
    device: Device,
    straight: Callable[[str, TrainSpec], Any],
) -> None:
    train = spec(epochs=4, **changes)
    per_call = 1 if train.steps_per_execution == "auto" else train.steps_per_execution
    epoch = -(-ROWS // train.batch_size) // per_call + 1
    life = Life(tmp_path, model, device, train)
    assert facts(die_and_go_on(life, [epoch, 2, 2 * epoch + 1])) == straight(model, train)


def test_a_member_killed_after_its_early_stop_only_publishes(
    tmp_path: Path, device: Device, straight: Callable[[str, TrainSpec], Any]
) -> None:
    train = spec(epochs=30, callbacks=[], early_stopping={"patience": 1, "min_delta": 0.2})
    expected = straight("mlp", train)
    stopped = expected[-1]
    assert stopped is not None, "this job has to stop early"
    life = Life(tmp_path, "mlp", device, train)
    life.go_on()
    assert life.newest is not None
    assert life.newest.stopped
    epochs = life.trained_epochs
    assert facts(life.go_on()) == expected
    assert life.trained_epochs == epochs == stopped, "nothing was trained again, and nothing beyond the stop"


@pytest.mark.parametrize("model", ["mlp", "cnn"])
def test_a_member_killed_while_it_uploads_goes_on_from_the_checkpoint_before(
    model: str, tmp_path: Path, device: Device, straight: Callable[[str, TrainSpec], Any]
) -> None:
    life = Life(tmp_path, model, device, spec())
    with pytest.raises(Killed):
        life.go_on(killed_at=4 * EPOCH + 1, lost=2)
    assert life.newest is not None
    assert life.newest.epoch == 2
    assert facts(life.go_on()) == straight(model, spec())


@pytest.mark.parametrize("save_best_only", [True, False])
def test_a_worse_model_never_replaces_a_better_one(save_best_only: bool, tmp_path: Path, device: Device) -> None:
    """The rate is far too high from the first epoch on: the first model is the best, whatever restarts."""
    train = spec(
        epochs=6,
        callbacks=[],
        early_stopping=None,
        optimizer={"class_name": "SGD", "config": {"learning_rate": 1.0}},
        checkpoint={"monitor": "val_accuracy", "mode": "max", "save_best_only": save_best_only},
    )
    life = Life(tmp_path, "mlp", device, train)
    trained = die_and_go_on(life, [EPOCH, EPOCH, EPOCH + 2])
    scores = [row["val_accuracy"] for row in trained.history]
    assert len(scores) == 6
    loaded = keras.models.load_model(trained.path)
    validation = life.dataset.validation
    assert validation is not None
    _, accuracy = loaded.evaluate(validation.x, validation.y, verbose=0)
    expected = max(scores) if save_best_only else scores[-1]
    assert accuracy == pytest.approx(expected, abs=1e-6)
    assert trained.best_epoch == (int(np.argmax(scores)) + 1 if save_best_only else 6)


def test_a_late_member_is_what_fit_would_have_ended_with(tmp_path: Path, device: Device) -> None:
    """Cut short after four epochs: the same as a job of four epochs, but for what it says of stopping."""
    for name in ("cut", "late", "short"):
        (tmp_path / name).mkdir()
    life = Life(tmp_path / "cut", "mlp", device, spec(epochs=40, callbacks=[]))
    with pytest.raises(Killed):
        life.go_on(killed_at=4 * EPOCH)
    assert life.newest is not None
    member = replace(life.member, train=life.train)
    late = make_late(member, life.dataset, life.newest, tmp_path / "late", device)
    short = Life(tmp_path / "short", "mlp", device, spec(epochs=4, callbacks=[])).go_on()
    assert facts(late) == facts(short)


@dataclass(frozen=True)
class KerasLife:
    """What a `fit` with Keras' own callbacks left: 0-based `stopped_epoch`, its history, the model that it kept."""

    history: Mapping[str, list[float]]
    epochs: list[int]
    stopped_epoch: int
    best_val_loss: float


def with_keras_own(rows: Dataset, folder: Path, killed_at: int | None = None) -> KerasLife:
    """The same member with `fit`, `BackupAndRestore`, `EarlyStopping` and `ModelCheckpoint` as Keras documents them.

    `mode="max"` makes the first epochs of a falling loss the best ones: what follows is worse.
    """
    keras.utils.set_random_seed(7)
    model = build_mlp()
    steps = 0

    class Kill(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
            nonlocal steps
            if steps == killed_at:
                raise Killed
            steps += 1

    stopping = keras.callbacks.EarlyStopping(patience=3, min_delta=0.2)
    callbacks = [
        keras.callbacks.BackupAndRestore(str(folder / "backup"), delete_checkpoint=False),
        keras.callbacks.ModelCheckpoint(str(folder / "best.keras"), save_best_only=True, mode="max"),
        stopping,
        Kill(),
    ]
    assert rows.validation is not None
    validation = (rows.validation.x, rows.validation.y)
    train = {"batch_size": BATCH, "epochs": 9, "validation_data": validation, "verbose": 0}
    history = model.fit(rows.train.x, rows.train.y, callbacks=callbacks, **train)
    best = keras.models.load_model(folder / "best.keras").evaluate(*validation, verbose=0)[0]
    return KerasLife(history.history, history.epoch, stopping.stopped_epoch, best)


def test_the_control_keras_own_backup_and_restore_fails_the_same_comparison(
    tmp_path: Path, device: Device, straight: Callable[[str, TrainSpec], Any]
) -> None:
    """The fault: death in the third epoch. If Keras passes, it has learned to resume exactly, and ours may go."""
    stopping = {"patience": 3, "min_delta": 0.2, "restore_best_weights": False}
    train = spec(callbacks=[], early_stopping=stopping, checkpoint={"mode": "max"})
    for name in ("ours", "straight", "killed"):
        (tmp_path / name).mkdir()
    ours = die_and_go_on(Life(tmp_path / "ours", "mlp", device, train), [2 * EPOCH + 1])
    assert facts(ours) == straight("mlp", train)
    assert ours.best_epoch == 1

    rows = Life(tmp_path / "straight", "mlp", device, train).dataset
    uninterrupted = with_keras_own(rows, tmp_path / "straight")
    with pytest.raises(Killed):
        with_keras_own(rows, tmp_path / "killed", killed_at=2 * STEPS + 1)
    resumed = with_keras_own(rows, tmp_path / "killed")
    assert 0 < uninterrupted.stopped_epoch < resumed.stopped_epoch, "it forgot how long it had waited"
    assert resumed.epochs[0] == 2, "its history begins anew"
    assert len(resumed.history["loss"]) < resumed.epochs[-1] + 1
    assert resumed.best_val_loss < uninterrupted.best_val_loss, "a worse model (mode: max) replaced the better one"
