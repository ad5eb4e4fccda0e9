"""When an epoch becomes a checkpoint."""

from __future__ import annotations

import pytest

from orchestrator.planning.saving import decide_checkpoint
from orchestrator.spec import FaultsSpec

BY_SECONDS = FaultsSpec(checkpoint_every_s=30)
EACH_EPOCH = FaultsSpec(checkpoint_every_s=0)
BY_EPOCHS = FaultsSpec(checkpoint_every_s=30, checkpoint_every_epochs=3)


@pytest.mark.parametrize(
    ("faults", "epoch", "saved_epoch", "since_last_s", "save"),
    [
        pytest.param(BY_SECONDS, 1, 0, 29.9, False, id="too soon"),
        pytest.param(BY_SECONDS, 1, 0, 30.0, True, id="the interval is over"),
        pytest.param(BY_SECONDS, 9, 0, 0.0, False, id="many epochs in a short time"),
        pytest.param(EACH_EPOCH, 1, 0, 0.0, True, id="no interval: each epoch"),
        pytest.param(BY_EPOCHS, 2, 0, 1e6, False, id="epochs count instead of seconds"),
        pytest.param(BY_EPOCHS, 3, 0, 0.0, True, id="the third epoch"),
        pytest.param(BY_EPOCHS, 5, 3, 0.0, False, id="two since the last one"),
        pytest.param(BY_EPOCHS, 6, 3, 0.0, True, id="three since the last one"),
        pytest.param(BY_EPOCHS, 9, 3, 0.0, True, id="late after a store out of reach"),
        pytest.param(BY_EPOCHS, 7, 5, 0.0, False, id="counted from the last one, not by multiples"),
    ],
)
def test_an_epoch_is_saved_when_its_interval_is_over(
    faults: FaultsSpec, epoch: int, saved_epoch: int, since_last_s: float, save: bool
) -> None:
    decision = decide_checkpoint(
        faults, epoch=epoch, saved_epoch=saved_epoch, since_last_s=since_last_s, uploading=False
    )
    assert decision.save is save


@pytest.mark.parametrize("faults", [BY_SECONDS, EACH_EPOCH, BY_EPOCHS])
def test_nothing_is_queued_behind_an_upload(faults: FaultsSpec) -> None:
    decision = decide_checkpoint(faults, epoch=100, saved_epoch=0, since_last_s=1e6, uploading=True)
    assert not decision.save
    assert "under way" in decision.reason


def test_the_reason_counts_what_the_interval_counts() -> None:
    by_epochs = decide_checkpoint(BY_EPOCHS, epoch=5, saved_epoch=3, since_last_s=9, uploading=False)
    by_seconds = decide_checkpoint(BY_SECONDS, epoch=5, saved_epoch=3, since_last_s=9, uploading=False)
    assert by_epochs.reason == "2 of 3 epochs since the last one"
    assert by_seconds.reason == "9 of 30 s since the last one"
