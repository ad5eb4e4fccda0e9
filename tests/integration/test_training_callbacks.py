"""One member, trained by Keras' `fit` with Keras' own callbacks and the user's, in this process."""

from __future__ import annotations

import csv
import logging
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from orchestrator import api
from orchestrator.errors import InvalidJob, InvalidModel
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
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    trained = train_solo(plan, dataset, folder, device, lambda epoch, logs: None, lambda: None)
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


def test_the_published_file_opens_in_plain_keras(project: TinyProject, device: Device) -> None:
    outcome = train(project, device)
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


CALLBACKS = """
import json
from pathlib import Path

import keras

made = []


class Notes(keras.callbacks.Callback):
    def __init__(self, folder, prefix="epoch", fail=False):
        super().__init__()
        if fail:
            raise ValueError("no pen")
        self.path = Path(folder) / "notes.txt"
        self.prefix = prefix
        self.seen = []
        made.append(self)

    def on_epoch_end(self, epoch, logs=None):
        self.seen.append(sorted(logs))
        with self.path.open("a") as file:
            file.write(f"{self.prefix} {epoch}\\n")


class Unstorable(keras.callbacks.Callback):
    def get_state(self):
        return {"model": self}

    def set_state(self, state):
        pass


def no_class():
    pass


class NoCallback:
    pass
"""


def check_before(project: TinyProject, *callbacks: Any, **parts: Any) -> None:
    from orchestrator.training.preflight import check_before_training

    job = project.job(**{**parts, "train": {**parts.get("train", {}), "callbacks": list(callbacks)}})
    members = api.plan(job, root=str(project.folder)).request.plan.members
    check_before_training(job, members, load(job))


