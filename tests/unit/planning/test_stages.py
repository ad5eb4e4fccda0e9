"""Stages: what each of them is trained with, and which of the base's layers it leaves alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from orchestrator import api
from orchestrator.errors import InvalidJob
from orchestrator.planning.plan import make_plan
from orchestrator.planning.stages import frozen_layers, stages_of, stages_text
from orchestrator.spec import AllButLast, Job, StageSpec, TrainSpec, parse_job

LAYERS = ("flatten", "dense", "norm", "dense_1", "head")
RATED = {"class_name": "Adam", "config": {"learning_rate": 0.1}}
BASE: dict[str, Any] = {"file": "models/base.keras"}
STAGES: list[dict[str, Any]] = [
    {"freeze": "all", "epochs": 3},
    {"freeze": {"all_but_last": 1}, "epochs": 4, "learning_rate": 1e-4},
]


def job(**model: Any) -> Job:
    return parse_job({"name": "a", "model": {"builder": "m:build", **model}, "data": "m:data", "members": 2})


def stages(*asked: dict[str, Any], **train: Any) -> list[TrainSpec]:
    made = stages_of(TrainSpec.model_validate(train), [StageSpec.model_validate(each) for each in asked])
    return [stage.train for stage in made]


def test_without_stages_there_is_one_which_is_not_counted() -> None:
    (only,) = stages_of(TrainSpec(epochs=7), ())

    assert (only.number, only.train, only.freeze) == (0, TrainSpec(epochs=7), None)


def test_a_stage_replaces_what_it_names_and_keeps_the_rest() -> None:
    first, second = stages(
        {"epochs": 2, "batch_size": 8, "early_stopping": False},
        {"optimizer": {"class_name": "SGD", "config": {"momentum": 0.9}}, "early_stopping": {"patience": 1}},
        epochs=7,
        early_stopping={"patience": 4},
        learning_rate=0.1,
    )

    assert (first.epochs, first.batch_size, first.early_stopping, first.learning_rate) == (2, 8, None, 0.1)
    assert (second.epochs, second.batch_size, second.learning_rate) == (7, 32, None)
    assert second.early_stopping is not None
    assert second.early_stopping.patience == 1


def test_a_stages_rate_replaces_the_one_in_the_optimizers_settings() -> None:
    (only,) = stages({"learning_rate": 1e-4}, optimizer=RATED)

    assert only.optimizer is not None
    assert not isinstance(only.optimizer, str)
    assert only.optimizer.config["learning_rate"] == 1e-4


def test_the_best_of_all_stages_needs_a_checkpoint_that_keeps_the_best() -> None:
    asked = job(stages=STAGES, base=BASE, best_over="all")
    wrong = asked.model_copy(update={"train": TrainSpec.model_validate({"checkpoint": {"save_best_only": False}})})

    assert make_plan(asked, {}).members[0].best_over == "all"
    with pytest.raises(InvalidJob, match="save_best_only"):
        make_plan(wrong, {})


def test_members_have_base_and_stages_and_count_all_epochs() -> None:
    members = make_plan(job(base=BASE, stages=STAGES), {}).members

    assert [member.epochs for member in members] == [7, 7]
    assert members[1].base is not None
    assert members[1].base.source == "models/base.keras"
    assert [stage.epochs for stage in members[1].stages] == [3, 4]


def test_a_members_own_model_has_its_own_base() -> None:
    own = {"overrides": {1: {"model": {"builder": "m:build", "base": {"run": "earlier", "member": 2}}}}, "count": 2}
    made = parse_job({"name": "a", "model": "m:build", "data": "m:data", "members": own})

    first, second = make_plan(made, {}).members

    assert first.base is None
    assert second.base is not None
    assert second.base.source == "run earlier, member 2"


@pytest.mark.parametrize(
    ("freeze", "frozen"),
    [
        ("all", set(LAYERS)),
        ("none", set()),
        (("norm", "dense"), {"norm", "dense"}),
        (AllButLast(all_but_last=2), {"flatten", "dense", "norm"}),
        (AllButLast(all_but_last=5), set()),
    ],
)
def test_frozen_are_those_that_the_stage_says(freeze: Any, frozen: set[str]) -> None:
    assert frozen_layers(LAYERS, freeze, "freeze") == tuple(name in frozen for name in LAYERS)


def test_of_layers_with_one_name_only_the_last_ones_are_left_out() -> None:
    """A base that had a base itself may have a `head` within and one of its own."""
    layers = ("dense", "head", "dropout", "head")

    assert frozen_layers(layers, AllButLast(all_but_last=1), "freeze") == (True, True, True, False)
    assert frozen_layers(layers, ("head",), "freeze") == (False, True, False, True)


def test_a_layer_that_is_not_there_is_refused_with_the_nearest() -> None:
    with pytest.raises(InvalidJob, match=r"no layer 'dense_2'(.|\n)*did you mean dense"):
        frozen_layers(LAYERS, ("dense_2",), "model.stages.0.freeze")


def test_more_layers_than_there_are_cannot_be_left_out() -> None:
    with pytest.raises(InvalidJob, match="there are 5 layers in the base"):
        frozen_layers(LAYERS, AllButLast(all_but_last=6), "model.stages.0.freeze")


@pytest.mark.parametrize(
    ("model", "told"),
    [
        ({"base": {}}, "needs either `file` or `run`"),
        ({"base": {"file": "a.keras", "run": "b"}}, "needs either `file` or `run`"),
        ({"base": {"file": "a.keras", "member": 1}}, "give `run` too"),
        ({"base": {"file": "a.keras", "layers": 2, "up_to": "x"}}, "stands beside `layers`"),
        ({"base": "a.h5"}, "ends in .keras"),
        ({"base": "https://host/a.keras"}, "scheme https:// is unknown"),
        ({"base": "s3://user:word@bucket/a.keras"}, "must not contain a user or password"),
        ({"base": {"file": "a.keras", "layers": 0}}, "layers"),
        ({"stages": [{"epochs": 1}, {"freeze": "all"}]}, r"stages\.1\.freeze.* there is none"),
        ({"stages": [{"freeze": "some"}], "base": "a.keras"}, "freeze"),
        ({"stages": [{"freeze": {"all_but_last": 0}}], "base": "a.keras"}, "all_but_last"),
        ({"stages": [{"epochs": 1}], "best_over": "all"}, "best_over"),
        ({"stages": [{"epoch": 1}]}, "did you mean"),
        ({"stages": [{"optimizer": RATED, "learning_rate": 0.2}]}, r"stages\.0\.learning_rate .*say it once"),
        ({"kwargs": {"base": 1}}, r"model\.base"),
    ],
)
def test_a_wrong_base_or_stage_is_refused_where_it_stands(model: dict[str, Any], told: str) -> None:
    with pytest.raises(InvalidJob, match=told):
        job(**model)


def test_a_plain_text_is_the_file_of_the_base() -> None:
    assert job(base="models/base.keras") == job(base=BASE)


def test_whether_early_stopping_is_left_out_or_off_makes_two_jobs() -> None:
    left_out, off = ({"epochs": 1}, {"epochs": 1, "early_stopping": False})

    assert job(stages=[left_out]).model_dump(mode="json") != job(stages=[off]).model_dump(mode="json")


def test_a_plan_tells_base_and_stages_and_that_members_are_trained_one_by_one(tmp_path: Path) -> None:
    (tmp_path / "m.py").write_text("def build(base): ...\ndef data(): ...\n")
    made = job(base={"run": "earlier"}, stages=[*STAGES, {"freeze": ["dense"], "epochs": 2}])

    planned = api.plan(made, root=str(tmp_path)).to_json()

    assert planned["engine"] == "solo: members are trained in stages"
    assert planned["stages"] == (
        "from run earlier, member best; then up to 3 epochs, all layers of the base frozen; then up to 4 epochs at "
        "0.0001, all layers of the base but the last 1 frozen; then up to 2 epochs, dense frozen"
    )
    assert stages_text(job().model, TrainSpec()) is None
