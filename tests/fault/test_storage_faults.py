"""Faults between the product and a real S3 server: every call ends in time, and nothing is recorded twice or torn."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from orchestrator.errors import DamagedStore, Fenced, StoreUnavailable
from orchestrator.planning.ports import Store
from orchestrator.storage.blobs import get_blob, get_blob_file, put_blob, put_blob_file
from orchestrator.storage.layout import RunLayout
from orchestrator.storage.log import Log
from orchestrator.storage.probe import probe
from orchestrator.storage.retry import Patience
from orchestrator.storage.s3 import S3Store
from orchestrator.testing import FakeClock
from tests.support.fault_proxy import FaultProxy
from tests.support.fault_rules import (
    Corrupt,
    CorruptUpload,
    Effect,
    Hang,
    LostResponse,
    Reset,
    ResetAfter,
    Rule,
    Status,
    Throttle,
    Truncate,
)

Connect = Callable[..., S3Store]

LAYOUT = RunLayout("digits", "digits-0123456789ab")
LOG = LAYOUT.member_log(0)
RECORD = r"/log/\d{8}"
CONFLICT = Status(409, "ConditionalRequestConflict")
SHORT = Patience(deadline_s=1.0)
CALLS: dict[str, Callable[[Store], object]] = {
    "create": lambda store: store.create("k", b"v"),
    "put": lambda store: store.put("k", b"v"),
    "get": lambda store: store.get("k"),
    "list": lambda store: store.list("folder"),
    "delete": lambda store: store.delete("k"),
}


def kinds(store: Store) -> list[tuple[str, int]]:
    """The log, as a reader without the proxy finds it."""
    return [(record.kind, record.term) for record in Log.open(store, LOG).records()]


@pytest.mark.parametrize("effect", [Status(503, "SlowDown"), CONFLICT, Reset(), CorruptUpload()], ids=str)
def test_a_write_that_passing_trouble_refused_is_recorded_once(
    fault_proxy: FaultProxy, connect: Connect, direct: S3Store, effect: Effect
) -> None:
    """Faults 26, 27: an answer that says nothing about the slot is settled by reading it."""
    log = Log.open(connect(), LOG)
    fault_proxy.set_rules(Rule(effect, "PUT", "/log/", times=3))

    log.claim()
    log.append("checkpoint", epoch=1)

    assert kinds(direct) == [("claim", 1), ("checkpoint", 1)]
    assert fault_proxy.seen("GET", "/log/00000000"), "the slot itself was not asked"


@pytest.mark.parametrize("times", [1, 2], ids=["repeated by the client's library", "seen by us"])
def test_a_create_whose_response_is_lost_is_known_by_its_nonce(
    fault_proxy: FaultProxy, connect: Connect, direct: S3Store, times: int
) -> None:
    """Fault 28: no second claim is made for the first one's success."""
    log = Log.open(connect(), LOG)
    fault_proxy.set_rules(Rule(LostResponse(), "PUT", "/log/", times=times))

    assert log.claim() == 1

    assert kinds(direct) == [("claim", 1)]
    assert fault_proxy.seen("PUT", "/log/00000001") == []


@pytest.mark.parametrize("effect", [LostResponse(), CONFLICT, Status(503), Reset()], ids=str)
def test_the_probe_survives_passing_trouble(
    fault_proxy: FaultProxy, connect: Connect, direct: S3Store, effect: Effect
) -> None:
    store = connect()
    fault_proxy.set_rules(Rule(effect, "PUT", times=1))
    probe(store, LAYOUT.probe)
    assert direct.list(LAYOUT.probe) == []


def test_a_storm_that_does_not_pass_is_unavailable_and_the_same_writer_goes_on_after_it(
    fault_proxy: FaultProxy, connect: Connect, direct: S3Store
) -> None:
    """Fault 26: exit 75 in the end, and training need not lose its log or its upload for it."""
    store = connect(timeout_s=0.5)
    log = Log.open(store, LOG, deadline_s=1.0)
    log.claim()
    fault_proxy.set_rules(Rule(Status(503, "SlowDown")))

    with pytest.raises(StoreUnavailable) as unavailable:
        log.append("checkpoint", epoch=1)
    with pytest.raises(StoreUnavailable):
        put_blob(store, LAYOUT, b"weights", patience=SHORT)
    assert unavailable.value.exit_code == 75

    fault_proxy.set_rules()
    log.append("checkpoint", epoch=2)
    ref = put_blob(store, LAYOUT, b"weights", patience=SHORT)
    assert kinds(direct) == [("claim", 1), ("checkpoint", 1)]
    assert get_blob(direct, ref) == b"weights"


