"""What a worker does with each command: preflight, train and publish, predict. Outcomes are events."""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.ensemble.metrics import to_class_indices
from orchestrator.errors import (
    DamagedStore,
    Fenced,
    InvalidInput,
    InvalidJob,
    InvalidModel,
    MissingObject,
    OrchestratorError,
)
from orchestrator.planning import commands as cmd
from orchestrator.planning import events as ev
from orchestrator.planning.members import MemberPlan
from orchestrator.planning.plan import Plan
from orchestrator.planning.recovery import MemberMemory, read_member
from orchestrator.spec import Job
from orchestrator.storage.blobs import get_blob_file, put_blob
from orchestrator.storage.layout import RunLayout
from orchestrator.storage.log import Log
from orchestrator.storage.members import claim_unpublished
from orchestrator.storage.open import open_store
from orchestrator.storage.records import BlobRef
from orchestrator.storage.tables import labels_to_parquet, predictions_to_parquet
from orchestrator.training.attempt import AttemptFiles, captured
from orchestrator.training.data import Dataset
from orchestrator.training.device import Device, prepare_environment, start_tensorflow
from orchestrator.training.publish import cause_of, publish_final
from orchestrator.training.recover import newest_checkpoint
from orchestrator.training.saver import Attempt, Saver, Stopped
from orchestrator.training.scratch import scratch_folder, sweep_scratch

if TYPE_CHECKING:
    import keras

logger = logging.getLogger("orchestrator.worker")


@dataclass(frozen=True)
class WorkerSetup:
    """All that a worker needs to know of its run, sent once.

    Attributes:
        worker: its name in the schedule.
        job: the job.
        plan: members and packs.
        layout: where the run keeps what.
        coord_term: the term of the coordinator that started this worker; claims carry it.
        code_root: folder from which the job's own modules are imported, or None to use the working directory.
        num_cpus: thread budget.
        num_gpus: what it may use of the node's GPUs; 0 keeps TensorFlow off them.
    """

    worker: str
    job: Job
    plan: Plan
    layout: RunLayout
    coord_term: int
    code_root: str | None
    num_cpus: int
    num_gpus: float


