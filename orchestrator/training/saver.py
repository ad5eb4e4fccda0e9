"""Checkpoints in the background: training hands over each finished epoch and never waits for storage.

Files first, record last: a blob means nothing until the member's log names it, so a worker that dies at any moment
leaves the checkpoint before, whole. At most one upload of a member is under way, and nothing is queued behind it: when
it is through, the newest epoch may be the next.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.errors import OrchestratorError, StoreUnavailable
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
        worker, member: who trains whom.
        log: the member's log, claimed; while the saver is open nobody else appends to it.
        versions: of the packages that shape the numbers.
        checkpoints: bodies of the checkpoints there are, newest first.
    """

    worker: str
    member: int
    log: Log
    versions: Mapping[str, str]
    checkpoints: Sequence[Mapping[str, Any]] = ()


class Saver:
    """Publishes checkpoints of one attempt from a thread of its own.

    Args:
        store, layout: where to.
        attempt: whose.
        faults: the interval.
        folder: local scratch.
        files: the attempt's log and files, flushed by the same thread.
        emit: takes `Checkpointed` and `Saved`, from that thread.
        monotonic, epoch: the clocks; what they say decides about intervals and is shown, never about safety.
        patience: how long to go on trying to upload one file.
    """

    def __init__(
        self,
        store: Store,
        layout: RunLayout,
        attempt: Attempt,
        faults: FaultsSpec,
        folder: Path,
        files: AttemptFiles,
        emit: Callable[[ev.Event], None],
        *,
        monotonic: Callable[[], float] = time.monotonic,
        epoch: Callable[[], float] = time.time,
        patience: Patience = _PATIENCE,
    ) -> None:
        self._store, self._layout, self._attempt = store, layout, attempt
        self._faults, self._folder, self._files, self._emit = faults, folder, files, emit
        self._monotonic, self._epoch, self._patience = monotonic, epoch, patience
        self._changed = threading.Condition()
        self._newest: Snapshot | None = None
        self._due = self._asked = self._stop = self._closing = self._uploading = False
        self._error: Exception | None = None
        self._began = monotonic()
        self._kept = list(attempt.checkpoints[: KEPT + LEFT_BEHIND])
        self._saved_epoch = int(self._kept[0]["epoch"]) if self._kept else 0
        self._best: tuple[int, Mapping[str, JSON]] | None = None
        if self._kept and self._kept[0]["best"] is not None:  # verified when the member was resumed
            self._best = self._kept[0]["best_epoch"], self._kept[0]["best"]
        self._thread = threading.Thread(target=self._run, name="saver", daemon=True)
        self._thread.start()

    def keep(self, snapshot: Snapshot) -> None:
        """Take over a finished epoch; it is uploaded when it is due, or when somebody asks for it."""
        with self._changed:
            self._newest = snapshot
            self._decide()

    def _decide(self) -> None:
        """Have the newest epoch uploaded if it is due. Called with the lock held."""
        if self._newest is None or self._newest.epoch <= self._saved_epoch:
            return
        decision = decide_checkpoint(
            self._faults,
            epoch=self._newest.epoch,
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
            Fenced: a successor has claimed the member.
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

    def close(self) -> None:
        """Wait for the upload under way, send the rest of the log, end the thread. Then the log is the caller's again.

        Raises:
            StoreUnavailable: the upload does not come to its end.
        """
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join(CLOSE_S)
        if self._thread.is_alive():
            raise StoreUnavailable("an upload does not come to its end", where=f"member {self._attempt.member}")

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._due or self._asked or self._closing, FLUSH_EVERY_S)
                asked, closing = self._asked, self._closing
                wanted = self._newest if asked or self._due else None
                self._due = self._asked = False
                if wanted is not None and (wanted.epoch <= self._saved_epoch or self._error is not None):
                    wanted = None
                self._uploading = wanted is not None
            try:
                if wanted is not None:
                    self._save(wanted)
                self._files.flush()
            except Exception as error:  # a thread that died in silence would leave every later epoch unsaved
                self._error = self._error or error
            if asked:
                self._emit(ev.Saved(self._attempt.worker))
            with self._changed:
                self._uploading = False
                if closing and not self._asked:
                    return
                if wanted is not None and self._saved_epoch == wanted.epoch:
                    self._decide()  # of the epochs that ended meanwhile, the newest may be due

    def _save(self, snapshot: Snapshot) -> None:
        self._began = self._monotonic()
        try:
            record = self._publish(snapshot)
        except (StoreUnavailable, OSError) as error:  # the next epoch tries again
            logger.warning("epoch %s could not be saved: %s", snapshot.epoch, error)
            return
        self._saved_epoch = snapshot.epoch
        self._emit(ev.Checkpointed(self._attempt.worker, self._attempt.member, snapshot.epoch))
        self._collect(record)

    def _publish(self, snapshot: Snapshot) -> Mapping[str, Any]:
        """Blobs first, the record last: only the record publishes them."""
        best = snapshot.best
        if best is not None and (self._best is None or self._best[0] != best.epoch):
            path = self._folder / "best.blob"
            write_best(best, path)
            self._best = best.epoch, self._put(path)
        path = self._folder / "state.blob"
        write_checkpoint([snapshot], path)
        record = self._attempt.log.append(
            "checkpoint",
            epoch=snapshot.epoch,
            state=self._put(path),
            row=0,
            best=self._best[1] if best is not None and self._best is not None else None,
            best_epoch=None if best is None else best.epoch,
            rng=[snapshot.seed, snapshot.epoch],
            versions=dict(self._attempt.versions),
            scores={name: value for name, value in snapshot.logs.items() if math.isfinite(value)},
            stopped=snapshot.stopped,
            at=round(self._epoch(), 3),
        )
        return record.body

    def _put(self, path: Path) -> Mapping[str, JSON]:
        return put_blob_file(self._store, self._layout, str(path), patience=self._patience).to_json()

    def _collect(self, newest: Mapping[str, Any]) -> None:
        """Delete what the newest checkpoints have superseded. What cannot be deleted is left for `prune`."""
        self._kept.insert(0, newest)
        needed = {key for body in self._kept[:KEPT] for key in _keys(body)}
        for body in self._kept[KEPT:]:
            for key in _keys(body) - needed:
                with suppress(OrchestratorError):
                    self._store.delete(key)
        del self._kept[KEPT:]


def _keys(checkpoint: Mapping[str, Any]) -> set[str]:
    """Keys of the blobs that a checkpoint names."""
    return {str(ref["key"]) for ref in (checkpoint["state"], checkpoint["best"]) if ref is not None}
