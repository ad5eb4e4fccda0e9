"""A job against the functions it names: everything that can be known without importing them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from orchestrator.errors import InvalidJob
from orchestrator.spec import CheckedJob, check_job, parse_job

MODULE = """
def build(units, dropout, depth=2): ...
def plain(units=1): ...
def open_ended(units=1, **kwargs): ...
unknown = object()
def data(): ...
def seeded(seed): ...
def demanding(path, seed=0): ...
def other(width, dropout=0.1): ...
"""


def check(root: Path, **changes: Any) -> CheckedJob:
    (root / "m.py").write_text(MODULE, encoding="utf-8")
    model = {"builder": "m:build", "kwargs": {"units": 8}}
    return check_job(parse_job({"name": "a", "model": model, "data": "m:data", **changes}), str(root))


def test_a_good_job_tells_its_functions_and_who_takes_dropout(tmp_path: Path) -> None:
    members = {"overrides": {1: {"model": "m:plain"}, 2: {"model": "m:open_ended"}, 3: {"model": "m:unknown"}}}

    checked = check(tmp_path, members=members)

    assert set(checked.builders) == {"m:build", "m:plain", "m:open_ended", "m:unknown"}
    assert checked.data.name == "data"
    assert checked.builder_takes_dropout == {
        "m:build": True,
        "m:plain": False,
        "m:open_ended": False,
        "m:unknown": None,
    }


def test_a_data_function_may_ask_for_a_seed_and_nothing_else(tmp_path: Path) -> None:
    check(tmp_path, data="m:seeded")

    with pytest.raises(InvalidJob, match="requires path"):
        check(tmp_path, data="m:demanding")


@pytest.mark.parametrize(
    "changes",
    [
        {"members": {"dropout": [0.1, 0.2], "vary": {"depth": [1, 2]}}},
        {"model": "m:build", "members": {"vary": {"units": {"min": 1, "max": 9}}}},
        {"model": {"builder": "m:open_ended", "kwargs": {"anything": 1}}, "members": {"dropout": 0.1}},
        {"model": {"builder": "m:unknown", "kwargs": {"anything": 1}}},
        {"model": "m:build", "members": {"count": 1, "overrides": {0: {"kwargs": {"units": 2}}}}},
        # another model gets neither the job's arguments nor `vary`, and the job's dropout only where it takes one
        {"members": {"dropout": 0.1, "vary": {"depth": [1]}, "overrides": {1: {"model": "m:plain"}}}},
        {"members": {"overrides": {1: {"model": "m:other", "kwargs": {"width": 1}, "dropout": 0.3}}}},
    ],
)
def test_calls_that_fit_pass(tmp_path: Path, changes: dict[str, Any]) -> None:
    check(tmp_path, **changes)


@pytest.mark.parametrize(
    ("changes", "where", "fragments"),
    [
        (
            {"model": {"builder": "m:build", "kwargs": {"unts": 8}}},
            "model.kwargs.unts",
            ["no parameter unts", "did you mean units?"],
        ),
        ({"model": "m:plain", "members": {"dropout": 0.1}}, "members.dropout", ["no parameter dropout", "takes units"]),
        ({"members": {"vary": {"dept": [1]}}}, "members.vary.dept", ["did you mean depth?"]),
        ({"model": "m:build"}, "model.builder", ["requires units", "set model.kwargs.units"]),
        ({"members": {"overrides": {2: {"kwargs": {"x": 1}}}}}, "members.overrides.2.kwargs.x", ["no parameter x"]),
        ({"members": {"overrides": {2: {"model": "m:other"}}}}, "members.overrides.2", ["requires width"]),
        (
            {"members": {"overrides": {2: {"model": {"builder": "m:plain", "kwargs": {"unit": 1}}}}}},
            "members.overrides.2.model.kwargs.unit",
            ["did you mean units?"],
        ),
        (
            {"members": {"overrides": {2: {"model": "m:plain", "dropout": 0.1}}}},
            "members.overrides.2.dropout",
            ["no parameter dropout"],
        ),
        ({"model": "m:bild"}, "model.builder: m:bild", ["did you mean build?"]),
        (
            {"members": {"overrides": {2: {"model": "m:othr"}}}},
            "members.overrides.2.model.builder: m:othr",
            ["did you mean other?"],
        ),
        ({"data": "m:dta"}, "data.source: m:dta", ["did you mean data?"]),
    ],
)
def test_calls_that_do_not_fit_are_refused_naming_the_key(
    tmp_path: Path, changes: dict[str, Any], where: str, fragments: list[str]
) -> None:
    with pytest.raises(InvalidJob) as caught:
        check(tmp_path, **changes)

    assert caught.value.where == where
    for fragment in fragments:
        assert fragment in str(caught.value)


def test_a_base_goes_to_builders_that_take_one(tmp_path: Path) -> None:
    check(tmp_path, model={"builder": "m:open_ended", "base": "a.keras"})
    own = {"count": 2, "overrides": {1: {"model": {"builder": "m:plain", "base": "a.keras"}}}}

    with pytest.raises(InvalidJob, match=r"model\.base: the build function plain .* has no parameter base"):
        check(tmp_path, model={"builder": "m:plain", "base": "a.keras"})
    with pytest.raises(InvalidJob, match=r"members\.overrides\.1\.model\.base: "):
        check(tmp_path, members=own)


def test_a_builder_that_needs_a_base_is_told_where_to_name_it(tmp_path: Path) -> None:
    (tmp_path / "n.py").write_text("def build(base): ...", encoding="utf-8")

    with pytest.raises(InvalidJob, match=r"requires base(.|\n)*set model\.base"):
        check(tmp_path, model="n:build")


@pytest.mark.parametrize(
    ("train", "where"),
    [
        ({"loss": "m:losss"}, "train.loss: m:losss"),
        ({"loss": {"a": "mse", "b": {"class_name": "m:losss"}}}, "train.loss.b: m:losss"),
        ({"metrics": ["accuracy", "m:losss"]}, "train.metrics.1: m:losss"),
        ({"metrics": {"a": ["m:losss"]}}, "train.metrics.a.0: m:losss"),
        ({"optimizer": "m:losss"}, "train.optimizer: m:losss"),
    ],
)
def test_parts_of_compile_that_are_not_in_the_jobs_module_are_refused(
    train: dict[str, Any], where: str, tmp_path: Path
) -> None:
    with pytest.raises(InvalidJob, match="there is no function or class losss") as caught:
        check(tmp_path, model={"builder": "m:plain"}, train=train)
    assert caught.value.where == where
    check(tmp_path, model={"builder": "m:plain"}, train={"loss": "m:plain", "metrics": ["m:unknown", "mae"]})
