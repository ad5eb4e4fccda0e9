"""Which jobs of a cluster belong to a run, and what a start does about them."""

from __future__ import annotations

import pytest

from orchestrator.cluster.jobs.submitted import (
    KnownJob,
    coordinates,
    is_same,
    jobs_of,
    metadata_of,
    newest,
    next_number,
    of_the_run_meant,
    storage_in,
    submission_id_of,
)

KEY = "digits-0123456789ab"


def job(number: int, status: str = "FAILED", run_key: str = KEY, **metadata: str) -> KnownJob:
    return KnownJob(submission_id_of(run_key, number), status, metadata=metadata)


def test_the_next_number_is_above_the_terms_of_the_log_and_the_numbers_of_the_cluster() -> None:
    assert next_number([], 0) == 1
    assert next_number([job(2)], None) == 3
    assert next_number([], 4) == 5
    assert next_number([job(2), job(7)], 4) == 8
    assert next_number([job(2)], 4) == 5


def test_a_runs_jobs_are_found_by_key_by_id_and_each_by_its_own_name() -> None:
    jobs = [
        job(10, run_id="nightly 7", run_key=KEY),
        job(9, run_id="nightly 7"),
        job(1, run_key="other-0123456789ab"),
        KnownJob("raysubmit_x", "RUNNING"),
        KnownJob(f"{KEY}-x", "RUNNING"),
    ]
    assert [each.number for each in jobs_of(jobs, KEY)] == [9, 10]
    assert [each.number for each in jobs_of(jobs, "nightly 7")] == [9, 10]
    assert [each.submission_id for each in jobs_of(jobs, f"{KEY}-9")] == [f"{KEY}-9"]
    assert jobs_of(jobs, "nightly") == ()


def test_a_key_that_ends_like_a_number_is_not_taken_for_a_job_of_another_run() -> None:
    key = "digits-12"
    told = KnownJob(f"{key}-3", "RUNNING", metadata={"run_key": key})
    assert jobs_of([told], key) == (told,)
    assert jobs_of([told], "digits") == ()


def test_of_runs_that_share_an_id_the_live_one_is_meant_and_none_of_several() -> None:
    """As where a scheduler names the runs of two jobs after its own, or one job is kept in two places."""
    digits = [job(1, job="digits", storage="s3://a"), job(3, "RUNNING", job="digits", storage="s3://a")]
    wine = job(2, "STOPPED", job="wine", storage="s3://a")
    elsewhere = job(4, "RUNNING", job="digits", storage="s3://b")
    assert of_the_run_meant([*digits, wine]) == digits
    assert of_the_run_meant([digits[0], wine]) == []
    assert of_the_run_meant([*digits, elsewhere]) == []
    assert of_the_run_meant([digits[1], job(5, "RUNNING")]) == [digits[1], job(5, "RUNNING")]
    assert jobs_of([*digits, wine], f"wine/{KEY}") == (wine,)


def test_the_job_to_look_at_is_the_newest_live_one_else_the_newest() -> None:
    assert newest(()) is None
    assert newest([job(1), job(2, "STOPPED")]) == job(2, "STOPPED")
    assert newest([job(1, "RUNNING"), job(2)]) == job(1, "RUNNING")
    assert newest([job(1, "PENDING"), job(2, "RUNNING")]) == job(2, "RUNNING")


@pytest.mark.parametrize(
    ("last_term", "has_ended", "expected"), [(3, False, True), (4, False, True), (2, False, False), (3, True, False)]
)
def test_a_driver_coordinates_once_its_term_is_in_the_log(last_term: int, has_ended: bool, expected: bool) -> None:
    assert coordinates(job(3, "RUNNING", term="3"), last_term, has_ended=has_ended) == expected
    assert not coordinates(job(3, "RUNNING"), last_term, has_ended=has_ended)


def test_the_place_of_a_run_comes_back_from_its_jobs_metadata() -> None:
    told = metadata_of(
        "r",
        job="digits",
        identity="1",
        code="2",
        storage="s3://bucket/runs",
        endpoint_url="http://s3:8333",
        region=None,
        version="0.1.0",
    )
    assert told == {
        "run_id": "r",
        "job": "digits",
        "identity": "1",
        "code": "2",
        "orchestrator": "0.1.0",
        "storage": "s3://bucket/runs",
        "storage_endpoint_url": "http://s3:8333",
    }
    assert storage_in(told) == {"storage": "s3://bucket/runs", "endpoint_url": "http://s3:8333", "region": None}
    assert storage_in({}) is None


@pytest.mark.parametrize(
    ("identity", "code", "accept", "expected"),
    [("1", "2", False, True), ("1", "3", False, False), ("1", "3", True, True), ("4", "2", True, False)],
)
def test_a_job_is_the_same_if_its_identity_is_and_its_code_or_that_may_change(
    identity: str, code: str, accept: bool, expected: bool
) -> None:
    live = job(1, "RUNNING", identity="1", code="2")
    assert is_same(live, {"identity": identity, "code": code}, accept_code_change=accept) == expected
    assert is_same(job(1, "RUNNING"), {"identity": identity, "code": code}, accept_code_change=accept)
