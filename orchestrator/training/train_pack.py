"""How a worker trains a pack: claims its members, goes on from their checkpoint, and hands over what comes of it.

Training runs in the caller's thread; whatever goes to storage goes through a `Saver`, beside it. So the last models
of a pack may still be on their way when the worker is free for the next one: `publishing` says whose.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from orchestrator.planning import commands as cmd
from orchestrator.planning import events as ev
from orchestrator.planning.members import MemberPlan
from orchestrator.planning.packs import Pack
from orchestrator.planning.ports import Store
from orchestrator.planning.recovery import MemberMemory, Purpose
from orchestrator.storage.log import Log
from orchestrator.storage.members import claim_unpublished
from orchestrator.storage.plans import KnownPlan
from orchestrator.training.attempt import AttemptFiles
from orchestrator.training.data import Dataset
from orchestrator.training.device import Device
from orchestrator.training.endings import Endings
from orchestrator.training.printing import captured, printing
from orchestrator.training.publish import OWN_ERRORS, is_anothers_fault, is_out_of_memory
from orchestrator.training.recover import Recovered, newest_checkpoint
from orchestrator.training.rows import member_rows
from orchestrator.training.saver import Attempt, Saver, Stopped
from orchestrator.training.scratch import scratch_folder
from orchestrator.training.setup import WorkerSetup
from orchestrator.training.versions import versions

CLAIMS_AT_ONCE = 16

logger = logging.getLogger("orchestrator.worker")


@dataclass(frozen=True)
class _Claimed:
    """A member that is ours to train."""

    member: MemberPlan
    log: Log
    memory: MemberMemory


class PackTrainer:
    """Trains one pack after another in a worker's process.

    Args:
        store: where results go.
        setup: what the worker knows of its run.
        members: by index.
        emit: takes each event as it happens, from several threads.
        on_batch: called for each batch of work, as a sign of life.

    Attributes:
        endings: how their training ends.
    """

    def __init__(
        self,
        store: Store,
        setup: WorkerSetup,
        members: KnownPlan,
        emit: Callable[[ev.Event], None],
        on_batch: Callable[[], None],
    ) -> None:
        self.members, self.endings = members, Endings(store, setup)
        self._store, self._setup, self._emit, self._on_batch = store, setup, emit, on_batch
        self._lock = threading.Lock()
        self._savers: list[Saver] = []
        self._current: Saver | None = None
        self._at_work = self._stop_asked = False

    def publishing(self) -> tuple[int, ...]:
        """Members that are trained, and whose end is on its way to storage."""
        return tuple(member for saver in self._savers for member in saver.unsettled())

    def save_now(self, *, stop: bool) -> bool:
        """Have what is trained saved, and with `stop` given up at the next batch; false: nothing is trained.

        Called from another thread while `train` runs; returns at once.
        """
        with self._lock:
            self._stop_asked = self._stop_asked or (stop and self._at_work)
            if self._current is not None:
                self._current.save_now(stop=stop)
            return self._current is not None

    def close(self) -> None:
        """Wait until everything is published."""
        for saver in self._savers:
            saver.close()

    def train(
        self, command: cmd.TrainPack, dataset: Dataset, device: Device, first: Callable[[], None] = lambda: None
    ) -> None:
        """Train what is left of a pack. Outcomes are events, some of them told when this has returned.

        `first` is done before it: a `save_now(stop=True)` that comes meanwhile ends the training at its first batch.

        Raises:
            Fenced: a successor owns a member.
            OrchestratorError: what is no member's own fault.
        """
        with self._lock:
            self._at_work, self._stop_asked = True, False
        try:
            first()
            claimed = self._claim(command.members, "train") if command.members else []
            if claimed:
                self._train(command.pack, claimed, dataset, device)
        finally:
            with self._lock:
                self._at_work = False
            self._savers = [saver for saver in self._savers if not saver.closed]

    def _train(self, pack: Pack, claimed: Sequence[_Claimed], dataset: Dataset, device: Device) -> None:
        began, ours = time.monotonic(), versions(device.backend)
        with ExitStack() as stack:
            folder = stack.enter_context(scratch_folder())
            files = {each.member.index: self._files(each, folder) for each in claimed}
            with captured(files, self._show if any(each.member.train.verbose for each in claimed) else None):
                checkpoints = {each.member.index: each.memory.checkpoints for each in claimed}
                recovered = newest_checkpoint(self._store, checkpoints, ours, folder)
                for each in claimed:
                    told = each.member.index, each.member.seed, each.log.term, pack.engine, recovered.reason
                    logger.info("member %s, seed %s, term %s, %s: %s", *told)
                saver = Saver(
                    self._store,
                    self._setup.layout,
                    self._setup.worker,
                    [
                        Attempt(i, each.log, files[i], recovered.checkpoints.get(i, ()))
                        for each in claimed
                        for i in [each.member.index]
                    ],
                    self._setup.job.faults,
                    folder,
                    ours,
                    self._emit,
                    pause_at=self._pause_at(claimed[0].member),
                    on_closed=stack.pop_all().close,
                )
                self._savers.append(saver)
                training = _Training(self, pack, claimed, recovered, saver, dataset, device, folder, began)
                try:
                    self._train_until_the_end(training)
                finally:
                    saver.finish()
        if training.given_up is not None:
            saver.close()  # or its last records would meet the claims of the packs that follow
            self._emit(training.given_up)

    def _pause_at(self, member: MemberPlan) -> int | None:
        """The epoch of a rung from which a search may have its trials go on."""
        epochs = member.train.epochs
        return epochs if self._setup.prunes and epochs < self._setup.job.train.epochs else None

    def _train_until_the_end(self, training: _Training) -> None:
        with self._lock:
            self._current = training.saver
            if self._stop_asked:
                training.saver.save_now(stop=True)
        try:
            training.run()
        except Stopped:
            logger.info("given up, as asked")
        except OWN_ERRORS as error:
            logger.error("%s", error, exc_info=True)
            training.fail(error)
        finally:
            with self._lock:
                self._current = None

    def check(self) -> None:
        """Called between batches; what it raises ends the training."""
        for saver in self._savers:
            saver.check()

    def tell(self, member: int, epoch: int, logs: Mapping[str, float], examples_per_s: float | None) -> None:
        """A member finished an epoch."""
        epochs = self.members[member].epochs
        logger.info("member %s, epoch %s/%s %s", member, epoch, epochs, {k: round(v, 4) for k, v in logs.items()})
        self._emit(ev.EpochEnded(self._setup.worker, member, epoch, epochs, logs, examples_per_s))

    def _show(self, members: tuple[int, ...], line: str) -> None:
        self._emit(ev.Printed(self._setup.worker, members, line))

    def publish_late(self, index: int, dataset: Dataset, device: Device) -> None:
        """Publish the best epoch of a member's newest verified checkpoint, if there is one. Raises as `train`."""
        from orchestrator.training.solo import make_late

        for each in self._claim([index], "publish"):
            began = time.monotonic()
            with scratch_folder() as folder:
                files = self._files(each, folder)
                try:
                    with captured({index: files}):
                        bodies = {index: each.memory.checkpoints}
                        found = newest_checkpoint(self._store, bodies, versions(device.backend), folder)
                        logger.info("member %s is published late: %s", index, found.reason)
                        snapshot = found.snapshots.get(index)
                        if snapshot is None:
                            self._emit(ev.NothingToPublish(self._setup.worker, index))
                            return
                        trained = make_late(each.member, dataset, snapshot, folder, device)
                        told = self.endings.late(index, each.log, trained, began=began, resumed=snapshot)
                except OWN_ERRORS as error:
                    told = self.endings.failed(index, each.log, error)
                finally:
                    files.flush()
                self._emit(told)

    def _files(self, claimed: _Claimed, folder: Path) -> AttemptFiles:
        prefix = self._setup.layout.attempt_prefix(claimed.member.index, claimed.log.term)
        return AttemptFiles(self._store, prefix, _folder_of(folder, claimed.member.index) / "files")

    def _claim(self, members: Sequence[int], purpose: Purpose) -> list[_Claimed]:
        """Claim members, several at once: each claim waits for storage. Those that are published already are told."""
        with ThreadPoolExecutor(min(CLAIMS_AT_ONCE, len(members))) as pool:
            tried = pool.map(partial(self._claim_one, purpose=purpose), members)
            return [claimed for claimed in tried if claimed is not None]

    def _claim_one(self, index: int, purpose: Purpose) -> _Claimed | None:
        """Claim a member's log, unless the member is published already: then tell of that, and return None.

        It may be published by a worker that was lost before it could say so, or by one of a superseded coordinator, at
        any moment until our claim: so only the log that was seen without a model is claimed.

        Raises:
            Fenced: a coordinator of a higher term has been here: then ours is dead.
        """
        setup = self._setup
        log = Log.open(self._store, setup.layout.member_log(index))
        memory = claim_unpublished(log, coord_term=setup.coord_term, worker=setup.worker, purpose=purpose, at=_now())
        if memory.final is not None:
            self._emit(ev.MemberTrained(setup.worker, index, late=bool(memory.final.get("late"))))
            return None
        return _Claimed(self.members[index], log, memory)


