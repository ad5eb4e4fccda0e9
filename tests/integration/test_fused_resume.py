"""A pack that is killed and goes on from a common epoch ends with the bits of one that was never interrupted."""

from __future__ import annotations

import logging
import os
import secrets
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from orchestrator.errors import InvalidModel
from orchestrator.training.callbacks import Diverged
from orchestrator.training.device import Device
from orchestrator.training.fused import state
from orchestrator.training.fused import train as engine
from tests.support.fused_cases import (
    BATCH,
    ROWS,
    Killed,
    PackLife,
    curve,
    dataset_of,
    facts,
    member,
    solo,
    spec,
    started_device,
)

pytestmark = pytest.mark.slow

SEED = int(os.environ.get("ORCHESTRATOR_SEED") or secrets.randbelow(2**32))
BLOCK = 4
CALLS = -(-(ROWS // BATCH) // BLOCK) + 1 + 1
"""How often an epoch looks up: blocks of full batches, the smaller batch, the one call of validation."""
logger = logging.getLogger(__name__)


@pytest.fixture(scope="module")
def backend_device(request: pytest.FixtureRequest) -> Device:
    return started_device(request)


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "BLOCK", BLOCK)


class CountsEpochs(keras.callbacks.Callback):
    """A user's callback with a state: at the fourth epoch that it has seen it halves the first layer's weights."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = 0

    def get_state(self) -> Mapping[str, Any]:
        return {"seen": self.seen}

    def set_state(self, state: Mapping[str, Any]) -> None:
        self.seen = state["seen"]

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self.seen += 1
        if self.seen == 4:
            self.model.set_weights([self.model.get_weights()[0] / 2, *self.model.get_weights()[1:]])


def settings(**changes: Any) -> Any:
    return spec(
        epochs=8,
        early_stopping={"patience": 2, "min_delta": 0.01},
        callbacks=[
            {"class_name": "ReduceLROnPlateau", "config": {"patience": 1, "min_delta": 0.02, "factor": 0.5}},
            f"{__name__}:CountsEpochs",
        ],
        **changes,
    )


def life(folder: Path, device: Device, model: str = "mlp", **changes: Any) -> PackLife:
    members = [member(i, model, dropout=rate) for i, rate in enumerate((0.0, 0.2, 0.5))]
    return PackLife(members, settings(**changes), dataset_of(model), folder, device)


def uneven_life(folder: Path, device: Device) -> PackLife:
    """Three members, of whom the second learns too slowly and stops after its third epoch."""
    members = [member(0, rate=0.01), member(1, rate=1e-7), member(2, rate=0.01, dropout=0.3)]
    train = spec(
        epochs=8,
        early_stopping={"monitor": "loss", "patience": 2, "min_delta": 1e-4},
        callbacks=[{"class_name": "ReduceLROnPlateau", "config": {"patience": 1, "min_delta": 0.01, "factor": 0.5}}],
    )
    return PackLife(members, train, dataset_of(), folder, device)


SLOW, STOPPED_AT = 1, 3
NUM_WEIGHTS = 4
"""Kernels and biases of the two layers: they come first in the pack's state."""


def some_call() -> int:
    return int(np.random.default_rng(SEED).integers(1, CALLS))


KILLS: Mapping[str, Callable[[], list[int]]] = {
    "in the first epoch": lambda: [some_call()],
    "in the second": lambda: [CALLS + some_call()],
    "between epochs, again and again": lambda: [2 * CALLS, CALLS, CALLS + some_call()],
}


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory, backend_device: Device) -> Callable[[str], Mapping[int, Any]]:
    """Facts of the members of a pack that was never interrupted, trained once for each model."""

    @cache
    def of(model: str) -> Mapping[int, Any]:
        outcomes = life(tmp_path_factory.mktemp("straight"), backend_device, model).go_on()
        return {seat: facts(trained) for seat, trained in outcomes.items()}

    return of


@pytest.mark.parametrize("model", ["mlp", "batch normalization", "two inputs, weights"])
@pytest.mark.parametrize("kill", KILLS)
def test_a_killed_pack_ends_with_the_same_bits(
    kill: str, model: str, tmp_path: Path, backend_device: Device, straight: Callable[[str], Mapping[int, Any]]
) -> None:
    logger.warning("replay with ORCHESTRATOR_SEED=%s", SEED)
    killed = life(tmp_path / "killed", backend_device, model)
    for look in KILLS[kill]():
        with pytest.raises(Killed):
            killed.go_on(killed_at=look)
    outcomes = killed.go_on()
    assert {seat: facts(trained) for seat, trained in outcomes.items()} == straight(model)


