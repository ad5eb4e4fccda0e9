"""Settings of `fit` and `compile` that a job gives: each acts as Keras' own argument of that name."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from orchestrator.errors import InvalidJob, InvalidModel
from orchestrator.models.build import build_member
from orchestrator.planning.members import MemberPlan
from orchestrator.spec import TrainSpec
from orchestrator.spec.varied import train_with
from orchestrator.training.data import Dataset, load_dataset
from orchestrator.training.device import Device
from orchestrator.training.fused.architecture import why_not_fused
from orchestrator.training.preflight import check_before_training
from orchestrator.training.printing import captured
from orchestrator.training.solo import train_solo
from tests.support.fused_cases import curve, dataset_of, member, pack, solo, spec
from tests.support.in_process import run_in_process
from tests.support.tiny_jobs import TinyProject

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("device")]

ROWS, VALIDATION = 96, 32
_RNG = np.random.default_rng(0)
X = _RNG.normal(size=(ROWS + VALIDATION, 4)).astype("float32")
CLASSES = np.argmax(X[:, :3], axis=1)
CLASSES[CLASSES == 2] = np.where(_RNG.random(np.count_nonzero(CLASSES == 2)) < 0.7, 0, 2)  # a rare class
LABELS: Mapping[str, Any] = {"sparse": CLASSES, "one-hot": np.eye(3, dtype="float32")[CLASSES], "binary": CLASSES == 2}
LOSSES = {
    "sparse": "sparse_categorical_crossentropy",
    "one-hot": "categorical_crossentropy",
    "binary": "binary_crossentropy",
}


def build_classifier(kind: str = "sparse", optimizer: Any = "sgd", compiled: bool = True) -> keras.Model:
    last = (1, "sigmoid") if kind == "binary" else (3, "softmax")
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(8, "relu"), keras.layers.Dense(*last)])
    if compiled:
        model.compile(optimizer, LOSSES[kind], metrics=["accuracy"], weighted_metrics=["accuracy"])
    return model


def build_scheduled() -> keras.Model:
    return build_classifier(optimizer=keras.optimizers.SGD(keras.optimizers.schedules.ExponentialDecay(0.1, 10, 0.9)))


def build_layers(widths: Any = (8,), extra: Any = None, options: Any = None) -> keras.Model:
    hidden = [keras.layers.Dense(width, "relu") for width in widths]
    further = [] if extra is None else list(extra) if isinstance(extra, list) else [extra]
    model = keras.Sequential([keras.Input((4,)), *hidden, *further, keras.layers.Dense(3, "softmax")])
    model.compile("sgd", "sparse_categorical_crossentropy")
    return model


def build_two_outputs() -> keras.Model:
    inputs = keras.Input((4,))
    outputs = {
        "kind": keras.layers.Dense(3, "softmax", name="kind")(inputs),
        "size": keras.layers.Dense(1, name="size")(inputs),
    }
    model = keras.Model(inputs, outputs)
    model.compile("sgd", {"kind": "sparse_categorical_crossentropy", "size": "mse"})
    return model


class Doubled(keras.layers.Layer):  # type: ignore[misc]  # keras is untyped here
    """A layer of the job's own."""

    def call(self, inputs: Any) -> Any:
        return 2 * inputs


def half_of_the_loss(y_true: Any, y_pred: Any) -> Any:
    return 0.5 * keras.losses.sparse_categorical_crossentropy(y_true, y_pred)


def rows(kind: str = "sparse", weights: Any = None) -> Dataset:
    y = np.asarray(LABELS[kind])
    y = y.astype("int64") if y.ndim == 1 else y
    parts = {"train": slice(0, ROWS), "validation": slice(ROWS, None)}
    whole = (X, y) if weights is None else (X, y, weights)
    given = {name: tuple(part[numbers] for part in whole) for name, numbers in parts.items()}
    return load_dataset(lambda: given, "here", validation_split=0, seed=0)


def plan(builder: str = "build_classifier", index: int = 0, **kwargs: Any) -> MemberPlan:
    return MemberPlan(index, 3 + index, f"{__name__}:{builder}", kwargs)


def settings(**changes: Any) -> TrainSpec:
    return TrainSpec.model_validate({"epochs": 3, "batch_size": 20, "early_stopping": None, **changes})


def trained(folder: Path, device: Device, train: TrainSpec, dataset: Dataset, **kwargs: Any) -> Any:
    folder.mkdir(exist_ok=True)
    member = replace(plan(**kwargs), train=train)
    return train_solo(member, dataset, folder, device, lambda epoch, logs: None, lambda: None)


