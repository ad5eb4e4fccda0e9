"""Samplers: what they ask for, that they learn, and that the same calls give the same trials."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from orchestrator import api
from orchestrator.errors import InvalidJob
from orchestrator.planning.search import Params
from orchestrator.search.samplers import importance, make_sampler
from orchestrator.spec import SearchSpec, load_job

ROOT = Path(__file__).parents[3]
PLANE = {"x": {"min": -1.0, "max": 1.0}, "y": {"min": -1.0, "max": 1.0}}


def spec(**parts: Any) -> SearchSpec:
    return SearchSpec.model_validate({"space": PLANE, **parts})


def bowl(params: Params) -> float:
    return float((params["x"] - 0.3) ** 2 + (params["y"] + 0.4) ** 2)


def generations(
    search: SearchSpec, loss: Callable[[Params], float | None] = bowl, seed: int = 0
) -> list[list[tuple[Params, float | None]]]:
    """Values and loss of all trials, generation by generation."""
    sampler, done = make_sampler(search, seed), []
    for first in range(0, search.num_trials, search.generation):
        asked = sampler.ask(min(search.generation, search.num_trials - first))
        done.append([(params, loss(params)) for params in asked])
        sampler.tell([each for _, each in done[-1]])
    return done


def test_a_grid_goes_through_the_product_with_the_last_name_fastest() -> None:
    grid = make_sampler(spec(space={"units": [16, 32], "layer": [{"a": 1}, None]}, sampler="grid"), 0)
    assert grid.ask(3) == [
        {"layer": {"a": 1}, "units": 16},
        {"layer": {"a": 1}, "units": 32},
        {"layer": None, "units": 16},
    ]
    grid.tell([0.1, None, 0.3])
    assert grid.ask(3) == [{"layer": None, "units": 32}]


@pytest.mark.parametrize("sampler", ["grid", "random", "tpe", "genetic"])
def test_the_order_in_which_a_job_names_its_space_changes_nothing(sampler: str) -> None:
    space = {"units": [16, 32, 64], "layer": ["a", "b"]}
    written = [spec(space=dict(each), sampler=sampler) for each in (space.items(), reversed(space.items()))]
    assert generations(written[0], lambda params: params["units"]) == generations(written[1], lambda p: p["units"])


@pytest.mark.parametrize("seed", [0, 1])
def test_tpe_finds_a_better_optimum_than_its_first_generation(seed: int) -> None:
    found = generations(spec(sampler="tpe", trials=60, parallel=10), seed=seed)
    best = [min(loss for _, loss in generation if loss is not None) for generation in found]
    assert min(best[1:]) < best[0] / 2, best


@pytest.mark.parametrize("sampler", ["tpe", "genetic"])
@pytest.mark.parametrize("seed", [0, 1])
def test_the_last_generation_is_better_than_the_first(sampler: str, seed: int) -> None:
    found = generations(spec(sampler=sampler, trials=60, parallel=10), seed=seed)
    first, *_, last = [sum(loss or 0.0 for _, loss in generation) / len(generation) for generation in found]
    assert last < 0.7 * first


@pytest.mark.parametrize("sampler", ["random", "tpe", "genetic"])
def test_the_same_calls_give_the_same_trials_and_another_seed_gives_others(sampler: str) -> None:
    search = spec(sampler=sampler, trials=12)
    assert generations(search, seed=7) == generations(search, seed=7)
    assert generations(search, seed=7) != generations(search, seed=8)


@pytest.mark.parametrize("sampler", ["tpe", "genetic"])
def test_what_it_is_told_matters(sampler: str) -> None:
    search = spec(sampler=sampler, trials=16, parallel=4)
    there, back = generations(search), generations(search, lambda params: -bowl(params))
    assert there[0][0][0] == back[0][0][0]
    assert [params for params, _ in there[-1]] != [params for params, _ in back[-1]]


@pytest.mark.parametrize("sampler", ["random", "tpe", "genetic"])
def test_failed_trials_are_survived(sampler: str) -> None:
    found = generations(spec(sampler=sampler, trials=12), lambda params: None)
    assert sum(len(generation) for generation in found) == 12


def test_values_are_of_the_kind_that_the_space_names_and_lie_within_it() -> None:
    space = {
        "units": {"min": 16, "max": 128, "log": True},
        "rate": {"min": 0.0001, "max": 0.1, "log": True},
        "pick": [True, 1, "relu", [1, 2], None],
    }
    for params in make_sampler(spec(space=space, sampler="random", trials=50), 3).ask(50):
        assert type(params["units"]) is int
        assert 16 <= params["units"] <= 128
        assert type(params["rate"]) is float
        assert 0.0001 <= params["rate"] <= 0.1
        assert params["rate"] == float(f"{params['rate']:.6g}")
        assert any(params["pick"] is value or params["pick"] == value for value in space["pick"])


def test_importance_tells_what_the_score_depends_on() -> None:
    search = spec(space={**PLANE, "pick": ["a", "b"]}, sampler="random", trials=20)
    trials = [(params, float(params["x"])) for params in make_sampler(search, 0).ask(20)]
    shares = importance(search, trials, 0)
    assert shares == importance(search, trials, 0)
    assert next(iter(shares)) == "x"
    assert shares["x"] > 0.9
    assert sum(shares.values()) == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("trials", [[], [({"x": 0.0, "y": 0.0}, 1.0)] * 3, [({"x": 0.0, "y": 0.5}, 1.0)] * 9])
def test_nothing_is_told_of_importance_where_nothing_can_be(trials: list[tuple[Params, float]]) -> None:
    assert importance(spec(), trials, 0) == {}


def test_without_optuna_only_a_grid_can_be_searched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(InvalidJob, match=r"pip install 'orchestrator\[search\]'; `sampler: grid` does without"):
        make_sampler(spec(), 0)
    assert make_sampler(spec(space={"units": [16, 32]}, sampler="grid"), 0).ask(1) == [{"units": 16}]


def test_the_plan_tells_how_far_trials_train_and_how_many_reach_the_end() -> None:
    job = load_job(ROOT / "jobs/search.yaml", ["search.pruning.min_epochs=2", "members=4"])
    told = api.plan(job, root=str(ROOT)).search_text()
    assert told is not None
    assert "all trials train to epoch 2, and one in 3, at least one, goes on to epoch 6, then to 12" in told
    assert "4 reach the last" in told, "of four generations of six one each"
    whole = api.plan(load_job(ROOT / "jobs/search.yaml"), root=str(ROOT)).search_text()
    assert whole is not None
    assert "epoch" not in whole
