"""Models of several outputs: their names, losses, labels and predictions, as Keras takes them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from orchestrator.errors import InvalidModel
from orchestrator.models.build import build_member
from orchestrator.models.first_batch import call_first_batch, run_first_batch
from orchestrator.models.load import load_published
from orchestrator.models.outputs import in_models_form, loss_name, losses_by_name, outputs_by_name, predictions
from orchestrator.models.predictor import Predictor
from orchestrator.planning.members import MemberPlan
from orchestrator.planning.outputs import ONLY
from orchestrator.spec import TrainSpec
from orchestrator.training.data import load_dataset
from orchestrator.training.device import Device
from orchestrator.training.fused.architecture import why_not_fused
from orchestrator.training.solo import train_solo

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("device")]

ROWS = np.random.default_rng(0).normal(size=(20, 4)).astype("float32")
LABELS = {"species": np.arange(20) % 3, "mass": np.linspace(0, 1, 20)}
LOSSES = {"species": "sparse_categorical_crossentropy", "mass": "mse"}


def heads(hidden: Any) -> tuple[Any, Any]:
    return keras.layers.Dense(3, "softmax", name="species")(hidden), keras.layers.Dense(1, name="mass")(hidden)


def with_list() -> keras.Model:
    entry = keras.Input((4,))
    return keras.Model(entry, list(heads(entry)))


def with_dictionary() -> keras.Model:
    entry = keras.Input((4,))
    return keras.Model(entry, dict(zip(("species", "mass"), heads(entry), strict=True)))


class Subclassed(keras.Model):  # type: ignore[misc]  # keras is untyped here
    def __init__(self) -> None:
        super().__init__()
        self.species, self.mass = keras.layers.Dense(3, "softmax"), keras.layers.Dense(1)

    def call(self, x: Any) -> Any:
        return {"species": self.species(x), "mass": self.mass(x)}


def raw_of(model: keras.Model) -> Any:
    return keras.tree.map_structure(keras.ops.convert_to_numpy, call_first_batch(model, ROWS, "here"))


BUILDS: list[Callable[[], keras.Model]] = [with_list, with_dictionary, Subclassed]


@pytest.mark.parametrize("build", BUILDS)
def test_outputs_have_the_names_and_the_order_of_the_model(build: Callable[[], keras.Model]) -> None:
    model = build()
    shapes = {name: output.shape for name, output in outputs_by_name(model, raw_of(model)).items()}
    assert list(shapes.items()) == [("species", (20, 3)), ("mass", (20, 1))]


@pytest.mark.parametrize(("outputs", "of"), [(ROWS, "an array"), ([ROWS], "a list"), ({"mass": ROWS}, "a dictionary")])
def test_an_only_output_needs_no_name(outputs: Any, of: str) -> None:
    assert list(outputs_by_name(with_list(), outputs)) == [ONLY], of


class Nameless(Subclassed):
    def call(self, x: Any) -> Any:
        return [self.species(x), self.mass(x)]


class Nested(Subclassed):
    def call(self, x: Any) -> Any:
        return {"birds": [self.species(x), self.mass(x)], "mass": self.mass(x)}


def twice() -> keras.Model:
    entry, layer = keras.Input((4,)), keras.layers.Dense(1, name="mass")
    return keras.Model(entry, [layer(entry), layer(keras.layers.Rescaling(2.0)(entry))])


@pytest.mark.parametrize(
    ("build", "told"),
    [(Nameless, "2 outputs with no names"), (Nested, "'birds' is a"), (twice, r"the names \['mass', 'mass'\]")],
)
def test_outputs_that_cannot_be_told_apart_are_refused(build: Callable[[], keras.Model], told: str) -> None:
    model = build()
    with pytest.raises(InvalidModel, match=told):
        outputs_by_name(model, raw_of(model))


@pytest.mark.parametrize("build", BUILDS)
@pytest.mark.parametrize("kind", ["by_name", "list"])
def test_each_output_has_the_loss_that_keras_trains_it_with(build: Callable[[], keras.Model], kind: str) -> None:
    """A list goes by Keras' own order, which a wrong loss of labels of another kind would not survive."""
    model = build()
    is_list = build is with_list
    listed = [LOSSES[name] for name in (("species", "mass") if is_list else ("mass", "species"))]
    model.compile("sgd", LOSSES if kind == "by_name" else listed, metrics={"species": ["accuracy"], "mass": ["mae"]})
    told = losses_by_name(model, raw_of(model))
    assert {name: loss_name(losses) for name, losses in told.items()} == LOSSES
    names = run_first_batch(model, ROWS, LABELS, "here")
    assert names == ["loss", "mass_loss", "mass_mae", "species_accuracy", "species_loss"]
    history = model.fit(ROWS, in_models_form(model, LABELS), shuffle=False, verbose=0).history
    assert set(history) == set(names)


