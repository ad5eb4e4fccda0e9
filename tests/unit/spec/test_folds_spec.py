"""`members.folds` in a job: what can be said, and what cannot stand beside it."""

from __future__ import annotations

from typing import Any

import pytest

from orchestrator.errors import InvalidJob
from orchestrator.spec import FoldsSpec, Job, ValidationSplitSpec, parse_job

FILES = {"source": "rows.parquet", "label": "y", "stream": True}


def job(**parts: Any) -> Job:
    return parse_job({"name": "folds", "model": "jobs.digits:build_model", "data": "jobs.digits:load_data", **parts})


def test_a_number_is_the_number_of_folds() -> None:
    made = job(members={"count": 2, "folds": 5})
    assert made.members.folds == FoldsSpec(count=5, stratified=True, repeats=1, inner_validation=0.0)
    assert (made.members.per_configuration, made.members.total) == (5, 10)
    assert job(members=3).members.total == 3


def test_with_folds_no_validation_set_is_drawn_unless_the_job_says_so() -> None:
    assert job().validation_split.share == 0.2
    assert job(members={"folds": 5}).validation_split.share == 0
    data = {"source": "jobs.digits:load_data", "validation_split": 0.1}
    assert job(members={"folds": 5}, data=data).validation_split == ValidationSplitSpec(share=0.1)


@pytest.mark.parametrize(
    ("parts", "what"),
    [
        ({"members": {"folds": 1}}, "members.folds.count must be at least 2"),
        ({"members": {"count": 2001, "folds": 5}}, "make 10,005 members of 2,001 configurations"),
        ({"members": {"count": 2, "folds": 5, "overrides": {4: {"seed": 1}}}}, "there is no configuration 4"),
        ({"members": {"count": 2, "folds": 5}, "ensemble": {"quorum": 3}}, "the number of configurations (2)"),
        ({"members": {"count": 2, "folds": 2}, "ensemble": {"weights": [1, 1, 1, 1]}}, "each of the 2 configurations"),
        ({"members": {"folds": 2}, "ensemble": {"stop_when": {}}}, "only whole configurations can be scored"),
        ({"ensemble": {"gate": {"metric": "accuracy", "on": "out_of_fold", "min": 0.5}}}, "there are no `members.fol"),
        ({"members": {"folds": 2}, "data": FILES}, "keeps no rows in memory to deal into folds"),
        (
            {"members": {"folds": 2}, "search": {"trials": 4, "space": {"units": [8, 16]}}},
            "stands beside `search`",
        ),
    ],
)
def test_what_makes_no_sense_with_folds_is_refused(parts: dict[str, Any], what: str) -> None:
    with pytest.raises(InvalidJob) as refused:
        job(**parts)
    assert what in str(refused.value)
