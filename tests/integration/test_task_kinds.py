"""Regression, several labels, yes or no: each task through the whole flow, its figures by scikit-learn and by Keras."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from orchestrator.ensemble.tasks import TaskKind, to_targets
from orchestrator.errors import InvalidData, InvalidJob, InvalidModel
from orchestrator.models.outputs import as_predictions, loss_name, losses_by_name, squash_of
from orchestrator.planning.outputs import ONLY
from orchestrator.reporting.result import MemberResult, Result
from orchestrator.spec import Job
from orchestrator.storage.tables import predictions_from_parquet
from tests.support.in_process import load, run_in_process
from tests.support.tiny_jobs import TinyProject

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("device")]

SOURCE = '''

def told(label):
    """The digits that tell `label` of each row, for training, validation and test."""
    return {name: (x, label(x, y)) for name, (x, y) in load_data().items()}


def load_number():
    return told(lambda x, y: 10 * x.mean(axis=1))


def load_two_numbers():
    return told(lambda x, y: np.stack([10 * x.mean(axis=1), 20 * x[:, :32].mean(axis=1)], axis=1))


def load_flags():
    return told(lambda x, y: np.stack([y % 2 == 0, y > 4, np.isin(y, (0, 6, 8, 9))], axis=1).astype("float32"))


def load_wrong_flags():
    return told(lambda x, y: np.stack([y % 2, y % 3], axis=1))


def load_one_hot():
    return told(lambda x, y: np.eye(10, dtype="float32")[y])


def build(width, activation, loss, dropout=0.1, rate=0.01):
    import keras

    layers = [keras.Input((64,)), keras.layers.Dense(16, "relu"), keras.layers.Dropout(dropout)]
    model = keras.Sequential([*layers, keras.layers.Dense(width, activation=activation)])
    model.compile(keras.optimizers.Adam(rate), loss)
    return model


def build_number(dropout=0.1, loss="mse", width=1):
    return build(width, None, loss, dropout)


def build_bare_number(dropout=0.1):
    """Its output has the shape [N]."""
    import keras

    entry = keras.Input((64,))
    hidden = keras.layers.Dropout(dropout)(keras.layers.Dense(16, "relu")(entry))
    model = keras.Model(entry, keras.layers.Reshape(())(keras.layers.Dense(1)(hidden)))
    model.compile(keras.optimizers.Adam(0.01), "mean_absolute_error")
    return model


def build_flags(dropout=0.1, width=3, activation="sigmoid"):
    return build(width, activation, "binary_crossentropy", dropout)


def build_flag_logits(dropout=0.1, activation=None):
    import keras

    return build(3, activation, keras.losses.BinaryCrossentropy(from_logits=True), dropout)


def own_loss(y_true, y_pred):
    import keras

    return keras.losses.categorical_crossentropy(y_true, y_pred)


def build_own_loss(dropout=0.1):
    return build(10, "softmax", own_loss, dropout)
'''


@pytest.fixture
def tasks(project: TinyProject) -> TinyProject:
    """The tiny project with further data and build functions."""
    file = project.folder / f"{project.name}.py"
    file.write_text(file.read_text(encoding="utf-8") + SOURCE, encoding="utf-8")
    return project


def job_of(tasks: TinyProject, data: str, builder: str, **parts: Any) -> Job:
    return tasks.job(model=f"{tasks.name}:{builder}", data=f"{tasks.name}:{data}", **parts)


def stored(tasks: TinyProject, result: Result, split: str) -> np.ndarray:
    """The members' predictions [M, N, C] in float64."""
    copies: Path = tasks.folder / "runs" / result.artifacts["members"]
    parts = [
        predictions_from_parquet((copies / f"{m.index}" / f"{split}.parquet").read_bytes()) for m in result.members
    ]
    return np.stack(parts).astype(np.float64)


def loss_by_keras(tasks: TinyProject, job: Job, member: MemberResult) -> float:
    """Validation loss of the published file by plain Keras."""
    split = load(job).validation
    assert split is not None
    assert member.model is not None
    model = keras.models.load_model(tasks.folder / "runs" / member.model.key)
    return float(model.evaluate(split.x, split.y, verbose=0, return_dict=True)["loss"])


