"""What `status` and `list` tell is what the logs say, whoever wrote them and whatever the clocks show."""

from __future__ import annotations

import json
from dataclasses import asdict

import pytest
from run_examples import BEGAN, LAYOUT, RUN_ID, beat, checkpoint, claim_member, create_run, finish

from orchestrator.errors import DamagedStore, InvalidJob
from orchestrator.planning.ports import Store
from orchestrator.reporting.status import RunStatus, find_layouts, find_run, list_statuses, status_of
from orchestrator.storage.layout import RunLayout, record_key
from orchestrator.testing import MemoryStore

NOW = BEGAN + 3600


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


def status(store: Store, now: float = NOW) -> RunStatus:
    return status_of(store, LAYOUT, now=now)


def test_a_run_that_just_began_shows_its_start_and_members_that_have_not(store: MemoryStore) -> None:
    create_run(store)
    found = status(store)
    assert (found.run_id, found.run_key, found.job) == (RUN_ID, LAYOUT.run_key, "digits")
    assert (found.status, found.terms, found.started_at, found.age_s) == ("unfinished", 1, BEGAN, 3600.0)
    assert (found.sign_term, found.sign_at, found.sign_age_s) == (None, None, None)
    assert (found.num_members, found.num_done) == (3, None)
    assert [(member.status, member.attempts, member.preemptions) for member in found.members] == [
        ("not_started", 0, 0)
    ] * 3


def test_the_first_start_counts_however_many_follow(store: MemoryStore) -> None:
    log = create_run(store)
    log.claim(run_id=RUN_ID, at=BEGAN + 100)
    found = status(store)
    assert (found.terms, found.started_at) == (2, BEGAN)


@pytest.mark.parametrize(
    ("age_s", "expected"),
    [(12.0, "live"), (16.0, "unfinished"), (-3600.0, "live")],
)
def test_a_run_is_live_while_its_last_sign_of_life_is_recent(store: MemoryStore, age_s: float, expected: str) -> None:
    create_run(store)
    beat(store, 1, NOW - age_s)
    found = status(store)
    assert (found.status, found.sign_term, found.sign_at) == (expected, 1, NOW - age_s)
    assert found.sign_age_s == max(0.0, age_s)  # a clock that goes ahead shows no negative age


def test_a_sign_of_life_of_a_coordinator_that_was_superseded_makes_nothing_live(store: MemoryStore) -> None:
    create_run(store).claim(run_id=RUN_ID, at=BEGAN)
    beat(store, 1, NOW)
    found = status(store)
    assert (found.status, found.terms, found.sign_term) == ("unfinished", 2, 1)


@pytest.mark.parametrize("body", [b"", b"\xff", b"[]", b"{}", b'{"term": "x", "at": 1}', b'{"term": 1, "at": NaN}'])
def test_a_garbled_beat_shows_nothing(store: MemoryStore, body: bytes) -> None:
    create_run(store)
    store.put(LAYOUT.beat, body)
    assert status(store).sign_at is None


@pytest.mark.parametrize("kind", ["failed", "stopped"])
def test_a_run_that_ended_without_a_result_tells_code_and_message_even_while_its_beat_is_fresh(
    store: MemoryStore, kind: str
) -> None:
    create_run(store).append(kind, exit_code=143, message="stopped on request", at=BEGAN)
    beat(store, 1, NOW)
    found = status(store)
    assert (found.status, found.exit_code, found.message) == (kind, 143, "stopped on request")


def test_a_start_after_an_end_is_unfinished_again(store: MemoryStore) -> None:
    log = create_run(store)
    log.append("stopped", exit_code=143, message="stopped on request", at=BEGAN)
    log.claim(run_id=RUN_ID, at=BEGAN + 5)
    found = status(store)
    assert (found.status, found.exit_code, found.message) == ("unfinished", None, None)


def test_a_finished_run_has_the_status_of_its_result_and_nothing_is_written(store: MemoryStore) -> None:
    finish(store, create_run(store), status="gate_failed", exit_code=3)
    before = store.list("")
    found = status(store)
    assert (found.status, found.exit_code, found.num_done) == ("gate_failed", 3, 2)
    assert store.list("") == before  # the copy `result.json` is for those who run


def test_a_member_shows_attempts_preemptions_last_checkpoint_and_last_cause(store: MemoryStore) -> None:
    log = create_run(store)
    member = claim_member(store, 1)
    checkpoint(member, 2, NOW - 90, best_epoch=1)
    for number, (cause, message) in enumerate(
        [("preempted", "the node was taken"), ("node_lost", "the node is gone"), ("crash", "SIGKILL")], 1
    ):
        log.append("ended", member=1, attempt=number, cause=cause, message=message, at=BEGAN)
        member = claim_member(store, 1)
    checkpoint(member, 5, NOW - 30, best_epoch=4)
    [_, found, _] = status(store).members
    assert (found.status, found.attempts, found.preemptions) == ("started", 4, 2)
    assert (found.checkpoint_epoch, found.checkpoint_at, found.checkpoint_age_s) == (5, NOW - 30, 30.0)
    assert (found.epochs, found.best_epoch) == (None, 4)
    assert (found.last_cause, found.last_message) == ("crash", "SIGKILL")


