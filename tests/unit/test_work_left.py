"""What a plan takes to be left of a run, before it reckons how long that takes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from orchestrator import api
from orchestrator.api.measuring import work_left
from orchestrator.planning import events as ev
from orchestrator.planning.estimate import PackTiming, Work, estimate_run
from orchestrator.planning.packs import Pack
from orchestrator.reporting.remainder import Remainder
from orchestrator.spec import parse_job

TIMING = PackTiming(0, 2.0, 1.0, 0.5, 0.5, 0.0, 0.0, 64)
SEARCH = {"space": {"units": [1, 2, 3]}, "sampler": "tpe", "trials": 12, "parallel": 4}


@pytest.fixture
def left(tmp_path: Path) -> Any:
    (tmp_path / "m.py").write_text("def f(units=0): ...\ndef g(): ...\n", encoding="utf-8")

    def work(after: Remainder | None = None, **parts: Any) -> Work:
        train = {"epochs": 9, "early_stopping": False}
        job = parse_job({"name": "a", "model": "m:f", "data": "m:g", "members": 4, "train": train, **parts})
        plan = api.plan(job, root=str(tmp_path))
        packs = tuple(Pack(member.index, (member.index,), "solo") for member in plan.request.plan.members)
        told = ev.Measured("w", "cpu", packs, "", dict.fromkeys(range(len(packs)), TIMING), 0, 0, 0, 0, None, ())
        return work_left(plan, told, 1, after)

    return work


def after(**parts: Any) -> Remainder:
    return Remainder("begun", "", **parts)


def test_members_that_ended_take_no_time_and_others_what_is_left_of_theirs(left: Any) -> None:
    work = left(after(done=(0,), diverged=(1,), going_on={2: 5}, left=(3,)))

    assert [pack.members for pack in work.packs] == [(2,), (3,)]
    assert (work.epochs[2], work.epochs[3]) == ((4, 4), (9, 9))


@pytest.mark.parametrize("state", ["finished", "selected"])
def test_nothing_is_left_where_the_ensemble_is_fixed_though_members_are_missing(left: Any, state: Any) -> None:
    assert left(Remainder(state, "", done=(0, 1))).packs == ()


def test_members_that_are_there_count_for_enough_of_them(left: Any) -> None:
    rule = {"ensemble": {"stop_when": {"patience": 2}}}
    assert [left(None, **rule).fewest, left(after(done=(0, 1)), **rule).fewest] == [3, 1]


def test_a_search_whose_first_generation_is_trained_has_the_others_left(left: Any) -> None:
    new, later = left(None, search=SEARCH), left(after(done=(0, 1, 2, 3), going_on={4: 9}), search=SEARCH)

    assert (len(new.packs), new.rounds) == (len(later.packs), 3.0) == (4, 3.0)
    assert later.rounds == 7 / 4
    assert left(after(done=tuple(range(12))), search=SEARCH).packs == ()


def test_a_grid_is_known_as_a_whole(left: Any) -> None:
    grid = {"space": {"units": [1, 2, 3, 4, 5]}, "sampler": "grid"}
    work = left(after(done=(0, 1, 2)), search=grid)

    assert ([pack.index for pack in work.packs], work.rounds) == ([3, 4], 1.0)


def test_trials_that_pruning_gives_up_are_not_counted_to_their_end(left: Any) -> None:
    full = left(None, search=SEARCH | {"sampler": "random", "parallel": None})
    pruned = left(None, search=SEARCH | {"pruning": {"min_epochs": 1, "reduction_factor": 4}}, members=3)

    # Of 12 trials all train one epoch, three go on to the fourth and stay (one of each generation) until the ninth.
    assert {most for _, most in full.epochs.values()} == {9}
    assert set(pruned.epochs.values()) == {(3, 3)}
    assert estimate_run(pruned, 0.0).high_s < estimate_run(full, 0.0).high_s
