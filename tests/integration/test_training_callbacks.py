"""One member, trained by Keras' `fit` with Keras' own two callbacks, in this process."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from orchestrator import api
from orchestrator.errors import InvalidModel
from orchestrator.training.data import Dataset
from orchestrator.training.device import Device
from tests.support.in_process import load
from tests.support.tiny_jobs import TinyProject

pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class Outcome:
    """What `train_solo` gave, with what a test wants to compare."""

    trained: Any
    weights: str
    dataset: Dataset

    def column(self, name: str) -> list[float]:
        return [row[name] for row in self.trained.history]


def train(project: TinyProject, device: Device, *, member: int = 0, **parts: Any) -> Outcome:
    from orchestrator.training.publish import weights_digest
    from orchestrator.training.solo import train_solo

    job = project.job(**parts)
    plan = api.plan(job, root=str(project.folder)).request.plan.members[member]
    dataset = load(job)
    folder = project.folder / "scratch"
    folder.mkdir(exist_ok=True)
    for old in folder.iterdir():
        old.unlink()
    trained = train_solo(plan, job.train, dataset, folder, device, lambda epoch, logs: None, lambda: None)
    return Outcome(trained, weights_digest(trained.model), dataset)


def loss_of_published(outcome: Outcome) -> float:
    """Validation loss of the published file, opened by plain Keras."""
    import keras

    split = outcome.dataset.validation
    assert split is not None
    return float(keras.models.load_model(outcome.trained.path).evaluate(split.x, split.y, verbose=0)[0])


def test_early_stopping_without_patience_ends_at_the_first_epoch_that_is_no_better(
    project: TinyProject, device: Device
) -> None:
    settings = {"monitor": "val_loss", "patience": 0, "min_delta": 10.0}
    outcome = train(project, device, train={"epochs": 5, "early_stopping": settings})
    assert (outcome.trained.stopped_epoch, len(outcome.trained.history)) == (2, 2)


def test_the_best_model_is_that_of_the_best_epoch_and_not_the_last(project: TinyProject, device: Device) -> None:
    outcome = train(
        project,
        device,
        train={
            "epochs": 4,
            "early_stopping": None,
            "checkpoint": {"monitor": "val_loss", "mode": "max"},  # the worst loss: the first epoch
        },
    )
    losses = outcome.column("val_loss")
    assert outcome.trained.best_epoch == int(np.argmax(losses)) + 1 == 1
    assert outcome.trained.stopped_epoch is None
    assert loss_of_published(outcome) == pytest.approx(max(losses), abs=1e-5)


@pytest.mark.parametrize("weights_only", [False, True])
def test_the_published_file_opens_in_plain_keras_whatever_the_checkpoint_saves(
    project: TinyProject, device: Device, weights_only: bool
) -> None:
    outcome = train(project, device, train={"checkpoint": {"save_weights_only": weights_only}})
    assert outcome.trained.path.name == "best.keras"
    assert loss_of_published(outcome) == pytest.approx(min(outcome.column("val_loss")), abs=1e-5)


def test_without_save_best_only_the_model_is_the_one_after_fit(project: TinyProject, device: Device) -> None:
    outcome = train(
        project, device, train={"epochs": 3, "early_stopping": None, "checkpoint": {"save_best_only": False}}
    )
    assert outcome.trained.best_epoch == 3
    assert loss_of_published(outcome) == pytest.approx(outcome.column("val_loss")[-1], abs=1e-5)


@pytest.mark.parametrize(("patience", "stopped"), [(0, 2), (9, None)])
def test_early_stopping_restores_the_best_weights_whether_it_stopped_or_not(
    project: TinyProject, device: Device, patience: int, stopped: int | None
) -> None:
    stopping = {"monitor": "val_loss", "mode": "max", "patience": patience, "restore_best_weights": True}
    outcome = train(
        project, device, train={"epochs": 3, "early_stopping": stopping, "checkpoint": {"save_best_only": False}}
    )
    assert (outcome.trained.stopped_epoch, outcome.trained.best_epoch) == (stopped, 1)
    assert loss_of_published(outcome) == pytest.approx(outcome.column("val_loss")[0], abs=1e-5)


def test_training_without_validation_rows_monitors_the_training_loss(project: TinyProject, device: Device) -> None:
    data = {"source": f"{project.name}:load_train", "validation_split": 0}
    add(project, "def load_train():\n    return digits(160)\n")
    outcome = train(project, device, data=data, train={"epochs": 3})
    losses = outcome.column("loss")
    assert set(outcome.trained.history[0]) == {"epoch", "loss", "accuracy"}
    assert outcome.trained.best_epoch == int(np.argmin(losses)) + 1


def test_a_checkpoint_that_kept_nothing_is_an_error_with_the_key(project: TinyProject, device: Device) -> None:
    with pytest.raises(InvalidModel, match="ModelCheckpoint kept no model") as caught:
        train(project, device, train={"checkpoint": {"initial_value_threshold": -1.0}})
    assert caught.value.where == "train.checkpoint"


def test_the_number_of_steps_in_one_call_leaves_the_weights_alone(project: TinyProject, device: Device) -> None:
    outcomes = [train(project, device, train={"batch_size": 8, "steps_per_execution": k}) for k in (1, 7, "auto")]
    assert len({outcome.weights for outcome in outcomes}) == 1
    assert len({tuple(outcome.column("val_loss")) for outcome in outcomes}) == 1


def test_a_member_is_the_same_whatever_its_process_trained_before(project: TinyProject, device: Device) -> None:
    alone = train(project, device)
    train(project, device, member=1, train={"epochs": 1})
    assert train(project, device).weights == alone.weights


def test_dropout_takes_part_in_training(project: TinyProject, device: Device) -> None:
    weak, strong = (train(project, device, members={"count": 1, "dropout": rate}) for rate in (0.0, 0.9))
    assert strong.column("loss")[-1] > weak.column("loss")[-1] + 0.1


def test_an_epoch_follows_from_seed_and_number_alone(project: TinyProject, device: Device) -> None:
    """Epoch 2 from the weights of epoch 1 is the same in a fit that begins there: data order and dropout included."""
    import keras

    from orchestrator.models.build import build_member
    from orchestrator.training.callbacks import SeedEachEpoch
    from orchestrator.training.feed import Feed

    job = project.job(train={"optimizer": "sgd"})  # without slots: the weights are all that an epoch leaves behind
    member = api.plan(job, root=str(project.folder)).request.plan.members[0]
    split = load(job).train

    def fit(epochs: int, start: int, weights: Any = None) -> keras.Model:
        model = build_member(member.builder, member.kwargs, member.seed, job.train)
        if weights is not None:
            model.set_weights(weights)
        feed = Feed(split, 32, member.seed, lambda: None)
        seeds = SeedEachEpoch(feed, member.seed)
        model.fit(feed, epochs=epochs, initial_epoch=start, shuffle=False, verbose=0, callbacks=[seeds])
        return model

    straight = fit(2, 0).get_weights()
    resumed = fit(2, 1, fit(1, 0).get_weights()).get_weights()
    assert all(np.array_equal(a, b) for a, b in zip(straight, resumed, strict=True))


def test_each_epoch_sees_each_row_once_in_the_order_of_the_epoch(device: Device) -> None:
    from orchestrator.training.data import Split
    from orchestrator.training.feed import Feed, epoch_order

    batches = 0

    def count() -> None:
        nonlocal batches
        batches += 1

    feed = Feed(Split(np.arange(70)[:, None], np.arange(70)), 32, 5, count)
    for epoch in (1, 2):
        feed.start_epoch(epoch)
        seen = np.concatenate([feed[index][1] for index in range(len(feed))])
        assert np.array_equal(seen, epoch_order(70, 5, epoch))
        assert np.array_equal(np.sort(seen), np.arange(70))
    assert not np.array_equal(epoch_order(70, 5, 1), epoch_order(70, 5, 2))
    assert batches == 6


def add(project: TinyProject, source: str) -> None:
    file: Path = project.folder / f"{project.name}.py"
    file.write_text(file.read_text(encoding="utf-8") + "\n\n" + source, encoding="utf-8")
