"""Transfer learning in stages: what is reused and frozen, what a stage begins with, and exact resume in any of them."""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from orchestrator.errors import InvalidJob, InvalidModel
from orchestrator.models.base import base_layers, load_base, place_base
from orchestrator.models.build import build
from orchestrator.models.stages import enter_stage
from orchestrator.planning.members import MemberPlan
from orchestrator.planning.stages import stages_of
from orchestrator.spec import BaseSpec, StageSpec, TrainSpec
from orchestrator.training.checkpoint import Snapshot
from orchestrator.training.data import Dataset, load_dataset
from orchestrator.training.device import Device
from orchestrator.training.solo import make_late, train_solo
from orchestrator.training.trained import Trained
from tests.support.lives import Killed, facts, through_files

pytestmark = pytest.mark.slow

ROWS, BATCH = 64, 16
SOURCE = "models/base.keras"
WILD = {"class_name": "SGD", "config": {"learning_rate": 5.0, "clipnorm": 1.0}}
TWO_STAGES: list[dict[str, Any]] = [
    {"freeze": "all", "epochs": 3},
    {"freeze": {"all_but_last": 2}, "epochs": 3, "optimizer": "sgd", "learning_rate": 0.05, "batch_size": 8},
]


def load_rows() -> Any:
    rng = np.random.default_rng(3)
    x = rng.normal(1.0, 2.0, size=(ROWS + 32, 6)).astype("float32")
    y = (x.sum(axis=1) > 6).astype("int64")
    return {"train": (x[:ROWS], y[:ROWS]), "validation": (x[ROWS:], y[ROWS:])}


def make_base() -> keras.Model:
    layers = keras.layers
    return keras.Sequential(
        [
            keras.Input((6,)),
            layers.Dense(8, activation="relu", name="dense"),
            layers.BatchNormalization(name="norm"),
            layers.Dense(5, activation="relu", name="dense_1"),
            layers.Dense(3, activation="softmax", name="head"),
        ],
        name="base",
    )


def with_head(base: keras.Model, dropout: float = 0.2) -> keras.Model:
    """The base as one layer, a head behind it."""
    layers = keras.layers
    model = keras.Sequential([keras.Input((6,)), base, layers.Dropout(dropout), layers.Dense(2, activation="softmax")])
    model.compile(keras.optimizers.Adam(0.02), "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def from_layers(base: keras.Model) -> keras.Model:
    """The layers of the base, and one more beside them whose name Keras chooses."""
    model = keras.Sequential([keras.Input((6,)), *base.layers, keras.layers.Dense(2, activation="softmax")])
    model.compile("adam", "sparse_categorical_crossentropy")
    return model


def without_base(base: keras.Model) -> keras.Model:
    return from_layers(keras.models.clone_model(base))


def no_transfer(dropout: float = 0.2) -> keras.Model:
    return with_head(make_base(), dropout)


@dataclass
class Member:
    """A member that is trained until it is killed at an epoch, and goes on from what was kept."""

    folder: Path
    device: Device
    stages: Sequence[dict[str, Any]] = ()
    base: dict[str, Any] | None = field(default_factory=lambda: {"file": SOURCE, "up_to": "dense_1"})
    train: dict[str, Any] = field(default_factory=dict)
    best_over: Any = "last"
    newest: Snapshot | None = None
    lives: int = 0

    def __post_init__(self) -> None:
        self.dataset: Dataset = load_dataset(load_rows, "rows", validation_split=0.0, seed=0)
        base = None if self.base is None else BaseSpec.model_validate(self.base)
        self.settings = TrainSpec.model_validate({"batch_size": BATCH, "early_stopping": None, **self.train})
        self.plan = MemberPlan(
            index=0,
            seed=11,
            builder=f"{__name__}:{'no_transfer' if base is None else 'with_head'}",
            kwargs={"dropout": 0.2},
            train=self.settings,
            base=base,
            stages=tuple(StageSpec.model_validate(stage) for stage in self.stages),
            best_over=self.best_over,
        )

    def go_on(self, *, killed_after: int | None = None) -> Trained:
        folder = self.folder / f"life-{self.lives}"
        folder.mkdir(parents=True)
        self.lives += 1
        done = 0 if self.newest is None else self.newest.epoch

        def keep(snapshot: Snapshot) -> None:
            nonlocal done
            done = snapshot.epoch
            self.newest = through_files(snapshot, folder)

        def check() -> None:
            if done == killed_after:
                raise Killed

        return train_solo(
            self.plan,
            self.dataset,
            folder,
            self.device,
            lambda epoch, logs: None,
            lambda: None,
            start_from=self.newest,
            keep=keep,
            check=check,
        )


@pytest.fixture(scope="module")
def base_file(tmp_path_factory: pytest.TempPathFactory, device: Device) -> Path:
    """A saved base whose statistics are not those of the rows."""
    keras.utils.clear_session(free_memory=False)
    keras.utils.set_random_seed(1)
    model = make_base()
    model.compile("sgd", "mse")
    path: Path = tmp_path_factory.mktemp("base") / "base.keras"
    model.save(path)
    return path


@pytest.fixture(autouse=True)
def placed(base_file: Path) -> None:
    place_base(SOURCE, base_file)


def weights_of(model: keras.Model, name: str) -> list[Any]:
    layers = [layer for layer in model._flatten_layers() if layer.name == name]
    return [np.asarray(weight) for weight in layers[0].get_weights()]


def same(left: list[Any], right: list[Any]) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(left, right, strict=True))


