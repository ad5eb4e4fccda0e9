"""The saver: checkpoints in the background, files first, record last."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from orchestrator.errors import AccessDenied, Fenced, OrchestratorError, StoreUnavailable
from orchestrator.planning import events as ev
from orchestrator.planning.ports import Store
from orchestrator.planning.recovery import read_member
from orchestrator.spec import FaultsSpec
from orchestrator.storage.layout import RunLayout
from orchestrator.storage.log import Log
from orchestrator.storage.retry import Patience
from orchestrator.testing import FakeClock, Fault, FaultyStore, MemoryStore
from orchestrator.training import saver as saver_module
from orchestrator.training.attempt import AttemptFiles
from orchestrator.training.checkpoint import Best, Snapshot
from orchestrator.training.recover import newest_checkpoint
from orchestrator.training.saver import Attempt, Saver, Stopped

LAYOUT = RunLayout("tiny", "tiny-0123456789ab")
MEMBER_LOG = LAYOUT.member_log(0)
VERSIONS = {"keras": "3.15.1"}
EACH_EPOCH = FaultsSpec(checkpoint_every_epochs=1)
ON_DEMAND = FaultsSpec(checkpoint_every_epochs=10**6)
DEADLINE_S = 60.0
NO_PATIENCE = Patience(deadline_s=0.0)


def snapshot(epoch: int, *, best: int | None = None, **changes: Any) -> Snapshot:
    """A state after `epoch`; `best` is the epoch of the best model so far."""
    settings: dict[str, Any] = {
        "member": 0,
        "seed": 7,
        "epoch": epoch,
        "variables": (np.full(3, epoch, np.float32),),
        "optimizer": (np.array(epoch),),
        "logs": {"loss": 1 / epoch},
        "best": None if best is None else Best(best, (np.full(3, best, np.float32),), ()),
        **changes,
    }
    return Snapshot(**settings)


class Events:
    """Takes events, and waits for them."""

    def __init__(self) -> None:
        self._news = threading.Condition()
        self._seen: list[ev.Event] = []

    def __call__(self, event: ev.Event) -> None:
        with self._news:
            self._seen.append(event)
            self._news.notify_all()

    def wait(self, event: ev.Event, times: int = 1) -> None:
        with self._news:
            assert self._news.wait_for(lambda: self._seen.count(event) >= times, DEADLINE_S), self._seen

    def all(self) -> list[ev.Event]:
        with self._news:
            return list(self._seen)


class WatchedStore(MemoryStore):
    """A store that notes writes in their order; while `gate` is shut an upload stays under way."""

    def __init__(self) -> None:
        super().__init__()
        self.writes: list[tuple[str, str]] = []
        self.gate = threading.Event()
        self.gate.set()
        self.uploading = threading.Event()
        self.at_once = self.most_at_once = 0

    def create(self, key: str, body: bytes) -> bool:
        self.writes.append(("create", key))
        return super().create(key, body)

    def put_file(self, key: str, path: str) -> None:
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        self.uploading.set()
        assert self.gate.wait(DEADLINE_S)
        super().put_file(key, path)
        self.writes.append(("put", key))
        self.at_once -= 1

    def delete(self, key: str) -> None:
        self.writes.append(("delete", key))
        super().delete(key)


SAVED = ev.Saved("w")


def checkpointed(epoch: int) -> ev.Checkpointed:
    return ev.Checkpointed("w", 0, epoch)


class Bench:
    """A saver of member 0 and all that is around it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.memory = WatchedStore()
        self.store = FaultyStore(self.memory)
        self.events = Events()
        self.clock = FakeClock()
        self.savers: list[Saver] = []

    def open_saver(
        self, faults: FaultsSpec = EACH_EPOCH, *, patience: Patience = NO_PATIENCE, store: Store | None = None
    ) -> Saver:
        """Claim the member and go on from the newest checkpoint that verifies, as an attempt does."""
        store = store or self.store
        log = Log.open(store, MEMBER_LOG, deadline_s=patience.deadline_s)
        log.claim()
        recovered = newest_checkpoint(store, {0: read_member(log.records()).checkpoints}, VERSIONS, self.folder)
        self.resumed = recovered.snapshots.get(0)
        files = AttemptFiles(store, LAYOUT.attempt_prefix(0, log.term), self.folder / "files")
        saver = Saver(
            store,
            LAYOUT,
            "w",
            [Attempt(0, log, files, recovered.checkpoints.get(0, ()))],
            faults,
            self.folder,
            VERSIONS,
            self.events,
            monotonic=self.clock.monotonic,
            epoch=self.clock.epoch,
            patience=patience,
        )
        self.savers.append(saver)
        return saver

    def publish(self, saver: Saver, *snapshots: Snapshot) -> None:
        """Have each published, and wait for it and for what follows it."""
        for each in snapshots:
            saver.keep([each])
            self.save_now(saver)

    def save_now(self, saver: Saver, *, stop: bool = False) -> None:
        told = self.events.all().count(SAVED)
        saver.save_now(stop=stop)
        self.events.wait(SAVED, told + 1)

    def bodies(self) -> Sequence[Mapping[str, Any]]:
        """The checkpoints in the member's log, oldest first, as a stranger reads them."""
        return read_member(Log.open(self.memory, MEMBER_LOG).records()).checkpoints[::-1]

    def epochs(self) -> list[int]:
        return [int(body["epoch"]) for body in self.bodies()]

    def blobs(self) -> set[str]:
        return set(self.memory.list(LAYOUT.blobs))


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(tmp_path)
    yield bench
    bench.memory.gate.set()
    bench.store.heal()
    for saver in bench.savers:
        saver.close()


