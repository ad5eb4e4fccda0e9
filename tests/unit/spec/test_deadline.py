"""Deadlines: durations from the run's first claim, and moments with a zone."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from orchestrator.errors import InvalidJob
from orchestrator.spec import Job, deadline_at, identity, parse_job

BEGAN = datetime(2026, 11, 21, 22, 0, tzinfo=UTC).timestamp()


def job(deadline: Any) -> Job:
    minimal = {"name": "d", "model": "jobs.digits:build_model", "data": "jobs.digits:load_data"}
    return parse_job({**minimal, "ensemble": {"deadline": deadline}})


@pytest.mark.parametrize(
    ("deadline", "after_s"),
    [(90, 90), (0.5, 0.5), ("45s", 45), ("90m", 5400), ("6h30m", 23400), ("1d", 86400), ("2026-11-22T00:00:00Z", 7200)],
)
def test_a_deadline_is_seconds_a_duration_or_a_moment(deadline: Any, after_s: float) -> None:
    asked = job(deadline).ensemble.deadline
    assert asked is not None
    assert deadline_at(asked, BEGAN) == BEGAN + after_s


def test_the_zone_of_a_moment_counts() -> None:
    assert deadline_at("2026-11-22T01:00:00+03:00", BEGAN) == BEGAN


@pytest.mark.parametrize(
    ("deadline", "told"),
    [
        (0, "above 0"),
        (-5, "above 0"),
        ("soon", "6h30m"),
        ("", "6h30m"),
        ("0s", "6h30m"),
        ("30m6h", "6h30m"),
        ("2026-11-22T06:00:00", "time zone"),
        (True, "deadline"),
        (["1h"], "deadline"),
    ],
)
def test_anything_else_is_refused_with_the_forms_that_are_right(deadline: Any, told: str) -> None:
    with pytest.raises(InvalidJob, match="deadline") as caught:
        job(deadline)
    assert told in str(caught.value)


def test_a_run_may_be_given_more_time() -> None:
    assert identity(job("1h"), "c") == identity(job("2h"), "c")
