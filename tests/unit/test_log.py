"""The append-only log: order, fencing, lost answers, damage."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from orchestrator.errors import AccessDenied, DamagedStore, Fenced, StoreUnavailable
from orchestrator.planning.ports import Store
from orchestrator.storage.layout import record_key
from orchestrator.storage.log import Log
from orchestrator.storage.records import Record, encode
from orchestrator.testing import FakeClock, Fault, FaultyStore, MemoryStore

PREFIX = "digits/run/members/0/log"


def open_log(store: Store, clock: FakeClock | None = None) -> Log:
    clock = clock or FakeClock()
    return Log.open(store, PREFIX, sleep=clock.sleep, monotonic=clock.monotonic)


def written(store: Store, *records: Record) -> Store:
    for record in records:
        store.put(record_key(PREFIX, record.seq), encode(record))
    return store


def claims(number: int) -> list[Record]:
    return [Record(seq, "claim", seq + 1, f"n{seq}") for seq in range(number)]


class CountingStore(MemoryStore):
    """Counts reads, and may list only the first keys, as a stale listing does."""

    def __init__(self, listed: int | None = None) -> None:
        super().__init__()
        self.gets = 0
        self.listed = listed

    def get(self, key: str, *, max_bytes: int | None = None) -> bytes:
        self.gets += 1
        return super().get(key, max_bytes=max_bytes)

    def list(self, prefix: str) -> list[str]:
        return super().list(prefix)[: self.listed]


class RivalStore(MemoryStore):
    """Lets somebody else act just before, or just after, a writer's next create reaches the store."""

    def __init__(self) -> None:
        super().__init__()
        self.before: list[Callable[[], object]] = []
        self.after: list[Callable[[], object]] = []

    def create(self, key: str, body: bytes) -> bool:
        if self.before:
            self.before.pop(0)()
        created = super().create(key, body)
        if self.after:
            self.after.pop(0)()
        return created


def test_an_empty_log_has_no_term() -> None:
    log = open_log(MemoryStore())
    assert (log.records(), log.last, log.term) == ([], None, 0)


def test_each_claim_takes_the_next_term() -> None:
    store = MemoryStore()
    assert [open_log(store).claim() for _ in range(3)] == [1, 2, 3]


def test_a_record_carries_the_term_and_what_was_said() -> None:
    store = MemoryStore()
    log = open_log(store)
    log.claim(coord_term=4)
    record = log.append("final", best={"epoch": 3}, sizes=(1, 2), kind="a body may say this too")
    assert record == log.last == open_log(store).last
    assert (record.seq, record.term) == (1, 1)
    assert record.body == {"best": {"epoch": 3}, "sizes": [1, 2], "kind": "a body may say this too"}


def test_a_reader_sees_new_records_after_refresh() -> None:
    store = MemoryStore()
    writer, reader = open_log(store), open_log(store)
    writer.claim()
    writer.append("opened")
    assert reader.records() == []
    assert [r.kind for r in reader.refresh()] == ["claim", "opened"]
    assert reader.refresh() == []
    assert reader.records() == writer.records()


def test_a_superseded_writer_is_fenced_and_writes_nothing_ever_again() -> None:
    store = MemoryStore()
    old, new = open_log(store), open_log(store)
    old.claim()
    new.claim()
    for _ in range(3):  # not only the first time: its view of the log goes on, its term does not
        with pytest.raises(Fenced):
            old.append("checkpoint", epoch=9)
    new.append("final")
    with pytest.raises(Fenced):
        old.append("final")
    assert [(r.kind, r.term) for r in open_log(store).records()] == [("claim", 1), ("claim", 2), ("final", 2)]


def test_a_writer_that_read_its_successors_claim_is_fenced_before_it_writes() -> None:
    store = CountingStore()
    old = open_log(store)
    old.claim()
    open_log(store).claim()
    old.refresh()
    with pytest.raises(Fenced):
        old.append("final")
    assert len(store.list(PREFIX)) == 2