def test_a_claim_of_the_coordinator_is_no_attempt(store: MemoryStore) -> None:
    create_run(store)
    claim_member(store, 0)
    claim_member(store, 0, run_id=RUN_ID).append("failed", status="failed", cause="crash", message="lost")
    [found, *_] = status(store).members
    assert (found.status, found.attempts) == ("failed", 1)


@pytest.mark.parametrize(
    ("kind", "body", "expected"),
    [
        ("final", {"epochs": 9, "best_epoch": 7, "late": False}, ("trained", 9, 7)),
        ("final", {"epochs": 9, "best_epoch": 7, "late": True}, ("late", 9, 7)),
        ("failed", {"status": "diverged", "message": "NaN"}, ("diverged", None, 4)),
        ("failed", {"status": "failed", "cause": "user_error", "message": "no"}, ("failed", None, 4)),
    ],
)
def test_a_member_that_is_through_shows_how(
    store: MemoryStore, kind: str, body: dict[str, object], expected: tuple[object, ...]
) -> None:
    create_run(store)
    member = claim_member(store, 0)
    checkpoint(member, 5, BEGAN, best_epoch=4)
    member.append(kind, **body)
    [found, *_] = status(store).members
    assert (found.status, found.epochs, found.best_epoch) == expected


def test_a_model_that_was_taken_back_is_not_trained_any_more(store: MemoryStore) -> None:
    create_run(store)
    claim_member(store, 0).append("final", epochs=9, best_epoch=7)
    claim_member(store, 0, run_id=RUN_ID).append("void", reason="its bytes are gone")
    [found, *_] = status(store).members
    assert (found.status, found.epochs) == ("started", None)


def test_everything_told_is_a_plain_value_for_json(store: MemoryStore) -> None:
    checkpoint(claim_member(store, 0), 5, BEGAN, best_epoch=4)
    create_run(store)
    beat(store, 1, NOW)
    told = asdict(status(store))
    assert json.loads(json.dumps(told, allow_nan=False))["members"][0]["checkpoint_age_s"] == 3600.0


class CountingStore(MemoryStore):
    """Remembers which keys were read."""

    def __init__(self) -> None:
        super().__init__()
        self.read: list[str] = []

    def get(self, key: str, *, max_bytes: int | None = None) -> bytes:
        self.read.append(key)
        return super().get(key, max_bytes=max_bytes)


def test_a_listing_reads_no_members_log() -> None:
    store = CountingStore()
    log = create_run(store)
    claim_member(store, 0)
    finish(store, log)
    store.read.clear()
    [found] = list_statuses(store, now=NOW)
    assert (found.status, found.num_done, found.num_members, found.members) == ("partial", 2, 3, ())
    assert store.read
    assert [key for key in store.read if key.startswith(LAYOUT.members)] == []


def test_a_damaged_run_does_not_hide_the_others(store: MemoryStore) -> None:
    other = RunLayout("digits", "other-run")
    broken = RunLayout("digits", "broken")
    create_run(store)
    create_run(store, other)
    store.put(record_key(other.coord_log, 0), b"garbage")
    store.put(broken.spec, b"[]")
    store.put("Foreign/thing/spec.json", b"{}")
    found = {run.run_key: run for run in list_statuses(store, now=NOW)}
    assert {key: run.status for key, run in found.items()} == {
        "broken": "damaged",
        LAYOUT.run_key: "unfinished",
        "other-run": "damaged",
    }
    assert record_key(other.coord_log, 0) in str(found["other-run"].message)
    with pytest.raises(DamagedStore, match=broken.spec):
        status_of(store, broken, now=NOW)


def test_a_run_is_found_by_key_path_or_id(store: MemoryStore) -> None:
    create_run(store)
    for name in (LAYOUT.run_key, LAYOUT.root, RUN_ID):
        assert find_run(store, name, "runs") == LAYOUT
    assert find_layouts(store) == [LAYOUT]
    with pytest.raises(InvalidJob, match="no such run") as caught:
        find_run(store, "nowhere", "runs")
    assert LAYOUT.run_key in str(caught.value.hint)
    twin = RunLayout("twin", "digits-run")
    create_run(store, twin)
    with pytest.raises(InvalidJob, match="several runs"):
        find_run(store, RUN_ID, "runs")
