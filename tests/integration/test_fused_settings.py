"""What may be fused, with which settings, and what callbacks see of a member in a pack."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import FunctionType
from typing import Any, cast

import keras
import numpy as np
import pytest

from orchestrator.models.build import build_member
from orchestrator.spec import TrainSpec
from orchestrator.training.data import Split
from orchestrator.training.device import Device
from orchestrator.training.feed import choose_validation_batch
from orchestrator.training.fused import program, row, stand_in
from orchestrator.training.fused.architecture import layer_kinds, signature, why_not_fused
from orchestrator.training.fused.seat import CannotFuse
from orchestrator.training.made_callbacks import make_callbacks
from tests.support.fused_cases import (
    ROWS,
    VALIDATION,
    compiled,
    curve,
    dataset_of,
    member,
    pack,
    rows,
    solo,
    spec,
    started_device,
)

pytestmark = pytest.mark.slow

layers = keras.layers
ON_JAX = keras.config.backend() == "jax"


@pytest.fixture(scope="module")
def backend_device(request: pytest.FixtureRequest) -> Device:
    return started_device(request)


def built(build: Callable[[], keras.Model]) -> keras.Model:
    """As `build_member` does: names begin anew."""
    keras.utils.clear_session(free_memory=False)
    return build()


def sequential(*between: Any, **compiling: Any) -> keras.Model:
    model = keras.Sequential([keras.Input((12,)), *between, layers.Dense(2, activation="softmax")])
    settings: dict[str, Any] = {
        "optimizer": "adam",
        "loss": "sparse_categorical_crossentropy",
        "metrics": ["accuracy"],
        **compiling,
    }
    model.compile(**settings)
    return model


def dense(units: int = 8, **arguments: Any) -> Any:
    return layers.Dense(units, activation="relu", **arguments)


def own_metric(y_true: Any, y_pred: Any) -> Any:
    return keras.losses.sparse_categorical_crossentropy(y_true, y_pred)


def other_metric(y_true: Any, y_pred: Any) -> Any:
    return 2 * own_metric(y_true, y_pred)


def weighted_metric(y_true: Any, y_pred: Any, weight: float = 1.0) -> Any:
    return weight * own_metric(y_true, y_pred)


def with_default(weight: float) -> keras.Model:
    """As of a library that keeps settings in a function's defaults."""
    metric = FunctionType(weighted_metric.__code__, globals(), "weighted_metric", (weight,))
    metric.__qualname__ = "weighted_metric"
    return sequential(metrics=[metric])


class Weighted:
    """A loss as a method: which object it belongs to is not told by its name."""

    def __init__(self, weight: float) -> None:
        self.weight = weight

    def loss(self, y_true: Any, y_pred: Any) -> Any:
        return self.weight * own_metric(y_true, y_pred)


def closure(weight: float) -> Callable[..., Any]:
    return lambda y_true, y_pred: weight * own_metric(y_true, y_pred)


class OwnLayer(keras.layers.Layer):
    def call(self, x: Any) -> Any:
        return 2 * x


ALIKE: dict[str, tuple[Callable[[], Any], Callable[[], Any]]] = {
    "dropout rate": (lambda: sequential(layers.Dropout(0.0)), lambda: sequential(layers.Dropout(0.5))),
    "learning rate": (
        lambda: sequential(optimizer=keras.optimizers.SGD(0.1, momentum=0.9)),
        lambda: sequential(optimizer=keras.optimizers.SGD(0.3, momentum=0.9)),
    ),
    "names": (lambda: sequential(dense(name="one")), lambda: sequential(dense(name="other"))),
    "seeds": (lambda: sequential(layers.Dropout(0.2, seed=1)), lambda: sequential(layers.Dropout(0.2, seed=2))),
    "initial values": (lambda: sequential(dense(kernel_initializer="zeros")), lambda: sequential(dense())),
}
UNLIKE: dict[str, tuple[Callable[[], Any], Callable[[], Any]]] = {
    "width": (lambda: sequential(dense(8)), lambda: sequential(dense(9))),
    "activation": (lambda: sequential(dense()), lambda: sequential(layers.Dense(8, activation="tanh"))),
    "noise of another layer": (
        lambda: sequential(layers.GaussianNoise(0.1)),
        lambda: sequential(layers.GaussianNoise(0.2)),
    ),
    "optimizer": (lambda: sequential(), lambda: sequential(optimizer="sgd")),
    "weight decay": (
        lambda: sequential(optimizer=keras.optimizers.AdamW(weight_decay=0.1)),
        lambda: sequential(optimizer=keras.optimizers.AdamW(weight_decay=0.2)),
    ),
    "loss": (lambda: sequential(), lambda: sequential(loss=keras.losses.SparseCategoricalCrossentropy(ignore_class=0))),
    "own metric": (lambda: sequential(metrics=[own_metric]), lambda: sequential(metrics=[other_metric])),
    "own metric's defaults": (lambda: with_default(1.0), lambda: with_default(3.0)),
    "metrics": (lambda: sequential(), lambda: sequential(metrics=[])),
    "frozen layer": (lambda: sequential(dense()), lambda: sequential(dense(trainable=False))),
}


