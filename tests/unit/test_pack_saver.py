"""The saver of a pack: one blob for all that train, the newest epoch that all have, and ends beside the training."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from orchestrator.errors import Fenced, StoreUnavailable
from orchestrator.planning import events as ev
from orchestrator.planning.recovery import read_member
from orchestrator.spec import FaultsSpec
from orchestrator.storage.layout import RunLayout
from orchestrator.storage.log import Log
from orchestrator.testing import Fault, FaultyStore, MemoryStore
from orchestrator.training.attempt import AttemptFiles
from orchestrator.training.checkpoint import Best, Snapshot
from orchestrator.training.recover import Recovered, newest_checkpoint
from orchestrator.training.saver import Attempt, Saver

LAYOUT = RunLayout("tiny", "tiny-0123456789ab")
VERSIONS = {"keras": "3.15.1"}
ON_DEMAND = FaultsSpec(checkpoint_every_epochs=10**6)
DEADLINE_S = 60.0
MEMBERS = (3, 5, 8)


class Events:
    """Takes events, and waits for them."""

    def __init__(self) -> None:
        self._news = threading.Condition()
        self.seen: list[ev.Event] = []

    def __call__(self, event: ev.Event) -> None:
        with self._news:
            self.seen.append(event)
            self._news.notify_all()

    def wait(self, event: ev.Event, times: int = 1) -> None:
        with self._news:
            assert self._news.wait_for(lambda: self.seen.count(event) >= times, DEADLINE_S), self.seen


class Bench:
    """A saver of a pack of three, and all that is around it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.memory = MemoryStore()
        self.store = FaultyStore(self.memory)
        self.events = Events()
        self.closed = threading.Event()
        self.savers: list[Saver] = []

    def checkpoints(self, members: Sequence[int] = MEMBERS) -> dict[int, Sequence[Mapping[str, Any]]]:
        return {member: read_member(self._log(member).records()).checkpoints for member in members}

    def recover(self, members: Sequence[int] = MEMBERS) -> Recovered:
        return newest_checkpoint(self.memory, self.checkpoints(members), VERSIONS, self.folder)

    def _log(self, member: int) -> Log:
        return Log.open(self.store, LAYOUT.member_log(member), deadline_s=0.0)

    def open_saver(self) -> Saver:
        attempts, recovered = [], self.recover()
        for member in MEMBERS:
            log = self._log(member)
            log.claim()
            files = AttemptFiles(self.store, LAYOUT.attempt_prefix(member, log.term), self.folder / f"files-{member}")
            attempts.append(Attempt(member, log, files, recovered.checkpoints.get(member, ())))
        self.logs = {attempt.member: attempt.log for attempt in attempts}
        saver = Saver(
            self.store,
            LAYOUT,
            "w",
            attempts,
            ON_DEMAND,
            self.folder,
            VERSIONS,
            self.events,
            on_closed=self.closed.set,
        )
        self.savers.append(saver)
        return saver

    def save(self, saver: Saver, epoch: int) -> None:
        told = self.events.seen.count(ev.Saved("w"))
        saver.keep([snapshot(member, epoch) for member in MEMBERS])
        saver.save_now(stop=False)
        self.events.wait(ev.Saved("w"), told + 1)

    def publish(self, saver: Saver, member: int) -> None:
        def ending() -> ev.Event:
            self.logs[member].append("final", late=False)
            return ev.MemberTrained("w", member)

        saver.settle(member, ending)


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(tmp_path)
    yield bench
    bench.store.heal()
    for saver in bench.savers:
        saver.close()


def snapshot(member: int, epoch: int) -> Snapshot:
    """A state that tells whose it is and of when."""
    values = np.array([member, epoch], np.float32)
    return Snapshot(member, 7 + member, epoch, (values,), (), best=Best(epoch, (values,), ()), logs={"loss": 1.0})


def test_a_pack_is_saved_as_one_blob_that_each_members_log_names(bench: Bench) -> None:
    saver = bench.open_saver()
    bench.save(saver, 4)
    bodies = {member: found[0] for member, found in bench.checkpoints().items()}
    assert len({body["state"]["key"] for body in bodies.values()}) == 1
    assert [body["row"] for body in bodies.values()] == [0, 1, 2]
    assert len({body["best"]["key"] for body in bodies.values()}) == 3
    recovered = bench.recover()
    assert {m: s.variables[0].tolist() for m, s in recovered.snapshots.items()} == {m: [m, 4] for m in MEMBERS}
    assert [s.best.weights[0].tolist() for s in recovered.snapshots.values() if s.best] == [[m, 4] for m in MEMBERS]


def test_a_pack_whose_uploads_were_staggered_comes_back_at_the_newest_epoch_that_all_have(bench: Bench) -> None:
    saver = bench.open_saver()
    bench.save(saver, 1)
    fault = Fault("create", "before", key=f"{LAYOUT.member_log(5)}/", error=StoreUnavailable)
    bench.store.inject(fault)
    bench.save(saver, 2)
    assert bench.store.fired[fault] == 1
    assert {m: [int(b["epoch"]) for b in found] for m, found in bench.checkpoints().items()} == {
        3: [2, 1],
        5: [1],
        8: [1],
    }
    recovered = bench.recover()
    assert {s.epoch for s in recovered.snapshots.values()} == {1}
    assert {m: [int(b["epoch"]) for b in found] for m, found in recovered.checkpoints.items()} == {
        m: [1] for m in MEMBERS
    }


