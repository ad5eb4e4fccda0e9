"""Storage beside the training: finished epochs and finished members are handed over, and nobody waits for uploads.

Files first, record last: a blob means nothing until a member's log names it, so a worker that dies at any moment leaves
what was there before, whole. At most one upload of a pack is under way, and no epoch is queued behind it: when it is
through, the newest may be the next. A checkpoint is one blob for all members of the pack that still train.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.errors import Fenced, OrchestratorError, StoreUnavailable
from orchestrator.planning import events as ev
from orchestrator.planning.ports import Store
from orchestrator.planning.saving import decide_checkpoint
from orchestrator.spec import FaultsSpec
from orchestrator.storage.blobs import put_blob_file
from orchestrator.storage.layout import RunLayout
from orchestrator.storage.log import Log
from orchestrator.storage.records import JSON
from orchestrator.storage.retry import Patience
from orchestrator.training.attempt import AttemptFiles
from orchestrator.training.checkpoint import Snapshot, write_best, write_checkpoint

FLUSH_EVERY_S = 5.0
CLOSE_S = 600.0
"""Longer than the calls of one save can take, each of which has an end of its own."""

KEPT = 2
"""How many checkpoints keep their blobs: the newest may turn out damaged."""

ENDINGS_AT_ONCE = 8

LEFT_BEHIND = 2
"""How many older ones an attempt that died may not have collected; those before were."""

_PATIENCE = Patience()

logger = logging.getLogger("orchestrator.worker")


class Stopped(Exception):
    """The worker was told to give up what it trains; its newest epoch is saved by the saver."""


@dataclass(frozen=True)
class Attempt:
    """One attempt at a member, as its saver knows it.

    Attributes:
        member: whom it trains.
        log: the member's log, claimed; until the saver is closed nobody else appends to it.
        files: the attempt's log and files, sent by the saver's thread.
        checkpoints: bodies of the checkpoints there are, newest first.
    """

    member: int
    log: Log
    files: AttemptFiles
    checkpoints: Sequence[Mapping[str, Any]] = ()


@dataclass(frozen=True)
class _Ending:
    """How a member's end is published; `publish` gives the event that tells it."""

    member: int
    publish: Callable[[], ev.Event]


