"""The oracle: a member trained by `fit`, in a pack of one and in a pack of several has the same learning curve."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from orchestrator.training.callbacks import Diverged
from orchestrator.training.device import Device
from orchestrator.training.feed import epoch_order
from orchestrator.training.fused import row, state, train
from orchestrator.training.fused.seat import CannotFuse
from tests.support.fused_cases import curve, dataset_of, facts, member, pack, solo, spec, started_device

pytestmark = pytest.mark.slow

CURVES_AGREE = 5e-4
"""The largest difference of any figure over four epochs. Without BatchNormalization it is 3e-7; the variance of small
batches is summed in another order, and grows to 2e-4."""


@pytest.fixture(scope="module")
def backend_device(request: pytest.FixtureRequest) -> Device:
    return started_device(request)


def assert_same_curves(one: Any, other: Any) -> None:
    assert len(one.history) == len(other.history)
    assert [list(epoch) for epoch in one.history] == [list(epoch) for epoch in other.history], "names and their order"
    for a, b in zip(one.history, other.history, strict=True):
        assert list(a.values()) == pytest.approx(list(b.values()), abs=CURVES_AGREE)


# Packs of three, and the MLP last: its program is compiled by then for all tests below, and compiling takes the time.
@pytest.mark.parametrize("model", ["batch normalization", "two inputs, two outputs, weights", "mlp"])
def test_a_member_learns_alike_by_fit_in_a_pack_of_one_and_in_a_pack_of_several(
    model: str, tmp_path: Path, backend_device: Device
) -> None:
    members, dataset = [member(i, model) for i in range(3)], dataset_of(model)
    together = pack(members, spec(), dataset, tmp_path / "pack", backend_device)
    for plan, trained in zip(members, together, strict=True):
        alone = solo(plan, spec(), dataset, tmp_path / f"solo-{plan.index}", backend_device)
        assert_same_curves(trained, alone)
        assert trained.best_epoch == alone.best_epoch
    first = pack(members[:1], spec(), dataset, tmp_path / "one", backend_device)[0]
    assert_same_curves(together[0], first)
    assert np.ptp([curve(trained)[0] for trained in together]) > 0.01, "members differ more than engines do"


def test_the_published_model_has_the_weights_that_fit_would_have_given(tmp_path: Path, backend_device: Device) -> None:
    dataset = dataset_of()
    (trained,) = pack([member(0)], spec(), dataset, tmp_path / "pack", backend_device)
    alone = solo(member(0), spec(), dataset, tmp_path / "solo", backend_device)
    for ours, theirs in zip(trained.model.get_weights(), alone.model.get_weights(), strict=True):
        assert ours == pytest.approx(theirs, abs=CURVES_AGREE)
    import keras

    loaded = keras.models.load_model(trained.path)
    assert dataset.validation is not None
    figures = loaded.evaluate(dataset.validation.x, dataset.validation.y, verbose=0, return_dict=True)
    assert figures["loss"] == pytest.approx(min(curve(trained, "val_loss")), abs=1e-5)


def test_dropout_acts_with_each_members_own_rate(tmp_path: Path, backend_device: Device) -> None:
    """The same seed, data and initial weights: the training loss grows with the rate."""
    rates, dataset = (0.01, 0.4, 0.8), dataset_of()
    members = [member(0, dropout=rate) for rate in rates]
    together = pack(members, spec(), dataset, tmp_path / "pack", backend_device)
    last = [curve(trained)[-1] for trained in together]
    assert last == sorted(last), last
    assert min(np.diff(last)) > 0.03, last


def test_with_dropout_packs_and_fit_agree_on_average(tmp_path: Path, backend_device: Device) -> None:
    """TensorFlow draws other masks within XLA; the mean loss of six members agrees within its standard error."""
    members, dataset = [member(i, dropout=0.4) for i in range(6)], dataset_of()
    together = [
        curve(trained)[-1]
        for first in (0, 3)
        for trained in pack(members[first : first + 3], spec(), dataset, tmp_path / f"pack-{first}", backend_device)
    ]
    alone = [curve(solo(plan, spec(), dataset, tmp_path / f"{plan.index}", backend_device))[-1] for plan in members]
    difference = np.asarray(together) - np.asarray(alone)
    error = max(1e-6, difference.std(ddof=1) / np.sqrt(len(difference)))
    assert abs(difference.mean()) < 4 * error
    assert abs(difference.mean()) < 0.1


def test_a_member_does_not_depend_on_the_others_in_its_pack(tmp_path: Path, backend_device: Device) -> None:
    """Not on their seeds and rates, and not when one of them diverges."""
    own, dataset = member(1, dropout=0.3), dataset_of()
    companies = {
        "others": [member(0, dropout=0.5), own, member(2)],
        "poisoned": [member(5, dropout=0.1, rate=1e30), own, member(6, rate=0.1)],
    }
    found = {
        name: pack(members, spec(), dataset, tmp_path / name, backend_device) for name, members in companies.items()
    }
    assert isinstance(found["poisoned"][0], Diverged), "the poison has to act"
    assert facts(found["others"][1]) == facts(found["poisoned"][1])


def test_members_of_different_architectures_are_no_pack(tmp_path: Path, backend_device: Device) -> None:
    with pytest.raises(CannotFuse, match="members 0, 1 are of different architectures"):
        pack([member(0), member(1, units=8)], spec(), dataset_of(), tmp_path, backend_device)


MUTATIONS: dict[str, Callable[[pytest.MonkeyPatch], None]] = {
    "one order for all": lambda patch: patch.setattr(
        train, "epoch_order", lambda num_rows, seed, epoch, **_: epoch_order(num_rows, 70, epoch)
    ),
    "one dropout rate for all": lambda patch: patch.setattr(row, "find_places", places_with_rate(0.8)),
    "the same order in each epoch": lambda patch: patch.setattr(
        train, "epoch_order", lambda num_rows, seed, epoch, **_: epoch_order(num_rows, seed, 1)
    ),
    "a stop that is not heeded": lambda patch: patch.setattr(row.Row, "stops", lambda self: False),
}


def places_with_rate(rate: float) -> Any:
    def places(model: Any, program: Any, where: str) -> Any:
        found = state.find_places(model, program, where)
        return replace(found, rates=tuple((place, rate) for place, _ in found.rates))

    return places


CAUGHT = spec(epochs=5, early_stopping={"monitor": "loss", "patience": 1, "min_delta": 0.3})


def caught_pack(folder: Path, device: Device) -> Any:
    """The member whose curve is compared, trained between two others."""
    members = [member(0, dropout=0.8), member(1), member(2)]
    return pack(members, CAUGHT, dataset_of(), folder, device)[1]


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory, backend_device: Device) -> Any:
    """The same member by `fit`; without a mistake its curve is that of the pack."""
    folder = tmp_path_factory.mktemp("oracle")
    trained = solo(member(1), CAUGHT, dataset_of(), folder / "solo", backend_device)
    assert trained.stopped_epoch is not None
    assert_same_curves(caught_pack(folder / "right", backend_device), trained)
    return trained


@pytest.mark.parametrize("mutation", MUTATIONS)
def test_the_oracle_catches(
    mutation: str, alone: Any, tmp_path: Path, backend_device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Mistakes that an engine could make, made on purpose: the comparison of curves must fail."""
    MUTATIONS[mutation](monkeypatch)
    wrong = caught_pack(tmp_path, backend_device)
    with pytest.raises(AssertionError):
        assert_same_curves(wrong, alone)
