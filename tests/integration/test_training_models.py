"""Kinds of models, labels and inputs through the whole flow, with real Keras in this process."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from orchestrator.errors import InvalidJob
from orchestrator.reporting.result import MemberResult, Result
from orchestrator.spec import Job, parse_job
from orchestrator.storage.tables import history_from_parquet, predictions_from_parquet
from tests.support.in_process import load, run_in_process
from tests.support.tiny_jobs import TinyProject

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("device")]

SOURCE = '''

def load_one_hot():
    x, y = digits(160)
    return x, np.eye(10, dtype="float32")[y]


def load_binary():
    x, y = digits(200)
    return x, (y % 2).astype("int64")[:, None]


def load_two_inputs():
    x, y = digits(160)
    return {"left": x[:, :32], "right": x[:, 32:]}, y


def load_weighted():
    """Rows of a wrong label, which weigh nothing."""
    x, y = digits(160)
    wrong = np.zeros_like(y)
    both = np.concatenate([x, x]), np.concatenate([y, wrong])
    weights = np.concatenate([np.ones(160), np.zeros(160)]).astype("float32")
    return {"train": (*both, weights), "validation": digits(60, 160)}


def load_misled():
    """The same rows, and the wrong ones count."""
    weighted = load_weighted()
    return {**weighted, "train": weighted["train"][:2]}


def load_without_validation():
    return digits(160)


def build_logits(dropout=0.2):
    import keras

    model = keras.Sequential([keras.Input((64,)), keras.layers.Dropout(dropout), keras.layers.Dense(10)])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(0.02), loss, metrics=["accuracy"])
    return model


def build_binary(dropout=0.2):
    import keras

    layers = [keras.Input((64,)), keras.layers.Dropout(dropout), keras.layers.Dense(1, activation="sigmoid")]
    model = keras.Sequential(layers)
    model.compile(keras.optimizers.Adam(0.02), "binary_crossentropy", metrics=["accuracy"])
    return model


def build_one_hot(dropout=0.2):
    model = build_model(dropout, compiled=False)
    model.compile("adam", "categorical_crossentropy", metrics=["accuracy"])
    return model


def build_two_inputs(dropout=0.2):
    import keras

    left, right = keras.Input((32,), name="left"), keras.Input((32,), name="right")
    both = keras.layers.Concatenate()([keras.layers.Dense(8, activation="relu")(left), right])
    output = keras.layers.Dense(10, activation="softmax")(keras.layers.Dropout(dropout)(both))
    model = keras.Model([left, right], output)
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def build_deep(width, depth=2):
    import keras

    layers = [keras.layers.Dense(width, activation="relu") for _ in range(depth)]
    model = keras.Sequential([keras.Input((64,)), *layers, keras.layers.Dense(10, activation="softmax")])
    model.compile("rmsprop", "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def build_convolution(filters=4):
    import keras

    layers = [
        keras.Input((64,)),
        keras.layers.Reshape((8, 8, 1)),
        keras.layers.SeparableConv2D(filters, 3, activation="relu"),
        keras.layers.BatchNormalization(),
        keras.layers.GlobalAveragePooling2D(),
        keras.layers.Dense(10, activation="softmax"),
    ]
    model = keras.Sequential(layers)
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model
'''


@pytest.fixture
def zoo(project: TinyProject) -> TinyProject:
    """The tiny project with further data and build functions."""
    file = project.folder / f"{project.name}.py"
    file.write_text(file.read_text(encoding="utf-8") + SOURCE, encoding="utf-8")
    return project


def stored(zoo: TinyProject, result: Result, member: int, name: str) -> bytes:
    copies: Path = zoo.folder / "runs" / result.artifacts["members"] / str(member)
    return (copies / name).read_bytes()


def evaluated_by_keras(zoo: TinyProject, job: Job, result: Result, member: MemberResult) -> float:
    """Validation accuracy of the published file by plain Keras."""
    import keras

    split = load(job).validation
    assert split is not None
    assert member.model is not None
    model = keras.models.load_model(zoo.folder / "runs" / member.model.key)
    return float(model.evaluate(split.x, split.y, verbose=0, return_dict=True)["accuracy"])


@pytest.mark.parametrize("kind", ["logits", "binary", "one_hot", "one_hot by the job", "two_inputs"])
def test_reported_accuracy_is_that_of_evaluate(zoo: TinyProject, kind: str) -> None:
    kind, by_job = kind.split()[0], kind.endswith("by the job")
    source = f"{zoo.name}:load_{kind}" if kind != "logits" and not by_job else f"{zoo.name}:load_data"
    data = {"source": source, "one_hot_labels": by_job}
    job = zoo.job(model=f"{zoo.name}:build_{kind}", data=data, members=2)
    result = run_in_process(job, zoo.folder)
    for member in result.members:
        assert member.validation is not None
        assert member.validation.accuracy == pytest.approx(evaluated_by_keras(zoo, job, result, member), abs=1e-6)
        predictions = predictions_from_parquet(stored(zoo, result, member.index, "validation.parquet"))
        assert 0 <= predictions.min() <= predictions.max() <= 1
        assert predictions.shape[1] == 1 or np.allclose(predictions.sum(axis=1), 1, atol=1e-5)


def test_four_architectures_are_weighted_as_the_job_says(zoo: TinyProject) -> None:
    shares = [0.5, 0.25, 0.1, 0.15]
    overrides = {
        1: {"model": {"builder": f"{zoo.name}:build_deep", "kwargs": {"width": 12}}},
        2: {"model": {"builder": f"{zoo.name}:build_convolution", "kwargs": {"filters": 6}}},
        3: {"model": f"{zoo.name}:build_logits", "dropout": 0.4},
    }
    job = zoo.job(members={"count": 4, "overrides": overrides}, ensemble={"weights": shares})
    result = run_in_process(job, zoo.folder)
    parts = [predictions_from_parquet(stored(zoo, result, i, "validation.parquet")) for i in range(4)]
    by_hand = sum(share * part.astype(np.float64) for share, part in zip(shares, parts, strict=True))
    split = load(job).validation
    assert split is not None
    assert result.validation is not None
    assert result.validation.weighted is not None
    assert result.validation.weighted.accuracy == np.mean(by_hand.argmax(axis=1) == split.y)
    true = by_hand[np.arange(len(split.y)), split.y]
    assert result.validation.weighted.nll == pytest.approx(-np.log(true).mean(), abs=1e-6)
    assert result.weights is not None
    assert result.weights.values == pytest.approx(shares)
    assert [member.builder.split("_")[-1] for member in result.members] == ["model", "deep", "convolution", "logits"]


def test_vary_builds_members_of_one_function_with_other_arguments(zoo: TinyProject) -> None:
    import keras

    job = zoo.job(members={"count": 3, "vary": {"units": [8, 16]}}, train={"epochs": 1})
    result = run_in_process(job, zoo.folder)
    assert [member.hyperparameters["units"] for member in result.members] == [8, 16, 8]
    models = [keras.models.load_model(zoo.folder / "runs" / member.model.key) for member in result.members]  # type: ignore[union-attr]  # all succeeded
    assert [model.layers[0].units for model in models] == [8, 16, 8]
    assert len({member.dropout for member in result.members}) == 3


def test_rows_of_weight_zero_teach_nothing(zoo: TinyProject) -> None:
    train = {"epochs": 5, "batch_size": 16}
    accuracies = {}
    for kind in ("weighted", "misled"):
        job = zoo.job(data=f"{zoo.name}:load_{kind}", members=1, train=train, store=kind)
        validation = run_in_process(job, zoo.folder).validation
        assert validation is not None
        accuracies[kind] = validation.ensemble.accuracy
    assert accuracies["weighted"] > accuracies["misled"] + 0.1


def test_a_run_without_validation_rows_says_so_and_reports_none(zoo: TinyProject) -> None:
    data = {"source": f"{zoo.name}:load_without_validation", "validation_split": 0}
    result = run_in_process(zoo.job(data=data, train={"early_stopping": {"monitor": "loss"}}), zoo.folder)
    assert (result.status, result.validation, result.weights) == ("succeeded", None, None)
    assert any("no validation set" in note for note in result.notes)
    assert all(member.loss is not None for member in result.members)
    assert "val_loss" not in history_from_parquet(stored(zoo, result, 0, "history.parquet"))[0]


@pytest.mark.parametrize(
    ("ensemble", "where"),
    [
        ({"weights": "accuracy"}, "ensemble.weights"),
        ({"gate": {"metric": "accuracy", "min": 0.5}}, "ensemble.gate"),
        ({"gate": {"metric": "accuracy", "on": "test", "min": 0.5}}, "ensemble.gate"),
    ],
)
def test_what_needs_rows_that_are_not_there_is_refused(
    zoo: TinyProject, ensemble: dict[str, object], where: str
) -> None:
    data = {"source": f"{zoo.name}:load_without_validation", "validation_split": 0}
    with pytest.raises(InvalidJob) as caught:
        run_in_process(zoo.job(data=data, ensemble=ensemble), zoo.folder)
    assert caught.value.where == where


def test_the_job_compiles_a_model_that_its_function_left_uncompiled(zoo: TinyProject) -> None:
    train = {
        "optimizer": {"class_name": "SGD", "config": {"learning_rate": 0.05, "momentum": 0.9}},
        "loss": "sparse_categorical_crossentropy",
        "metrics": ["accuracy", {"class_name": "SparseTopKCategoricalAccuracy", "config": {"k": 3, "name": "top3"}}],
    }
    job = zoo.job(model={"builder": f"{zoo.name}:build_model", "kwargs": {"compiled": False}}, train=train, members=1)
    result = run_in_process(job, zoo.folder)
    first = history_from_parquet(stored(zoo, result, 0, "history.parquet"))[0]
    assert set(first) == {"epoch"} | {p + n for p in ("", "val_") for n in ("loss", "accuracy", "top3")}


def test_xla_and_determinism_are_not_asked_for_together(zoo: TinyProject) -> None:
    with pytest.raises(InvalidJob, match="deterministic"):
        zoo.job(train={"jit_compile": True, "deterministic": True})
    assert parse_job(zoo.job(train={"jit_compile": True}).model_dump()).train.deterministic is None