@pytest.mark.parametrize(
    ("data", "builder", "kwargs", "metric"),
    [
        ("load_number", "build_number", {}, "rmse"),
        ("load_two_numbers", "build_number", {"width": 2}, "rmse"),
        ("load_number", "build_bare_number", {}, "mae"),
    ],
)
def test_a_regression_runs_to_its_figures(
    tasks: TinyProject, data: str, builder: str, kwargs: Mapping[str, Any], metric: str
) -> None:
    from sklearn import metrics

    model = {"builder": f"{tasks.name}:{builder}", "kwargs": kwargs}
    job = tasks.job(model=model, data=f"{tasks.name}:{data}", train={"epochs": 3})
    result = run_in_process(job, tasks.folder)
    assert (result.status, result.task) == ("succeeded", "regression")
    dataset = load(job)
    for name, split in dataset.splits():
        if name == "train":
            continue
        targets, members = to_targets(TaskKind.REGRESSION, split.y), stored(tasks, result, name)
        figures = getattr(result, name)
        average = members.mean(axis=0)
        squared = metrics.mean_squared_error(targets, average)
        assert figures.ensemble.rmse == pytest.approx(math.sqrt(squared), rel=1e-9)
        assert figures.ensemble.mae == pytest.approx(metrics.mean_absolute_error(targets, average), rel=1e-9)
        assert figures.ensemble.r2 == pytest.approx(metrics.r2_score(targets, average), rel=1e-9)
        assert figures.ensemble.accuracy is None
    for member in result.members:
        loss = loss_by_keras(tasks, job, member)
        expected = math.sqrt(loss) if metric == "rmse" else loss
        assert getattr(member.validation, metric) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("builder", ["build_flags", "build_flag_logits"])
def test_several_labels_run_to_their_figures(tasks: TinyProject, builder: str) -> None:
    from sklearn import metrics

    job = job_of(tasks, "load_flags", builder, train={"epochs": 3})
    result = run_in_process(job, tasks.folder)
    assert (result.status, result.task) == ("succeeded", "multilabel")
    split, members = load(job).validation, stored(tasks, result, "validation")
    assert split is not None
    assert result.validation is not None
    assert 0 <= members.min() < members.max() <= 1
    assert np.abs(members.sum(axis=2) - 1).max() > 0.1, "no softmax over labels that may hold at once"
    ensemble, average = result.validation.ensemble, members.mean(axis=0)
    assert ensemble.accuracy == pytest.approx(np.mean((average > 0.5) == split.y), abs=1e-12)
    by_label = [metrics.log_loss(split.y[:, label], average[:, label]) for label in range(3)]
    assert ensemble.nll == pytest.approx(np.mean(by_label), abs=1e-6)
    assert ensemble.auc == pytest.approx(metrics.roc_auc_score(split.y, average, average="macro"), abs=1e-9)
    for member in result.members:
        assert member.validation is not None
        assert member.validation.nll == pytest.approx(loss_by_keras(tasks, job, member), abs=1e-5)


def test_with_a_loss_of_the_users_own_one_hot_labels_are_classes(tasks: TinyProject) -> None:
    result = run_in_process(job_of(tasks, "load_one_hot", "build_own_loss"), tasks.folder)
    assert result.task == "multiclass"
    assert result.validation is not None
    assert result.validation.ensemble.accuracy is not None


def refusal(job: Job, root: Path) -> Any:
    """The error with which a run ends before any member is trained."""
    with pytest.raises((InvalidData, InvalidModel, InvalidJob)) as caught:
        run_in_process(job, root)
    assert list(root.glob("runs/*/*/members/*/log/*")) == []
    return caught.value


@pytest.mark.parametrize(
    ("data", "builder", "kwargs", "error", "told"),
    [
        ("load_number", "build_number", {"width": 10}, InvalidData, "one unit for each number"),
        ("load_number", "build_number", {"loss": "binary_crossentropy"}, InvalidData, "use a regression loss"),
        ("load_data", "build_flags", {"width": 10}, InvalidData, "use sparse_categorical_crossentropy"),
        ("load_wrong_flags", "build_flags", {"width": 2}, InvalidData, "labels of the train set go from 0 to 2"),
        ("load_flags", "build_flags", {"activation": "linear"}, InvalidModel, "no probabilities"),
        ("load_flags", "build_flag_logits", {"activation": "sigmoid"}, InvalidModel, "probabilities already"),
    ],
)
def test_labels_and_outputs_that_do_not_fit_the_loss_are_refused(
    tasks: TinyProject, data: str, builder: str, kwargs: Mapping[str, Any], error: type[Exception], told: str
) -> None:
    model = {"builder": f"{tasks.name}:{builder}", "kwargs": kwargs}
    found = refusal(tasks.job(model=model, data=f"{tasks.name}:{data}"), tasks.folder)
    assert isinstance(found, error)
    assert told in str(found)


