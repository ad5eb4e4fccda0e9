"""What `status` and `list` tell is what the logs say, whoever wrote them and whatever the clocks show."""

from __future__ import annotations

import json
from dataclasses import asdict

import pytest
from run_examples import BEGAN, LAYOUT, RUN_ID, beat, checkpoint, claim_member, create_run, finish

from orchestrator.errors import AccessDenied, DamagedStore, InvalidJob, OrchestratorError, StoreUnavailable
from orchestrator.planning.ports import Store
from orchestrator.reporting.run_status import RunStatus
from orchestrator.reporting.status import find_layouts, find_run, list_statuses, status_of
from orchestrator.storage.layout import RunLayout, record_key, run_key
from orchestrator.testing import Fault, FaultyStore, MemoryStore

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


def test_members_beyond_enough_are_not_waited_for_whatever_they_have_begun(store: MemoryStore) -> None:
    log = create_run(store, members=5)
    claim_member(store, 0)
    checkpoint(claim_member(store, 2), 3, BEGAN, 3)
    claim_member(store, 3).append("failed", status="diverged", message="NaN")
    log.append("enough", num_members=2, scores=[0.5, 0.5], reason="as the test says", at=BEGAN)
    told = [member.status for member in status(store).members]
    assert told == ["started", "not_started", "stopped", "diverged", "not_started"]


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


def test_publishing_at_the_deadline_is_no_attempt_and_begins_no_training(store: MemoryStore) -> None:
    create_run(store)
    claim_member(store, 0)
    for index in (0, 1):
        claim_member(store, index, worker="w0", purpose="publish")
    told = [(member.status, member.attempts) for member in status(store).members]
    assert told == [("started", 1), ("not_started", 0), ("not_started", 0)]


def test_in_a_run_that_was_stopped_nobody_trains_and_in_its_next_start_somebody_does(store: MemoryStore) -> None:
    log = create_run(store)
    claim_member(store, 0)
    claim_member(store, 1).append("final", epochs=9, best_epoch=7)
    log.append("stopped", exit_code=143, message="SIGTERM")
    assert [member.status for member in status(store).members] == ["stopped", "trained", "not_started"]
    log.claim(run_id=RUN_ID)
    assert [member.status for member in status(store).members] == ["started", "trained", "not_started"]


def test_once_the_ensemble_is_fixed_members_have_the_statuses_of_the_result(store: MemoryStore) -> None:
    log = create_run(store)
    claim_member(store, 0).append("final", epochs=9, best_epoch=7, late=False)
    claim_member(store, 2)
    finish(store, log)
    told = [(member.status, member.attempts) for member in status(store).members]
    assert told == [("succeeded", 1), ("late", 0), ("diverged", 1)]


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


def test_a_run_whose_result_is_gone_is_damaged_and_does_not_hide_the_others(store: MemoryStore) -> None:
    other = RunLayout("digits", "other-run")
    log = create_run(store, other)
    finish(store, log, other)
    assert log.last is not None
    gone = log.last.body["result"]["key"]
    store.delete(gone)
    create_run(store)
    here, damaged = list_statuses(store, now=NOW)
    assert (here.run_key, here.status) == (LAYOUT.run_key, "unfinished")
    assert (damaged.run_key, damaged.status) == ("other-run", "damaged")
    assert gone in str(damaged.message)
    with pytest.raises(DamagedStore, match="is gone"):
        status_of(store, other, now=NOW)


def test_records_of_another_version_are_named_and_do_not_hide_the_others(store: MemoryStore) -> None:
    other = RunLayout("digits", "other-run")
    create_run(store, other).append("ended", member=0, cause="eclipse", message="")
    create_run(store)
    here, damaged = list_statuses(store, now=NOW)
    assert (here.status, damaged.status) == ("unfinished", "damaged")
    assert "eclipse" in str(damaged.message)


class Vanishing(MemoryStore):
    """Lists a spec that somebody deletes before it is read."""

    def list(self, prefix: str) -> list[str]:
        return sorted([*super().list(prefix), *([] if prefix else ["digits/vanished/spec.json"])])


def test_a_run_that_is_deleted_meanwhile_does_not_hide_the_others() -> None:
    store = Vanishing()
    create_run(store)
    here, vanished = list_statuses(store, now=NOW)
    assert (here.status, vanished.status) == ("unfinished", "damaged")
    assert "no spec.json" in str(vanished.message)


@pytest.mark.parametrize("error", [AccessDenied, StoreUnavailable])
def test_what_is_wrong_with_the_whole_store_is_no_damage_of_a_run(
    store: MemoryStore, error: type[OrchestratorError]
) -> None:
    create_run(store)
    faulty = FaultyStore(store, [Fault("get", "before", key="spec.json", error=error, times=2)])
    for look in (lambda: list_statuses(faulty, now=NOW), lambda: find_run(faulty, "nowhere", "runs")):
        with pytest.raises(error):
            look()
    assert faulty.fired.total() == 2


@pytest.mark.parametrize("run_id", ["scheduled__2026-11-21T00:00:00+00:00", "nightly", "…"])
def test_a_run_is_found_by_its_id_without_reading_any_spec(run_id: str) -> None:
    store = CountingStore()
    mine = RunLayout("digits", run_key("digits", run_id))
    create_run(store, mine)
    store.put("digits/broken/spec.json", b"[]")
    store.read.clear()
    assert find_run(store, run_id, "runs") == mine
    assert store.read == []


def test_damaged_specs_are_passed_over_in_a_search_and_named_when_nothing_is_found(store: MemoryStore) -> None:
    store.put("digits/broken/spec.json", b"[]")
    create_run(store)  # its key is not made of its id
    assert find_run(store, RUN_ID, "runs") == LAYOUT
    with pytest.raises(InvalidJob, match="no such run") as caught:
        find_run(store, "nowhere", "runs")
    assert "spec.json of digits/broken cannot be read" in str(caught.value.hint)


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


def test_with_folds_each_configuration_has_a_member_for_each_of_them(store: MemoryStore) -> None:
    create_run(store, members=2)
    spec = json.loads(store.get(LAYOUT.spec))
    spec["job"]["members"]["folds"] = {"count": 3, "repeats": 2}
    store.put(LAYOUT.spec, json.dumps(spec).encode())

    assert status(store).num_members == len(status(store).members) == 12