def test_a_claim_outrun_at_the_last_moment_reads_on_and_takes_a_higher_term() -> None:
    store = RivalStore()
    log, rival = open_log(store), open_log(store)
    store.before.append(lambda: rival.claim())
    assert log.claim() == 2
    with pytest.raises(Fenced):
        rival.append("opened")


def test_an_append_outrun_at_the_last_moment_is_fenced() -> None:
    store = RivalStore()
    log, rival = open_log(store), open_log(store)
    log.claim()
    store.before.append(lambda: rival.claim())
    with pytest.raises(Fenced):
        log.append("done")
    assert open_log(store).last == rival.last


@pytest.mark.parametrize("effect", ["before", "after"])
def test_an_unknown_outcome_is_settled_by_reading_back_without_a_second_record(effect: str) -> None:
    rule = Fault("create", effect, times=1)  # type: ignore[arg-type]
    store = FaultyStore(MemoryStore(), [rule])
    log = open_log(store)
    assert log.claim() == 1
    store.inject(Fault("create", effect, key="0001"))  # type: ignore[arg-type]
    log.append("opened")
    assert store.fired[rule] == 1
    assert [r.kind for r in open_log(store).records()] == ["claim", "opened"]


def test_a_refusal_of_ones_own_write_is_recognised() -> None:
    """The answer was lost on the way and something repeated the write: the store refuses what it has from us."""

    class RepeatingStore(MemoryStore):
        def create(self, key: str, body: bytes) -> bool:
            super().create(key, body)
            return super().create(key, body)

    store = RepeatingStore()
    log = open_log(store)
    assert log.claim() == 1
    log.append("opened")
    assert [r.kind for r in open_log(store).records()] == ["claim", "opened"]


def test_a_claim_of_a_log_that_was_seen_to_change_is_not_made() -> None:
    store = MemoryStore()
    first, second = open_log(store), open_log(store)
    assert first.claim_if_unchanged(run_id="a") == 1
    assert second.claim_if_unchanged(run_id="b") is None
    assert [record.body for record in second.records()] == [{"run_id": "a"}], "it knows now who was first"
    with pytest.raises(RuntimeError, match="claim the log"):
        second.append("opened")
    assert second.claim_if_unchanged(run_id="b") == 2, "and may decide again on what it sees now"


def test_a_store_that_stays_away_ends_in_store_unavailable_at_the_deadline() -> None:
    clock = FakeClock()
    store = FaultyStore(MemoryStore())
    log = open_log(store, clock)
    log.claim()
    store.inject(Fault("create", "before", times=None))
    with pytest.raises(StoreUnavailable):
        log.append("opened")
    assert 100 < clock.monotonic() <= 120


def test_a_storm_shorter_than_the_deadline_is_survived_by_every_operation() -> None:
    storm = [Fault(method, "before", times=5) for method in ("list", "get", "create")]
    store = FaultyStore(MemoryStore(), storm)
    log = open_log(store)
    log.claim()
    log.append("opened")
    assert [store.fired[rule] for rule in storm] == [5, 5, 5]
    assert len(open_log(store).records()) == 2


def test_a_late_write_of_ones_own_is_accepted_and_not_taken_for_another_writer() -> None:
    inner = MemoryStore()
    store = FaultyStore(inner)
    log = open_log(store)
    log.claim()
    late: list[tuple[str, bytes]] = []

    class Keep(MemoryStore):
        def create(self, key: str, body: bytes) -> bool:
            late.append((key, body))
            raise StoreUnavailable("on its way")

    log._store = Keep()
    with pytest.raises(StoreUnavailable):
        log.append("opened", first=True)
    log._store = store
    inner.create(*late[0])

    log.append("opened", first=False)

    assert [r.body.get("first") for r in open_log(store).records()] == [None, True, False]


def test_wrong_credentials_are_not_retried() -> None:
    clock = FakeClock()
    log = open_log(FaultyStore(MemoryStore(), [Fault("create", "before", error=AccessDenied)]), clock)
    with pytest.raises(AccessDenied):
        log.claim()
    assert clock.monotonic() == 0


