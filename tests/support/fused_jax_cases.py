"""What the fused engine must hold on the JAX backend alone: `test_fused_on_jax.py` runs pytest on this file there."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from orchestrator.training.data import load_dataset
from orchestrator.training.device import Device
from orchestrator.training.feed import VALIDATION_BATCH
from orchestrator.training.fused import train as engine
from orchestrator.training.fused.seat import Seat
from tests.support.fused_cases import member, spec, started_device

BATCH, TRAIN_BLOCKS, TEST_BLOCKS = 256, 3, 2


@pytest.fixture(scope="module")
def backend_device(request: pytest.FixtureRequest) -> Device:
    return started_device(request)


def rows() -> Any:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(TRAIN_BLOCKS * BATCH + TEST_BLOCKS * VALIDATION_BATCH, 12)).astype("float32")
    y = (x[:, 0] > 0).astype("int64")
    cut = TRAIN_BLOCKS * BATCH
    return {"train": (x[:cut], y[:cut]), "validation": (x[cut:], y[cut:])}


def test_signs_of_life_and_looks_for_a_stop_come_when_the_blocks_before_them_are_computed(
    tmp_path: Path, backend_device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    """JAX returns at once. The layer is wide, so that a block that is not waited for is caught at work."""
    monkeypatch.setattr(engine, "BLOCK", 1)
    signs: list[bool] = []
    looks: list[bool] = []

    def is_computed() -> bool:
        return all(array.is_ready() for array in jax.live_arrays())

    members = [replace(member(i, units=8192), train=spec(epochs=2, batch_size=BATCH)) for i in range(2)]
    seats = [Seat(each, tmp_path / str(each.index), None, False, lambda epoch, logs: None) for each in members]
    for seat in seats:
        seat.folder.mkdir()
    engine.train_fused(
        seats,
        load_dataset(rows, "rows", validation_split=0.0, seed=0),
        backend_device,
        lambda: signs.append(is_computed()),
        check=lambda: looks.append(is_computed()),
        done=lambda seat, outcome: None,
    )
    an_epoch = TRAIN_BLOCKS + TEST_BLOCKS
    firsts = (0, TRAIN_BLOCKS)  # of training and of validation: what they begin with is still on its way
    for seen in (looks, signs):
        assert len(seen) == 2 * an_epoch
        assert all(ready for number, ready in enumerate(seen) if number % an_epoch not in firsts), seen