@pytest.mark.parametrize("kind", LABELS)
def test_class_weights_act_as_those_of_keras_own_fit(kind: str, tmp_path: Path, device: Device) -> None:
    weights = {0: 0.5, 1: 6.0}
    train, dataset = settings(class_weight=weights, shuffle=False), rows(kind)
    ours = trained(tmp_path, device, train, dataset, kind=kind)
    model = build_member(plan().builder, {"kind": kind}, plan().seed, settings())
    split, other = dataset.train, dataset.validation
    assert other is not None
    theirs = model.fit(
        split.x,
        split.y,
        batch_size=20,
        epochs=3,
        shuffle=False,
        class_weight=weights,
        validation_data=(other.x, other.y),
        verbose=0,
    ).history
    assert set(theirs) == {*ours.history[0]} - {"epoch"}
    for name, values in theirs.items():
        assert [row[name] for row in ours.history] == pytest.approx(values, abs=1e-6), name
    assert curve(ours, "accuracy") != curve(ours, "weighted_accuracy"), "the weights have to act"
    assert curve(ours, "val_accuracy") == curve(ours, "val_weighted_accuracy")


def test_balanced_classes_weigh_alike_and_multiply_sample_weights(tmp_path: Path, device: Device) -> None:
    counts = np.bincount(CLASSES[:ROWS])
    assert counts.max() > 3 * counts.min()
    own = np.linspace(0.5, 2, ROWS + VALIDATION).astype("float32")
    by_hand = own * np.where(np.arange(len(own)) < ROWS, (ROWS / (3 * counts))[CLASSES], 1).astype("float32")
    train = settings(class_weight="balanced")
    asked = trained(tmp_path / "asked", device, train, rows(weights=own))
    given = trained(tmp_path / "given", device, settings(), rows(weights=by_hand))
    assert curve(asked) == pytest.approx(curve(given), abs=1e-6)
    assert curve(asked, "val_loss") == pytest.approx(curve(given, "val_loss"), abs=1e-6)


def test_class_weights_the_order_of_rows_and_each_members_rate_act_in_a_pack_as_in_fit(
    tmp_path: Path, device: Device, capsys: pytest.CaptureFixture[str]
) -> None:
    train = spec(class_weight={1: 5.0}, shuffle=False, verbose=2)
    members = [
        replace(member(i), train=train.model_copy(update={"learning_rate": rate}), train_values={"learning_rate": rate})
        for i, rate in enumerate((0.003, 0.03))
    ]
    logs = {each.index: io.StringIO() for each in members}
    with captured(logs):
        together = pack(members, train, dataset_of(), tmp_path / "pack", device)
    printed = capsys.readouterr().out
    for each, one in zip(members, together, strict=True):
        alone = solo(each, each.train, dataset_of(), tmp_path / f"{each.index}", device)
        for name in one.history[0]:
            assert curve(one, name) == pytest.approx(curve(alone, name), abs=5e-4), name
        assert logs[each.index].getvalue().count("Epoch 4/4\n10/10 - ") == 1, "its own, and not the other's"
        assert f"[member {each.index}] Epoch 4/4\n[member {each.index}] 10/10 - " in printed
    assert curve(together[0])[-1] > curve(together[1])[-1] + 0.05, "the rates have to act"


def test_what_the_first_member_of_a_pack_has_for_itself_reaches_no_other(tmp_path: Path, device: Device) -> None:
    train = spec(epochs=3, early_stopping={"patience": 2}, learning_rate=0.003)
    own = {"learning_rate": 0.5, "early_stopping.patience": 0, "early_stopping.min_delta": 100.0}
    members = [replace(member(0), train=train_with(train, own), train_values=own), replace(member(1), train=train)]
    together = pack(members, train, dataset_of(), tmp_path / "pack", device)
    assert [len(one.history) for one in together] == [2, 3]
    alone = solo(members[1], train, dataset_of(), tmp_path / "alone", device)
    assert curve(together[1]) == pytest.approx(curve(alone), abs=5e-4)


@pytest.mark.parametrize(
    ("verbose", "told"), [(0, []), (1, ["Epoch 2/2", "━"]), (2, ["Epoch 2/2", "5/5 - ", "val_loss"])]
)
def test_what_keras_prints_is_as_the_job_says(
    verbose: int, told: list[str], tmp_path: Path, device: Device, capsys: pytest.CaptureFixture[str]
) -> None:
    trained(tmp_path, device, settings(verbose=verbose, epochs=2), rows())
    printed = capsys.readouterr().out
    assert all(each in printed for each in told), printed
    assert bool(printed) == bool(told)


def compiled(builder: str = "build_classifier", kwargs: Mapping[str, Any] | None = None, **changes: Any) -> keras.Model:
    return build_member(f"{__name__}:{builder}", kwargs or {}, 1, settings(**changes))