def test_members_without_a_common_epoch_begin_anew(bench: Bench) -> None:
    saver = bench.open_saver()
    fault = Fault("create", "before", key=f"{LAYOUT.member_log(8)}/", error=StoreUnavailable)
    bench.store.inject(fault)
    bench.save(saver, 1)
    assert bench.store.fired[fault] == 1
    assert bench.recover().snapshots == {}
    assert {s.epoch for s in bench.recover((3, 5)).snapshots.values()} == {1}, "those that have one go on from it"


def test_a_member_that_is_through_is_published_at_once_and_in_no_later_checkpoint(bench: Bench) -> None:
    saver = bench.open_saver()
    bench.save(saver, 1)
    bench.publish(saver, 5)
    bench.events.wait(ev.MemberTrained("w", 5))
    bench.save(saver, 2)
    assert {m: [int(b["epoch"]) for b in found] for m, found in bench.checkpoints().items()} == {
        3: [2, 1],
        5: [1],
        8: [2, 1],
    }
    recovered = bench.recover((3, 8))
    assert {m: s.variables[0].tolist() for m, s in recovered.snapshots.items()} == {3: [3, 2], 8: [8, 2]}


def test_the_last_checkpoint_of_a_member_that_is_through_outlives_those_that_follow(bench: Bench) -> None:
    saver = bench.open_saver()
    bench.save(saver, 1)
    bench.publish(saver, 5)
    for epoch in range(2, 6):
        bench.save(saver, epoch)
    assert bench.recover((5,)).snapshots[5].epoch == 1, "its model may turn out lost"
    kept = {str(body["state"]["key"]) for found in bench.checkpoints((3,)).values() for body in found}
    there = kept & set(bench.memory.list(LAYOUT.blobs))
    assert len(there) == 3, "the newest two, and the one that it is in"


def test_a_checkpoint_waits_for_the_ends_that_were_told_before_it(bench: Bench) -> None:
    saver = bench.open_saver()
    gate = threading.Event()

    def slow() -> ev.Event:
        assert gate.wait(DEADLINE_S)
        return ev.MemberTrained("w", 3)

    saver.keep([snapshot(member, 1) for member in MEMBERS])
    saver.settle(3, slow)
    saver.save_now(stop=False)
    assert saver.unsettled() == (3,)
    assert not any(bench.checkpoints().values())
    gate.set()
    bench.events.wait(ev.Saved("w"))
    assert bench.events.seen[0] == ev.MemberTrained("w", 3)
    assert [bool(found) for found in bench.checkpoints().values()] == [False, True, True]
    assert saver.unsettled() == ()


def test_finishing_returns_at_once_and_the_rest_is_brought_to_its_end(bench: Bench) -> None:
    saver = bench.open_saver()
    gate = threading.Event()

    def slow() -> ev.Event:
        assert gate.wait(DEADLINE_S)
        return ev.MemberTrained("w", 3)

    saver.settle(3, slow)
    bench.publish(saver, 5)
    saver.finish()
    assert saver.unsettled() == (3, 5)
    assert not bench.closed.is_set()
    gate.set()
    bench.events.wait(ev.MemberTrained("w", 5))
    assert bench.closed.wait(DEADLINE_S)
    saver.close()
    assert saver.closed


def test_a_successor_that_is_met_at_the_end_of_a_member_ends_the_worker(bench: Bench) -> None:
    saver = bench.open_saver()
    successor = Log.open(bench.memory, LAYOUT.member_log(5))
    successor.claim()
    bench.publish(saver, 5)
    saver.close()
    (told,) = bench.events.seen
    assert isinstance(told, ev.WorkerFenced)
    with pytest.raises(Fenced):
        saver.check()
    assert successor.refresh() == []


def test_storage_out_of_reach_at_the_end_of_a_member_is_told_and_the_others_are_still_published(bench: Bench) -> None:
    saver = bench.open_saver()

    def unreachable() -> ev.Event:
        raise StoreUnavailable("out of reach")

    saver.settle(3, unreachable)
    bench.publish(saver, 5)
    saver.close()
    failed, trained = bench.events.seen
    assert isinstance(failed, ev.WorkerFailed)
    assert isinstance(failed.error, StoreUnavailable)
    assert trained == ev.MemberTrained("w", 5)


def test_a_bug_at_the_end_of_a_member_is_told(bench: Bench) -> None:
    saver = bench.open_saver()

    def bug() -> ev.Event:
        raise ZeroDivisionError("a bug")

    saver.settle(3, bug)
    saver.close()
    (failed,) = bench.events.seen
    assert isinstance(failed, ev.WorkerFailed)
    assert "ZeroDivisionError" in str(failed.error)
