"""The protocol under kills and freezes of real processes, without Ray and Keras, on a folder and on a real S3 server.

`ORCHESTRATOR_SEED=n pytest tests/fault/test_protocol_chaos.py` replays seed n alone; a failure names its seed and tells
what was done to whom.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.support.chaos_actor import Actor, Site
from tests.support.chaos_checker import faults_of_run, read_journals, read_records
from tests.support.chaos_coordinator import LAYOUT, MEMBERS, attach
from tests.support.chaos_scenes import chaos_on_a_member, chaos_on_a_run, s3_site

SEEDS = [int(os.environ["ORCHESTRATOR_SEED"])] if "ORCHESTRATOR_SEED" in os.environ else [1, 2, 3]
STARTS = 20


@pytest.fixture(params=["local", "s3"])
def site(request: pytest.FixtureRequest, tmp_path: Path) -> Site:
    if request.param == "local":
        return Site(str(tmp_path / "runs"))
    bucket = request.getfixturevalue("s3_bucket")
    return s3_site(bucket.url, bucket.endpoint_url)


@pytest.mark.parametrize("seed", SEEDS)
def test_no_kill_freeze_or_lost_answer_breaks_a_members_log(site: Site, tmp_path: Path, seed: int) -> None:
    scene = chaos_on_a_member(site, tmp_path, seed)
    assert not scene.violations, scene
    assert scene.budget["kills"] >= 4, scene
    assert scene.budget["freezes"] >= 3, scene
    assert scene.budget["superseded_thaws"] >= 2, scene
    assert scene.budget["faults"] > 0, scene
    assert scene.stale == 0, scene


@pytest.mark.parametrize("seed", SEEDS)
def test_negative_control_without_create_only_writes_the_same_chaos_publishes_stale_records(
    tmp_path: Path, seed: int
) -> None:
    scene = chaos_on_a_member(Site(str(tmp_path / "runs"), overwriting=True), tmp_path, seed)
    assert scene.budget["superseded_thaws"] > 0, scene
    assert scene.stale > 0, f"no frozen writer published behind its successor's claim\n{scene}"
    assert any("is not there" in violation for violation in scene.violations), scene


@pytest.mark.parametrize("seed", SEEDS)
def test_a_run_has_one_selection_and_one_result_whatever_its_coordinators_die_of(
    site: Site, tmp_path: Path, seed: int
) -> None:
    """The first story of the protocol among them: frozen between `selection` and `done`, thawed after its successor."""
    scene = chaos_on_a_run(site, tmp_path, seed)
    assert not scene.violations, scene
    assert scene.stale == 0, scene
    if seed % 2:  # no rivals, which may finish before the others have met their fates
        assert (scene.budget["kills"], scene.budget["freezes"]) == (6, 4), scene
        assert scene.budget["superseded_thaws"] == 4, scene


def test_twenty_starts_at_once_give_one_coordinator_and_the_same_result_to_all(site: Site, tmp_path: Path) -> None:
    starts = [Actor(f"start-{number}", attach, site, tmp_path) for number in range(STARTS)]
    try:
        for each in starts:
            each.wait()
        for each in starts:  # the barrier: all stand at it, and all go
            assert each.waiting_at == "ready"
            each.go()
        coordinator, followers = divide(starts)
        assert len(followers) == STARTS - 1
        coordinator.go()
        for each in starts:
            each.wait()
        assert [each.outcome for each in starts] == ["finished"] * STARTS, [
            (e.outcome, e.told, e.crash) for e in starts
        ]
        store = site.open()
        records = read_records(store, LAYOUT.coord_log)
        assert [record.kind for record in records].count("claim") == 1
        results = {news for each in starts for news in each.told if news.startswith("result ")}
        assert len(results) == 1
        acknowledged = read_journals(each.journal for each in starts)
        assert not list(
            faults_of_run(store, LAYOUT, MEMBERS, acknowledged, [news.removeprefix("result ") for news in results])
        )
    finally:
        for each in starts:
            each.kill()


def divide(starts: Sequence[Actor]) -> tuple[Actor, list[Actor]]:
    """The one that coordinates, which waits, and those that follow it; all others have nothing left to be."""
    followers = []
    coordinators = []
    for each in starts:
        each.wait(news="attached")
        (coordinators if each.waiting_at == "coordinating" else followers).append(each)
    assert len(coordinators) == 1, [each.name for each in coordinators]
    return coordinators[0], followers