def test_the_learning_rate_is_that_of_the_job_whatever_the_optimizer() -> None:
    for changes in ({}, {"optimizer": "adam"}, {"optimizer": {"class_name": "SGD", "config": {"momentum": 0.9}}}):
        assert float(compiled(learning_rate=0.125, **changes).optimizer.learning_rate) == 0.125
    with pytest.raises(InvalidJob, match="no single learning rate") as caught:
        compiled("build_scheduled", learning_rate=0.125)
    assert caught.value.where == "train.learning_rate"


OPTIMIZERS = sorted(
    name
    for name, kind in vars(keras.optimizers).items()
    if isinstance(kind, type)
    and issubclass(kind, keras.Optimizer)
    and name not in ("Optimizer", "LossScaleOptimizer", "MultiOptimizer")
)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_any_optimizer_of_keras_goes_by_its_name_with_arguments(name: str) -> None:
    arguments = {"learning_rate": 0.25, "clipnorm": 1.5}
    optimizer = compiled(optimizer={"class_name": name, "config": arguments}).optimizer
    assert type(optimizer).__name__ == name
    assert (float(optimizer.learning_rate), optimizer.clipnorm) == (0.25, 1.5)


def test_a_schedule_is_written_as_keras_writes_it() -> None:
    schedule = {
        "class_name": "ExponentialDecay",
        "config": {"initial_learning_rate": 0.5, "decay_steps": 1, "decay_rate": 0.5},
    }
    model = compiled(optimizer={"class_name": "SGD", "config": {"learning_rate": schedule}})
    assert float(model.optimizer.learning_rate) == 0.5
    model.optimizer.iterations.assign(2)
    assert float(model.optimizer.learning_rate) == 0.125


def test_loss_weights_losses_and_metrics_are_given_by_output() -> None:
    model = compiled(
        "build_two_outputs",
        loss={"kind": "sparse_categorical_crossentropy", "size": {"class_name": "Huber", "config": {"delta": 2.0}}},
        loss_weights={"kind": 1.0, "size": 0.25},
        metrics={"kind": ["accuracy"], "size": ["mae"]},
    )
    sizes = np.linspace(-3, 3, 20).astype("float32")
    found = model.evaluate(X[:20], {"kind": CLASSES[:20], "size": sizes}, verbose=0, return_dict=True)
    assert {"kind_accuracy", "size_mae", "kind_loss", "size_loss"} <= set(found)
    huber = float(np.mean(keras.losses.Huber(2.0)(sizes[:, None], model.predict(X[:20], verbose=0)["size"])))
    assert found["size_loss"] == pytest.approx(huber, abs=1e-5)
    assert found["loss"] == pytest.approx(found["kind_loss"] + 0.25 * found["size_loss"], abs=1e-5)


@pytest.mark.parametrize(
    ("changes", "where"),
    [
        ({"loss": {"kind": "mse", "wait": "mse"}}, "train.loss"),
        ({"loss_weights": {"wait": 1.0}}, "train.loss_weights"),
        ({"metrics": {"wait": ["mae"]}}, "train.metrics"),
    ],
)
def test_an_output_that_is_not_there_is_refused_with_those_that_are(changes: Any, where: str) -> None:
    with pytest.raises(InvalidJob, match="no output 'wait'") as caught:
        compiled("build_two_outputs", **changes)
    assert (caught.value.where, caught.value.hint) == (where, "there are: kind, size")


@pytest.mark.parametrize("changes", [{"loss": {"x": "mse"}}, {"loss_weights": {"x": 1.0}}, {"metrics": {"x": ["mae"]}}])
def test_an_output_of_a_sequential_model_has_no_name(changes: Any) -> None:
    with pytest.raises(InvalidJob, match="its one output has no name"):
        compiled(**changes)


def test_losses_and_metrics_may_be_of_the_jobs_own(tmp_path: Path, device: Device) -> None:
    own = f"{__name__}:half_of_the_loss"
    halved = trained(tmp_path / "own", device, settings(loss=own, metrics=[own], learning_rate=0.0001), rows())
    plain = trained(tmp_path / "plain", device, settings(learning_rate=0.0001), rows())
    assert 2 * curve(halved)[0] == pytest.approx(curve(plain)[0], rel=1e-3)
    assert curve(halved, "half_of_the_loss")[0] == pytest.approx(curve(halved)[0], rel=1e-3)


def test_mixed_precision_computes_in_16_bits_and_ends_with_the_model(tmp_path: Path, device: Device) -> None:
    mixed = compiled(mixed_precision="mixed_bfloat16")
    assert (mixed.layers[0].compute_dtype, mixed.layers[0].kernel.dtype) == ("bfloat16", "float32")
    assert compiled().layers[0].compute_dtype == "float32"
    scaled = compiled(mixed_precision="mixed_float16")
    assert "scales the loss" in str(why_not_fused(scaled, settings(), []))
    losses, plain = (
        curve(trained(tmp_path, device, settings(mixed_precision=policy, learning_rate=0.1), rows()))
        for policy in ("mixed_bfloat16", None)
    )
    assert losses == pytest.approx(plain, rel=0.05)
    assert losses != plain


