"""Members for tests of the fused engine: models, rows, and a pack that can be killed and go on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import keras
import numpy as np
import pytest

from orchestrator.planning.members import MemberPlan
from orchestrator.spec import TrainSpec
from orchestrator.spec.varied import train_with
from orchestrator.training.checkpoint import Snapshot, read_best, read_checkpoint, write_best, write_checkpoint
from orchestrator.training.data import Dataset, load_dataset
from orchestrator.training.device import Device, prepare_backend, start_backend
from orchestrator.training.fused.seat import Seat
from orchestrator.training.fused.train import Outcome, train_fused
from orchestrator.training.solo import Trained, train_solo

ROWS, VALIDATION, BATCH = 150, 50, 16
"""Nine full batches and a smaller one."""


def rows(seed: int = 0) -> Any:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(ROWS + VALIDATION, 12)).astype("float32")
    y = (x[:, :4].sum(axis=1) + 0.3 * rng.normal(size=len(x)) > 0).astype("int64")
    return {"train": (x[:ROWS], y[:ROWS]), "validation": (x[ROWS:], y[ROWS:])}


def weighted_pairs(seed: int = 0) -> Any:
    weights = np.random.default_rng(1).uniform(0.2, 3.0, ROWS + VALIDATION).astype("float32")
    parts = {"train": weights[:ROWS], "validation": weights[ROWS:]}
    return {name: ({"left": x[:, :6], "right": x[:, 6:]}, y, parts[name]) for name, (x, y) in rows(seed).items()}


def two_outputs(seed: int = 0) -> Any:
    """Labels and sample weights by output name."""
    return {
        name: (x, {"sign": y, "sum": x["left"].sum(axis=1)}, {"sign": w, "sum": w[::-1]})
        for name, (x, y, w) in weighted_pairs(seed).items()
    }


def compiled(model: keras.Model, rate: float = 0.01) -> keras.Model:
    model.compile(
        keras.optimizers.Adam(rate),
        "sparse_categorical_crossentropy",
        metrics=["accuracy"],
        weighted_metrics=["sparse_categorical_crossentropy"],
    )
    return model


def build_mlp(dropout: float = 0.0, rate: float = 0.01, units: int = 16, scale: float = 1.0) -> keras.Model:
    layers = keras.layers
    hidden = layers.Dense(units, "relu", kernel_regularizer=keras.regularizers.L2(1e-3))
    model = keras.Sequential(
        [keras.Input((12,)), hidden, layers.Dropout(dropout), layers.Dense(2, activation="softmax")]
    )
    hidden.kernel.assign(hidden.kernel * scale)
    return compiled(model, rate)


def build_batchnorm(dropout: float = 0.0) -> keras.Model:
    layers = keras.layers
    return compiled(
        keras.Sequential(
            [
                keras.Input((12,)),
                layers.Dense(16),
                layers.BatchNormalization(),
                layers.ReLU(),
                layers.Dropout(dropout),
                layers.Dense(2, activation="softmax"),
            ]
        )
    )


def build_two_inputs(dropout: float = 0.0) -> keras.Model:
    layers = keras.layers
    left, right = keras.Input((6,), name="left"), keras.Input((6,), name="right")
    hidden = layers.concatenate([layers.Dense(8, "relu")(left), layers.Dense(4, "tanh")(right)])
    hidden = layers.Dropout(dropout)(hidden)
    return compiled(keras.Model({"left": left, "right": right}, layers.Dense(2, activation="softmax")(hidden)))


def build_two_outputs(dropout: float = 0.0) -> keras.Model:
    layers = keras.layers
    left, right = keras.Input((6,), name="left"), keras.Input((6,), name="right")
    hidden = layers.Dropout(dropout)(layers.Dense(8, "relu")(layers.concatenate([left, right])))
    outputs = [layers.Dense(2, "softmax", name="sign")(hidden), layers.Dense(1, name="sum")(hidden)]
    model = keras.Model({"left": left, "right": right}, outputs)
    model.compile(
        keras.optimizers.Adam(0.01),
        {"sign": "sparse_categorical_crossentropy", "sum": "mse"},
        loss_weights={"sign": 1.0, "sum": 0.3},
        metrics={"sign": ["accuracy"]},
        weighted_metrics={"sum": ["mae"]},
    )
    return model


def build_conv(dropout: float = 0.0) -> keras.Model:
    layers = keras.layers
    return compiled(
        keras.Sequential(
            [
                keras.Input((12,)),
                layers.Reshape((12, 1)),
                layers.Conv1D(4, 3, activation="relu"),
                layers.SpatialDropout1D(dropout),
                layers.GlobalAveragePooling1D(),
                layers.Dense(2, activation="softmax"),
            ]
        )
    )


MODELS: Mapping[str, tuple[str, Callable[..., Any]]] = {
    "mlp": (f"{__name__}:build_mlp", rows),
    "batch normalization": (f"{__name__}:build_batchnorm", rows),
    "two inputs, weights": (f"{__name__}:build_two_inputs", weighted_pairs),
    "two inputs, two outputs, weights": (f"{__name__}:build_two_outputs", two_outputs),
    "convolution": (f"{__name__}:build_conv", rows),
}


def member(index: int, model: str = "mlp", **kwargs: Any) -> MemberPlan:
    return MemberPlan(index=index, seed=70 + index, builder=MODELS[model][0], kwargs={"dropout": 0.0, **kwargs})


def dataset_of(model: str = "mlp") -> Dataset:
    return load_dataset(MODELS[model][1], model, validation_split=0.0, seed=0)


def spec(**changes: Any) -> TrainSpec:
    return TrainSpec.model_validate({"epochs": 4, "batch_size": BATCH, "early_stopping": None, **changes})


def started_device(request: pytest.FixtureRequest) -> Device:
    """A worker's device with the backend of this process: `KERAS_BACKEND` says which."""
    backend = keras.config.backend()
    if backend == "tensorflow":
        return cast(Device, request.getfixturevalue("device"))
    train = TrainSpec(backend=backend)
    prepare_backend(train, num_cpus=1, num_gpus=0)
    return start_backend(train, num_cpus=1)