class Saver:
    """Publishes what becomes of a pack from a thread of its own: checkpoints, and how each member ends.

    Args:
        store, layout: where to.
        worker: who trains.
        attempts: at the members of the pack.
        faults: the interval.
        folder: local scratch.
        versions: of the packages that shape the numbers.
        emit: takes `Checkpointed`, `Saved` and what `settle` gives, from that thread.
        pause_at: an epoch at which training ends for now, to go on from there when the models are published: it is
            saved before they are. None: there is none.
        on_closed: called by that thread as the last thing.
        monotonic, epoch: the clocks; what they say decides about intervals and is shown, never about safety.
        patience: how long to go on trying to upload one file.
    """

    def __init__(
        self,
        store: Store,
        layout: RunLayout,
        worker: str,
        attempts: Sequence[Attempt],
        faults: FaultsSpec,
        folder: Path,
        versions: Mapping[str, str],
        emit: Callable[[ev.Event], None],
        *,
        pause_at: int | None = None,
        on_closed: Callable[[], None] = lambda: None,
        monotonic: Callable[[], float] = time.monotonic,
        epoch: Callable[[], float] = time.time,
        patience: Patience = _PATIENCE,
    ) -> None:
        self._store, self._layout, self._worker = store, layout, worker
        self._attempts = {attempt.member: attempt for attempt in attempts}
        self._faults, self._folder, self._versions, self._emit = faults, folder, versions, emit
        self._on_closed, self._monotonic, self._epoch, self._patience = on_closed, monotonic, epoch, patience
        self._changed = threading.Condition()
        self._newest: Sequence[Snapshot] = ()
        self._pause_at = pause_at
        self._paused: Sequence[Snapshot] = ()
        self._endings: list[_Ending] = []
        self._through: set[int] = set()
        self._due = self._asked = self._stop = self._closing = self._uploading = False
        self._error: Exception | None = None
        self._began = monotonic()
        self._kept = {a.member: list(a.checkpoints[: KEPT + LEFT_BEHIND]) for a in attempts}
        self._saved_epoch = max((int(kept[0]["epoch"]) for kept in self._kept.values() if kept), default=0)
        # What was verified when the members were resumed is not uploaded again.
        self._best = {m: (k[0]["best_epoch"], k[0]["best"]) for m, k in self._kept.items() if k and k[0]["best"]}
        self._thread = threading.Thread(target=self._run, name="saver", daemon=True)
        self._thread.start()

    def keep(self, snapshots: Sequence[Snapshot]) -> None:
        """Take over a finished epoch of the pack; it is uploaded when it is due, or when somebody asks for it."""
        with self._changed:
            self._newest = snapshots
            if _epoch_of(snapshots) == self._pause_at:
                self._paused = [snapshot for snapshot in snapshots if snapshot.member not in self._through]
            self._decide()

    def settle(self, member: int, ending: Callable[[], ev.Event]) -> None:
        """Have the end of a member published: `ending` is called by the saver's thread, and its event is told.

        No checkpoint of the member follows. Of what `ending` raises, `Fenced` and what storage refuses are told, too.
        """
        with self._changed:
            self._through.add(member)
            self._endings.append(_Ending(member, ending))
            self._changed.notify_all()

    def unsettled(self) -> tuple[int, ...]:
        """Members whose end is on its way."""
        with self._changed:
            return tuple(ending.member for ending in self._endings)

    def _decide(self) -> None:
        """Have the newest epoch uploaded if it is due. Called with the lock held."""
        epoch = _epoch_of(self._newest)
        if epoch <= self._saved_epoch:
            return
        decision = decide_checkpoint(
            self._faults,
            epoch=epoch,
            saved_epoch=self._saved_epoch,
            since_last_s=self._monotonic() - self._began,
            uploading=self._uploading or self._due,
        )
        if decision.save:
            self._due = True
            self._changed.notify_all()

    def check(self) -> None:
        """Called between batches by who trains.

        Raises:
            Stopped: the worker was told to give up.
            Fenced: a successor has claimed a member.
            OrchestratorError: another error of the saver that no later epoch would mend.
        """
        if self._error is not None:
            raise self._error
        if self._stop:
            raise Stopped

    def save_now(self, *, stop: bool) -> None:
        """Have the newest finished epoch published at once; `Saved` is told when that is done, or could not be."""
        with self._changed:
            self._asked = True
            self._stop = self._stop or stop
            self._changed.notify_all()

    def finish(self) -> None:
        """Nothing more will come: what is under way is brought to its end, then the thread ends. Returns at once."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()

    def close(self) -> None:
        """`finish`, and wait for it. Then the logs are the caller's again.

        Raises:
            StoreUnavailable: the upload does not come to its end.
        """
        self.finish()
        self._thread.join(CLOSE_S)
        if self._thread.is_alive():
            raise StoreUnavailable("an upload does not come to its end", where=f"members {sorted(self._attempts)}")

    @property
    def closed(self) -> bool:
        """Whether nothing is left to do."""
        return not self._thread.is_alive()

    def _run(self) -> None:
        try:
            while self._turn():
                pass
        finally:
            self._on_closed()

    def _turn(self) -> bool:
        """Do what there is to do; false: that was all."""
        with self._changed:
            self._changed.wait_for(lambda: self._due or self._asked or self._closing or self._endings, FLUSH_EVERY_S)
        self._settle_all()  # before a checkpoint that is without them
        with self._changed:
            asked, closing = self._asked, self._closing
            wanted = self._newest if asked or self._due else ()
            wanted = [snapshot for snapshot in wanted if snapshot.member not in self._through]
            self._due = self._asked = False
            if wanted and (_epoch_of(wanted) <= self._saved_epoch or self._error is not None):
                wanted = []
            self._uploading = bool(wanted)
        try:
            if wanted:
                self._save(wanted)
            for attempt in self._attempts.values():
                attempt.files.flush()
        except Exception as error:  # a thread that died in silence would leave every later epoch unsaved
            self._error = self._error or error
        if asked:
            self._emit(ev.Saved(self._worker))
        with self._changed:
            self._uploading = False
            if closing and not self._asked and not self._endings:
                return False
            if wanted and self._saved_epoch == _epoch_of(wanted):
                self._decide()  # of the epochs that ended meanwhile, the newest may be due
        return True

    def _settle_all(self) -> None:
        """Publish the ends that were handed over, several at once: each waits for storage, and for no other."""
        while endings := tuple(self._endings):
            self._save_pause()
            with ThreadPoolExecutor(min(len(endings), ENDINGS_AT_ONCE), "endings") as pool:
                list(pool.map(self._settle, endings))

    def _save_pause(self) -> None:
        with self._changed:
            paused, self._paused = self._paused, ()
        if paused and _epoch_of(paused) > self._saved_epoch and self._error is None:
            try:
                self._save(paused)
            except Exception as error:
                self._error = self._error or error

    def _settle(self, ending: _Ending) -> None:
        try:
            event = ending.publish()
            self._attempts[ending.member].files.flush()  # before its event: nobody need wait for more of it
            self._emit(event)
        except Fenced as fenced:
            self._error = self._error or fenced
            self._emit(ev.WorkerFenced(self._worker, str(fenced)))
        except OrchestratorError as error:
            self._error = self._error or error
            self._emit(ev.WorkerFailed(self._worker, error))
        except Exception as error:
            logger.exception("the end of a member could not be published")
            self._error = self._error or error
            bug = OrchestratorError(f"{type(error).__name__}: {error}", where=self._worker)
            self._emit(ev.WorkerFailed(self._worker, bug))
        with self._changed:  # after its event: until then the worker says that it is publishing
            self._endings.remove(ending)

    def _save(self, snapshots: Sequence[Snapshot]) -> None:
        self._began = self._monotonic()
        epoch = _epoch_of(snapshots)
        try:
            records = self._publish(snapshots)
        except (StoreUnavailable, OSError) as error:  # the next epoch tries again
            logger.warning("epoch %s could not be saved: %s", epoch, error)
            return
        self._saved_epoch = epoch
        upload_s: float | None = self._monotonic() - self._began
        for snapshot in snapshots:
            self._emit(ev.Checkpointed(self._worker, snapshot.member, snapshot.epoch, upload_s))
            upload_s = None
        self._collect(records)

    def _publish(self, snapshots: Sequence[Snapshot]) -> Mapping[int, Mapping[str, Any]]:
        """Blobs first, the records last: only the records publish them."""
        for snapshot in snapshots:
            best, known = snapshot.best, self._best.get(snapshot.member)
            if best is not None and (known is None or known[0] != best.epoch):
                path = self._folder / "best.blob"
                write_best(best, path)
                self._best[snapshot.member] = best.epoch, self._put(path)
        path = self._folder / "state.blob"
        write_checkpoint(snapshots, path)
        state = self._put(path)
        return {snapshot.member: self._record(row, snapshot, state) for row, snapshot in enumerate(snapshots)}

    def _record(self, row: int, snapshot: Snapshot, state: Mapping[str, JSON]) -> Mapping[str, Any]:
        best = snapshot.best
        record = self._attempts[snapshot.member].log.append(
            "checkpoint",
            epoch=snapshot.epoch,
            state=state,
            row=row,
            best=None if best is None else self._best[snapshot.member][1],
            best_epoch=None if best is None else best.epoch,
            rng=[snapshot.seed, snapshot.epoch],
            versions=dict(self._versions),
            scores={name: value for name, value in snapshot.logs.items() if math.isfinite(value)},
            stopped=snapshot.stopped,
            at=round(self._epoch(), 3),
        )
        return record.body

    def _put(self, path: Path) -> Mapping[str, JSON]:
        return put_blob_file(self._store, self._layout, str(path), patience=self._patience).to_json()

    def _collect(self, newest: Mapping[int, Mapping[str, Any]]) -> None:
        """Delete what the newest checkpoints have superseded. What cannot be deleted is left for `prune`.

        A member that is through keeps its last ones: should its model be lost, its best epoch may be reached from them.
        """
        for member, body in newest.items():
            self._kept[member].insert(0, body)
        needed = {key for kept in self._kept.values() for body in kept[:KEPT] for key in _keys(body)}
        superseded = {key for kept in self._kept.values() for body in kept[KEPT:] for key in _keys(body)} - needed
        for key in superseded:
            with suppress(OrchestratorError):
                self._store.delete(key)
        for kept in self._kept.values():
            del kept[KEPT:]


def _epoch_of(snapshots: Sequence[Snapshot]) -> int:
    return snapshots[0].epoch if snapshots else 0


def _keys(checkpoint: Mapping[str, Any]) -> set[str]:
    """Keys of the blobs that a checkpoint names."""
    return {str(ref["key"]) for ref in (checkpoint["state"], checkpoint["best"]) if ref is not None}