def test_outputs_of_16_bits_that_are_no_probabilities_are_refused_with_the_remedy(project: TinyProject) -> None:
    kwargs = {"kind": "sparse"}
    job = project.job(
        model={"builder": f"{__name__}:build_classifier", "kwargs": kwargs}, train={"mixed_precision": "mixed_bfloat16"}
    )
    with pytest.raises(InvalidModel, match="no probabilities") as caught:
        check_before_training(job, [replace(plan(**kwargs), train=job.train)], rows())
    assert "float32" in str(caught.value.hint)


@pytest.mark.parametrize(
    ("changes", "where", "hint"),
    [
        ({"metrics": ["accuracy", "acuracy"]}, "train.metrics.1", "did you mean accuracy?"),
        ({"metrics": ["xyz"]}, "train.metrics.0", "metrics of Keras go by their names"),
        ({"metrics": ["mean_absolute_eror"]}, "train.metrics.0", "did you mean mean_absolute_error?"),
        ({"loss": "CategoricalCrosentropy"}, "train.loss", "did you mean CategoricalCrossentropy?"),
        ({"optimizer": "Adamm"}, "train.optimizer", "did you mean Adam?"),
        ({"optimizer": {"class_name": "Adam", "config": {"lr": 1}}}, "train.optimizer", None),
    ],
)
def test_a_name_that_keras_does_not_have_is_refused_where_it_stands(changes: Any, where: str, hint: Any) -> None:
    with pytest.raises(InvalidJob, match="Keras knows no") as caught:
        compiled(**changes)
    assert caught.value.where == where
    assert (caught.value.hint is None) if hint is None else (hint in str(caught.value.hint))


DENSE = {"class_name": "Dense", "config": {"units": 5, "activation": "tanh"}}


def test_widths_and_depths_are_keywords_of_the_build_function() -> None:
    shapes = [len(compiled("build_layers", {"widths": widths}).layers) for widths in ([], [8], [16, 8, 4])]
    assert shapes == [1, 2, 4]


def test_a_layer_that_is_written_down_reaches_the_build_function_as_a_new_layer() -> None:
    model = compiled("build_layers", {"extra": DENSE})
    assert (model.layers[1].units, model.layers[1].activation.__name__) == (5, "tanh")
    several = compiled("build_layers", {"extra": [DENSE, {"class_name": "Dropout", "config": {"rate": 0.5}}, DENSE]})
    assert [type(layer).__name__ for layer in several.layers[1:4]] == ["Dense", "Dropout", "Dense"]
    own = compiled("build_layers", {"extra": {"class_name": f"{__name__}:Doubled"}})
    assert type(own.layers[1]) is Doubled
    options = {"class_name": "a word", "config": {}, "more": 1}  # no layer: it says more than a layer does
    assert compiled("build_layers", {"options": options}) is not None


def test_layers_begin_from_the_members_seed() -> None:
    first, again = (compiled("build_layers", {"extra": DENSE}).get_weights() for _ in range(2))
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))


@pytest.mark.parametrize(
    ("layer", "told"),
    [
        ({"class_name": "Dens", "config": {}}, "the layer Dens cannot be made"),
        ({"class_name": "Dense", "config": {}}, "cannot be made: .* missing 1 required positional argument: 'units'"),
        ({"class_name": f"{__name__}:rows"}, "is no Keras layer but a Dataset"),
    ],
)
def test_a_layer_that_cannot_be_made_is_refused(layer: Any, told: str) -> None:
    with pytest.raises(InvalidJob, match=told) as caught:
        compiled("build_layers", {"extra": layer})
    assert str(caught.value.where).startswith("extra")


def test_an_uncompiled_model_wants_a_loss_as_well() -> None:
    assert compiled(kwargs={"compiled": False}, optimizer="adam", loss="mse").compiled
    with pytest.raises(InvalidModel, match="no loss"):
        compiled(kwargs={"compiled": False}, optimizer="adam")


def test_a_rate_that_is_too_high_ends_as_diverged_and_not_in_the_ensemble(project: TinyProject) -> None:
    job = project.job(
        members={"count": 2, "vary": {"train.learning_rate": [0.01, 1e30]}}, ensemble={"quorum": 1}, train={"epochs": 1}
    )
    result = run_in_process(job, project.folder)
    assert [member.status for member in result.members] == ["succeeded", "diverged"]
    assert [member.hyperparameters["train.learning_rate"] for member in result.members] == [0.01, 1e30]
    assert result.status == "partial"
    assert result.validation is not None
    assert result.validation.ensemble.accuracy == result.members[0].validation.accuracy
