"""What is wrong with a job, its model or its data is told before any member trains, with its place and exit code 2."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from orchestrator import api
from orchestrator.errors import (
    InvalidData,
    InvalidInput,
    InvalidJob,
    InvalidModel,
    QuorumMissed,
    StoreUnavailable,
    UnsupportedStore,
)
from orchestrator.spec import Job
from tests.support.in_process import run_in_process
from tests.support.tiny_jobs import TinyProject

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("device")]

SOURCE = '''

def load_raising():
    raise FileNotFoundError("no such table")


def load_plain():
    return digits(40)


def load_few_validation_rows():
    return {"train": digits(40), "validation": digits(5)}


def load_nothing():
    return None


def load_text():
    x, y = digits(40)
    return x, np.asarray([str(label) for label in y])


def load_ragged():
    return [[1.0], [1.0, 2.0]], [0, 1]


def load_more_rows_than_labels():
    x, y = digits(40)
    return x, y[:30]


def load_nan():
    x, y = digits(40)
    x[7, 3] = np.nan
    return x, y


def load_other_shape():
    x, y = digits(40)
    return x[:, :60], y


def load_label_out_of_range():
    x, y = digits(40)
    y[5] = 10
    return x, y


def load_empty_validation():
    x, y = digits(40)
    return {"train": (x, y), "validation": (x[:0], y[:0])}


def load_unlike_validation():
    x, y = digits(40)
    return {"train": (x, y), "validation": (x[:, :60], y)}


def load_unknown_split():
    return {"train": digits(40), "dev": digits(40)}


def build_raising(dropout=0.1):
    raise ValueError("no such layer")


def build_nothing(dropout=0.1):
    pass


def build_leaving(dropout=0.1):
    raise SystemExit(3)


def build_no_probabilities(dropout=0.1):
    return build_model(dropout, head="linear")


def build_wide(dropout=0.1, classes=12):
    import keras

    model = keras.Sequential([keras.Input((64,)), keras.layers.Dense(classes, activation="softmax")])
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def build_hot(dropout=0.1, rate=0.01):
    import keras

    model = keras.Sequential([keras.Input((64,)), keras.layers.Dense(16), keras.layers.Dense(10, "softmax")])
    model.compile(keras.optimizers.SGD(rate), "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def build_failing_later(dropout=0.1):
    """Passes the preflight, which builds it once, and raises when it is built for training."""
    build_failing_later.calls = getattr(build_failing_later, "calls", 0) + 1
    if build_failing_later.calls > 1:
        raise RuntimeError("the second time")
    return build_model(dropout)
'''


@pytest.fixture
def broken(project: TinyProject) -> TinyProject:
    """The tiny project with functions that go wrong."""
    file = project.folder / f"{project.name}.py"
    file.write_text(file.read_text(encoding="utf-8") + SOURCE, encoding="utf-8")
    return project


def refusal(job: Job, root: Path, error: type[Exception] = InvalidInput) -> Any:
    """The error with which a run ends; no member may have been trained."""
    with pytest.raises(error) as caught:
        run_in_process(job, root)
    assert list(root.glob("runs/*/*/members/*/log/*")) == []
    return caught.value


@pytest.mark.parametrize(
    ("function", "words"),
    [
        ("load_raising", "FileNotFoundError: no such table"),
        ("load_nothing", "not (x, y)"),
        ("load_text", "encode text"),
        ("load_ragged", "x cannot be made an array"),
        ("load_more_rows_than_labels", "different numbers of rows: x 40, y 30"),
        ("load_nan", "NaN or infinity, first in row 7"),
        ("load_other_shape", "inputs have shape (30, 60)"),
        ("load_label_out_of_range", "labels of the train set go from 0 to 10"),
        ("load_empty_validation", "no rows"),
        ("load_unlike_validation", "(60,)"),
        ("load_unknown_split", "'dev'"),
    ],
)
def test_data_that_cannot_be_used_are_refused(broken: TinyProject, function: str, words: str) -> None:
    error = refusal(broken.job(data=f"{broken.name}:{function}"), broken.folder)
    assert isinstance(error, InvalidData)
    assert words in str(error)
    assert broken.name in str(error.where)
    assert error.exit_code == 2


@pytest.mark.parametrize(
    ("function", "words"),
    [
        ("build_raising", "the build function raised ValueError: no such layer"),
        ("build_leaving", "the build function raised SystemExit: 3"),
        ("build_nothing", "returned NoneType, not a keras.Model"),
        ("build_no_probabilities", "no probabilities"),
    ],
)
def test_models_that_cannot_be_trained_are_refused(broken: TinyProject, function: str, words: str) -> None:
    error = refusal(broken.job(model=f"{broken.name}:{function}"), broken.folder)
    assert isinstance(error, InvalidModel)
    assert words in str(error)
    assert f"{broken.name}:{function}" in str(error.where)
    assert error.exit_code == 2


@pytest.mark.parametrize(("key", "function"), [("model", "build_raising"), ("data", "load_raising")])
def test_an_error_in_the_users_code_names_its_file_and_line(broken: TinyProject, key: str, function: str) -> None:
    file = broken.folder / f"{broken.name}.py"
    lines = file.read_text(encoding="utf-8").splitlines()
    line = next(number for number, text in enumerate(lines, 1) if text.startswith(f"def {function}")) + 1
    error = refusal(broken.job(**{key: f"{broken.name}:{function}"}), broken.folder)
    assert error.where == f"{file}:{line} ({broken.name}:{function})"


def test_an_uncompiled_model_needs_optimizer_and_loss_from_the_job(broken: TinyProject) -> None:
    model = {"builder": f"{broken.name}:build_model", "kwargs": {"compiled": False}}
    error = refusal(broken.job(model=model), broken.folder)
    assert isinstance(error, InvalidModel)
    assert "not compiled" in str(error)
    assert "train.optimizer" in str(error.hint)


def test_members_of_different_output_shapes_are_refused(broken: TinyProject) -> None:
    overrides = {1: {"model": f"{broken.name}:build_wide"}}
    error = refusal(broken.job(members={"count": 2, "overrides": overrides}), broken.folder)
    assert isinstance(error, InvalidModel)
    assert "[10]" in str(error)
    assert "[12]" in str(error)


@pytest.mark.parametrize(
    ("function", "rule", "where", "words"),
    [
        ("load_plain", {}, "ensemble.stop_when", "there is none"),
        ("load_few_validation_rows", {"metric": "rmse"}, "ensemble.stop_when.metric", "multiclass"),
        ("load_few_validation_rows", {"metric": "auc"}, "ensemble.stop_when.metric", "of these 5 rows"),
    ],
)
def test_a_score_to_stop_at_that_cannot_be_told_is_refused(
    broken: TinyProject, function: str, rule: dict[str, Any], where: str, words: str
) -> None:
    data = {"source": f"{broken.name}:{function}", "validation_split": 0}
    error = refusal(broken.job(data=data, ensemble={"stop_when": rule}), broken.folder)
    assert isinstance(error, InvalidJob)
    assert error.where == where
    assert words in str(error)


def test_names_for_another_number_of_classes_are_refused(broken: TinyProject) -> None:
    data = {"source": f"{broken.name}:load_plain", "class_names": ["zero", "one"]}
    error = refusal(broken.job(data=data), broken.folder)
    assert isinstance(error, InvalidJob)
    assert (error.where, error.what) == ("data.class_names", "there are 2 names, and the models tell 10 classes")


@pytest.mark.parametrize(
    ("train", "where", "words"),
    [
        ({"early_stopping": {"monitor": "val_los"}}, "train.early_stopping.monitor", "val_loss"),
        ({"checkpoint": {"monitor": "auc"}}, "train.checkpoint.monitor", "accuracy"),
        ({"optimizer": "adamant"}, "train.optimizer", "adamant"),
        ({"loss": "sparse_crossentropy"}, "train.loss", "sparse_crossentropy"),
        (
            {"optimizer": {"class_name": "Adam", "config": {"momentum": 1}}},
            "train.optimizer",
            "momentum",
        ),
        ({"checkpoint": {"save_freq": 2}}, "train.checkpoint.save_freq", "epoch"),
    ],
)
def test_settings_that_keras_does_not_know_are_refused(
    broken: TinyProject, train: dict[str, Any], where: str, words: str
) -> None:
    error = refusal(broken.job(train=train), broken.folder)
    assert isinstance(error, InvalidJob)
    assert error.where == where
    assert words in str(error)


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        ({"model": "no_such_module_here:build_model"}, "no_such_module_here"),
        ({"model": "{name}:build_modell"}, "build_model"),
        ({"data": "{name}:load_dat"}, "load_data"),
        ({"model": {"builder": "{name}:build_model", "kwargs": {"unit": 3}}}, "did you mean units"),
        ({"members": {"count": 2, "vary": {"unit": [3]}}}, "did you mean units"),
        ({"members": {"count": 2, "overrides": {0: {"kwargs": {"unit": 3}}}}}, "did you mean units"),
    ],
)
def test_what_the_source_tells_is_refused_without_importing_it(
    broken: TinyProject, parts: dict[str, Any], words: str
) -> None:
    import sys

    with pytest.raises(InvalidJob, match=words):
        api.validate(broken.job(**named(parts, broken.name)), root=str(broken.folder))
    assert broken.name not in sys.modules


def named(value: Any, name: str) -> Any:
    """`value` with the project's module in the place of `{name}`."""
    if isinstance(value, dict):
        return {key: named(item, name) for key, item in value.items()}
    return value.replace("{name}", name) if isinstance(value, str) else value


