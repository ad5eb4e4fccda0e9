"""What a search decides: how many trials come next, which are kept, and what a trial is."""

from __future__ import annotations

from typing import Any

import pytest

from orchestrator.planning.plan import Plan, make_plan
from orchestrator.planning.recovery import MemberMemory, goes_on
from orchestrator.planning.search import (
    Generation,
    Rung,
    decide_generation,
    decide_kept,
    decide_rung,
    generation_to_json,
    pruned_trials,
    read_generations,
    rung_to_json,
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
    assert grown.with_generations([Generation(tuple(params))]) == grown, "how they were grouped says nothing"


@pytest.mark.parametrize(
    ("scores", "going_on"),
    [
        ({4: 0.5, 5: 0.3, 6: 0.4, 7: 0.1, 8: 0.2, 9: 0.6}, (7, 8)),
        ({4: 0.5, 5: 0.3}, (5,)),
        ({4: None, 5: None, 6: 0.9, 7: 0.8, 8: 0.7, 9: None}, (7, 8)),
        ({4: None, 5: None}, ()),
    ],
)
def test_the_best_third_of_a_rung_goes_on_and_one_at_least(
    scores: dict[int, float | None], going_on: tuple[int, ...]
) -> None:
    assert decide_rung(scores, 3, greater_is_better=False).trials == going_on


def test_rungs_come_back_from_their_records_and_tell_who_was_left_behind() -> None:
    bodies = [
        generation_to_json([{"units": 16}] * 4, ()),
        rung_to_json(Rung((1, 2), 3)),
        rung_to_json(Rung((2,), 9)),
        generation_to_json([{"units": 64}] * 2, [0.5, 0.4, 0.3, 0.6]),
        rung_to_json(Rung((5,), 3)),
    ]
    generations = read_generations(bodies)
    assert generations[0].rungs == (Rung((1, 2), 3), Rung((2,), 9))
    assert generations[0].scores == (0.5, 0.4, 0.3, 0.6)
    assert pruned_trials(generations) == (0, 1, 3, 4)


def test_a_generation_trains_as_long_as_its_rung_says() -> None:
    pruned = job(
        {"space": {"units": [16, 32]}, "sampler": "random", "trials": 6, "pruning": {"min_epochs": 2}},
        train={"epochs": 9},
        members=1,
    )
    params = ({"units": 16}, {"units": 32})
    plan = make_plan(pruned, {}, params)
    assert [member.train.epochs for member in plan.members] == [2, 2]
    later = plan.with_generations([Generation(params, (), (Rung((1,), 6),)), Generation(params)])
    assert [member.train.epochs for member in later.members] == [6, 6, 2, 2]


def test_a_published_trial_goes_on_unless_it_has_stopped_or_was_cut_short() -> None:
    final = {"epochs": 2, "stopped_epoch": None, "late": False}
    assert goes_on(MemberMemory(final=final), 6)
    assert not goes_on(MemberMemory(final=final), 2)
    assert not goes_on(MemberMemory(final={**final, "stopped_epoch": 2}), 6)
    assert not goes_on(MemberMemory(final={**final, "late": True}), 6)
    assert not goes_on(MemberMemory(), 6)


def test_a_plan_without_a_search_never_grows() -> None:
    assert Plan(()).with_generations([Generation(({"units": 16},))]) == Plan(())