def test_frozen_layers_keep_weights_and_statistics_and_the_base_its_bytes(
    tmp_path: Path, device: Device, base_file: Path
) -> None:
    before, saved = hashlib.sha256(base_file.read_bytes()).hexdigest(), load_base(BaseSpec(file=SOURCE))

    frozen = Member(tmp_path / "a", device, [{"freeze": "all", "epochs": 2}]).go_on().model
    partly = Member(tmp_path / "b", device, [{"freeze": ["dense", "norm"], "epochs": 2}]).go_on().model
    free = Member(tmp_path / "c", device, [{"freeze": "none", "epochs": 2}]).go_on().model

    kept = {
        name: [same(weights_of(saved, name), weights_of(model, name)) for model in (frozen, partly, free)]
        for name in ("dense", "norm", "dense_1")
    }
    assert kept == {"dense": [True, True, False], "norm": [True, True, False], "dense_1": [True, False, False]}
    assert hashlib.sha256(base_file.read_bytes()).hexdigest() == before


def test_each_stage_has_its_own_optimizer_rate_and_trainable_layers(device: Device) -> None:
    built = build(f"{__name__}:with_head", {}, 1, TrainSpec(), base=BaseSpec(file=SOURCE))
    seen = []

    for stage in stages_of(TrainSpec(), [StageSpec.model_validate(each) for each in TWO_STAGES]):
        enter_stage(built, stage, "builder")
        optimizer = built.model.optimizer
        trained = [layer.name for layer in base_layers(built.base) if layer.trainable]
        seen.append((optimizer.name, round(float(optimizer.learning_rate), 6), trained))

    assert seen == [("adam", 0.02, []), ("sgd", 0.05, ["dense_1", "head"])]


def test_epochs_count_on_and_rows_tell_their_stage(tmp_path: Path, device: Device) -> None:
    member = Member(
        tmp_path,
        device,
        [{**TWO_STAGES[0], "early_stopping": {"patience": 1, "min_delta": 9}}, TWO_STAGES[1]],
        train={"callbacks": [{"class_name": "CSVLogger", "config": {"filename": "log.csv"}}]},
    )

    trained = member.go_on()

    assert [(row["epoch"], row["stage"]) for row in trained.history] == [(1, 1), (2, 1), (3, 2), (4, 2), (5, 2)]
    assert trained.best_epoch in (3, 4, 5)
    assert trained.stopped_epoch is None
    logs = [(tmp_path / "life-0" / "files" / f"stage-{n}" / "log.csv").read_text().splitlines() for n in (1, 2)]
    assert [len(lines) for lines in logs] == [3, 4]