def test_a_folder_below_a_file_cannot_be_the_storage(broken: TinyProject) -> None:
    (broken.folder / "file").write_text("")
    error = storage_refusal(broken, str(broken.folder / "file" / "runs"))
    assert error.exit_code == 2
    assert str(broken.folder / "file") in str(error)


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may write to read-only folders")
def test_a_read_only_folder_cannot_be_the_storage(broken: TinyProject) -> None:
    folder = broken.folder / "locked"
    folder.mkdir(mode=0o500)
    assert storage_refusal(broken, str(folder / "runs")).exit_code == 2


def test_memory_is_no_storage(broken: TinyProject) -> None:
    with pytest.raises(InvalidInput, match="memory://"):
        api.run(broken.job(storage={"url": "memory://runs"}), root=str(broken.folder))


def storage_refusal(project: TinyProject, url: str) -> Any:
    with pytest.raises((UnsupportedStore, InvalidInput, StoreUnavailable)) as caught:
        api.run(project.job(storage={"url": url}), root=str(project.folder))
    return caught.value


def hot(broken: TinyProject, **ensemble: Any) -> Job:
    """Three members, the second at a learning rate that is too high."""
    overrides = {1: {"kwargs": {"rate": 1e9}}}
    return broken.job(
        model=f"{broken.name}:build_hot",
        members={"count": 3, "overrides": overrides},
        train={"epochs": 3},
        ensemble=ensemble,
    )


