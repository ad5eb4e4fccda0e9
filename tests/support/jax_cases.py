"""What must hold on the JAX backend, in a process of its own: `test_jax_backend.py` runs pytest on this file there.

A process has one backend of Keras. Models, lives and comparisons are those of `test_exact_resume.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from orchestrator.models.build import build_member
from orchestrator.models.load import load_published
from orchestrator.models.predictor import Predictor
from orchestrator.planning.events import Cause
from orchestrator.planning.outputs import ONLY
from orchestrator.spec import TrainSpec
from orchestrator.training.callbacks import Diverged
from orchestrator.training.device import Device, prepare_backend, start_backend
from orchestrator.training.publish import cause_of
from tests.integration.test_exact_resume import (
    EPOCH,
    STEPS,
    Killed,
    Life,
    a_step,
    compiled,
    die_and_go_on,
    facts,
    spec,
    straight,
    test_a_late_member_is_what_fit_would_have_ended_with,
)
from tests.integration.test_preprocessing import test_a_killed_pack_on_raw_rows_ends_with_the_same_bits

__all__ = [
    "straight",
    "test_a_killed_pack_on_raw_rows_ends_with_the_same_bits",
    "test_a_late_member_is_what_fit_would_have_ended_with",
]

OURS = spec(backend="jax")
TOO_MANY_BYTES = 2**50


@pytest.fixture(scope="session")
def device() -> Device:
    prepare_backend(OURS, num_cpus=1, num_gpus=0)
    return start_backend(OURS, num_cpus=1)


def test_this_process_computes_with_jax(device: Device) -> None:
    assert device == Device("cpu", deterministic=True, backend="jax")
    assert keras.config.backend() == "jax"


@pytest.mark.parametrize("model", ["mlp", "cnn"])
def test_a_member_killed_again_and_again_ends_with_the_same_bits(
    model: str, tmp_path: Path, device: Device, straight: Callable[[str, TrainSpec], Any]
) -> None:
    """Between epochs, in validation, and in the middle of an epoch."""
    life = Life(tmp_path, model, device, OURS)
    assert facts(die_and_go_on(life, [EPOCH, STEPS, EPOCH + a_step()])) == straight(model, OURS)
    assert life.trained_epochs == len(straight(model, OURS)[2]), "an epoch that was kept is not trained again"


def test_dropout_and_seeds_take_part(tmp_path: Path, device: Device, straight: Callable[[str, TrainSpec], Any]) -> None:
    """Equal bits prove little where nothing is random: other seeds must give other bits."""
    life = Life(tmp_path, "mlp", device, OURS)
    life.member = type(life.member)(index=0, seed=8, builder=life.builder, kwargs={"dropout": 0.3})
    assert facts(life.go_on())[0] != straight("mlp", OURS)[0]


def test_an_epoch_begins_from_its_own_seeds_whatever_the_generators_had_drawn(
    tmp_path: Path, device: Device, straight: Callable[[str, TrainSpec], Any]
) -> None:
    """Keras holds their states in the model's variables between epochs only: what is set there must reach the steps."""
    life = Life(tmp_path, "cnn", device, OURS)
    with pytest.raises(Killed):
        life.go_on(killed_at=2 * EPOCH)
    assert life.newest is not None
    spoilt = tuple(a + 1 if a.dtype == np.uint32 else a for a in life.newest.variables)
    assert sum(array.dtype == np.uint32 for array in spoilt) == 2, "of RandomFlip and of Dropout"
    life.newest = replace(life.newest, variables=spoilt)
    assert facts(life.go_on()) == straight("cnn", OURS)


def test_steps_per_execution_leaves_the_bits_alone(
    tmp_path: Path, device: Device, straight: Callable[[str, TrainSpec], Any]
) -> None:
    """Of a number that divides no epoch, so that there is a shorter call, too; here it is 1 by default."""
    train = spec(backend="jax", steps_per_execution=4)
    assert STEPS % 4
    assert facts(Life(tmp_path, "mlp", device, train).go_on()) == straight("mlp", OURS)


def test_what_a_member_goes_on_from_is_not_written_to(tmp_path: Path, device: Device) -> None:
    """JAX may take an array of NumPy's as it lies, and gives the memory of its state to the next step."""
    life = Life(tmp_path, "mlp", device, spec(backend="jax", epochs=2))
    life.go_on()
    before = life.newest
    assert before is not None
    assert before.best is not None
    arrays = [*before.variables, *before.optimizer, *before.best.weights, *before.best.optimizer]
    copies = [array.copy() for array in arrays]
    life.train = spec(backend="jax", epochs=4)
    life.go_on()
    assert life.newest is not None
    assert life.newest.epoch == 4, "it trained on"
    assert all(np.array_equal(array, copy) for array, copy in zip(arrays, copies, strict=True))


def test_the_published_model_predicts_what_the_trained_one_does(tmp_path: Path, device: Device) -> None:
    life = Life(tmp_path, "cnn", device, spec(backend="jax", epochs=3))
    trained = life.go_on()
    assert life.dataset.validation is not None
    x = life.dataset.validation.x
    loaded = build_member(life.builder, {"dropout": 0.3}, 99, OURS)
    assert not np.array_equal(Predictor().predict(loaded, x)[ONLY], Predictor().predict(trained.model, x)[ONLY])
    load_published(loaded, str(trained.path), "here")
    assert np.array_equal(Predictor().predict(loaded, x)[ONLY], Predictor().predict(trained.model, x)[ONLY])


def test_a_rate_that_is_too_high_is_a_divergence(tmp_path: Path, device: Device) -> None:
    train = spec(
        backend="jax",
        callbacks=[],
        optimizer={"class_name": "SGD", "config": {"learning_rate": 1e38}},
    )
    with pytest.raises(Diverged, match=r"loss became .* in epoch 1 at learning rate 1e\+38"):
        Life(tmp_path, "mlp", device, train).go_on()


class TakesAllMemory(keras.callbacks.Callback):
    """Asks for more than any machine has, of JAX itself."""

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        keras.ops.zeros((TOO_MANY_BYTES,), dtype="int8")


def build_too_large(dropout: float = 0.3) -> keras.Model:
    units = TOO_MANY_BYTES // 256
    return compiled(keras.Sequential([keras.Input((64,)), keras.layers.Dense(units), keras.layers.Dense(2)]))


def test_too_little_memory_counts_against_its_own_budget(tmp_path: Path, device: Device) -> None:
    train = spec(backend="jax", callbacks=[f"{__name__}:TakesAllMemory"])
    with pytest.raises(Exception, match="RESOURCE_EXHAUSTED") as in_training:
        Life(tmp_path, "mlp", device, train).go_on()
    assert cause_of(in_training.value)[0] is Cause.OUT_OF_MEMORY
    with pytest.raises(Exception, match="build function raised") as in_build:
        build_member(f"{__name__}:build_too_large", {}, 1, train)
    assert cause_of(in_build.value)[0] is Cause.OUT_OF_MEMORY


def test_tensorboard_gets_its_events(tmp_path: Path, device: Device) -> None:
    train = spec(backend="jax", epochs=2, callbacks=["TensorBoard"])
    Life(tmp_path, "mlp", device, train).go_on()
    events = [path for path in tmp_path.rglob("events.out.tfevents.*") if path.stat().st_size > 0]
    assert {path.parent.name for path in events} == {"train", "validation"}