def named(body: Mapping[str, Any]) -> set[str]:
    return {ref["key"] for ref in (body["state"], body["best"]) if ref is not None}


def test_the_record_comes_after_the_blobs_that_it_names(bench: Bench) -> None:
    saver = bench.open_saver()
    saver.keep([snapshot(1, best=1)])
    bench.events.wait(checkpointed(1))
    (body,) = bench.bodies()
    writes = bench.memory.writes
    record = writes.index(("create", f"{MEMBER_LOG}/00000001.json"))
    assert {key for method, key in writes[:record] if method == "put"} == named(body)
    assert len(named(body)) == 2


def test_the_record_says_what_resuming_needs(bench: Bench) -> None:
    saver = bench.open_saver()
    bench.clock.advance(3)
    kept = snapshot(2, best=1, stopped=True, logs={"loss": 0.5, "val_loss": float("nan")})
    saver.keep([kept])
    bench.events.wait(checkpointed(2))
    (body,) = bench.bodies()
    assert {name: value for name, value in body.items() if name not in ("state", "best")} == {
        "epoch": 2,
        "row": 0,
        "best_epoch": 1,
        "rng": [7, 2],
        "versions": VERSIONS,
        "scores": {"loss": 0.5},
        "stopped": True,
        "at": 1_700_000_003.0,
    }
    saver.close()
    bench.open_saver()
    assert bench.resumed is not None
    assert (bench.resumed.epoch, bench.resumed.seed, bench.resumed.stopped) == (2, 7, True)
    assert bench.resumed.variables[0].tobytes() == kept.variables[0].tobytes()
    assert bench.resumed.best is not None
    assert bench.resumed.best.weights[0].tobytes() == np.full(3, 1, np.float32).tobytes()


UPLOADS = {
    "the best model": Fault("put_file", "before"),
    "the best model, whose answer is lost": Fault("put_file", "after"),
    "the state": Fault("put_file", "before", nth=2),
    "the state, whose answer is lost": Fault("put_file", "after", nth=2),
    "the record": Fault("create", "before", key="/log/"),
}