class Program:
    """A worker's life without Ray: made once per process, then `handle` for one command after another.

    Args:
        setup: what to work on.
        emit: takes each event as it happens; called from the thread that calls `handle`.
        on_batch: called for each batch of work, as a sign of life.
    """

    def __init__(self, setup: WorkerSetup, emit: Callable[[ev.Event], None], on_batch: Callable[[], None]) -> None:
        self._setup = setup
        self._emit = emit
        self._on_batch = on_batch
        self._store = open_store(
            setup.job.storage.url,
            endpoint_url=setup.job.storage.endpoint_url,
            region=setup.job.storage.region,
        )
        self._device: Device | None = None
        self._warm: tuple[int, keras.Model] | None = None
        self._lock = threading.Lock()
        self._saver: Saver | None = None
        self._stop_asked = False

    def start(self) -> None:
        """Import TensorFlow and set it up: the one slow thing, done while the run is still being prepared."""
        sweep_scratch()
        prepare_environment(self._setup.num_cpus, self._setup.num_gpus)
        root = self._setup.code_root or str(Path.cwd())
        if root not in sys.path:
            sys.path.insert(0, root)
        train = self._setup.job.train
        deterministic = train.deterministic
        if train.jit_compile is True and deterministic is None:  # Keras compiles nothing with XLA in that mode
            deterministic = False
        self._device = start_tensorflow(self._setup.num_cpus, deterministic)

    def handle(self, command: cmd.WorkerCommand, dataset: Dataset) -> None:
        """Carry out one command. Every outcome is an event; nothing is raised but `Fenced`, after its event.

        Raises:
            Fenced: a successor owns the member: this worker must end.
        """
        name = self._setup.worker
        with self._lock:
            self._stop_asked = False
        try:
            match command:
                case cmd.Preflight():
                    self._preflight(dataset)
                case cmd.TrainPack(pack=pack):
                    for member in self._setup.plan.packs[pack].members:
                        self._train(self._setup.plan.members[member], dataset)
                case cmd.PublishLate(member=member):
                    self._publish_late(self._setup.plan.members[member], dataset)
                case cmd.Predict(member=member):
                    self._predict(self._setup.plan.members[member], dataset)
        except Fenced as fenced:
            self._emit(ev.WorkerFenced(name, str(fenced)))
            raise
        except OrchestratorError as error:
            self._emit(ev.WorkerFailed(name, error))
        except Exception as error:
            logger.exception("%s failed", command)
            bug = OrchestratorError(f"{type(error).__name__}: {error}", where=f"{name}, {command}")
            self._emit(ev.WorkerFailed(name, bug))
        self._emit(ev.WorkerIdle(name))

    def interrupt(self, command: cmd.SaveNow) -> None:
        """Have what is trained saved, and with `stop` given up at the next batch; `Saved` is told as an event.

        Called from another thread while `handle` runs; returns at once.
        """
        with self._lock:
            self._stop_asked = self._stop_asked or command.stop
            saver = self._saver
            if saver is not None:
                saver.save_now(stop=command.stop)
        if saver is None:  # nothing is being trained (yet): there is nothing to save
            self._emit(ev.Saved(self._setup.worker))

    def _preflight(self, dataset: Dataset) -> None:
        from orchestrator.training.preflight import check_before_training

        device = self._started()
        try:
            task = check_before_training(self._setup.job, self._setup.plan.members, dataset)
        except InvalidInput as error:
            self._emit(ev.PreflightFailed(self._setup.worker, error))
            return
        passed = ev.PreflightPassed(
            self._setup.worker,
            task=task.value,
            device=device.kind,
            deterministic=device.deterministic,
            versions=_versions(),
            labels={
                name: put_blob(self._store, self._setup.layout, labels_to_parquet(to_class_indices(split.y))).to_json()
                for name, split in dataset.splits()
                if name != "train"
            },
        )
        self._emit(passed)

    def _train(self, member: MemberPlan, dataset: Dataset) -> None:
        """Claim the member, go on from its newest checkpoint, and publish its best model."""
        from orchestrator.training.callbacks import Diverged
        from orchestrator.training.solo import train_solo

        setup, name = self._setup, self._setup.worker
        claimed = self._claim(member.index)
        if claimed is None:
            return
        log, memory = claimed
        began = time.monotonic()

        def tell(epoch: int, logs: Any) -> None:
            logger.info("epoch %s/%s %s", epoch, setup.job.train.epochs, {k: round(v, 4) for k, v in logs.items()})
            self._emit(ev.EpochEnded(name, member.index, epoch, setup.job.train.epochs, logs))

        try:
            with scratch_folder() as folder, self._attempt_files(member, log.term, folder) as files:
                recovered = newest_checkpoint(self._store, memory.checkpoints, member.index, _versions(), folder)
                logger.info("member %s, seed %s, term %s: %s", member.index, member.seed, log.term, recovered.reason)
                attempt = Attempt(name, member.index, log, _versions(), recovered.checkpoints)
                saver = Saver(self._store, setup.layout, attempt, setup.job.faults, folder, files, self._emit)
                try:
                    with self._interruptible(saver):
                        trained = train_solo(
                            member,
                            setup.job.train,
                            dataset,
                            folder,
                            self._started(),
                            tell,
                            self._on_batch,
                            start_from=recovered.snapshot,
                            keep=saver.keep,
                            check=saver.check,
                        )
                except (Exception, SystemExit) as error:
                    logger.error("%s", error, exc_info=not isinstance(error, Stopped | Diverged))
                    raise
                finally:
                    saver.close()
                publish_final(self._store, setup.layout, log, trained, began=began, resumed=recovered.snapshot)
        except Stopped:
            logger.info("member %s is given up, as asked", member.index)
        except Diverged as diverged:
            log.append("failed", status="diverged", message=str(diverged))
            self._emit(ev.MemberDiverged(name, member.index, str(diverged)))
        except (Exception, SystemExit) as error:
            self._fail(log, member.index, error)
        else:
            self._warm = (member.index, trained.model)
            self._emit(ev.MemberTrained(name, member.index))

    def _publish_late(self, member: MemberPlan, dataset: Dataset) -> None:
        """Publish the best epoch of the newest verified checkpoint, if there is one."""
        from orchestrator.training.solo import make_late

        setup, name = self._setup, self._setup.worker
        claimed = self._claim(member.index)
        if claimed is None:
            return
        log, memory = claimed
        began = time.monotonic()
        try:
            with scratch_folder() as folder, self._attempt_files(member, log.term, folder):
                found = newest_checkpoint(self._store, memory.checkpoints, member.index, _versions(), folder)
                logger.info("member %s is published late: %s", member.index, found.reason)
                if found.snapshot is None:
                    self._emit(ev.NothingToPublish(name, member.index))
                    return
                trained = make_late(member, setup.job.train, dataset, found.snapshot, folder, self._started())
                publish_final(self._store, setup.layout, log, trained, began=began, resumed=found.snapshot, late=True)
        except (Exception, SystemExit) as error:
            self._fail(log, member.index, error)
        else:
            self._warm = (member.index, trained.model)
            self._emit(ev.MemberTrained(name, member.index, late=True))

    @contextmanager
    def _attempt_files(self, member: MemberPlan, term: int, folder: Path) -> Iterator[AttemptFiles]:
        """The attempt's log, which gets what is printed and logged meanwhile, and its files."""
        files = AttemptFiles(self._store, self._setup.layout.attempt_prefix(member.index, term), folder / "files")
        with captured(files):
            try:
                yield files
            finally:
                files.flush()

    @contextmanager
    def _interruptible(self, saver: Saver) -> Iterator[None]:
        """While the block runs, `interrupt` reaches the saver; what came before it did counts as well."""
        with self._lock:
            self._saver = saver
            if self._stop_asked:
                saver.save_now(stop=True)
        try:
            yield
        finally:
            with self._lock:
                self._saver = None

    def _fail(self, log: Log, member: int, error: BaseException) -> None:
        """Sort an error of training into the member's own fault (an attempt failed) or somebody else's (raised)."""
        if isinstance(error, OrchestratorError) and not isinstance(error, InvalidModel | InvalidJob):
            raise error
        cause, message = cause_of(error)
        log.append("failed", status="failed", cause=cause.value, message=message[:2000])
        self._emit(ev.AttemptFailed(self._setup.worker, member, cause, message))

    def _predict(self, member: MemberPlan, dataset: Dataset) -> None:
        """Predict from the published bytes, reloaded and verified: what is scored is what is stored."""
        from orchestrator.models.build import build_member
        from orchestrator.models.load import load_published
        from orchestrator.models.predict import predict

        name = self._setup.worker
        memory = read_member(Log.open(self._store, self._setup.layout.member_log(member.index)).records())
        if memory.final is None:
            raise OrchestratorError("there is no published model to predict with", where=f"member {member.index}")
        reference = BlobRef.from_json(memory.final["model"], where=f"member {member.index}")
        try:
            if self._warm is not None and self._warm[0] == member.index:
                model = self._warm[1]
            else:
                model = build_member(member.builder, member.kwargs, member.seed, self._setup.job.train)
            self._warm = None
            with scratch_folder() as folder:
                path = str(folder / "best.keras")
                try:
                    get_blob_file(self._store, reference, path)
                    load_published(model, path, reference.key)
                except (DamagedStore, MissingObject) as error:
                    self._emit(ev.ModelLost(name, member.index, f"its published model cannot be used: {error}"))
                    return
            blobs = {}
            for split_name, split in dataset.splits():
                if split_name != "train":
                    table = predictions_to_parquet(predict(model, split.x, self._on_batch))
                    blobs[split_name] = put_blob(self._store, self._setup.layout, table).to_json()
        except Exception as error:
            if isinstance(error, OrchestratorError) and not isinstance(error, InvalidModel | InvalidJob):
                raise
            cause, message = cause_of(error)
            self._emit(ev.AttemptFailed(name, member.index, cause, message))
            return
        self._emit(ev.MemberPredicted(name, member.index, blobs))

    def _claim(self, member: int) -> tuple[Log, MemberMemory] | None:
        """Claim the member's log, unless the member is published already: then tell of that, and return None.

        It may be published by a worker that was lost before it could say so, or by one of a superseded coordinator, at
        any moment until our claim: so only the log that was seen without a model is claimed.

        Raises:
            Fenced: a coordinator of a higher term has been here: then ours is dead.
        """
        setup = self._setup
        log = Log.open(self._store, setup.layout.member_log(member))
        memory = claim_unpublished(log, coord_term=setup.coord_term, worker=setup.worker)
        if memory.final is not None:
            self._emit(ev.MemberTrained(setup.worker, member, late=bool(memory.final.get("late"))))
            return None
        return log, memory

    def _started(self) -> Device:
        if self._device is None:
            raise OrchestratorError("the worker got a command before it was started", where=self._setup.worker)
        return self._device


def _versions() -> dict[str, str]:
    import platform

    import keras
    import numpy
    import tensorflow as tf

    return {
        "python": platform.python_version(),
        "tensorflow": tf.__version__,
        "keras": keras.__version__,
        "numpy": numpy.__version__,
    }
