"""What a search decides: how many trials come next, which are kept, and what a trial is."""

from __future__ import annotations

from typing import Any

import pytest

from orchestrator.planning.plan import Plan, make_plan
from orchestrator.planning.search import (
    Generation,
    decide_generation,
    decide_kept,
    generation_to_json,
    read_generations,
)
from orchestrator.planning.seeds import member_seed, trial_seed
from orchestrator.spec import Job, SearchSpec, parse_job


def job(search: dict[str, Any], **parts: Any) -> Job:
    base = {"name": "digits", "model": "jobs.digits:build_model", "data": "jobs.digits:load_data", "members": 2}
    return parse_job({**base, "search": search, **parts})


def search(**parts: Any) -> SearchSpec:
    return SearchSpec.model_validate({"space": {"units": [16, 32]}, **parts})


def asked(*sizes: int) -> list[Generation]:
    return [Generation(tuple({"units": 16} for _ in range(size)), (0.5,) * size) for size in sizes]


@pytest.mark.parametrize(
    ("sizes", "num_trials", "reason"),
    [
        ((), 4, "generation 0: trials 0–3 of 10"),
        ((4,), 4, "generation 1: trials 4–7 of 10"),
        ((4, 4), 2, "generation 2: trials 8–9 of 10"),
        ((4, 5), 1, "generation 2: trials 9 of 10"),
        ((4, 4, 2), 0, "the search is over: 10 of 10 trials"),
    ],
)
def test_generations_are_of_one_size_until_all_trials_are_asked_for(
    sizes: tuple[int, ...], num_trials: int, reason: str
) -> None:
    decision = decide_generation(search(trials=10, parallel=4), asked(*sizes))
    assert (decision.num_trials, decision.reason) == (num_trials, reason)


@pytest.mark.parametrize(("sampler", "size"), [("random", 30), ("tpe", 8), ("genetic", 8)])
def test_a_sampler_that_learns_nothing_asks_for_all_trials_at_once(sampler: str, size: int) -> None:
    assert decide_generation(search(sampler=sampler), []).num_trials == size


def test_a_grid_has_as_many_trials_as_combinations() -> None:
    grid = search(sampler="grid", space={"units": [16, 32, 64], "dropout": [0.1, 0.2]})
    assert decide_generation(grid, []).num_trials == 6


@pytest.mark.parametrize(
    ("scores", "greater", "kept"),
    [
        ({0: 0.5, 1: 0.3, 2: 0.4}, False, (1, 2)),
        ({0: 0.5, 1: 0.3, 2: 0.4}, True, (0, 2)),
        ({0: 0.5, 1: 0.5, 2: 0.5}, True, (0, 1)),
        ({0: None, 1: None, 2: 0.4}, False, (2,)),
        ({}, False, ()),
    ],
)
def test_the_best_are_kept_and_of_equal_ones_the_first(
    scores: dict[int, float | None], greater: bool, kept: tuple[int, ...]
) -> None:
    assert decide_kept(scores, 2, greater_is_better=greater).trials == kept


def test_generations_come_back_from_their_records_with_what_the_sampler_was_told() -> None:
    bodies = [
        generation_to_json([{"units": 16}, {"units": 32}], ()),
        generation_to_json([{"units": 64}], [0.5, None]),
    ]
    assert read_generations(bodies) == (
        Generation(({"units": 16}, {"units": 32}), (0.5, None)),
        Generation(({"units": 64},), ()),
    )


def test_a_trial_has_the_values_of_the_space_and_a_seed_of_its_own() -> None:
    asked_for = job(
        {"space": {"units": [16, 32], "train.batch_size": [32, 64]}}, model={"builder": "m:f", "kwargs": {"depth": 2}}
    )
    plan = make_plan(asked_for, {"m:f": True}, [{"units": 16, "train.batch_size": 64}])
    trial = plan.members[0]
    assert (trial.index, trial.seed) == (0, trial_seed(0, 0))
    assert trial.kwargs == {"depth": 2, "units": 16}, "dropout by the index would be one more thing that differs"
    assert trial.train.batch_size == 64
    assert trial.train_values == {"batch_size": 64}
    assert trial_seed(0, 0) != member_seed(0, 0)


def test_the_jobs_one_dropout_rate_holds_for_all_trials() -> None:
    plan = make_plan(job({"space": {"units": [16, 32]}}, members={"count": 2, "dropout": 0.3}), {}, [{"units": 16}])
    assert plan.members[0].kwargs == {"units": 16, "dropout": 0.3}


def test_a_plan_grows_by_the_recorded_generations_and_keeps_what_it_has() -> None:
    params = [{"units": 16}, {"units": 32}, {"units": 64}]
    made = make_plan(job({"space": {"units": [16, 32, 64]}}), {}, params[:2])
    grown = made.with_generations([Generation(tuple(params[:2])), Generation(tuple(params[2:]))])
    assert [member.kwargs["units"] for member in grown.members] == [16, 32, 64]
    assert grown.members[:2] == made.members
    assert grown.with_generations([Generation(tuple(params))]) == grown


def test_a_plan_without_a_search_never_grows() -> None:
    assert Plan(()).with_trials([{"units": 16}]) == Plan(())