def test_writers_in_a_storm_come_back_at_different_times_and_not_for_ever(
    fault_proxy: FaultProxy, connect: Connect
) -> None:
    """Pauses have jitter, grow, and end at the deadline."""
    store = connect()
    fault_proxy.set_rules(Rule(Status(503, "SlowDown"), "PUT"))
    pauses: list[list[float]] = []
    for member in range(2):
        clock = FakeClock()
        mine: list[float] = []

        def sleep(seconds: float, clock: FakeClock = clock, mine: list[float] = mine) -> None:
            mine.append(seconds)
            clock.sleep(seconds)

        log = Log.open(store, LAYOUT.member_log(member), deadline_s=20.0, sleep=sleep, monotonic=clock.monotonic)
        with pytest.raises(StoreUnavailable, match="unknown"):
            log.claim()
        pauses.append(mine)

    assert pauses[0] != pauses[1]
    for mine in pauses:
        assert 5 < len(mine) < 25
        assert max(mine[:2]) < min(mine[4:])
        assert sum(mine) <= 20.0
    assert len(fault_proxy.seen("PUT", "/log/")) == sum(map(len, pauses)) + 2


@pytest.mark.parametrize("call", CALLS)
def test_a_server_that_sends_no_bytes_is_left_after_the_deadline(
    fault_proxy: FaultProxy, connect: Connect, call: str
) -> None:
    """Fault 30: without a deadline of our own this test would never end."""
    store = connect(timeout_s=0.5)
    fault_proxy.set_rules(Rule(Hang()))
    with pytest.raises(StoreUnavailable, match="out of reach"):
        CALLS[call](store)


def test_a_write_that_arrives_after_a_successors_claim_changes_nothing(
    fault_proxy: FaultProxy, connect: Connect, direct: S3Store
) -> None:
    """Fault 30: the bytes of a call that was given up may still reach the server."""
    log = Log.open(connect(timeout_s=0.5), LOG, deadline_s=0.5)
    log.claim()
    fault_proxy.set_rules(Rule(Hang(), "PUT", times=1))
    with pytest.raises(StoreUnavailable):
        log.append("final", of="the first")
    Log.open(direct, LOG).claim()

    fault_proxy.release()

    with pytest.raises(Fenced):
        log.append("final", of="the first")
    assert kinds(direct) == [("claim", 1), ("claim", 2)]


def test_a_late_write_of_ones_own_is_known_again(fault_proxy: FaultProxy, connect: Connect, direct: S3Store) -> None:
    log = Log.open(connect(timeout_s=0.5), LOG, deadline_s=0.5)
    log.claim()
    fault_proxy.set_rules(Rule(Hang(), "PUT", times=1))
    with pytest.raises(StoreUnavailable):
        log.append("checkpoint", epoch=1)

    fault_proxy.release()

    log.append("checkpoint", epoch=2)
    assert kinds(direct) == [("claim", 1), ("checkpoint", 1), ("checkpoint", 1)]


@pytest.mark.parametrize("call", CALLS)
def test_every_call_survives_a_reset_or_says_that_its_outcome_is_unknown(
    fault_proxy: FaultProxy, connect: Connect, direct: S3Store, call: str
) -> None:
    store = connect()
    if call != "create":
        direct.put("k", b"v")
    fault_proxy.set_rules(Rule(Reset(), times=1))  # one alone is repeated even by aiohttp: a create as well
    CALLS[call](store)


@pytest.mark.parametrize("effect", [ResetAfter(2**19), Throttle(2**18), Status(404, "NoSuchUpload")], ids=str)
def test_an_upload_that_fails_is_tried_again_under_a_fresh_key_and_is_never_half_visible(
    fault_proxy: FaultProxy, connect: Connect, direct: S3Store, tmp_path: Path, effect: Effect
) -> None:
    """Faults 5, 29: whatever becomes of the first key, no record can have named it."""
    source, target = tmp_path / "weights", tmp_path / "back"
    source.write_bytes(bytes(range(256)) * 2**12)  # 1 MiB
    names = iter(["first", "second"])
    fault_proxy.set_rules(Rule(effect, "PUT", "-first"))

    ref = put_blob_file(connect(timeout_s=0.5), LAYOUT, str(source), nonce=lambda: next(names))

    assert ref.key.endswith("-second")
    assert direct.list(LAYOUT.root) == [ref.key]
    get_blob_file(direct, ref, str(target))
    assert target.read_bytes() == source.read_bytes()


def test_an_upload_in_parts_survives_a_reset_in_a_part_and_a_lost_answer_to_its_completion(
    fault_proxy: FaultProxy, connect: Connect, direct: S3Store, tmp_path: Path
) -> None:
    source = tmp_path / "weights"
    source.write_bytes(bytes(range(256)) * (33 * 2**12))  # 33 MiB: three parts
    fault_proxy.set_rules(
        Rule(ResetAfter(2**20), "PUT", "partNumber=2", times=1), Rule(LostResponse(), "POST", "uploadId=", times=1)
    )
    ref = put_blob_file(connect(timeout_s=20.0), LAYOUT, str(source))
    assert get_blob(direct, ref) == source.read_bytes()


def test_an_upload_that_changes_on_its_way_is_refused_by_the_server_and_sent_again(
    fault_proxy: FaultProxy, connect: Connect, direct: S3Store
) -> None:
    store = connect()
    fault_proxy.set_rules(Rule(CorruptUpload(), "PUT", times=2))
    ref = put_blob(store, LAYOUT, b"weights" * 1000)
    assert get_blob(direct, ref) == b"weights" * 1000
    assert direct.list(LAYOUT.root) == [ref.key]