def test_a_stage_counts_patience_and_waiting_anew(tmp_path: Path, device: Device) -> None:
    never = {"patience": 1, "min_delta": 9, "start_from_epoch": 1}
    stages = [{"epochs": 9, "early_stopping": never}, {"epochs": 9, "early_stopping": never}]

    trained = Member(tmp_path, device, stages).go_on()

    assert [row["stage"] for row in trained.history] == [1, 1, 1, 2, 2, 2]
    assert trained.stopped_epoch == 6


def test_a_stage_begins_with_the_weights_that_the_one_before_put_back(tmp_path: Path, device: Device) -> None:
    stop = {"patience": 5, "monitor": "val_loss", "mode": "max"}  # the first epoch is the best
    first = {"epochs": 3, "early_stopping": stop}
    alone = Member(tmp_path / "a", device, [{**first, "epochs": 1}], train={"checkpoint": {"save_best_only": False}})

    both = Member(tmp_path / "b", device, [first, {"epochs": 1, "learning_rate": 1e-30}])

    assert same(alone.go_on().model.get_weights()[:2], both.go_on().model.get_weights()[:2])


def test_the_best_model_is_of_the_last_stage_unless_all_count(tmp_path: Path, device: Device) -> None:
    stages = [{"epochs": 3, "freeze": "all"}, {"epochs": 2, "optimizer": WILD}]

    last = Member(tmp_path / "last", device, stages).go_on()
    over_all = Member(tmp_path / "all", device, stages, best_over="all").go_on()

    assert last.best_epoch > 3
    assert over_all.best_epoch <= 3
    assert over_all.model.optimizer.name == "adam"
    best = min(over_all.history, key=lambda row: row["val_loss"])
    assert best["epoch"] == over_all.best_epoch
    opened = keras.saving.load_model(over_all.path)
    x, y = load_rows()["validation"]
    assert opened.evaluate(x, y, verbose=0)[0] == pytest.approx(best["val_loss"], rel=1e-5)


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory, device: Device, base_file: Path) -> Callable[[Any], Any]:
    """Facts of members that were never interrupted, each trained once."""
    known: dict[Any, Any] = {}

    def get(best_over: str) -> Any:
        place_base(SOURCE, base_file)
        if best_over not in known:
            known[best_over] = facts(resumable(tmp_path_factory.mktemp("straight"), device, best_over).go_on())
        return known[best_over]

    return get


def resumable(folder: Path, device: Device, best_over: str) -> Member:
    stopping = {"patience": 2, "min_delta": 0.001}
    callbacks = [{"class_name": "ReduceLROnPlateau", "config": {"patience": 1, "factor": 0.5}}]
    train = {"early_stopping": stopping, "callbacks": callbacks}
    return Member(folder / "member", device, TWO_STAGES, train=train, best_over=best_over)


@pytest.mark.parametrize(("killed_after", "best_over"), [(2, "all"), (3, "last"), (5, "all")])
def test_a_member_killed_in_any_stage_or_between_them_ends_with_the_same_bits(
    tmp_path: Path, device: Device, straight: Callable[[Any], Any], killed_after: int, best_over: str
) -> None:
    member = resumable(tmp_path, device, best_over)
    with pytest.raises(Killed):
        member.go_on(killed_after=killed_after)

    resumed = member.go_on()

    assert facts(resumed) == straight(best_over)


def test_stages_need_no_base(tmp_path: Path, device: Device) -> None:
    stages = [{"epochs": 1, "learning_rate": 0.1}, {"epochs": 1, "optimizer": "adamax"}]

    trained = Member(tmp_path, device, stages, base=None).go_on()

    assert [row["stage"] for row in trained.history] == [1, 2]
    assert trained.model.optimizer.name == "adamax"


def test_a_member_that_is_late_in_its_first_stage_counts_with_the_best_of_that(tmp_path: Path, device: Device) -> None:
    member = Member(tmp_path, device, TWO_STAGES)
    with pytest.raises(Killed):
        member.go_on(killed_after=2)
    assert member.newest is not None

    late = make_late(member.plan, member.dataset, member.newest, tmp_path, device)

    assert [row["stage"] for row in late.history] == [1, 1]
    assert late.path.is_file()