@pytest.mark.parametrize("error", [StoreUnavailable, AccessDenied])
@pytest.mark.parametrize("fault", UPLOADS.values(), ids=UPLOADS.keys())
def test_nothing_is_half_visible_when_an_upload_dies(
    fault: Fault, error: type[OrchestratorError], bench: Bench
) -> None:
    saver = bench.open_saver(ON_DEMAND)
    bench.publish(saver, snapshot(1, best=1))
    fault = Fault(fault.method, fault.effect, fault.key, fault.nth, error=error)
    bench.store.inject(fault)
    bench.publish(saver, snapshot(2, best=2))
    assert bench.store.fired[fault] == 1
    assert bench.epochs() == [1]
    for body in bench.bodies():
        assert named(body) <= bench.blobs()


def test_a_blob_cut_off_on_its_way_is_named_by_no_record(bench: Bench) -> None:
    class Cut(WatchedStore):
        def put_file(self, key: str, path: str) -> None:
            self.put(key, Path(path).read_bytes()[:10])
            raise ConnectionResetError("the connection was reset in the middle")

    bench.memory = Cut()
    saver = bench.open_saver(ON_DEMAND, store=bench.memory)
    bench.publish(saver, snapshot(1))
    assert len(bench.blobs()) == 1, "the fault struck"
    assert bench.epochs() == []


def test_of_the_epochs_that_end_during_an_upload_the_newest_is_next_and_the_others_are_skipped(bench: Bench) -> None:
    saver = bench.open_saver()
    bench.memory.gate.clear()
    saver.keep([snapshot(1)])
    assert bench.memory.uploading.wait(DEADLINE_S)
    saver.keep([snapshot(2)])
    saver.keep([snapshot(3)])
    bench.memory.gate.set()
    bench.events.wait(checkpointed(3))
    saver.close()
    assert bench.epochs() == [1, 3]
    assert bench.memory.most_at_once == 1


def test_an_epoch_that_ends_during_an_upload_waits_for_its_interval_like_any_other(bench: Bench) -> None:
    saver = bench.open_saver(FaultsSpec(checkpoint_every_epochs=2))
    bench.memory.gate.clear()
    saver.keep([snapshot(2)])
    assert bench.memory.uploading.wait(DEADLINE_S)
    saver.keep([snapshot(3)])
    bench.memory.gate.set()
    saver.close()
    assert bench.epochs() == [2]


@pytest.mark.parametrize(("seconds", "epochs"), [(29, []), (30, [1])])
def test_the_first_checkpoint_by_seconds_waits_for_the_interval(
    seconds: float, epochs: list[int], bench: Bench
) -> None:
    saver = bench.open_saver(FaultsSpec(checkpoint_every_s=30))
    bench.clock.advance(seconds)
    saver.keep([snapshot(1)])
    saver.close()
    assert bench.epochs() == epochs


@pytest.mark.parametrize(("seconds", "epochs"), [(29, [1]), (30, [1, 2])])
def test_the_next_checkpoint_by_seconds_waits_for_another_interval(
    seconds: float, epochs: list[int], bench: Bench
) -> None:
    saver = bench.open_saver(FaultsSpec(checkpoint_every_s=30))
    bench.clock.advance(100)
    saver.keep([snapshot(1)])
    bench.save_now(saver)
    bench.clock.advance(seconds)
    saver.keep([snapshot(2)])
    saver.close()
    assert bench.epochs() == epochs


def test_checkpoints_by_epochs_count_from_the_last_one(bench: Bench) -> None:
    saver = bench.open_saver(FaultsSpec(checkpoint_every_epochs=2))
    for epoch in range(1, 6):
        saver.keep([snapshot(epoch)])
        if epoch % 2 == 0:
            bench.events.wait(checkpointed(epoch))
            bench.save_now(saver)
    saver.close()
    assert bench.epochs() == [2, 4]


