"""Interrupted = uninterrupted, byte for byte: any model, killed anywhere; and Keras' own way fails the same test."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from orchestrator.planning.members import MemberPlan
from orchestrator.spec import TrainSpec
from orchestrator.training.checkpoint import Snapshot, read_best, read_checkpoint, write_best, write_checkpoint
from orchestrator.training.data import Dataset, load_dataset
from orchestrator.training.device import Device
from orchestrator.training.publish import weights_digest
from orchestrator.training.solo import Trained, make_late, train_solo

pytestmark = pytest.mark.slow

ROWS, BATCH = 96, 16
STEPS = ROWS // BATCH + 1
"""How often an epoch looks up: before each training step, and before the one batch of validation."""


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


class DrawsFromKernels(keras.layers.Layer):
    """A user's layer that draws in TensorFlow's old way, by state that no checkpoint can hold."""

    def call(self, x: Any, training: bool = False) -> Any:
        return x + tf.random.normal(tf.shape(x), stddev=0.3) if training else x


def build_stateful(dropout: float = 0.3) -> keras.Model:
    layers = keras.layers
    return compiled(
        keras.Sequential(
            [keras.Input((8, 8, 1)), layers.Flatten(), DrawsFromKernels(), layers.Dense(2, activation="softmax")]
        )
    )


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
    "draws from kernels": (f"{__name__}:build_stateful", images),
}


class Killed(BaseException):
    """Stands for the death of the process: nothing may catch it."""


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
        """Train from the newest checkpoint; at step `killed_at` of this life it dies, and the `lost` last are lost."""
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
                self.member,
                self.train,
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


def through_files(snapshot: Snapshot, folder: Path) -> Snapshot:
    """The snapshot as another process reads it."""
    write_checkpoint([snapshot], folder / "state")
    best = None
    if snapshot.best is not None:
        write_best(snapshot.best, folder / "best")
        best = read_best(folder / "best")
    (read,) = read_checkpoint(folder / "state", {0: best})
    return read


def facts(trained: Trained) -> Any:
    """All that must be equal, exactly."""
    return (
        weights_digest(trained.model),
        [array.tobytes() for array in (np.asarray(v) for v in trained.model.optimizer.variables)],
        [dict(row) for row in trained.history],
        trained.best_epoch,
        trained.stopped_epoch,
    )


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


KILLS = {
    "in the first epoch": [2],
    "between epochs": [STEPS],
    "while it validates": [2 * STEPS - 1],
    "in a later epoch": [3 * STEPS + 4],
    "again and again": [STEPS + 1, 2, 2 * STEPS + 3, STEPS],
}


@pytest.mark.parametrize("kills", KILLS.values(), ids=KILLS.keys())
@pytest.mark.parametrize("model", MODELS)
def test_a_member_killed_anywhere_ends_with_the_same_bits(
    model: str, kills: list[int], tmp_path: Path, device: Device, straight: Callable[[str, TrainSpec], Any]
) -> None:
    life = Life(tmp_path, model, device, spec())
    for step in kills:
        with pytest.raises(Killed):
            life.go_on(killed_at=step)
    assert facts(life.go_on()) == straight(model, spec())


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
        life.go_on(killed_at=4 * STEPS + 1, lost=2)
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
    for step in (STEPS, STEPS, STEPS):
        with pytest.raises(Killed):
            life.go_on(killed_at=step)
    trained = life.go_on()
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
    life = Life(tmp_path / "cut", "mlp", device, spec(epochs=40, callbacks=[]))
    with pytest.raises(Killed):
        life.go_on(killed_at=4 * STEPS)
    assert life.newest is not None
    (tmp_path / "late").mkdir()
    late = make_late(life.member, life.train, life.dataset, life.newest, tmp_path / "late", device)
    short = Life(tmp_path / "short", "mlp", device, spec(epochs=4, callbacks=[])).go_on()
    assert facts(late) == facts(short)


def with_keras_own(life: Life, killed_at: int | None) -> tuple[Any, keras.callbacks.EarlyStopping]:
    """The same member with `fit`, `BackupAndRestore`, `EarlyStopping` and `ModelCheckpoint` as Keras documents them."""
    model = build_mlp()
    steps = 0

    class Kill(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
            nonlocal steps
            if steps == killed_at:
                raise Killed
            steps += 1

    stopping = keras.callbacks.EarlyStopping(patience=2, min_delta=0.2)
    callbacks = [
        keras.callbacks.BackupAndRestore(str(life.folder / "backup"), delete_checkpoint=False),
        keras.callbacks.ModelCheckpoint(str(life.folder / "best.keras"), save_best_only=True),
        stopping,
        Kill(),
    ]
    rows = life.dataset
    assert rows.validation is not None
    history = model.fit(
        rows.train.x,
        rows.train.y,
        batch_size=BATCH,
        epochs=9,
        validation_data=(rows.validation.x, rows.validation.y),
        callbacks=callbacks,
        verbose=0,
    )
    return history, stopping


def test_the_control_keras_own_backup_and_restore_fails_the_same_comparison(tmp_path: Path, device: Device) -> None:
    """If this fails, Keras has learned to resume exactly, and this part of ours may go."""
    for name in ("straight", "killed"):
        (tmp_path / name).mkdir()
    straight = Life(tmp_path / "straight", "mlp", device, spec())
    keras.utils.set_random_seed(7)
    history, stopping = with_keras_own(straight, killed_at=None)
    assert stopping.stopped_epoch > 0
    killed = Life(tmp_path / "killed", "mlp", device, spec())
    keras.utils.set_random_seed(7)
    with pytest.raises(Killed):
        with_keras_own(killed, killed_at=2 * STEPS + 1)
    keras.utils.set_random_seed(7)
    resumed, resumed_stopping = with_keras_own(killed, killed_at=None)
    assert len(resumed.history["loss"]) < resumed.epoch[-1] + 1, "its history begins anew"
    assert resumed.history["loss"][-3:] != history.history["loss"][-3:]
    assert resumed_stopping.stopped_epoch != stopping.stopped_epoch, "it forgot how long it had waited"