@pytest.mark.parametrize("effect", [Truncate(), Truncate(announced=False), Corrupt()], ids=str)
def test_bytes_that_change_on_their_way_are_read_again_three_times(
    fault_proxy: FaultProxy, connect: Connect, direct: S3Store, tmp_path: Path, effect: Effect
) -> None:
    """Faults 22, 23 in transit, for blobs in memory, blobs as files, and records."""
    ref = put_blob(direct, LAYOUT, b"weights" * 1000)
    Log.open(direct, LOG).claim()
    store, target = connect(), tmp_path / "back"
    rules = [Rule(effect, "GET", "/blobs/", times=3), Rule(effect, "GET", RECORD, times=3)]
    fault_proxy.set_rules(*rules)

    assert get_blob(store, ref) == b"weights" * 1000
    assert len(Log.open(store, LOG).records()) == 1
    fault_proxy.set_rules(rules[0])
    get_blob_file(store, ref, str(target))
    assert target.read_bytes() == b"weights" * 1000


@pytest.mark.parametrize("effect", [Truncate(), Corrupt()], ids=str)
def test_bytes_that_stay_wrong_are_damage_with_the_key_named(
    fault_proxy: FaultProxy, connect: Connect, direct: S3Store, tmp_path: Path, effect: Effect
) -> None:
    ref = put_blob(direct, LAYOUT, b"weights" * 1000)
    Log.open(direct, LOG).claim()
    store = connect()
    fault_proxy.set_rules(Rule(effect, "GET", "/blobs/"), Rule(effect, "GET", RECORD))

    for read in (
        lambda: get_blob(store, ref),
        lambda: get_blob_file(store, ref, str(tmp_path / "back")),
        lambda: Log.open(store, LOG),
    ):
        with pytest.raises(DamagedStore) as damage:
            read()
        assert damage.value.where
        assert damage.value.where.endswith((ref.key, f"{LOG}/00000000.json"))
    assert list(tmp_path.iterdir()) == []


def test_a_connection_that_always_breaks_off_is_out_of_reach_and_not_damage(
    fault_proxy: FaultProxy, connect: Connect, direct: S3Store
) -> None:
    ref = put_blob(direct, LAYOUT, b"weights" * 1000)
    store = connect(timeout_s=1.0)
    fault_proxy.set_rules(Rule(Truncate(announced=False), "GET", "/blobs/"))
    with pytest.raises(StoreUnavailable):
        get_blob(store, ref, patience=SHORT)


@pytest.mark.parametrize("effect", [Truncate(), Truncate(announced=False)], ids=str)
def test_a_listing_that_is_cut_short_is_asked_for_again(
    fault_proxy: FaultProxy, connect: Connect, direct: S3Store, effect: Effect
) -> None:
    direct.put("folder/a", b"")
    store = connect()
    fault_proxy.set_rules(Rule(effect, "GET", "list-type", times=1))
    assert store.list("folder") == ["folder/a"]


def test_under_a_mixture_of_faults_each_read_gives_the_right_bytes_or_an_error(
    fault_proxy: FaultProxy, connect: Connect, direct: S3Store
) -> None:
    """Fault 23 as the table has it: a bit flips in three reads of ten; beside it resets, and answers that get lost."""
    refs = [put_blob(direct, LAYOUT, b"%d" % number * 1000) for number in range(20)]
    store = connect()
    log = Log.open(store, LOG)
    fault_proxy.set_rules(
        Rule(Corrupt(), "GET", "/blobs/", probability=0.3),
        Rule(LostResponse(), "PUT", "/log/", probability=0.3),
        Rule(Reset(), "GET", probability=0.1),
    )
    log.claim()
    right = 0
    for number, ref in enumerate(refs):
        try:
            right += get_blob(store, ref) == b"%d" % number * 1000
        except DamagedStore:
            log.append("ended", cause="damaged", member=number)
        else:
            log.append("ended", cause="read", member=number)
    causes = [record.body["cause"] for record in Log.open(direct, LOG).records()[1:]]
    assert len(causes) == len(refs)
    assert causes.count("read") == right
    assert right > len(refs) / 2


def test_reads_refuse_an_object_larger_than_recorded_before_its_body(
    fault_proxy: FaultProxy, connect: Connect, direct: S3Store, tmp_path: Path
) -> None:
    """Fault 39: the body of the object goes at a trickle here, so reading it would end in a missed deadline."""
    ref = put_blob(direct, LAYOUT, b"weights")
    direct.put(ref.key, bytes(2**20))
    store = connect(timeout_s=3.0)
    fault_proxy.set_rules(Rule(Throttle(2**12), "GET", "/blobs/"))
    with pytest.raises(DamagedStore, match="at most 7"):
        get_blob(store, ref, patience=SHORT)
    with pytest.raises(DamagedStore, match="at most 7"):
        get_blob_file(store, ref, str(tmp_path / "back"), patience=SHORT)
    assert list(tmp_path.iterdir()) == []