def test_a_member_that_goes_on_counts_from_the_epoch_it_resumed(bench: Bench) -> None:
    bench.publish(bench.open_saver(ON_DEMAND), snapshot(3))
    saver = bench.open_saver(FaultsSpec(checkpoint_every_epochs=2))
    saver.keep([snapshot(4)])
    saver.keep([snapshot(5)])
    bench.events.wait(checkpointed(5))
    saver.close()
    assert bench.epochs() == [3, 5]


def test_save_now_publishes_the_newest_finished_epoch_and_then_says_so(bench: Bench) -> None:
    saver = bench.open_saver(ON_DEMAND)
    saver.keep([snapshot(1)])
    saver.keep([snapshot(2)])
    bench.save_now(saver)
    assert bench.epochs() == [2]
    assert bench.events.all() == [checkpointed(2), SAVED]
    saver.check()


def test_save_now_waits_for_the_upload_under_way_and_then_publishes_what_is_newer(bench: Bench) -> None:
    saver = bench.open_saver()
    bench.memory.gate.clear()
    saver.keep([snapshot(1)])
    assert bench.memory.uploading.wait(DEADLINE_S)
    saver.keep([snapshot(2)])
    saver.save_now(stop=False)
    bench.memory.gate.set()
    bench.events.wait(SAVED)
    assert bench.events.all() == [checkpointed(1), checkpointed(2), SAVED]
    assert bench.memory.most_at_once == 1


def test_save_now_answers_when_there_is_nothing_to_publish(bench: Bench) -> None:
    saver = bench.open_saver(ON_DEMAND)
    bench.save_now(saver)
    assert bench.events.all() == [SAVED]
    assert bench.epochs() == []


def test_save_now_does_not_publish_an_epoch_twice(bench: Bench) -> None:
    saver = bench.open_saver()
    saver.keep([snapshot(1)])
    bench.save_now(saver)
    bench.save_now(saver)
    assert bench.epochs() == [1]
    assert bench.events.all() == [checkpointed(1), SAVED, SAVED]


@pytest.mark.parametrize("error", [StoreUnavailable, AccessDenied])
def test_save_now_answers_when_saving_fails(error: type[OrchestratorError], bench: Bench) -> None:
    saver = bench.open_saver(ON_DEMAND)
    fault = Fault("put_file", "before", error=error)
    bench.store.inject(fault)
    saver.keep([snapshot(1)])
    bench.save_now(saver)
    assert bench.store.fired[fault] == 1
    assert bench.events.all() == [SAVED]
    assert bench.epochs() == []


def test_a_stop_publishes_the_newest_epoch_and_ends_the_training_at_its_next_look(bench: Bench) -> None:
    saver = bench.open_saver(ON_DEMAND)
    saver.keep([snapshot(4)])
    saver.check()
    bench.save_now(saver, stop=True)
    assert bench.epochs() == [4]
    with pytest.raises(Stopped):
        saver.check()
    bench.save_now(saver)
    with pytest.raises(Stopped):  # a second request without `stop` takes nothing back
        saver.check()


def test_a_successors_claim_ends_the_attempt_without_a_further_record(bench: Bench) -> None:
    saver = bench.open_saver()
    bench.publish(saver, snapshot(1))
    successor = Log.open(bench.memory, MEMBER_LOG)
    successor.claim()
    seen = bench.memory.list(MEMBER_LOG)
    bench.publish(saver, snapshot(2))
    with pytest.raises(Fenced):
        saver.check()
    puts = [key for method, key in bench.memory.writes if method == "put"]
    bench.publish(saver, snapshot(3))
    assert [key for method, key in bench.memory.writes if method == "put"] == puts, "not even a blob"
    saver.close()
    assert bench.memory.list(MEMBER_LOG) == seen
    assert successor.refresh() == []


UNREACHABLE = {"blobs": Fault("put_file", "before"), "the log": Fault("create", "before", key="/log/")}


