"""Whole runs that end when the ensemble has enough members, on fakes: who is in it, what is told, and what survives."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_controller import LAYOUT, Killed, Site, assert_status_agrees, nll

from orchestrator import api
from orchestrator.errors import DamagedStore, InvalidJob
from orchestrator.planning import commands as cmd
from orchestrator.planning.policies import StopRule, decide_enough
from orchestrator.reporting.result import Result, StoppedResult
from orchestrator.reporting.status import status_of
from orchestrator.reporting.tables import render
from orchestrator.spec import parse_job
from orchestrator.testing import MemoryStore

NUM_MEMBERS = 9
RULE = {"min_delta": 0.03, "patience": 2}
DIGITS = {"name": "digits", "model": "jobs.digits:build_model", "data": "jobs.digits:load_data", "members": 5}


def enough_site(store: MemoryStore | None = None, **ensemble: Any) -> Site:
    job = {"members": NUM_MEMBERS, "ensemble": {"stop_when": RULE, **ensemble}, "report": {"html": False}}
    return Site(job, store=store or MemoryStore())


def scores_of(site: Site) -> list[float]:
    """Nll of the plain average of the first 1, 2, … members."""
    labels = site.cluster.labels("validation")
    members = [site.cluster.predictions(i, "validation").astype(np.float64) for i in range(NUM_MEMBERS)]
    return [nll(labels, np.mean(members[:k], axis=0)) for k in range(1, NUM_MEMBERS + 1)]


def stopped_of(result: Result) -> StoppedResult:
    assert result.stop_when is not None
    return result.stop_when


def test_a_run_ends_with_as_many_members_as_its_score_needs_and_says_what_that_saved() -> None:
    site = enough_site()
    result = site.start(num_workers=1)
    scores = scores_of(site)
    enough = decide_enough(scores, StopRule("nll", False, 0.03, 2)).num_members
    assert enough is not None
    assert 3 <= enough < NUM_MEMBERS - 1, "the fakes' predictions ask for another rule in this test"

    assert (result.status, result.exit_code, result.missing) == ("succeeded", 0, ())
    assert [member.status for member in result.members] == [
        *["succeeded"] * enough,
        *["not_started"] * (NUM_MEMBERS - enough),
    ]
    assert site.trained() == list(range(enough))
    told = stopped_of(result)
    assert told.decided_at == enough
    assert told.scores == pytest.approx(scores[:enough], rel=1e-12)
    assert (told.not_trained, told.left_out) == (tuple(range(enough, NUM_MEMBERS)), ())
    assert told.saved_s == pytest.approx(result.timing["members_s"] / enough * (NUM_MEMBERS - enough), rel=0.01)
    assert site.kinds() == ["claim", "opened", "packed", "enough", "selection", "done"]
    assert_status_agrees(site, result)


def test_the_table_tells_of_all_that_are_left_out_in_one_line_and_the_figure_what_its_rows_were_used_for() -> None:
    result = enough_site().start(num_workers=1)
    enough = stopped_of(result).decided_at
    text = render(result, 200)
    assert f"stopped with the first {enough} members: nll of the first" in text
    assert f"members not trained: {enough}–{NUM_MEMBERS - 1}; " in text
    assert "worker-seconds of training saved" in text
    assert "not needed" not in text
    assert "missing from the ensemble" not in text
    assert "not needed" in (result.members[-1].message or "")
    assert result.validation is not None
    assert "the choice of how many members" in result.validation.ensemble.scored_on


@pytest.mark.parametrize("num_workers", [1, 2, 4])
@pytest.mark.parametrize("seed", [1, 2])
def test_neither_workers_nor_the_order_of_finishing_change_the_ensemble(num_workers: int, seed: int) -> None:
    def figures(result: Result) -> object:
        counted = [member.index for member in result.members if member.status == "succeeded"]
        told = stopped_of(result)
        return result.validation, result.test, result.weights, counted, told.decided_at, told.scores, told.reason

    assert figures(enough_site().start(num_workers=num_workers, seed=seed)) == figures(
        enough_site().start(num_workers=1, seed=0)
    )


def test_members_in_training_beyond_are_given_up_with_a_message_and_their_workers_are_ended() -> None:
    site = enough_site()
    result = site.start(num_workers=4)
    told = stopped_of(result)
    given_up = [member for member in result.members if member.status == "stopped"]
    assert given_up, "four workers have begun more than they need to"
    assert all(told.decided_at is not None and member.index >= told.decided_at for member in given_up)
    assert all("not needed" in (member.message or "") for member in given_up)
    killed = {command.worker for command in site.cluster.sent if isinstance(command, cmd.KillWorker)}
    unpublished = [member.index for member in given_up if "final" not in site.member_kinds(member.index)]
    training = {
        command.worker
        for command in site.cluster.sent
        if isinstance(command, cmd.TrainPack) and set(command.members) & set(unpublished)
    }
    assert training == killed
    assert set(told.left_out) | set(told.not_trained) == set(range(told.decided_at or 0, NUM_MEMBERS))
    assert_status_agrees(site, result)


def test_a_member_that_was_trained_before_it_was_known_is_left_out_and_named() -> None:
    site = enough_site()
    # Member 0 crashes again and again, so that the others are through before the first ensemble can be scored.
    result = site.start(num_workers=2, faults={(0, 1): "crash", (0, 2): "crash"})
    assert [fault for _, _, fault in site.cluster.fired] == ["crash", "crash"]
    told = stopped_of(result)
    assert told.left_out
    assert all(result.members[i].status == "stopped" for i in told.left_out)
    assert all("trained, but not needed" in (result.members[i].message or "") for i in told.left_out)
    assert all(result.members[i].model is None for i in told.left_out)
    assert any("and left out: " in note for note in result.notes)
    undisturbed = enough_site().start(num_workers=1)
    assert (result.validation, told.scores) == (undisturbed.validation, stopped_of(undisturbed).scores)


@pytest.mark.parametrize(
    "ensemble",
    [
        {},
        {"combine": "logits"},
        {"combine": "weighted"},
        {"combine": "weighted", "weights": "nll"},
        {"combine": "weighted", "weights": "greedy"},
        {"combine": "weighted", "weights": [3, 2, 1, 1, 1, 1, 1, 1, 1]},
        {"combine": "stacking"},
        {"calibrate": True},
        {"combine": "weighted", "weights": "nll", "calibrate": True},
    ],
)
def test_the_last_score_is_the_figure_that_the_result_reports_of_what_is_delivered(ensemble: dict[str, Any]) -> None:
    result = enough_site(**ensemble).start(num_workers=2)
    told = stopped_of(result)
    assert result.validation is not None
    figure = getattr(result.validation, result.delivered)
    assert told.scores[-1] == pytest.approx(figure.nll, rel=1e-9)
    assert len(told.scores) == (told.decided_at or NUM_MEMBERS)


def test_a_run_that_needs_all_its_members_says_so() -> None:
    site = Site({"members": 3, "ensemble": {"stop_when": {"patience": 4}}})
    result = site.start()
    told = stopped_of(result)
    assert (told.decided_at, told.not_trained, told.left_out, told.saved_s) == (None, (), (), 0.0)
    assert len(told.scores) == 3
    assert any("stop_when left no member out" in note for note in result.notes)
    assert "enough" not in site.kinds()


def test_a_run_without_the_rule_tells_of_none() -> None:
    result = Site().start()
    assert result.stop_when is None
    assert not any("stop_when" in note for note in result.notes)


def test_the_plan_shows_the_rule() -> None:
    root = Path(__file__).parents[2]
    job = parse_job({**DIGITS, "ensemble": {"stop_when": RULE}})
    text = api.plan(job, root=str(root)).to_json()["stop_when"]
    assert "once 2 in a row have improved the ensemble's nll on validation by no more than 0.03" in text
    assert "at least 3 are trained" in text
    assert api.plan(parse_job(DIGITS), root=str(root)).to_json()["stop_when"] is None


class KilledAt(MemoryStore):
    """The coordinator is killed before a record of this kind reaches its log, once."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind: str | None = kind

    def create(self, key: str, body: bytes) -> bool:
        if self.kind is not None and key.startswith(LAYOUT.coord_log) and f'"kind":"{self.kind}"'.encode() in body:
            self.kind = None
            raise Killed
        return super().create(key, body)


