"""Every output of a model is checked before anything is trained."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
import pytest

from orchestrator.ensemble.tasks import TaskKind
from orchestrator.errors import InvalidData, InvalidJob, InvalidModel
from orchestrator.planning.members import MemberPlan
from orchestrator.spec import parse_job
from orchestrator.training.data import load_dataset
from orchestrator.training.preflight import Checked, check_before_training

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("device")]

HERE = __name__
X = np.random.default_rng(0).normal(size=(60, 4)).astype("float32")
SPECIES, MASS = np.arange(60) % 3, np.linspace(3, 5, 60)
LABELS: Mapping[str, Any] = {"species": SPECIES, "mass": MASS}
LOSSES: Mapping[str, Any] = {"species": "sparse_categorical_crossentropy", "mass": "mse"}


def build_two(
    second: str = "mass", losses: Mapping[str, Any] = LOSSES, activation: str = "softmax", logits: bool = False
) -> keras.Model:
    entry = keras.Input((4,))
    outputs = [keras.layers.Dense(3, activation, name="species")(entry), keras.layers.Dense(1, name=second)(entry)]
    model = keras.Model(entry, outputs)
    losses = dict(losses)
    if logits:
        losses["species"] = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("sgd", losses, metrics={"species": ["accuracy"]})
    return model


def build_dictionary() -> keras.Model:
    """The layers have other names than the outputs."""
    entry = keras.Input((4,))
    outputs = {"species": keras.layers.Dense(3, "softmax")(entry), "mass": keras.layers.Dense(1, "sigmoid")(entry)}
    model = keras.Model(entry, outputs)
    model.compile("sgd", {**LOSSES, "mass": keras.losses.BinaryCrossentropy(from_logits=True)})
    return model


def build_one() -> keras.Model:
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, "softmax", name="species")])
    model.compile("sgd", "sparse_categorical_crossentropy")
    return model


def check(y: Any, builder: str = "build_two", *, job: Mapping[str, Any] | None = None, **kwargs: Any) -> Checked:
    parts = {"name": "birds", "model": f"{HERE}:{builder}", "data": f"{HERE}:none", "members": 1, **(job or {})}
    dataset = load_dataset(lambda: (X, y), "birds", validation_split=0.2, seed=0)
    asked = parse_job(parts)
    return check_before_training(asked, [MemberPlan(0, 1, f"{HERE}:{builder}", kwargs, train=asked.train)], dataset)


def test_each_output_has_the_task_of_its_own_labels_and_loss() -> None:
    tasks = {"species": TaskKind.MULTICLASS, "mass": TaskKind.REGRESSION}
    assert list(check({"mass": MASS, "species": SPECIES}).tasks.items()) == list(tasks.items()), "the model's order"
    classes = {"species": SPECIES, "mass": (MASS > 4).astype("float32")}
    losses = {**LOSSES, "mass": "binary_crossentropy"}
    with pytest.raises(InvalidModel, match="no probabilities"):
        check(classes, losses=losses)
    assert check({"species": X[:, :3], "mass": MASS}, losses={"species": "mse", "mass": "mae"}).tasks == dict.fromkeys(
        tasks, TaskKind.REGRESSION
    )


@pytest.mark.parametrize(
    ("y", "builder", "kwargs", "error", "told"),
    [
        (LABELS, "build_two", {"second": "weight"}, InvalidData, ["['mass', 'species']", "['species', 'weight']"]),
        (SPECIES, "build_two", {}, InvalidData, ["one output without a name", "['mass', 'species']"]),
        (LABELS, "build_one", {}, InvalidData, ["['mass', 'species']", "one output without a name"]),
        (LABELS, "build_two", {"losses": {"mass": "mse"}}, InvalidModel, ["without a loss", "output species"]),
        ({**LABELS, "species": SPECIES + 1}, "build_two", {}, InvalidData, ["go from 1 to 3", "output species"]),
        ({**LABELS, "mass": X}, "build_two", {}, InvalidData, ["cannot be scored with the loss mse", "labels of mass"]),
        (LABELS, "build_two", {"activation": "linear"}, InvalidModel, ["no probabilities", "output species"]),
        (LABELS, "build_two", {"logits": True}, InvalidModel, ["probabilities already", "output species"]),
        (
            {**LABELS, "mass": SPECIES > 0},
            "build_dictionary",
            {},
            InvalidModel,
            ["probabilities already", "output mass"],
        ),
        ({"species": SPECIES, "Species": MASS}, "build_two", {"second": "Species"}, InvalidModel, ["in case alone"]),
        ({"species": SPECIES, ".mass": MASS}, "build_two", {"second": ".mass"}, InvalidModel, ["'.mass'", "stored"]),
        (
            {"species": SPECIES, "m" * 129: MASS},
            "build_two",
            {"second": "m" * 129},
            InvalidModel,
            ["up to 128 bytes", "stored"],
        ),
    ],
)
def test_labels_and_outputs_that_do_not_fit_are_refused_by_the_name_of_the_output(
    y: Any, builder: str, kwargs: Mapping[str, Any], error: type[Exception], told: list[str]
) -> None:
    kwargs = (
        {**kwargs, "losses": {"species": LOSSES["species"], kwargs["second"]: "mse"}} if "second" in kwargs else kwargs
    )
    with pytest.raises(error) as caught:
        check(y, builder, **kwargs)
    assert all(part in str(caught.value) for part in told), str(caught.value)


def test_figures_of_single_outputs_can_be_monitored_and_all_that_can_be_are_listed() -> None:
    stopping = {"monitor": "val_species_accuracy", "mode": "max"}
    check(LABELS, job={"train": {"early_stopping": stopping}})
    with pytest.raises(InvalidJob, match="val_mass_loss, val_species_accuracy, val_species_loss"):
        check(LABELS, job={"train": {"early_stopping": {**stopping, "monitor": "val_accuracy"}}})
    with pytest.raises(InvalidJob, match="more or less of 'val_species_accuracy' is better") as caught:
        check(LABELS, job={"train": {"early_stopping": {"monitor": "val_species_accuracy"}}})
    assert (caught.value.where, caught.value.hint) == ("train.early_stopping", "say which: `mode: max` or `mode: min`")


def build_weighed(**settings: Any) -> keras.Model:
    model = build_two()
    model.compile("sgd", dict(LOSSES), **settings)
    return model


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"loss_weights": {"species": 1.0, "weight": 0.5}}, ["no output 'weight'", "there are: mass, species"]),
        ({"loss_weights": {"species": 1.0}}, ["no weight for the loss of mass", "1 leaves a loss as it is"]),
        ({"metrics": {"weight": ["mae"]}}, ["no output 'weight'", "there are: mass, species"]),
    ],
)
def test_settings_by_the_name_of_an_output_that_is_not_there_are_refused(
    settings: Mapping[str, Any], told: list[str]
) -> None:
    """Keras takes the values of `loss_weights` in the order of the alphabet, whatever their names."""
    for given, where in (({"job": {"train": settings}}, "train."), (settings, f"{HERE}:build_weighed: ")):
        with pytest.raises(InvalidJob) as caught:
            check(LABELS, "build_weighed", **given)
        assert all(part in str(caught.value) for part in told), str(caught.value)
        assert str(caught.value.where).startswith(where)


def build_turned() -> keras.Model:
    model = build_two()
    model = keras.Model(model.input, model.outputs[::-1])
    model.compile("sgd", dict(LOSSES))
    return model


def test_the_order_of_outputs_is_that_of_the_first_member() -> None:
    members = [MemberPlan(i, 1, f"{HERE}:{name}", {}) for i, name in enumerate(("build_two", "build_turned"))]
    job = parse_job({"name": "birds", "model": f"{HERE}:build_two", "data": f"{HERE}:none", "members": 2})
    dataset = load_dataset(lambda: (X, LABELS), "birds", validation_split=0.2, seed=0)
    assert [list(check_before_training(job, each, dataset).tasks) for each in (members, members[::-1])] == [
        ["species", "mass"],
        ["mass", "species"],
    ]


@pytest.mark.parametrize(
    ("names", "where", "told"),
    [
        (["a", "b", "c"], "data.class_names", "give lists by output name: species, mass"),
        ({"species": ["a", "b"]}, "data.class_names.species", "2 names, and the models tell 3"),
        ({"mass": ["a", "b"]}, "data.class_names.mass", "the models tell no classes"),
        ({"weight": ["a", "b"]}, "data.class_names", "the outputs ['mass', 'species']"),
    ],
)
def test_class_names_that_are_not_those_of_an_output_are_refused(names: Any, where: str, told: str) -> None:
    check(LABELS, job={"data": {"source": f"{HERE}:none", "class_names": {"species": ["a", "b", "c"]}}})
    with pytest.raises(InvalidJob) as caught:
        check(LABELS, job={"data": {"source": f"{HERE}:none", "class_names": names}})
    assert caught.value.where == where
    assert told in str(caught.value)


def test_class_names_by_output_are_refused_for_a_model_of_one_output() -> None:
    with pytest.raises(InvalidJob, match="give a list"):
        check(
            SPECIES, "build_one", job={"data": {"source": f"{HERE}:none", "class_names": {"species": ["a", "b", "c"]}}}
        )