def test_a_worker_of_a_superseded_coordinator_may_not_claim() -> None:
    store = MemoryStore()
    open_log(store).claim(coord_term=2)
    with pytest.raises(Fenced, match="coordinator term 1"):
        open_log(store).claim(coord_term=1)
    assert open_log(store).claim(coord_term=2) == 2
    assert open_log(store).claim(coord_term=3) == 3


def test_appending_without_a_claim_or_claiming_by_append_is_a_mistake() -> None:
    log = open_log(MemoryStore())
    with pytest.raises(RuntimeError, match="claim"):
        log.append("opened")
    log.claim()
    with pytest.raises(ValueError, match="claim"):
        log.append("claim")
    with pytest.raises(ValueError, match="rumour"):
        log.append("rumour")


def test_opening_reads_the_end_of_a_long_log_and_not_all_of_it() -> None:
    store = CountingStore()
    written(store, *claims(200))
    log = open_log(store)
    assert log.term == 200
    assert store.gets == 2  # the last record, and that there is none after it
    assert len(log.records()) == 200


@pytest.mark.parametrize("total", [1, 2, 3, 7, 40, 41])
@pytest.mark.parametrize("listed", [0, 1, 5])
def test_a_stale_listing_does_not_hide_the_end(total: int, listed: int) -> None:
    store = CountingStore(listed)
    written(store, *claims(total))
    assert open_log(store).claim() == total + 1
    assert [r.term for r in open_log(store).records()] == list(range(1, total + 2))


def test_a_listing_that_misses_a_record_in_the_middle_is_not_taken_for_damage() -> None:
    class Patchy(MemoryStore):
        def list(self, prefix: str) -> list[str]:
            return super().list(prefix)[::2]

    store = Patchy()
    written(store, *claims(5))
    assert open_log(store).term == 5


def test_a_gap_is_refused_and_the_missing_key_named() -> None:
    store = MemoryStore()
    written(store, *claims(5))
    store.delete(record_key(PREFIX, 2))
    with pytest.raises(DamagedStore) as damage:
        open_log(store)
    assert damage.value.where == record_key(PREFIX, 2)


def test_a_foreign_object_is_refused_and_named() -> None:
    store = MemoryStore()
    written(store, *claims(2))
    store.put(f"{PREFIX}/notes.txt", b"")
    with pytest.raises(DamagedStore) as damage:
        open_log(store)
    assert damage.value.where == f"{PREFIX}/notes.txt"


@pytest.mark.parametrize("seq", [0, 1, 2])
def test_garbage_is_refused_and_named(seq: int) -> None:
    store = MemoryStore()
    written(store, *claims(3))
    store.put(record_key(PREFIX, seq), b"garbage")
    with pytest.raises(DamagedStore) as damage:
        open_log(store).records()
    assert damage.value.where == record_key(PREFIX, seq)


def test_garbage_in_transit_is_read_again() -> None:
    rule = Fault("get", "corrupt", times=3)
    store = FaultyStore(MemoryStore(), [rule])
    written(store, *claims(1))
    assert open_log(store).term == 1
    assert store.fired[rule] == 3


@pytest.mark.parametrize(
    "second",
    [
        Record(1, "claim", 5, "n1"),
        Record(1, "claim", 4, "n1"),
        Record(1, "final", 4, "n1"),
        Record(1, "final", 6, "n1"),
    ],
    ids=["claim of the same term", "claim of a lower term", "lower term", "higher term without a claim"],
)
def test_terms_that_contradict_their_order_are_damage(second: Record) -> None:
    store = written(MemoryStore(), Record(0, "claim", 5, "n0"), second)
    with pytest.raises(DamagedStore):
        open_log(store).records()


@pytest.mark.parametrize("term", [1, 2], ids=["lower term", "same term"])
def test_a_stranger_in_my_slot_without_a_higher_term_is_damage(term: int) -> None:
    store = MemoryStore()
    open_log(store).claim()
    log = open_log(store)
    assert log.claim() == 2
    written(store, Record(2, "final", term, "stranger"))
    with pytest.raises(DamagedStore):
        log.append("final")