def test_a_diverged_member_is_told_and_left_out_of_the_average(broken: TinyProject) -> None:
    result = run_in_process(hot(broken, quorum=2), broken.folder)
    assert (result.status, result.exit_code, result.missing) == ("partial", 0, (1,))
    assert [member.status for member in result.members] == ["succeeded", "diverged", "succeeded"]
    assert "learning rate 1e+09" in str(result.members[1].message)
    assert result.members[1].validation is None
    assert result.weights is not None
    assert result.weights.members == (0, 2)
    assert sum(result.weights.values) == pytest.approx(1)


def test_a_diverged_member_is_too_few_without_a_quorum(broken: TinyProject) -> None:
    with pytest.raises(QuorumMissed, match="member 1") as caught:
        run_in_process(hot(broken), broken.folder)
    assert caught.value.exit_code == 4


def test_a_member_whose_code_fails_in_training_is_not_tried_again(broken: TinyProject) -> None:
    overrides = {1: {"model": f"{broken.name}:build_failing_later"}}
    job = broken.job(members={"count": 2, "overrides": overrides}, ensemble={"quorum": 1})
    result = run_in_process(job, broken.folder)
    failed = result.members[1]
    assert (failed.status, failed.attempts) == ("failed", 1)
    assert "the second time" in str(failed.message)
    assert broken.name in str(failed.message)


LOGITS = {"class_name": "SparseCategoricalCrossentropy", "config": {"from_logits": True}}


def test_a_loss_that_takes_logits_over_a_model_that_gives_probabilities_is_refused(broken: TinyProject) -> None:
    """Keras mends it in training; the outputs would be squashed twice, and every figure wrong."""
    with pytest.raises(InvalidModel, match="probabilities already"):
        run_in_process(broken.job(train={"loss": LOGITS}), broken.folder)


ROWS = """

def load_spoiled(weights=None, no_class=False):
    x, y = digits(40)
    y = np.eye(10)[y]
    if no_class:
        y[7] = 0
    w = None if weights is None else np.full((40,) if weights < 0 else (40, 2), weights)
    return {"train": (x, y, w) if w is not None else (x, y), "validation": (x, np.eye(10)[digits(40)[1]])}


def load_negative():
    return load_spoiled(weights=-1.0)


def load_wide():
    return load_spoiled(weights=1.0)


def load_no_class():
    return load_spoiled(no_class=True)
"""


@pytest.mark.parametrize(
    ("function", "told"),
    [("load_negative", "sample weights"), ("load_wide", "sample weights"), ("load_no_class", "row 7")],
)
def test_weights_and_labels_that_mean_nothing_are_refused_before_training(
    function: str, told: str, broken: TinyProject
) -> None:
    file = broken.folder / f"{broken.name}.py"
    file.write_text(file.read_text(encoding="utf-8") + ROWS, encoding="utf-8")
    train = {"loss": "categorical_crossentropy", "metrics": ["accuracy"]}
    with pytest.raises(InvalidData, match=told):
        run_in_process(broken.job(data=f"{broken.name}:{function}", train=train), broken.folder)