def test_members_that_tell_different_things_are_not_averaged(tasks: TinyProject) -> None:
    """Both have three outputs: probabilities of three labels, and three numbers."""
    numbers = {"model": {"builder": f"{tasks.name}:build_number", "kwargs": {"width": 3}}}
    members = {"count": 2, "overrides": {1: numbers}}
    error = refusal(job_of(tasks, "load_flags", "build_flags", members=members), tasks.folder)
    assert isinstance(error, InvalidModel)
    assert "multilabel [3]" in str(error)
    assert "regression [3]" in str(error)


@pytest.mark.parametrize(
    ("ensemble", "where"),
    [
        ({"gate": {"metric": "accuracy", "min": 0.5}}, "ensemble.gate.metric"),
        ({"stop_when": {"metric": "nll"}}, "ensemble.stop_when.metric"),
        ({"calibrate": True}, "ensemble.calibrate"),
    ],
)
def test_figures_that_a_regression_does_not_have_are_refused(
    tasks: TinyProject, ensemble: Mapping[str, Any], where: str
) -> None:
    error = refusal(job_of(tasks, "load_number", "build_number", ensemble=ensemble), tasks.folder)
    assert isinstance(error, InvalidJob)
    assert error.where == where


class OwnLoss(keras.losses.Loss):
    """Says nothing of what labels mean."""

    def call(self, y_true: Any, y_pred: Any) -> Any:
        return keras.ops.mean(keras.ops.abs(y_true - y_pred), axis=-1)


class OwnCrossentropy(keras.losses.BinaryCrossentropy):
    """Keras' own by another name."""


losses = keras.losses


@pytest.mark.parametrize(
    ("loss", "name", "squash"),
    [
        ("mse", "mse", None),
        (["mse"], "mse", None),
        (losses.MeanSquaredError(), "mean_squared_error", None),
        (losses.Huber(), "huber", None),
        (losses.get("log_cosh"), "log_cosh", None),
        (losses.SparseCategoricalCrossentropy(from_logits=True), "sparse_categorical_crossentropy", "softmax"),
        (losses.CategoricalCrossentropy(), "categorical_crossentropy", None),
        (losses.BinaryCrossentropy(from_logits=True), "binary_crossentropy", "sigmoid"),
        (OwnCrossentropy(from_logits=True), "binary_crossentropy", "sigmoid"),
        (losses.BinaryFocalCrossentropy(from_logits=True), "binary_focal_crossentropy", "sigmoid"),
        (OwnLoss(), None, None),
    ],
)
def test_a_models_loss_tells_its_name_and_what_it_makes_of_logits(loss: Any, name: str | None, squash: str) -> None:
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(3)])
    model.compile("sgd", loss)
    losses = losses_by_name(model, np.zeros((2, 3)))[ONLY]
    assert (loss_name(losses), squash_of(losses)) == (name, squash)


def test_outputs_become_probabilities_as_the_loss_says() -> None:
    logits = np.array([[0.0, np.log(3.0)], [-2.0, 2.0]], np.float32)
    np.testing.assert_allclose(as_predictions(logits, "softmax")[0], [0.25, 0.75], rtol=1e-6)
    np.testing.assert_allclose(as_predictions(logits, "sigmoid"), 1 / (1 + np.exp(-logits)), rtol=1e-6)
    np.testing.assert_allclose(as_predictions(logits[:, 1:], "softmax")[0], [0.75], rtol=1e-6)
    np.testing.assert_array_equal(as_predictions(logits, None), logits)
    np.testing.assert_array_equal(as_predictions(logits[:, 0], None), logits[:, :1])
    with pytest.raises(InvalidModel, match="shape"):
        as_predictions(logits[None], None)