def test_one_loss_is_that_of_every_output_and_none_is_that_of_an_output_left_out() -> None:
    model = with_list()
    model.compile("sgd", "mse")
    assert losses_by_name(model, raw_of(model)) == {"species": ("mse",), "mass": ("mse",)}
    model.compile("sgd", {"mass": "mse"})
    assert losses_by_name(model, raw_of(model)) == {"species": (), "mass": ("mse",)}


def test_a_list_of_another_length_than_there_are_outputs_is_refused() -> None:
    model = with_dictionary()
    model.compile("sgd", ["mse", "mse", "mse"])
    with pytest.raises(InvalidModel, match="3 losses for the 2 outputs"):
        losses_by_name(model, raw_of(model))


@pytest.mark.parametrize("build", BUILDS)
def test_sample_weights_by_output_weigh_that_output_alone(build: Callable[[], keras.Model]) -> None:
    model = build()
    model.compile("sgd", LOSSES)
    weights = {"species": np.zeros(20), "mass": np.ones(20)}
    form = [in_models_form(model, each) for each in (LABELS, weights)]
    run_first_batch(model, ROWS, LABELS, "here")
    found = model.evaluate(ROWS, form[0], sample_weight=form[1], verbose=0, return_dict=True)
    assert found["species_loss"] == 0
    assert found["loss"] == pytest.approx(found["mass_loss"])
    assert found["mass_loss"] > 0


class TwoInputs(Subclassed):
    """Without an `Input`: its weights exist from its first row on."""

    def call(self, x: Any) -> Any:
        return super().call(keras.ops.concatenate([x["left"], x["right"]], axis=1))


def build_two_inputs() -> keras.Model:
    model = TwoInputs()
    model.compile("sgd", dict(LOSSES), metrics={"species": ["accuracy"]})
    return model


def test_a_subclassed_model_of_two_inputs_is_trained_published_and_predicts_as_it_was_left(
    tmp_path: Path, device: Device
) -> None:
    x = {"left": ROWS[:, :1], "right": ROWS[:, 1:]}
    dataset = load_dataset(lambda: (x, LABELS), "here", validation_split=0.2, seed=0)
    train = TrainSpec(epochs=2, batch_size=8)
    member = MemberPlan(0, 1, f"{__name__}:build_two_inputs", {}, train)
    trained = train_solo(member, dataset, tmp_path, device, lambda epoch, logs: None, lambda: None)
    assert {"species_accuracy", "val_mass_loss"} <= set(trained.history[-1])
    again = build_member(member.builder, {}, 99, train)
    call_first_batch(again, x, "here")
    load_published(again, str(trained.path), "here")
    told, expected = Predictor().predict(again, x), Predictor().predict(trained.model, x)
    assert [values.tobytes() for values in told.values()] == [values.tobytes() for values in expected.values()]
    assert why_not_fused(trained.model, train, ()) is not None


def build_list() -> keras.Model:
    model = with_list()
    model.compile("sgd", dict(LOSSES))
    return model


def test_the_validation_loss_of_an_output_is_a_mean_over_rows(tmp_path: Path, device: Device) -> None:
    """Keras' is one over batches on TensorFlow, whatever their sizes: 1,500 rows as 1,024 and 476 would show it."""
    rng = np.random.default_rng(0)
    x, mass = rng.normal(size=(1516, 4)).astype("float32"), rng.normal(size=1516) + np.linspace(0, 5, 1516)
    labels = {"species": np.arange(1516) % 3, "mass": mass}
    splits = {"train": slice(0, 16), "validation": slice(16, None)}
    parts = {split: (x[rows], {name: y[rows] for name, y in labels.items()}) for split, rows in splits.items()}
    dataset = load_dataset(lambda: parts, "here", validation_split=0, seed=0)
    member = MemberPlan(0, 1, f"{__name__}:build_list", {}, TrainSpec(epochs=1))
    trained = train_solo(member, dataset, tmp_path, device, lambda epoch, logs: None, lambda: None)
    predicted = Predictor().predict(trained.model, x[16:])["mass"][:, 0]
    assert trained.history[-1]["val_mass_loss"] == pytest.approx(np.mean((predicted - mass[16:]) ** 2), rel=1e-4)


@pytest.mark.parametrize("build", BUILDS)
def test_predictions_come_by_output_and_logits_of_one_output_become_probabilities(
    build: Callable[[], keras.Model],
) -> None:
    model = build()
    model.compile("sgd", {"species": "mse", "mass": keras.losses.BinaryCrossentropy(from_logits=True)})
    raw = outputs_by_name(model, raw_of(model))
    beats: list[int] = []
    found = Predictor().predict(model, ROWS, lambda: beats.append(1))
    assert (set(found), len(beats)) == ({"species", "mass"}, 1)
    np.testing.assert_allclose(found["species"], raw["species"], atol=1e-6)
    np.testing.assert_allclose(found["mass"], 1 / (1 + np.exp(-raw["mass"])), atol=1e-6)
    assert {name: values.dtype for name, values in predictions(model, raw_of(model)).items()} == dict.fromkeys(
        ("species", "mass"), np.float32
    )