def test_members_stop_alone_and_the_others_go_on(tmp_path: Path, backend_device: Device) -> None:
    pack = uneven_life(tmp_path, backend_device)
    outcomes: dict[int, Any] = dict(pack.go_on())
    assert [len(outcomes[seat].history) for seat in range(3)] == [8, STOPPED_AT, 8]
    assert outcomes[SLOW].stopped_epoch == STOPPED_AT
    alone = solo(pack.members[0], pack.train, pack.dataset, tmp_path / "solo", backend_device)
    for name in ("loss", "val_loss", "val_accuracy", "learning_rate"):
        assert curve(outcomes[0], name) == pytest.approx(curve(alone, name), abs=1e-5)
    kept = [what for kind, what in pack.order if kind == "kept"]
    assert [{epoch for _, epoch, _ in snapshots} for snapshots in kept] == [{n} for n in range(1, 9)]
    assert [snapshots[SLOW][2] for snapshots in kept] == [n >= STOPPED_AT for n in range(1, 9)]
    told = pack.order.index(("done", SLOW))
    assert pack.order[told - 1] == ("kept", kept[STOPPED_AT - 1]), "told as soon as its last epoch is kept"


def test_the_weights_of_a_stopped_member_do_not_move(
    tmp_path: Path, backend_device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the device, where the program goes on with the others."""
    fetched: list[list[Any]] = []
    fetch = state.PackState.fetch

    def watch(self: state.PackState) -> None:
        fetch(self)
        places = range(NUM_WEIGHTS)
        fetched.append([[np.array(array) for array in self.row(places, row)] for row in range(3)])

    monkeypatch.setattr(state.PackState, "fetch", watch)
    uneven_life(tmp_path, backend_device).go_on()
    assert len(fetched) == 8
    moved = [[differ(before[row], after[row]) for row in range(3)] for before, after in pairwise(fetched)]
    assert moved == [[True, epoch <= STOPPED_AT, True] for epoch in range(2, 9)]


def differ(one: list[Any], other: list[Any]) -> bool:
    return any(a.tobytes() != b.tobytes() for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("published", [True, False])
def test_a_stopped_member_is_only_carried_along_or_only_published(
    published: bool, tmp_path: Path, backend_device: Device
) -> None:
    """Killed two epochs after one of them has stopped; nobody reads the checkpoints of a member that is published."""
    straight = {s: facts(t) for s, t in uneven_life(tmp_path / "straight", backend_device).go_on().items()}
    pack = uneven_life(tmp_path / "killed", backend_device)
    with pytest.raises(Killed):
        pack.go_on(killed_at=CALLS * (STOPPED_AT + 1) + 1)
    assert set(pack.outcomes) == {SLOW}
    pack.outcomes.clear()
    if published:
        pack.published = {SLOW}
        pack.newest = {i: snapshot for i, snapshot in pack.newest.items() if i != SLOW}
    outcomes = {seat: facts(trained) for seat, trained in pack.go_on().items()}
    assert outcomes == {seat: each for seat, each in straight.items() if not (published and seat == SLOW)}


def test_a_snapshot_of_a_pack_can_be_read_by_the_solo_engine(tmp_path: Path, backend_device: Device) -> None:
    from orchestrator.training.solo import train_solo

    pack = life(tmp_path / "pack", backend_device)
    with pytest.raises(Killed):
        pack.go_on(killed_at=2 * CALLS)
    folder = tmp_path / "solo"
    folder.mkdir()
    newest = pack.newest[0]
    assert newest.epoch == 2
    alone = train_solo(
        replace(pack.members[0], train=pack.train),
        pack.dataset,
        folder,
        backend_device,
        lambda epoch, logs: None,
        lambda: None,
        start_from=newest,
    )
    together: Any = pack.go_on()[0]
    assert curve(alone) == pytest.approx(curve(together), abs=1e-5)


def test_a_member_that_diverges_ends_alone_and_says_at_which_rate(tmp_path: Path, backend_device: Device) -> None:
    members = [member(0, rate=1e30), member(1)]
    pack = PackLife(members, spec(), dataset_of(), tmp_path, backend_device)
    outcomes: dict[int, Any] = dict(pack.go_on())
    assert isinstance(outcomes[0], Diverged)
    assert "learning rate 1e+30" in str(outcomes[0])
    assert len(outcomes[1].history) == 4
    assert all(member == 1 for kind, what in pack.order if kind == "kept" for member, _, _ in what)


class BreaksOne(keras.callbacks.Callback):
    """A user's callback with a bug that shows in the second epoch of a member with this learning rate."""

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        if epoch == 1 and abs(float(self.model.optimizer.learning_rate) - 0.02) < 1e-6:
            raise ZeroDivisionError("in the user's callback")


def test_a_callback_that_raises_ends_its_own_member_alone(tmp_path: Path, backend_device: Device) -> None:
    train = spec(callbacks=[f"{__name__}:BreaksOne"])
    pack = PackLife([member(0, rate=0.02), member(1)], train, dataset_of(), tmp_path, backend_device)
    outcomes: dict[int, Any] = dict(pack.go_on())
    assert isinstance(outcomes[0], ZeroDivisionError)
    assert len(outcomes[1].history) == 4


def test_members_at_different_epochs_are_refused(tmp_path: Path, backend_device: Device) -> None:
    pack = life(tmp_path, backend_device)
    with pytest.raises(Killed):
        pack.go_on(killed_at=CALLS)
    pack.newest = {0: pack.newest[0]}
    with pytest.raises(InvalidModel, match="different epochs"):
        pack.go_on()
