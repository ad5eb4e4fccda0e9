"""All of Keras' callbacks that a job may name, at work in one member; and those that the preflight refuses."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import keras
import pytest

from orchestrator import api
from orchestrator.ensemble.tasks import TaskKind
from orchestrator.errors import InvalidJob
from orchestrator.spec.callbacks import KERAS_CALLBACKS
from orchestrator.training.class_weight import check_class_weight
from orchestrator.training.data import load_dataset
from orchestrator.training.device import Device
from orchestrator.training.output_checks import Told
from orchestrator.training.preflight import MOST_CHECKED, check_before_training
from orchestrator.training.solo import train_solo
from tests.support.in_process import load
from tests.support.tiny_jobs import TinyProject

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("device")]

OWN = """
import keras

told = []


def say(epoch, logs):
    told.append((epoch, sorted(logs)))


def halve(epoch, rate):
    return rate / 2


def build_averaged():
    model = build_model()
    model.compile(keras.optimizers.Adam(0.01, use_ema=True), "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def build_scheduled():
    model = build_model()
    rate = keras.optimizers.schedules.ExponentialDecay(0.01, 10, 0.9)
    model.compile(keras.optimizers.Adam(rate), "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


class Watching(keras.callbacks.EarlyStopping):
    pass


class OwnMonitor(keras.callbacks.Callback):
    def __init__(self, monitor="val_auc"):
        super().__init__()
        self.monitor = monitor
"""


@pytest.fixture
def posted() -> Iterator[tuple[str, list[Any]]]:
    """Address of a server, and what was posted to it."""
    bodies: list[Any] = []

    class Keep(BaseHTTPRequestHandler):
        def do_POST(self) -> None:  # the name that the base class wants
            bodies.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Keep)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}", bodies
    server.shutdown()
    server.server_close()


def configs(module: str, address: str) -> Mapping[str, Mapping[str, Any]]:
    return {
        "CSVLogger": {"filename": "log.csv"},
        "LambdaCallback": {"on_epoch_end": f"{module}:say"},
        "LearningRateScheduler": {"schedule": f"{module}:halve"},
        "ReduceLROnPlateau": {"factor": 0.1, "patience": 1, "min_delta": 100.0},
        "RemoteMonitor": {"root": address, "send_as_json": True},
        "SwapEMAWeights": {},
        "TensorBoard": {"log_dir": "board"},
        "TerminateOnNaN": {},
    }


def test_every_callback_of_keras_that_is_allowed_does_its_work(
    project: TinyProject, device: Device, posted: tuple[str, list[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    add(project)
    address, bodies = posted
    asked = configs(project.name, address)
    assert set(asked) == set(KERAS_CALLBACKS)
    job = project.job(
        model=f"{project.name}:build_averaged",
        train={
            "epochs": 3,
            "early_stopping": None,
            "callbacks": [{"class_name": name, "config": dict(config)} for name, config in asked.items()],
        },
    )
    (plan, *_), dataset = api.plan(job, root=str(project.folder)).request.plan.members, load(job)
    check_before_training(job, [plan], dataset)
    folder = project.folder / "scratch"
    folder.mkdir()
    trained = train_solo(plan, dataset, folder, device, lambda epoch, logs: None, lambda: None)

    rates = [row["learning_rate"] for row in trained.history]
    assert rates == pytest.approx([0.005, 0.0025, 0.000125])  # halved before each epoch, a tenth after the second
    assert len((folder / "files" / "log.csv").read_text().splitlines()) == 4
    assert list((folder / "files" / "board").rglob("events.out*"))
    assert [epoch for epoch, _ in __import__(project.name).told] == [0, 1, 2]
    assert [body["epoch"] for body in bodies] == [0, 1, 2]


@pytest.mark.parametrize(
    ("callback", "builder", "where", "told"),
    [
        ("{module}:OwnMonitor", "build_model", "train.callbacks.0.config.monitor", "'val_auc' to monitor"),
        (
            {"class_name": "{module}:Watching", "config": {"monitor": "val_acc"}},
            "build_model",
            "train.callbacks.0.config.monitor",
            "there are: accuracy, loss, val_accuracy, val_loss",
        ),
        (
            {"class_name": "ReduceLROnPlateau", "config": {"patiense": 2}},
            "build_model",
            "train.callbacks.0: ReduceLROnPlateau",
            "did you mean patience?",
        ),
        (
            {"class_name": "ReduceLROnPlateau", "config": {"mode": "up"}},
            "build_model",
            "train.callbacks.0: ReduceLROnPlateau",
            "there are auto, min, max",
        ),
        (
            {"class_name": "TerminateOnNaN", "config": {"patience": 1}},
            "build_model",
            "train.callbacks.0: TerminateOnNaN",
            "no argument 'patience'",
        ),
        ("SwapEMAWeights", "build_model", "train.callbacks.0", "needs an optimizer that averages weights"),
        ("ReduceLROnPlateau", "build_scheduled", "train.callbacks.0", "sets the learning rate, which a schedule gives"),
        (
            {"class_name": "LearningRateScheduler", "config": {"schedule": "{module}:halve"}},
            "build_scheduled",
            "train.callbacks.0",
            "sets the learning rate, which a schedule gives",
        ),
    ],
)
def test_callbacks_that_would_fail_in_training_are_refused_before(
    callback: Any, builder: str, where: str, told: str, project: TinyProject
) -> None:
    add(project)
    asked = json.loads(json.dumps(callback).replace("{module}", project.name))
    job = project.job(model=f"{project.name}:{builder}", train={"callbacks": [asked]})
    members = api.plan(job, root=str(project.folder)).request.plan.members
    with pytest.raises(InvalidJob) as caught:
        check_before_training(job, members, load(job))
    assert caught.value.where == where
    assert told in str(caught.value)


def test_the_callbacks_of_every_member_decide_whether_it_can_be_fused(project: TinyProject) -> None:
    """Also beyond those whose models the preflight runs a batch through."""
    add(project)
    own = {"class_name": "LambdaCallback", "config": {"on_train_batch_end": f"{project.name}:say"}}
    count = MOST_CHECKED + 2
    job = project.job(
        members={
            "count": count,
            "vary": {"train.early_stopping.patience": list(range(1, count + 1))},
            "overrides": {count - 1: {"train": {"callbacks": [own]}}},
        }
    )
    members = api.plan(job, root=str(project.folder)).request.plan.members
    architectures = check_before_training(job, members, load(job)).architectures
    assert "looks at batches" in str(architectures[count - 1].obstacle)
    assert architectures[count - 2].obstacle is None


@pytest.mark.parametrize("package", ["tensorboard", "requests"])
def test_a_callback_whose_package_is_missing_is_refused(
    package: str, project: TinyProject, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, package, None)
    name = {"tensorboard": "TensorBoard", "requests": "RemoteMonitor"}[package]
    job = project.job(train={"callbacks": [name]})
    members = api.plan(job, root=str(project.folder)).request.plan.members
    with pytest.raises(InvalidJob, match=f"needs the package {package}"):
        check_before_training(job, members, load(job))


def test_averaged_weights_are_those_that_are_kept(project: TinyProject, device: Device) -> None:
    """With `swap_on_epoch` the model is validated with averaged weights; these must be the best model's."""
    add(project)
    swap = {"class_name": "SwapEMAWeights", "config": {"swap_on_epoch": True}}
    job = project.job(
        model=f"{project.name}:build_averaged", train={"epochs": 2, "early_stopping": None, "callbacks": [swap]}
    )
    (plan, *_), dataset = api.plan(job, root=str(project.folder)).request.plan.members, load(job)
    folder = project.folder / "scratch"
    folder.mkdir()
    trained = train_solo(plan, dataset, folder, device, lambda epoch, logs: None, lambda: None)
    assert dataset.validation is not None
    found = keras.models.load_model(trained.path).evaluate(dataset.validation.x, dataset.validation.y, verbose=0)[0]
    assert found == pytest.approx(min(row["val_loss"] for row in trained.history), abs=1e-5)


@pytest.mark.parametrize(
    ("asked", "tells", "told"),
    [
        ({0: 2.0}, {"": Told(TaskKind.REGRESSION, 1)}, "the models tell regression"),
        ("balanced", {"": Told(TaskKind.MULTILABEL, 3)}, "the models tell multilabel"),
        (
            {0: 2.0},
            {"a": Told(TaskKind.BINARY, 1), "b": Told(TaskKind.BINARY, 1)},
            "the models tell a binary .1., b binary",
        ),
        ({3: 2.0}, {"": Told(TaskKind.MULTICLASS, 3)}, "no class 3: the models tell 3"),
        ({2: 2.0}, {"": Told(TaskKind.BINARY, 1)}, "no class 2: the models tell 2"),
        ({0: 0.0, 1: 0.0, 2: 0.0}, {"": Told(TaskKind.MULTICLASS, 3)}, "no training row has a weight above 0"),
    ],
)
def test_weights_of_classes_that_are_not_there_are_refused(asked: Any, tells: Mapping[str, Told], told: str) -> None:
    rows = load_dataset(lambda: ([[1.0], [2.0], [3.0]], [0, 1, 2]), "here", validation_split=0, seed=0).train
    with pytest.raises(InvalidJob, match=told) as caught:
        check_class_weight(asked, tells, rows)
    assert caught.value.where == "train.class_weight"
    check_class_weight({0: 2.0, 2: 0.0}, {"": Told(TaskKind.MULTICLASS, 3)}, rows)


def add(project: TinyProject) -> None:
    path = Path(project.folder, f"{project.name}.py")
    path.write_text(path.read_text(encoding="utf-8") + OWN, encoding="utf-8")
