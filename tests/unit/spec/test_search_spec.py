"""`search:` in a job: what it takes, and what contradicts it."""

from __future__ import annotations

from typing import Any

import pytest

from orchestrator.errors import InvalidJob
from orchestrator.spec import Job, identity, parse_job

SPACE = {"units": {"min": 16, "max": 128, "log": True}, "train.batch_size": [32, 64]}


def job(search: Any = None, **parts: Any) -> Job:
    base = {"name": "digits", "model": "jobs.digits:build_model", "data": "jobs.digits:load_data", "members": 3}
    return parse_job({**base, **({} if search is None else {"search": search}), **parts})


def test_a_space_alone_is_a_search() -> None:
    search = job({"space": SPACE}).search
    assert search is not None
    assert (search.sampler, search.num_trials, search.generation, search.keep) == ("tpe", 30, 8, "best")


@pytest.mark.parametrize(
    ("search", "parts", "told"),
    [
        ({}, {}, "search.space"),
        ({"space": {"train.batch_sizes": [8]}}, {}, "did you mean train.batch_size?"),
        ({"space": {"train.early_stopping.patienc": [8]}}, {}, "did you mean train.early_stopping.patience?"),
        ({"space": {}}, {}, "search.space"),
        ({"space": SPACE, "sampler": "grid"}, {}, "is a range, and a grid needs a list of values"),
        ({"space": {"units": [1, 2], "depth": [1, 2]}, "sampler": "grid", "trials": 3}, {}, "has 4 combinations"),
        ({"space": SPACE, "sampler": "random", "parallel": 4}, {}, "has no effect with `sampler: random`"),
        ({"space": SPACE, "trials": 6, "parallel": 6}, {}, "must be above the size of a generation (6)"),
        ({"space": SPACE, "trials": 2, "sampler": "genetic"}, {}, "there is `sampler: random`"),
        ({"space": {"dropout": {"min": 0.1, "max": 1.0}}}, {}, "a dropout rate must be below 1"),
        ({"space": {"dropout": [0.1, 0.2]}}, {"members": {"dropout": 0.3}}, "stands beside `search.space.dropout`"),
        (
            {"space": {"dropout": [0.1, 0.2]}},
            {"model": {"builder": "m:f", "kwargs": {"dropout": 0.1}}},
            "stands beside `search.space.dropout`",
        ),
        ({"space": SPACE}, {"members": {"vary": {"depth": [1, 2]}}}, "put what may differ into search.space"),
        ({"space": SPACE}, {"members": {"dropout": [0.1, 0.2]}}, "put what may differ into search.space"),
        ({"space": SPACE}, {"members": {"overrides": {0: {"seed": 1}}}}, "put what may differ into search.space"),
        ({"space": SPACE, "trials": 10}, {"members": 11}, "must be at most the number of trials (10), not 11"),
        ({"space": SPACE}, {"ensemble": {"stop_when": {}}}, "adds members in the order of their index"),
        ({"space": SPACE}, {"ensemble": {"weights": [1, 2, 3]}}, "known only after the search"),
        (
            {"space": SPACE, "keep": "greedy"},
            {"ensemble": {"weights": "nll"}},
            "not by nll: say `weights: null`",
        ),
        ({"space": SPACE, "pruning": {"min_epochs": 10}}, {}, "must be below train.epochs (10), or nothing is pruned"),
        ({"space": {"train.epochs": [1, 2]}, "pruning": {"min_epochs": 1}}, {}, "decides how long a trial trains"),
        ({"space": SPACE, "trials": 9, "parallel": 8, "pruning": {"min_epochs": 1}}, {}, "that pruning leaves (2 of 9"),
        (
            {"space": SPACE, "pruning": {"min_epochs": 1}},
            {"members": 1, "model": {"builder": "m:f", "stages": [{"epochs": 1}]}},
            "`model.stages` says how long each stage is",
        ),
        ({"space": {"train.engine": ["solo", "fused"]}}, {}, "is the same for all members of a run"),
        ({"space": {"train.batch_sise": [1, 2]}}, {}, "batch_sise"),
        ({"space": {"fit.batch_size": [1, 2]}}, {}, "names neither a keyword of the build function nor a setting"),
    ],
)
def test_what_contradicts_a_search_is_refused(search: Any, parts: dict[str, Any], told: str) -> None:
    with pytest.raises(InvalidJob) as refused:
        job(search, **parts)
    assert told in str(refused.value)


def test_a_search_is_a_part_of_what_a_run_stands_for_and_none_changes_no_id() -> None:
    assert "search" not in identity(job(), "c" * 64)
    assert identity(job({"space": SPACE}), "c" * 64) != identity(job({"space": SPACE, "trials": 29}), "c" * 64)


def test_rungs_grow_by_the_reduction_factor_up_to_the_last_epoch() -> None:
    search = job({"space": SPACE, "trials": 12, "parallel": 6, "pruning": {"min_epochs": 2}}, members=1).search
    assert search is not None
    assert search.rungs(20) == (2, 6, 18, 20)
    assert search.rungs(18) == (2, 6, 18)
    assert search.num_unpruned(6) == 4, "of two generations of six, two each"
    assert search.mean_epochs(6) == (12 * 2 + 4 * 4) / 12
    assert search.mean_epochs(2) == 2