class Killed(BaseException):
    """Stands for the death of the process: nothing may catch it."""


@dataclass
class PackLife:
    """Trains a pack, perhaps until it is killed; keeps what was checkpointed, through files."""

    members: Sequence[MemberPlan]
    train: TrainSpec
    dataset: Dataset
    folder: Path
    device: Device
    newest: Mapping[int, Snapshot] = field(default_factory=dict)
    published: set[int] = field(default_factory=set)
    outcomes: dict[int, Outcome] = field(default_factory=dict)
    order: list[tuple[str, Any]] = field(default_factory=list)
    lives: int = 0

    def go_on(self, *, killed_at: int | None = None, forget: int = 0) -> dict[int, Outcome]:
        """Train from the newest checkpoint; at look `killed_at` it dies, and the last `forget` checkpoints are lost."""
        self.lives += 1
        home = self.folder / f"life-{self.lives}"
        kept: list[Sequence[Snapshot]] = []
        looks = 0

        def check() -> None:
            nonlocal looks
            if looks == killed_at:
                raise Killed
            looks += 1

        def keep(snapshots: Sequence[Snapshot]) -> None:
            kept.append(snapshots)
            self.order.append(("kept", tuple((s.member, s.epoch, s.stopped) for s in snapshots)))

        def done(seat: int, outcome: Outcome) -> None:
            self.outcomes[seat] = outcome
            self.order.append(("done", seat))

        try:
            train_fused(
                self._seats(home),
                self.dataset,
                self.device,
                lambda: None,
                keep=keep,
                check=check,
                done=done,
            )
        finally:
            if kept[: len(kept) - forget]:
                self.newest = {s.member: s for s in through_files(kept[len(kept) - forget - 1], home)}
        return self.outcomes

    def _seats(self, home: Path) -> list[Seat]:
        seats = []
        for number, plan in enumerate(self.members):
            folder = home / str(number)
            folder.mkdir(parents=True)
            finished = number in self.published
            start = None if finished else self.newest.get(plan.index)
            trained = replace(plan, train=train_with(self.train, plan.train_values))
            seats.append(Seat(trained, folder, start, finished, lambda epoch, logs: None))
        return seats


def through_files(snapshots: Sequence[Snapshot], folder: Path) -> tuple[Snapshot, ...]:
    """Snapshots as another process reads them."""
    write_checkpoint(snapshots, folder / "state")
    bests = {}
    for snapshot in snapshots:
        if snapshot.best is not None:
            write_best(snapshot.best, folder / f"best-{snapshot.member}")
            bests[snapshot.member] = read_best(folder / f"best-{snapshot.member}")
    return read_checkpoint(folder / "state", bests)


def solo(plan: MemberPlan, train: TrainSpec, dataset: Dataset, folder: Path, device: Device) -> Trained:
    folder.mkdir(parents=True)
    member = replace(plan, train=train)
    return train_solo(member, dataset, folder, device, lambda epoch, logs: None, lambda: None)


def pack(members: Sequence[MemberPlan], train: TrainSpec, dataset: Dataset, folder: Path, device: Device) -> list[Any]:
    """What a pack's members end with, in the order of their seats."""
    outcomes = PackLife(members, train, dataset, folder, device).go_on()
    return [outcomes[seat] for seat in range(len(members))]


def curve(trained: Any, name: str = "loss") -> list[float]:
    return [row[name] for row in trained.history]


def facts(trained: Any) -> Any:
    """All that must be equal, exactly."""
    from orchestrator.training.publish import weights_digest

    optimizer = [np.asarray(keras.ops.convert_to_numpy(v)).tobytes() for v in trained.model.optimizer.variables]
    rows = [list(row.items()) for row in trained.history]
    return weights_digest(trained.model), optimizer, rows, trained.best_epoch, trained.stopped_epoch