@pytest.mark.parametrize("what", ALIKE)
def test_members_that_differ_in_this_can_be_stacked(what: str, backend_device: Device) -> None:
    one, other = (signature(built(build)) for build in ALIKE[what])
    assert one is not None
    assert one == other


@pytest.mark.parametrize("what", UNLIKE)
def test_members_that_differ_in_this_cannot_be_stacked(what: str, backend_device: Device) -> None:
    one, other = (signature(built(build)) for build in UNLIKE[what])
    assert None not in (one, other)
    assert one != other


OBSTACLES: dict[str, tuple[Callable[[], Any], dict[str, Any], str]] = {
    "own layer": (lambda: sequential(OwnLayer()), {}, "cannot be read from its configuration"),
    "own metric with a closure": (lambda: sequential(metrics=[closure(2.0)]), {}, "its metric is code"),
    "bound method as a loss": (lambda: sequential(loss=Weighted(3.0).loss), {}, "its loss is code"),
    "bound method of Keras": (lambda: sequential(loss=keras.losses.Huber(delta=3.0).call), {}, "its loss is code"),
    "default that is no plain value": (lambda: with_default(cast(float, np.ones(2))), {}, "its metric is code"),
    "several optimizers": (lambda: sequential(optimizer=several_optimizers()), {}, "MultiOptimizer"),
    "scaled loss": (
        lambda: sequential(optimizer=keras.optimizers.SGD(loss_scale_factor=8.0)),
        {},
        "scales the loss (loss_scale_factor)",
    ),
    "eager": (lambda: sequential(run_eagerly=True), {}, "run_eagerly"),
    "averaged weights": (lambda: sequential(optimizer=keras.optimizers.Adam(use_ema=True)), {}, "use_ema"),
    "accumulation": (
        lambda: sequential(optimizer=keras.optimizers.Adam(gradient_accumulation_steps=2)),
        {},
        "accumulates gradients",
    ),
    "checkpoints at batches": (sequential, {"checkpoint": {"monitor": "loss", "save_freq": 5}}, "save_freq"),
    "callback at batches": (sequential, {"callbacks": [f"{__name__}:AtBatches"]}, "AtBatches looks at batches"),
    "hook on an instance": (sequential, {"callbacks": [f"{__name__}:OnInstance"]}, "OnInstance looks at batches"),
    "batches of validation": (sequential, {"callbacks": [f"{__name__}:AtTests"]}, "AtTests looks at batches"),
    "TensorBoard": (sequential, {"callbacks": ["TensorBoard"]}, "TensorBoard looks at batches"),
}