@pytest.mark.parametrize(("kind", "last"), [("selection", "enough"), ("enough", "packed")])
@pytest.mark.parametrize("num_workers", [1, 4])
def test_a_successor_of_a_coordinator_that_was_killed_around_the_decision_comes_to_the_same_ensemble(
    kind: str, last: str, num_workers: int
) -> None:
    store = KilledAt(kind)
    site = enough_site(store)
    with pytest.raises(Killed):
        site.start(num_workers=num_workers)
    assert store.kind is None
    assert site.kinds()[-1] == last
    result = site.start(num_workers=num_workers, seed=3)
    assert site.trained() == [] or kind == "enough"
    assert site.kinds().count("enough") == 1
    whole = enough_site().start(num_workers=num_workers)
    assert (result.validation, result.test) == (whole.validation, whole.test)
    told, expected = stopped_of(result), stopped_of(whole)
    assert (told.decided_at, told.scores, told.reason) == (expected.decided_at, expected.scores, expected.reason)
    assert_status_agrees(site, result)


def test_status_shows_who_is_not_needed_as_soon_as_that_is_decided() -> None:
    store = KilledAt("selection")
    site = enough_site(store)
    with pytest.raises(Killed):
        site.start(num_workers=4)
    enough = site.body("enough")["num_members"]
    result = site.start(num_workers=4)
    assert [member.status for member in result.members[:enough]] == ["succeeded"] * enough
    twin = enough_site(KilledAt("selection"))
    with pytest.raises(Killed):
        twin.start(num_workers=4)
    assert_status_agrees_before_the_end(twin, result)


