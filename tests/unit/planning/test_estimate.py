"""The time of a run, reckoned from what one worker took."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from orchestrator.planning.estimate import (
    QUICKER,
    SLOWER,
    PackTiming,
    Work,
    epochs_left,
    estimate_run,
    in_words,
)
from orchestrator.planning.members import plan_members
from orchestrator.planning.packs import Pack
from orchestrator.spec import parse_job

TIMING = PackTiming(
    pack=0,
    first_s=5.0,
    again_s=1.0,
    train_s=1.5,
    validation_s=0.5,
    first_prediction_s=0.75,
    prediction_s=0.25,
    steps=64,
)


def work(packs: int = 3, size: int = 2, num_workers: int = 1, epochs: tuple[int, int] = (3, 10)) -> Work:
    made = tuple(Pack(i, tuple(range(i * size, i * size + size)), "fused") for i in range(packs))
    members = {member: epochs for pack in made for member in pack.members}
    return Work(made, {pack.index: TIMING for pack in made}, members, num_workers)


def test_one_worker_trains_pack_after_pack_and_compiles_once() -> None:
    estimate = estimate_run(work(), start_s=10.0)
    # 10 to start; 5 + 1 + 1 until the first steps; 2 an epoch; predictions .75 + .25, then .5 and .5
    assert estimate.high_s == pytest.approx(SLOWER * (10 + 7 + 3 * 10 * 2 + 2))
    assert estimate.low_s == pytest.approx(QUICKER * (10 + 7 + 3 * 3 * 2 + 2))


def test_workers_share_the_packs_and_each_of_them_compiles() -> None:
    estimate = estimate_run(work(num_workers=2), start_s=0.0)
    assert estimate.high_s == pytest.approx(SLOWER * (5 + 1 + 2 * 10 * 2 + 1.5))


def test_the_last_worker_decides_not_the_mean_of_them() -> None:
    slow = replace(TIMING, pack=2, train_s=20.0)
    uneven = replace(work(num_workers=2), timings={0: TIMING, 1: TIMING, 2: slow})
    assert estimate_run(uneven, 0.0).high_s > SLOWER * 10 * 20


def test_members_that_differ_in_epochs_keep_their_pack_for_the_longest() -> None:
    mixed = replace(work(packs=1), epochs={0: (1, 1), 1: (2, 7)})
    assert estimate_run(mixed, 0.0).high_s == pytest.approx(SLOWER * (5 + 7 * 2 + 1))


def test_generations_of_a_search_come_one_after_another() -> None:
    once, twice = (estimate_run(replace(work(), rounds=rounds), 0.0) for rounds in (1.0, 2.0))
    assert twice.high_s == pytest.approx(2 * once.high_s)
    assert "2 times" in twice.reason


def test_stop_when_may_leave_packs_untrained_and_the_high_end_does_not_rely_on_it() -> None:
    full, stopping = estimate_run(work(), 0.0), estimate_run(replace(work(), fewest=3), 0.0)
    assert stopping.high_s == full.high_s
    assert stopping.low_s == pytest.approx(QUICKER * (5 + 1 + 2 * 3 * 2 + 1.5))


@pytest.mark.parametrize(
    ("train", "fewest"),
    [
        ({"epochs": 20, "early_stopping": {"patience": 4}}, 5),
        ({"epochs": 20, "early_stopping": {"patience": 4, "start_from_epoch": 6}}, 11),
        ({"epochs": 3, "early_stopping": {"patience": 4}}, 3),
        ({"epochs": 20, "early_stopping": False}, 20),
    ],
)
def test_early_stopping_says_how_soon_a_member_may_end(train: dict[str, object], fewest: int) -> None:
    member, *_ = plan_members(parse_job({"name": "a", "model": "m:f", "data": "m:g", "train": train}), {})
    assert epochs_left(member) == (fewest, train["epochs"])


def test_durations_are_told_in_the_unit_that_people_use() -> None:
    assert [in_words(seconds) for seconds in (0.2, 59.4, 99, 100, 6000, 36_000)] == [
        "1 s",
        "60 s",
        "99 s",
        "1.7 min",
        "1.7 h",
        "10.0 h",
    ]


def test_epochs_that_are_done_take_no_time_any_more() -> None:
    train = {"epochs": 20, "early_stopping": {"patience": 4}}
    member, *_ = plan_members(parse_job({"name": "a", "model": "m:f", "data": "m:g", "train": train}), {})
    assert [epochs_left(member, done) for done in (3, 7, 20, math.inf)] == [(2, 17), (0, 13), (0, 0), (0, 0)]


def test_a_run_with_nothing_left_takes_its_start() -> None:
    estimate = estimate_run(replace(work(), packs=()), start_s=10.0)
    assert (estimate.low_s, estimate.high_s) == (QUICKER * 10, SLOWER * 10)
    assert "nothing to train any more" in estimate.reason