@pytest.mark.parametrize("fault", UNREACHABLE.values(), ids=UNREACHABLE.keys())
def test_while_the_store_is_out_of_reach_training_goes_on_and_a_later_epoch_is_published(
    fault: Fault, bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    saver = bench.open_saver(FaultsSpec(checkpoint_every_epochs=2))
    bench.store.inject(fault)
    with caplog.at_level(logging.WARNING, "orchestrator.worker"):
        bench.publish(saver, snapshot(1, best=1))
    assert bench.store.fired[fault] == 1
    assert "epoch 1 could not be saved" in caplog.text
    saver.check()
    saver.keep([snapshot(2, best=1)])
    bench.events.wait(checkpointed(2))
    assert bench.epochs() == [2]
    assert named(bench.bodies()[0]) <= bench.blobs()


def test_a_full_local_disk_costs_a_checkpoint_and_not_the_training(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    saver = bench.open_saver(ON_DEMAND)
    (bench.folder / "state.blob.unfinished").mkdir()
    with caplog.at_level(logging.WARNING, "orchestrator.worker"):
        bench.publish(saver, snapshot(1))
    assert "epoch 1 could not be saved" in caplog.text
    saver.check()
    (bench.folder / "state.blob.unfinished").rmdir()
    bench.publish(saver, snapshot(2))
    assert bench.epochs() == [2]


def test_what_no_checkpoint_can_hold_ends_the_attempt_with_its_error(bench: Bench) -> None:
    saver = bench.open_saver()
    bench.publish(saver, snapshot(1, variables=(np.array([object()]),)))
    with pytest.raises(TypeError, match="cannot be stored"):
        saver.check()


def test_collection_keeps_the_two_newest_checkpoints_and_what_they_name(bench: Bench) -> None:
    saver = bench.open_saver(ON_DEMAND)
    for epoch, best in ((1, 1), (2, 2), (3, 2), (4, 4), (5, 4)):
        bench.publish(saver, snapshot(epoch, best=best))
        kept = bench.bodies()[-2:]
        assert bench.blobs() == {key for body in kept for key in named(body)}
    assert bench.epochs() == [1, 2, 3, 4, 5], "records stay"


def test_blobs_are_deleted_only_after_the_record_that_supersedes_them(bench: Bench) -> None:
    saver = bench.open_saver(ON_DEMAND)
    bench.publish(saver, *(snapshot(epoch, best=epoch) for epoch in (1, 2, 3)))
    writes = bench.memory.writes
    deleted = [number for number, (method, _) in enumerate(writes) if method == "delete"]
    assert {writes[number][1] for number in deleted} == named(bench.bodies()[0])
    assert min(deleted) > writes.index(("create", f"{MEMBER_LOG}/00000003.json"))


def test_a_delete_that_fails_costs_nothing_but_space(bench: Bench) -> None:
    saver = bench.open_saver(ON_DEMAND)
    fault = Fault("delete", "before", times=None)
    bench.store.inject(fault)
    bench.publish(saver, *(snapshot(epoch, best=1) for epoch in (1, 2, 3, 4)))
    assert bench.store.fired[fault] == 2
    saver.check()
    assert bench.epochs() == [1, 2, 3, 4]


def test_an_unchanged_best_model_is_uploaded_once(bench: Bench) -> None:
    saver = bench.open_saver(ON_DEMAND)
    bench.publish(saver, snapshot(1, best=1), snapshot(2, best=1), snapshot(3, best=3))
    uploaded = [key for method, key in bench.memory.writes if method == "put"]
    assert len(uploaded) == 5
    first, second, third = (body["best"] for body in bench.bodies())
    assert first == second != third


def test_a_member_that_goes_on_does_not_upload_the_best_model_again(bench: Bench) -> None:
    bench.publish(bench.open_saver(ON_DEMAND), snapshot(2, best=1))
    saver = bench.open_saver(ON_DEMAND)
    bench.publish(saver, snapshot(3, best=1), snapshot(4, best=1), snapshot(5, best=1))
    best = bench.bodies()[0]["best"]
    assert [body["best"] for body in bench.bodies()] == [best] * 4
    assert best["key"] in bench.blobs(), "it outlives the checkpoint that brought it"


def test_the_checkpoints_of_the_attempt_before_stay_until_two_newer_ones_stand(bench: Bench) -> None:
    bench.publish(bench.open_saver(ON_DEMAND), snapshot(1, best=1), snapshot(2, best=2))
    first, second = (named(body) for body in bench.bodies())
    saver = bench.open_saver(ON_DEMAND)
    assert first | second <= bench.blobs(), "resuming deletes nothing"
    bench.publish(saver, snapshot(3, best=3))
    assert second <= bench.blobs()
    assert not first & bench.blobs()
    bench.publish(saver, snapshot(4, best=3))
    assert not second & bench.blobs()


def test_a_damaged_newer_checkpoint_never_costs_the_older_one_that_was_resumed(bench: Bench) -> None:
    bench.publish(bench.open_saver(ON_DEMAND), snapshot(1), snapshot(2))
    older, damaged = bench.bodies()
    bench.memory.put(damaged["state"]["key"], b"damage")
    saver = bench.open_saver(ON_DEMAND)
    assert bench.resumed is not None
    assert bench.resumed.epoch == 1
    bench.publish(saver, snapshot(2))
    assert bench.epochs() == [1, 2, 2]
    assert named(older) <= bench.blobs(), "the newest may turn out damaged too: there is a second one that verifies"


def test_close_waits_for_the_upload_under_way(bench: Bench) -> None:
    saver = bench.open_saver()
    bench.memory.gate.clear()
    saver.keep([snapshot(1)])
    assert bench.memory.uploading.wait(DEADLINE_S)
    at_close: list[list[int]] = []
    closer = threading.Thread(target=lambda: (saver.close(), at_close.append(bench.epochs())))
    closer.start()
    closer.join(0.1)
    assert at_close == []
    bench.memory.gate.set()
    closer.join(DEADLINE_S)
    assert at_close == [[1]]


def test_close_says_when_an_upload_does_not_come_to_its_end(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    saver = bench.open_saver()
    bench.memory.gate.clear()
    saver.keep([snapshot(1)])
    assert bench.memory.uploading.wait(DEADLINE_S)
    with monkeypatch.context() as patch:
        patch.setattr(saver_module, "CLOSE_S", 0.01)
        with pytest.raises(StoreUnavailable, match="does not come to its end"):
            saver.close()


def test_a_saver_that_breaks_says_so_instead_of_dying_in_silence(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(files: AttemptFiles) -> None:
        raise ZeroDivisionError("a bug")

    saver = bench.open_saver()
    monkeypatch.setattr(AttemptFiles, "flush", broken)
    bench.publish(saver, snapshot(1))
    assert bench.epochs() == [1]
    with pytest.raises(ZeroDivisionError):
        saver.check()
    bench.save_now(saver)


def test_whoever_closes_a_saver_has_the_log_for_its_own(bench: Bench) -> None:
    saver = bench.open_saver()
    bench.publish(saver, snapshot(1))
    saver.close()
    saver.keep([snapshot(2)])
    saver.close()
    assert bench.epochs() == [1]


def test_the_log_of_the_attempt_is_sent_by_the_end(bench: Bench) -> None:
    log = Log.open(bench.store, MEMBER_LOG)
    log.claim()
    files = AttemptFiles(bench.store, LAYOUT.attempt_prefix(0, log.term), bench.folder / "files")
    attempts = [Attempt(0, log, files)]
    saver = Saver(bench.store, LAYOUT, "w", attempts, ON_DEMAND, bench.folder, VERSIONS, bench.events)
    files.write("epoch 1\n")
    saver.close()
    chunks = bench.memory.list(LAYOUT.attempt_prefix(0, log.term))
    assert b"".join(bench.memory.get(key) for key in chunks) == b"epoch 1\n"
