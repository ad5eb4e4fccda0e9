"""The log's promises under arbitrary interleavings of writers and lost answers, checked against what is stored.

Each step of the model is one operation of one writer, with any other writer's operation squeezed in just before or just
after its create reaches the store, and with answers lost, refused (409) or never sent. Writers keep their stale view in
between, as frozen processes do. The negative control runs the same checks on a store without create-only writes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from typing import ClassVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from orchestrator.errors import Fenced, StoreUnavailable
from orchestrator.planning.ports import Store
from orchestrator.storage.layout import record_key
from orchestrator.storage.log import Log
from orchestrator.storage.records import Record, decode
from orchestrator.testing import FakeClock, Fault, FaultyStore, MemoryStore

PREFIX = "digits/run/coord/log"
WRITERS = 3


def stored_records(store: Store) -> list[Record]:
    """Everything in the log, read without `Log`."""
    keys = store.list(PREFIX)
    assert keys == [record_key(PREFIX, seq) for seq in range(len(keys))]
    return [decode(store.get(key), key=key, seq=seq) for seq, key in enumerate(keys)]


def check_promises(store: Store, acknowledged: dict[int, Record]) -> None:
    """R3, one owner for each slot, and nothing acknowledged is lost.

    Raises:
        AssertionError: a promise is broken.
    """
    records = stored_records(store)
    term = 0
    for record in records:
        if record.kind == "claim":
            assert record.term > term, f"slot {record.seq} claims term {record.term} after {term}"
            term = record.term
        assert record.term == term, f"slot {record.seq}: term {record.term} writes after the claim of term {term}"
    assert len({record.nonce for record in records}) == len(records)
    for seq, record in acknowledged.items():
        assert records[seq] == record, f"slot {seq} was acknowledged to {record.nonce}"


class InterleavedStore:
    """Runs a rival's operation right before or after the next create of the one who calls."""

    def __init__(self, inner: Store) -> None:
        self._inner = inner
        self.before: Callable[[], None] | None = None
        self.after: Callable[[], None] | None = None

    def create(self, key: str, body: bytes) -> bool:
        before, self.before = self.before, None
        if before:
            before()
        created = self._inner.create(key, body)
        after, self.after = self.after, None
        if after:
            after()
        return created

    def __getattr__(self, name: str) -> object:
        return getattr(self._inner, name)


class Writers(RuleBasedStateMachine):
    """Writers that claim, append, refresh and start anew, in any order, on a store that loses answers."""

    happened: ClassVar[Counter[str]] = Counter()
    """What the model met in all its runs: a model that meets no fault proves nothing."""

    @initialize()
    def start(self) -> None:
        self.memory = MemoryStore()
        self.faulty = FaultyStore(self.memory)
        self.store = InterleavedStore(self.faulty)
        self.acknowledged: dict[int, Record] = {}
        self.logs = [self.open() for _ in range(WRITERS)]
        self.has_claimed = [False] * WRITERS

    def open(self) -> Log:
        clock = FakeClock()
        return Log.open(
            self.store,  # type: ignore[arg-type]  # it forwards the rest of the port
            PREFIX,
            deadline_s=5.0,
            sleep=clock.sleep,
            monotonic=clock.monotonic,
        )

    def claim(self, writer: int) -> None:
        log = self.logs[writer]
        try:
            log.claim(writer=writer)
        except StoreUnavailable:
            self.happened["unknown"] += 1
            return
        self.has_claimed[writer] = True
        self.acknowledge(log.last)

    def append(self, writer: int) -> None:
        if not self.has_claimed[writer]:
            return
        try:
            self.acknowledge(self.logs[writer].append("checkpoint", writer=writer))
        except StoreUnavailable:
            self.happened["unknown"] += 1
        except Fenced:
            self.happened["fenced"] += 1

    def acknowledge(self, record: Record | None) -> None:
        assert record is not None
        assert record.seq not in self.acknowledged, f"slot {record.seq} was acknowledged twice"
        self.acknowledged[record.seq] = record
        self.happened["acknowledged"] += 1

    writers = st.integers(0, WRITERS - 1)
    operations = st.sampled_from(["claim", "append"])

    @rule(writer=writers, operation=operations)
    def act(self, writer: int, operation: str) -> None:
        getattr(self, operation)(writer)

    @rule(
        writer=writers,
        operation=operations,
        rival=writers,
        rivals=operations,
        moment=st.sampled_from(["before", "after"]),
    )
    def act_with_a_rival_in_between(self, writer: int, operation: str, rival: int, rivals: str, moment: str) -> None:
        if rival != writer:
            setattr(self.store, moment, lambda: self.act_as_rival(rival, rivals))
        getattr(self, operation)(writer)
        self.store.before = self.store.after = None

    def act_as_rival(self, rival: int, operation: str) -> None:
        self.happened["rival"] += 1
        getattr(self, operation)(rival)

    @rule(writer=writers)
    def restart(self, writer: int) -> None:
        with suppress(StoreUnavailable):
            self.logs[writer] = self.open()
            self.has_claimed[writer] = False

    @rule(writer=writers)
    def refresh(self, writer: int) -> None:
        with suppress(StoreUnavailable):
            self.logs[writer].refresh()

    @rule(
        effect=st.sampled_from(["before", "after"]),
        method=st.sampled_from(["create", "create", "get"]),
        times=st.integers(1, 12),
    )
    def lose_answers(self, effect: str, method: str, times: int) -> None:
        self.faulty.inject(Fault(method, effect, times=times))  # type: ignore[arg-type]

    @rule()
    def heal(self) -> None:
        self.faulty.heal()

    def teardown(self) -> None:
        self.happened["fault"] += self.faulty.fired.total()

    @invariant()
    def promises_hold(self) -> None:
        check_promises(self.memory, self.acknowledged)

    @invariant()
    def every_reader_agrees(self) -> None:
        clock = FakeClock()
        reader = Log.open(self.memory, PREFIX, sleep=clock.sleep, monotonic=clock.monotonic)
        assert reader.records() == stored_records(self.memory)


def test_the_promises_hold_under_any_interleaving_of_writers_and_lost_answers() -> None:
    Writers.happened.clear()
    run_state_machine_as_test(
        Writers,
        settings=settings(
            max_examples=200, stateful_step_count=30, deadline=None, suppress_health_check=[HealthCheck.too_slow]
        ),
    )
    missing = {"fault", "fenced", "unknown", "acknowledged", "rival"} - set(Writers.happened)
    assert not missing, f"the model never met: {missing}"


def test_negative_control_without_create_only_writes_a_frozen_writer_breaks_the_promise() -> None:
    """The same scenario, so that a check which could never fail would be noticed."""

    class OverwritingStore(MemoryStore):
        def create(self, key: str, body: bytes) -> bool:
            self.put(key, body)
            return True

    def frozen_writer_wakes_after_its_successor(store: Store) -> dict[int, Record]:
        old, new = Log.open(store, PREFIX), Log.open(store, PREFIX)
        old.claim()
        new.claim()
        done = new.append("done", by="the successor")
        with suppress(Fenced):
            old.append("selection", by="the frozen writer")
        return {done.seq: done}

    sound, broken = MemoryStore(), OverwritingStore()
    check_promises(sound, frozen_writer_wakes_after_its_successor(sound))
    with pytest.raises(AssertionError):
        check_promises(broken, frozen_writer_wakes_after_its_successor(broken))