class _Training:
    """One pack in training: the engine between the claims and the saver."""

    def __init__(
        self,
        trainer: PackTrainer,
        pack: Pack,
        claimed: Sequence[_Claimed],
        recovered: Recovered,
        saver: Saver,
        dataset: Dataset,
        device: Device,
        folder: Path,
        began: float,
    ) -> None:
        self._trainer, self._pack, self._recovered = trainer, pack, recovered
        self._left = {each.member.index: each for each in claimed}
        self.saver = saver
        self._dataset, self._device, self._folder, self._began = dataset, device, folder, began
        self._told_at: dict[int, float] = {}
        self._num_rows: dict[int, int] = {}
        self.given_up: ev.PackTooLarge | ev.PackRefused | None = None

    def run(self) -> None:
        """Train. Raises whatever ends the training of all members that are left."""
        if self._pack.engine == "fused":
            self._fused()
        else:
            for claimed in list(self._left.values()):
                self._solo(claimed)

    def _solo(self, claimed: _Claimed) -> None:
        from orchestrator.training.callbacks import Diverged
        from orchestrator.training.solo import train_solo

        trainer, index = self._trainer, claimed.member.index
        trained: Any
        try:
            with printing(index):
                trained = train_solo(
                    claimed.member,
                    self._dataset,
                    _folder_of(self._folder, index),
                    self._device,
                    partial(self._tell, index),
                    trainer._on_batch,
                    start_from=self._recovered.snapshots.get(index),
                    keep=lambda snapshot: self.saver.keep([snapshot]),
                    check=trainer.check,
                )
        except Diverged as diverged:
            trained = diverged
        self._settle(index, trained)

    def _fused(self) -> None:
        from orchestrator.training.fused.train import Seat, train_fused

        members = self._trainer.members
        seats = [
            Seat(
                member=members[index],
                folder=_folder_of(self._folder, index),
                start_from=self._recovered.snapshots.get(index),
                finished=index not in self._left,
                on_epoch=partial(self._tell, index),
            )
            for index in self._pack.members
        ]
        train_fused(
            seats,
            self._dataset,
            self._device,
            self._trainer._on_batch,
            keep=self.saver.keep,
            check=self._trainer.check,
            done=lambda seat, trained: self._settle(seats[seat].member.index, trained),
        )

    def _tell(self, index: int, epoch: int, logs: Mapping[str, float]) -> None:
        now, before = time.monotonic(), self._told_at.get(index)
        self._told_at[index] = now
        rate = None if before is None else self._rows_of(index) / max(now - before, 1e-6)
        self._trainer.tell(index, epoch, logs, rate)

    def _rows_of(self, index: int) -> int:
        """How many rows the member learns from in an epoch."""
        if index not in self._num_rows:
            self._num_rows[index] = member_rows(self._dataset, self._trainer.members[index]).train.num_rows
        return self._num_rows[index]

    def fail(self, error: BaseException) -> None:
        """The training of all that is left has ended in an error: theirs, or one that other packs will not have.

        Raises:
            OrchestratorError: it is no member's own fault.
        """
        from orchestrator.training.fused.seat import CannotFuse

        worker, pack = self._trainer._setup.worker, self._pack
        if isinstance(error, CannotFuse):
            self.given_up = ev.PackRefused(worker, pack.index, f"the members cannot be fused: {error}"[:500])
            return
        if is_out_of_memory(error) and len(pack.members) > 1:
            self.given_up = ev.PackTooLarge(worker, pack.index, f"{type(error).__name__}: {error}"[:500])
            return
        if is_anothers_fault(error):
            raise error
        for index in list(self._left):
            self._settle(index, error)

    def _settle(self, index: int, trained: Any) -> None:
        claimed, trainer = self._left.pop(index), self._trainer
        resumed = self._recovered.snapshots.get(index)
        ending = trainer.endings.prepared(
            index, claimed.log, trained, engine=self._pack.engine, began=self._began, resumed=resumed
        )
        self.saver.settle(index, ending)


def _now() -> float:
    """For people: UTC epoch seconds by this machine's clock."""
    return round(time.time(), 3)


def _folder_of(scratch: Path, member: int) -> Path:
    folder = scratch / f"member-{member}"
    folder.mkdir(exist_ok=True)
    return folder