def test_callbacks_write_into_the_attempts_folder(project: TinyProject, device: Device) -> None:
    add(project, CALLBACKS)
    callbacks = [
        {"class_name": "CSVLogger", "config": {"filename": "curves/log.csv"}},
        {"class_name": f"{project.name}:Notes", "config": {"prefix": "after"}},
    ]
    outcome = train(project, device, train={"epochs": 2, "callbacks": callbacks})
    files = project.folder / "scratch" / "files"
    with (files / "curves" / "log.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["val_loss"]) for row in rows] == outcome.column("val_loss")
    assert (files / "notes.txt").read_text(encoding="utf-8").splitlines() == ["after 0", "after 1"]


def test_each_member_has_a_fresh_copy_of_each_callback(project: TinyProject, device: Device) -> None:
    add(project, CALLBACKS)
    for member in (0, 1):
        train(project, device, member=member, train={"epochs": 2, "callbacks": [f"{project.name}:Notes"]})
    first, second = sys.modules[project.name].made
    assert first is not second
    assert len(first.seen) == len(second.seen) == 2


def test_a_plateau_lowers_the_learning_rate_and_the_history_tells(project: TinyProject, device: Device) -> None:
    config = {"patience": 1, "factor": 0.5, "min_delta": 10.0}
    callbacks = [{"class_name": "ReduceLROnPlateau", "config": config}]
    outcome = train(project, device, train={"epochs": 4, "callbacks": callbacks, "early_stopping": None})
    assert outcome.column("learning_rate") == pytest.approx([0.01, 0.01, 0.005, 0.0025])


def test_a_plateau_is_one_of_the_training_loss_where_there_is_nothing_to_validate_on(
    project: TinyProject, device: Device
) -> None:
    add(project, "def load_train():\n    return digits(160)\n")
    data = {"source": f"{project.name}:load_train", "validation_split": 0}
    callbacks = [{"class_name": "ReduceLROnPlateau", "config": {"patience": 1, "min_delta": 10.0}}]
    outcome = train(project, device, data=data, train={"epochs": 3, "callbacks": callbacks, "early_stopping": None})
    assert outcome.column("learning_rate")[-1] == pytest.approx(0.001)


@pytest.mark.parametrize(
    ("callback", "where", "fragments"),
    [
        ({"class_name": "CSVLogger", "config": {"filename": "/tmp/log.csv"}}, "filename", ["relative path", "storage"]),
        ({"class_name": "TensorBoard", "config": {"log_dir": "../logs"}}, "log_dir", ["relative path"]),
        ("CSVLogger", "train.callbacks.0: CSVLogger", ["cannot be made", "filename"]),
        ({"class_name": "ReduceLROnPlateau", "config": {"factor": 2.0}}, "ReduceLROnPlateau", ["factor"]),
        (
            {"class_name": "ReduceLROnPlateau", "config": {"monitor": "val_acc"}},
            "train.callbacks.0.config.monitor",
            ["'val_acc'", "val_accuracy"],
        ),
        ({"class_name": "{module}:Notes", "config": {"fail": True}}, ".py:", ["cannot be made", "no pen"]),
        ("{module}:NoCallback", "NoCallback", ["no Keras callback", "keras.callbacks.Callback"]),
        ("{module}:no_class", "no_class", ["no Keras callback"]),
        ("{module}:Unstorable", "train.callbacks", ["Unstorable", "cannot be stored"]),
    ],
)
def test_the_preflight_refuses_callbacks_that_would_fail_later(
    callback: Any, where: str, fragments: list[str], project: TinyProject, device: Device, monkeypatch: Any
) -> None:
    add(project, CALLBACKS)
    monkeypatch.setitem(sys.modules, "tensorboard", sys)  # whether it is installed is another test
    name = callback if isinstance(callback, str) else callback["class_name"]
    name = name.format(module=project.name)
    asked = name if isinstance(callback, str) else {**callback, "class_name": name}
    with pytest.raises((InvalidJob, InvalidModel)) as caught:
        check_before(project, asked)
    assert where in str(caught.value.where)
    assert all(fragment in str(caught.value) for fragment in fragments), str(caught.value)


def test_the_preflight_says_what_tensorboard_needs(project: TinyProject, device: Device, monkeypatch: Any) -> None:
    monkeypatch.setitem(sys.modules, "tensorboard", None)  # how Python says that there is no such module
    with pytest.raises(InvalidJob, match="needs the package tensorboard"):
        check_before(project, "TensorBoard")


@pytest.mark.parametrize("key", ["early_stopping", "checkpoint"])
def test_the_preflight_asks_for_the_mode_where_keras_cannot_tell_it(
    key: str, project: TinyProject, device: Device
) -> None:
    add(project, NO_DIRECTION)
    check_before(project, train={"metrics": ["accuracy"], key: {"monitor": "val_accuracy"}})
    train = {key: {"monitor": "val_plain"}}
    with pytest.raises(InvalidJob, match=r"say which: `mode: max` or `mode: min`") as caught:
        check_before(project, model=f"{project.name}:build_plain", train=train)
    assert caught.value.where == f"train.{key}"
    check_before(project, model=f"{project.name}:build_plain", train={key: {"monitor": "val_plain", "mode": "max"}})


NO_DIRECTION = """
def plain(y_true, y_pred):
    import keras

    return keras.ops.mean(y_pred, axis=-1)


def build_plain(dropout=0.2):
    model = build_model(dropout)
    model.compile("adam", "sparse_categorical_crossentropy", metrics=[plain])
    return model
"""


def test_good_callbacks_pass_the_preflight_and_leave_no_files(project: TinyProject, device: Device) -> None:
    add(project, CALLBACKS)
    before = sorted(project.folder.rglob("*.csv"))
    check_before(
        project,
        {"class_name": "CSVLogger", "config": {"filename": "log.csv"}},
        {"class_name": "ReduceLROnPlateau", "config": {"monitor": "val_accuracy", "patience": 3}},
        "TerminateOnNaN",
        f"{project.name}:Notes",
    )
    assert sorted(project.folder.rglob("*.csv")) == before


def test_a_model_that_draws_by_state_is_told_so_once(
    project: TinyProject, device: Device, caplog: pytest.LogCaptureFixture
) -> None:
    add(project, STATEFUL)
    with caplog.at_level(logging.WARNING, logger="orchestrator.worker"):
        train(project, device, train={"epochs": 3})
        assert caplog.messages == []
        train(project, device, model=f"{project.name}:build_noisy", train={"epochs": 4})
    assert [message.split()[:4] for message in caplog.messages] == [["the", "model", "draws", "random"]]


STATEFUL = """
def build_noisy(dropout=0.2):
    import keras
    import tensorflow as tf

    class Noise(keras.layers.Layer):
        def call(self, x):
            return x + tf.random.normal(tf.shape(x), stddev=0.1)

    body = [keras.Input((64,)), Noise(), keras.layers.Dense(10, activation="softmax")]
    model = keras.Sequential(body)
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model
"""


def test_a_diverged_member_names_epoch_and_rate_and_keeps_nothing_of_that_epoch(
    project: TinyProject, device: Device
) -> None:
    from orchestrator.training.callbacks import Diverged
    from orchestrator.training.solo import train_solo

    add(project, BLOWS_UP)
    job = project.job(
        train={
            "epochs": 4,
            "optimizer": {"class_name": "SGD", "config": {"learning_rate": 0.01}},
            "callbacks": [f"{project.name}:BlowsUp"],
        }
    )
    plan = api.plan(job, root=str(project.folder)).request.plan.members[0]
    kept: list[Any] = []
    folder = project.folder / "scratch"
    folder.mkdir()
    with pytest.raises(Diverged, match=r"loss became nan in epoch 3 at learning rate 0\.01"):
        train_solo(plan, load(job), folder, device, lambda e, logs: None, lambda: None, keep=kept.append)
    assert [snapshot.epoch for snapshot in kept] == [1, 2]
    assert all(np.isfinite(array).all() for snapshot in kept for array in snapshot.best.weights)
    assert not (folder / "best.keras").exists()


BLOWS_UP = """
import keras


class BlowsUp(keras.callbacks.Callback):
    def on_epoch_begin(self, epoch, logs=None):
        if epoch == 2:
            self.model.layers[-1].bias.assign([float("nan")] * 10)
"""


class Ended(Exception):
    """What `check` raises in a test."""


@pytest.mark.parametrize("look", [0, 3, 5, 7])
def test_what_check_raises_comes_through_unchanged_and_nothing_is_published(
    look: int, project: TinyProject, device: Device
) -> None:
    """5 batches of training and one of validation an epoch: at the first batch, within, in validation, in the next."""
    from orchestrator.training.solo import train_solo

    job = project.job()
    plan = api.plan(job, root=str(project.folder)).request.plan.members[0]
    raised = Ended("now")
    looks, signs, kept = 0, 0, 0

    def check() -> None:
        nonlocal looks
        looks += 1
        if looks > look:
            raise raised

    def sign() -> None:
        nonlocal signs
        signs += 1

    def keep(snapshot: Any) -> None:
        nonlocal kept
        kept += 1

    folder = project.folder / "scratch"
    folder.mkdir()
    with pytest.raises(Ended) as caught:
        train_solo(plan, load(job), folder, device, lambda e, logs: None, sign, keep=keep, check=check)
    assert caught.value is raised
    assert kept == look // 6
    assert signs >= look, "batches and validation both give signs of life"
    assert not list(folder.iterdir())


def add(project: TinyProject, source: str) -> None:
    file: Path = project.folder / f"{project.name}.py"
    file.write_text(file.read_text(encoding="utf-8") + "\n\n" + source, encoding="utf-8")