@pytest.mark.parametrize(
    ("reuse", "names"),
    [
        ({}, ["dense", "norm", "dense_1", "head"]),
        ({"layers": 2}, ["dense", "norm"]),
        ({"up_to": "dense_1"}, ["dense", "norm", "dense_1"]),
    ],
)
@pytest.mark.parametrize("kind", ["sequential", "functional"])
def test_as_much_is_reused_as_the_job_says(
    reuse: dict[str, Any], names: list[str], kind: str, tmp_path: Path, base_file: Path
) -> None:
    whole = load_base(BaseSpec(file=SOURCE))
    if kind == "functional":
        keras.Model(whole.inputs, whole.outputs).save(tmp_path / "functional.keras")
        place_base(SOURCE, tmp_path / "functional.keras")

    reused = load_base(BaseSpec(file=SOURCE, **reuse))

    x = load_rows()["train"][0]
    expected = keras.Model(whole.inputs, whole.get_layer(names[-1]).output)
    assert [layer.name for layer in base_layers(reused)] == names
    assert np.array_equal(reused(x), expected(x))


def test_each_member_gets_a_base_of_its_own_and_new_layers_get_other_names(device: Device) -> None:
    first, second = (build(f"{__name__}:from_layers", {}, 1, TrainSpec(), base=BaseSpec(file=SOURCE)) for _ in range(2))

    assert [layer.name for layer in first.model.layers] == ["dense", "norm", "dense_1", "head", "dense_2"]
    assert not {id(layer) for layer in first.model.layers} & {id(layer) for layer in second.model.layers}


@pytest.mark.parametrize(
    ("base", "told"),
    [
        ({"layers": 5}, "the base has 4 layers, not 5"),
        ({"up_to": "dense_2"}, r"no layer 'dense_2'(.|\n)*did you mean dense_1"),
    ],
)
def test_reusing_layers_that_are_not_there_is_refused(base: dict[str, Any], told: str) -> None:
    with pytest.raises(InvalidJob, match=told):
        load_base(BaseSpec(file=SOURCE, **base))


def test_a_builder_that_leaves_the_base_out_is_told_when_a_stage_freezes(device: Device) -> None:
    built = build(f"{__name__}:without_base", {}, 1, TrainSpec(), base=BaseSpec(file=SOURCE))
    (stage,) = stages_of(TrainSpec(), [StageSpec(freeze="all")])

    with pytest.raises(InvalidModel, match="without the layers of the base"):
        enter_stage(built, stage, "builder")


class Unregistered(keras.layers.Layer):
    """Code that a saved model names and this process does not know."""


def saved_with(layer: keras.layers.Layer, path: Path) -> None:
    keras.Sequential([keras.Input((6,)), layer]).save(path)


def test_a_base_with_code_that_is_not_known_here_is_refused_by_name(tmp_path: Path) -> None:
    saved_with(Unregistered(), tmp_path / "own.keras")
    saved_with(keras.layers.Lambda(lambda x: x + 1), tmp_path / "lambda.keras")

    for name, told in (("own", "Unregistered"), ("lambda", "Lambda")):
        place_base(SOURCE, tmp_path / f"{name}.keras")
        with pytest.raises(InvalidModel, match=f"{told}(.|\n)*register_keras_serializable"):
            load_base(BaseSpec(file=SOURCE))


@pytest.mark.parametrize("damage", ["cut", "no config", "other class"])
def test_a_damaged_or_forged_base_is_refused(damage: str, tmp_path: Path, base_file: Path) -> None:
    path = tmp_path / "bad.keras"
    if damage == "cut":
        path.write_bytes(base_file.read_bytes()[:3000])
    else:
        with zipfile.ZipFile(base_file) as whole, zipfile.ZipFile(path, "w") as archive:
            for name in whole.namelist():
                body = whole.read(name)
                if name == "config.json" and damage == "other class":
                    config = json.loads(body)
                    config["config"]["layers"][1] |= {"module": "subprocess", "class_name": "Popen"}
                    body = json.dumps(config).encode()
                if name != "config.json" or damage != "no config":
                    archive.writestr(name, body)
    place_base(SOURCE, path)

    with pytest.raises(InvalidModel, match=r"subprocess\.Popen" if damage == "other class" else "cannot be opened"):
        load_base(BaseSpec(file=SOURCE))
