"""Which members might be trained as one program, before their models are there."""

from __future__ import annotations

from typing import Any

from orchestrator.planning.alike import may_share_packs
from orchestrator.planning.members import plan_members
from orchestrator.spec import parse_job


def groups(**parts: Any) -> tuple[tuple[int, ...], ...]:
    job = parse_job({"name": "a", "model": "m:f", "data": "m:g", **parts})
    return may_share_packs(plan_members(job, {"m:f": True}))


def test_members_that_differ_in_seed_dropout_and_rate_may_share_a_pack() -> None:
    vary = {"train.learning_rate": [0.1, 0.01]}
    assert groups(members={"count": 4, "vary": vary}) == ((0, 1, 2, 3),)


def test_other_sizes_other_settings_and_no_dropout_make_groups_of_their_own() -> None:
    vary = {"units": [8, 16], "train.batch_size": [32, 32, 32, 64]}
    assert groups(members={"count": 5, "vary": vary}) == ((0, 2, 4), (1,), (3,))
    assert groups(members={"count": 3, "dropout": [0.0, 0.1, 0.2]}) == ((0,), (1, 2))


def test_members_of_one_fold_are_watched_on_the_same_rows() -> None:
    assert groups(members={"count": 2, "folds": 2}) == ((0, 2), (1, 3))


def test_members_in_stages_are_alone() -> None:
    assert groups(model={"builder": "m:f", "stages": [{"epochs": 1}, {"epochs": 2}]}, members=2) == ((0,), (1,))