def assert_status_agrees_before_the_end(site: Site, result: Result) -> None:
    """Of members that are left out, `status` tells before the selection what the result will tell."""
    spec = {"run_id": "tuesday", "job": site.parsed().model_dump(mode="json")}
    site.store.create(LAYOUT.spec, json.dumps(spec).encode())
    told = status_of(site.store, LAYOUT, now=site.clock.epoch()).members
    enough = stopped_of(result).decided_at
    assert [member.status for member in told[enough:]] == [member.status for member in result.members[enough:]]


def test_predictions_that_are_lost_before_they_are_scored_end_the_run_and_a_later_start_makes_them_again() -> None:
    class Losing(MemoryStore):
        """Loses the first member's predictions as soon as they are read to be scored."""

        lost = 0

        def get(self, key: str, *, max_bytes: int | None = None) -> bytes:
            body = super().get(key, max_bytes=max_bytes)
            if key.startswith(LAYOUT.blobs) and b"p0" in body and not self.lost:
                self.lost += 1
                return body[:-1]
            return body

    store = Losing()
    site = enough_site(store)
    result = site.start(num_workers=1)
    assert store.lost == 1
    assert result.status == "succeeded", "in four reads the bytes are right"


def test_a_metric_that_cannot_be_told_ends_the_run_with_exit_code_2() -> None:
    site = enough_site(stop_when={"metric": "top_k"})
    with pytest.raises(InvalidJob, match="top_k cannot be told") as caught:
        site.start()
    assert caught.value.exit_code == 2
    assert site.body("failed")["exit_code"] == 2


def test_a_damaged_blob_of_predictions_ends_the_run_before_it_is_scored() -> None:
    class Damaging(MemoryStore):
        def get(self, key: str, *, max_bytes: int | None = None) -> bytes:
            body = super().get(key, max_bytes=max_bytes)
            return body[:-1] if key.startswith(LAYOUT.blobs) and b"p0" in body else body

    site = enough_site(Damaging())
    with pytest.raises(DamagedStore):
        site.start(num_workers=1)
    assert "enough" not in site.kinds()