class AtBatches(keras.callbacks.Callback):
    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Counts, or logs, or whatever users do there."""


class OnInstance(keras.callbacks.LambdaCallback):
    def __init__(self) -> None:
        super().__init__(on_train_batch_end=lambda batch, logs: None)


class AtTests(keras.callbacks.Callback):
    def __init__(self) -> None:
        super().__init__()
        self.on_test_batch_end = self.look

    def look(self, batch: int, logs: Any = None) -> None:
        """Counts, or logs, or whatever users do there."""


def several_optimizers() -> Any:
    kinds = keras.optimizers
    return kinds.MultiOptimizer(kinds.OptimizerMap(kinds.SGD(), {".*bias": kinds.Adam()}))


def reason_against(model: keras.Model, train: TrainSpec, folder: Path) -> str | None:
    """With the callbacks that a member would have."""
    return why_not_fused(model, train, make_callbacks(train, folder, has_validation=True))


@pytest.mark.parametrize("what", OBSTACLES)
def test_why_a_member_is_not_fused_is_said(what: str, tmp_path: Path, backend_device: Device) -> None:
    build, settings, reason = OBSTACLES[what]
    told = reason_against(build(), spec(**settings), tmp_path)
    assert told is not None
    assert reason in told


def test_usual_settings_are_no_obstacle(tmp_path: Path, backend_device: Device) -> None:
    logger = {"class_name": "CSVLogger", "config": {"filename": "a"}}
    train = spec(callbacks=["ReduceLROnPlateau", "TerminateOnNaN", logger])
    model = sequential(dense(), layers.BatchNormalization(), layers.Dropout(0.3), metrics=[weighted_metric])
    assert reason_against(model, train, tmp_path) is None
    assert layer_kinds(model) == {"other"}


def test_kinds_of_layers_are_told_for_the_table_of_engines(backend_device: Device) -> None:
    convolution = sequential(layers.Reshape((12, 1)), layers.Conv1D(2, 3), layers.Flatten())
    recurrent = sequential(layers.Reshape((12, 1)), layers.LSTM(3))
    spread = sequential(layers.Reshape((12, 1)), layers.TimeDistributed(layers.Dense(2)), layers.Flatten())
    assert layer_kinds(convolution) == {"convolution", "other"}
    assert layer_kinds(recurrent) == {"recurrent", "other"}
    assert layer_kinds(spread) == {"other"}
    assert why_not_fused(convolution, spec(), ()) is None
    told = why_not_fused(recurrent, spec(), ())
    assert told is None if ON_JAX else "train.backend: jax" in str(told)


def test_convolutions_with_dropped_channels_learn_as_by_fit(tmp_path: Path, backend_device: Device) -> None:
    """JAX draws the same masks for both engines; on TensorFlow nothing may be dropped for the curves to be the same."""
    rate = 0.4 if ON_JAX else 0.0
    members, dataset = [member(i, "convolution", dropout=rate * i) for i in range(2)], dataset_of("convolution")
    together = pack(members, spec(), dataset, tmp_path / "pack", backend_device)
    for plan, trained in zip(members, together, strict=True):
        alone = solo(plan, spec(), dataset, tmp_path / f"{plan.index}", backend_device)
        assert curve(trained) == pytest.approx(curve(alone), abs=1e-5)


def test_a_program_that_the_compiler_refuses_is_told_before_anything_is_trained(
    tmp_path: Path, backend_device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Refused(program.StatelessMember):
        def results(self, metrics: Any) -> Any:
            raise TypeError("no converter for this operation")

    monkeypatch.setattr(program, "StatelessMember", Refused)
    begun: list[int] = []
    monkeypatch.setattr(row.Row, "begin", lambda self: begun.append(1))
    with pytest.raises(CannotFuse, match="no converter"):
        pack([member(0, units=11)], spec(), dataset_of(), tmp_path, backend_device)
    assert not begun


class Halves(keras.callbacks.Callback):
    """Changes weights and the learning rate between epochs, and writes down what it sees."""

    def __init__(self, folder: str) -> None:
        super().__init__()
        self.path = Path(folder) / "seen.txt"

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        if epoch == 2:
            self.model.optimizer.learning_rate = 0.001

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        kernel = self.model.layers[0].kernel if epoch == 0 else self.model.get_weights()[0]
        seen = float(np.abs(keras.ops.convert_to_numpy(kernel)).sum())
        with self.path.open("a") as file:
            file.write(f"{epoch} {seen:.3f} {float(self.model.optimizer.learning_rate):.4f} {sorted(logs)}\n")
        if epoch == 1:
            self.model.set_weights([weights / 2 for weights in self.model.get_weights()])


def test_callbacks_see_and_change_their_own_member_as_in_fit(tmp_path: Path, backend_device: Device) -> None:
    train = spec(callbacks=[f"{__name__}:Halves"])
    members, dataset = [member(0), member(1)], dataset_of()
    together = pack(members, train, dataset, tmp_path / "pack", backend_device)
    for plan, trained in zip(members, together, strict=True):
        alone = solo(plan, train, dataset, tmp_path / f"solo-{plan.index}", backend_device)
        assert curve(trained) == pytest.approx(curve(alone), abs=1e-5)
        seen = [folder / "files" / "seen.txt" for folder in (trained.path.parent, alone.path.parent)]
        assert seen[0].read_text() == seen[1].read_text()
        assert " 0.0010 " in seen[0].read_text()


def test_a_model_is_brought_up_to_date_only_for_those_who_look(
    tmp_path: Path, backend_device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    loads: list[int] = []
    assign = stand_in.assign

    def counted(variables: Any, arrays: Any, **where: Any) -> None:
        loads.append(len(arrays))
        assign(variables, arrays, **where)

    monkeypatch.setattr(stand_in, "assign", counted)
    settings = spec(epochs=6, checkpoint={"monitor": "val_loss", "mode": "max"}, callbacks=["ReduceLROnPlateau"])
    pack([member(0)], settings, dataset_of(), tmp_path, backend_device)
    improvements_and_the_end = 2
    assert len(loads) == 2 * improvements_and_the_end


def test_a_second_pack_of_the_same_architecture_compiles_nothing(
    tmp_path: Path, backend_device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[int] = []
    member_class = program.StatelessMember

    class Counted(member_class):  # type: ignore[valid-type, misc]
        def loss(self, *arguments: Any, **keywords: Any) -> Any:
            made.append(1)
            return super().loss(*arguments, **keywords)

    monkeypatch.setattr(program, "StatelessMember", Counted)
    train, dataset = spec(epochs=1, batch_size=24), dataset_of()
    pack([member(0), member(1, dropout=0.4)], train, dataset, tmp_path / "first", backend_device)
    traced = len(made)
    assert traced > 0
    pack([member(2, dropout=0.1), member(3)], train, dataset, tmp_path / "second", backend_device)
    assert len(made) == traced


def test_rows_are_not_copied_for_the_program(backend_device: Device) -> None:
    """Arrays that begin where vectors may, as Ray's do: the program reads the very same memory."""
    buffer = np.zeros(4 * 1000 + 64, np.uint8)
    begin = -buffer.ctypes.data % 64
    x = buffer[begin : begin + 4000].view(np.float32).reshape(100, 10)
    shared = x.view()
    shared.flags.writeable = False
    members = [member(0)]
    made = program.make_program("copies", members, spec(), dataset_of(), 50)
    data = made.put_data(Split(shared, np.zeros(100, np.int32)))
    x[3, 4] = 7.0
    assert float(np.asarray(data[0])[3, 4]) == 7.0


@pytest.mark.parametrize(("num_rows", "size"), [(12_000, 1000), (50, 1024), (7919, 1024), (2048, 1024)])
def test_validation_batches_leave_no_rest_where_that_is_possible(num_rows: int, size: int) -> None:
    assert choose_validation_batch(num_rows) == size


def test_without_validation_rows_only_the_training_figures_are_known(tmp_path: Path, backend_device: Device) -> None:
    from orchestrator.training.data import load_dataset

    dataset = load_dataset(lambda: rows()["train"], "rows", validation_split=0.0, seed=0)
    (trained,) = pack([member(0)], spec(epochs=2), dataset, tmp_path, backend_device)
    assert set(trained.history[0]) == {"epoch", "loss", "accuracy", "sparse_categorical_crossentropy"}
    assert dataset.train.num_rows == ROWS != VALIDATION


def test_a_member_is_built_by_the_jobs_own_function(backend_device: Device) -> None:
    plan = member(0, dropout=0.2)
    model = build_member(plan.builder, plan.kwargs, plan.seed, spec())
    assert signature(model) == signature(compiled(keras.models.clone_model(model)))
