"""A trainer without TensorFlow that writes real records: a real cluster's faults strike it at a tenth of the price.

To the store it does all that the real program does: it claims, resumes from the newest verified checkpoint, publishes
checkpoints and `final`, answers `SaveNow` and `PublishLate`, predicts. Its weights are a digest over (seed, epoch): an
epoch that is lost, repeated on the wrong state or skipped shows in the bytes of the model.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from orchestrator.ensemble.tasks import TaskKind, to_targets
from orchestrator.errors import DamagedStore, Fenced, OrchestratorError
from orchestrator.planning import commands as cmd
from orchestrator.planning import events as ev
from orchestrator.planning.members import MemberPlan
from orchestrator.planning.outputs import ONLY
from orchestrator.planning.recovery import MemberMemory, Purpose, read_member
from orchestrator.storage.blobs import get_blob, put_blob
from orchestrator.storage.log import Log
from orchestrator.storage.open import open_store
from orchestrator.storage.records import JSON, BlobRef
from orchestrator.storage.tables import history_to_parquet, labels_to_parquet, predictions_to_parquet
from orchestrator.training.data import Dataset
from orchestrator.training.setup import WorkerSetup

EPOCH_S = 0.05
NUM_CLASSES = 3
_GATE_S = 240.0


@dataclass(frozen=True)
class Faults:
    """What goes wrong by itself.

    Attributes:
        exits: member → the epoch in which its process always ends.
        raises: member → the epoch in which its code raises an error.
        memory_errors: member → how many of its attempts raise MemoryError.
        hungry: member → the epoch of its first attempt in which it takes memory, up to so many bytes.
    """

    exits: Mapping[int, int] = field(default_factory=dict)
    raises: Mapping[int, int] = field(default_factory=dict)
    memory_errors: Mapping[int, int] = field(default_factory=dict)
    hungry: Mapping[int, tuple[int, int]] = field(default_factory=dict)


@dataclass(frozen=True)
class Stage:
    """The folder through which a test and the trainers of its run see each other."""

    folder: Path

    def hold(self, member: int, epoch: int) -> None:
        """Keep a member in the middle of that epoch, alive, until it is let go."""
        file = self.folder / f"hold-{member}"
        file.with_suffix(".new").write_text(str(epoch))
        file.with_suffix(".new").replace(file)

    def let_go(self, *members: int) -> None:
        for member in members:
            (self.folder / f"hold-{member}").unlink(missing_ok=True)

    def holds(self, member: int, epoch: int) -> bool:
        try:
            return int((self.folder / f"hold-{member}").read_text()) == epoch
        except FileNotFoundError:
            return False

    def upload_gate(self, member: int) -> Path:
        """While this file is there, the checkpoints of the member do not get through to the store."""
        return self.folder / f"upload-{member}"

    @property
    def start_gate(self) -> Path:
        """While this file is there, trainers do not get ready."""
        return self.folder / "start"

    def tell(self, what: str, **facts: Any) -> None:
        """Note what a trainer does. One short write at the end of a file: whole, whoever else writes."""
        line = json.dumps({"what": what, "pid": os.getpid(), "at": time.monotonic(), **facts})
        with (self.folder / "told").open("a") as file:
            file.write(line + "\n")

    def told(self, what: str, **facts: Any) -> list[dict[str, Any]]:
        """All such notes, oldest first."""
        try:
            lines = (self.folder / "told").read_text().splitlines()
        except FileNotFoundError:
            return []
        notes = [json.loads(line) for line in lines]
        return [n for n in notes if n["what"] == what and all(n[name] == value for name, value in facts.items())]


def digest_after(seed: int, epochs: int, start: str = "", first: int = 1) -> str:
    """The weights of a member of that seed after so many epochs, from the weights `start` before epoch `first`."""
    for epoch in range(first, epochs + 1):
        start = hashlib.sha256(f"{start}/{seed}/{epoch}".encode()).hexdigest()
    return start


def model_bytes(seed: int, epochs: int) -> bytes:
    """The model that an undisturbed member publishes."""
    return f"weights {digest_after(seed, epochs)}".encode()


class _GivenUp(Exception):
    """The member is given up: it was told to."""


@dataclass
class _Training:
    member: MemberPlan
    log: Log
    epoch: int
    weights: str
    saved_epoch: int


class LightTrainer:
    """Takes the place of `training.program.Program`.

    Args:
        setup, emit, on_batch: as there.
        stage: where faults are staged and noted.
        faults: what goes wrong by itself.
    """

    def __init__(
        self,
        setup: WorkerSetup,
        emit: Callable[[ev.Event], None],
        on_batch: Callable[[], None],
        *,
        stage: Stage,
        faults: Faults,
    ) -> None:
        self._setup, self._emit, self._on_batch = setup, emit, on_batch
        self._stage, self._faults = stage, faults
        self._store = open_store(setup.job.storage.url)
        self._orders: list[cmd.SaveNow] = []
        self._ordered = threading.Event()

    def start(self) -> None:
        import ray

        self._node = ray.get_runtime_context().get_node_id()
        while self._stage.start_gate.exists():
            threading.Event().wait(0.01)

    def interrupt(self, command: cmd.SaveNow) -> None:
        """Wake the training; it looks for orders between its short waits."""
        self._orders.append(command)
        self._ordered.set()

    def handle(self, command: cmd.WorkerCommand, dataset: Dataset) -> None:
        """Carry out one command. Raises Fenced after its event."""
        name, plan = self._setup.worker, self._setup.plan
        try:
            match command:
                case cmd.Preflight():
                    labels = {split: self._keep(labels_to_parquet(rows)) for split, rows in _labels(dataset).items()}
                    self._emit(ev.PreflightPassed(name, {ONLY: "multiclass"}, "cpu", True, {"light": "1"}, labels))
                case cmd.TrainPack(members=members, predict=predict):
                    for member in predict:
                        self._predict(plan.members[member], dataset)
                    for member in members:
                        self._train(plan.members[member])
                case cmd.PublishLate(member=member):
                    self._publish_late(plan.members[member])
                case cmd.Predict(member=member):
                    self._predict(plan.members[member], dataset)
        except Fenced as fenced:
            self._stage.tell("fenced", message=str(fenced))
            self._emit(ev.WorkerFenced(name, str(fenced)))
            raise
        except _GivenUp:
            pass
        except OrchestratorError as error:
            self._emit(ev.WorkerFailed(name, error))
        self._emit(ev.WorkerIdle(name))
        while self._orders:  # what was ordered of a command that was over by then
            self._orders.pop()
            self._emit(ev.Saved(name))

    def _train(self, member: MemberPlan) -> None:
        training, term = self._begin(member, "train")
        epochs, every = self._setup.job.train.epochs, self._setup.job.faults.checkpoint_every_epochs
        try:
            while training.epoch < epochs:
                self._work(training, training.epoch + 1, term)
                training.epoch += 1
                training.weights = digest_after(member.seed, training.epoch, training.weights, training.epoch)
                self._stage.tell("epoch", member=member.index, term=term, epoch=training.epoch)
                logs = _history(training.epoch)[-1]
                self._emit(ev.EpochEnded(self._setup.worker, member.index, training.epoch, epochs, logs))
                if every is not None and training.epoch % every == 0:
                    self._checkpoint(training)
        except (MemoryError, ArithmeticError) as error:
            cause = ev.Cause.OUT_OF_MEMORY if isinstance(error, MemoryError) else ev.Cause.USER_ERROR
            training.log.append("failed", status="failed", cause=cause.value, message=repr(error))
            self._emit(ev.AttemptFailed(self._setup.worker, member.index, cause, repr(error)))
            return
        self._publish(training, late=False)

    def _work(self, training: _Training, epoch: int, term: int) -> None:
        """One epoch: a short wait, longer where the stage holds it; signs of life, orders and faults come within."""
        index, give_up_at, held = training.member.index, time.monotonic() + _GATE_S, False
        while True:
            self._ordered.wait(EPOCH_S)
            self._on_batch()
            self._obey(training)
            if not self._stage.holds(index, epoch) or time.monotonic() > give_up_at:
                break
            if not held:
                held = True
                self._stage.tell("held", member=index, term=term, epoch=epoch)
        if self._faults.exits.get(index) == epoch:
            os._exit(17)
        if self._faults.raises.get(index) == epoch:
            raise ArithmeticError("injected")
        if term <= self._faults.memory_errors.get(index, 0):
            raise MemoryError("injected")
        at, num_bytes = self._faults.hungry.get(index, (0, 0))
        if at == epoch and term == 1:
            self._take_memory(num_bytes)

    def _take_memory(self, num_bytes: int) -> None:
        """Take memory until the monitor ends this process; to its surprise it may not.

        Work, so with signs of life: memory that a virtual machine's host has to find first may come slower than silence
        is borne.
        """
        taken, piece = [], 128 * 2**20
        while len(taken) * piece < num_bytes:
            taken.append(np.ones(piece, dtype=np.uint8))
            self._stage.tell("takes memory", taken=len(taken) * piece)
            self._on_batch()
            threading.Event().wait(EPOCH_S / 2)
        threading.Event().wait(_GATE_S)

    def _obey(self, training: _Training) -> None:
        if not self._orders:
            return
        self._ordered.clear()
        stop = any(order.stop for order in self._orders)
        self._orders.clear()
        if training.epoch > training.saved_epoch:
            self._checkpoint(training)
        self._emit(ev.Saved(self._setup.worker))
        if stop:
            raise _GivenUp

    def _begin(self, member: MemberPlan, purpose: Purpose) -> tuple[_Training, int]:
        log = Log.open(self._store, self._setup.layout.member_log(member.index))
        term = log.claim(coord_term=self._setup.coord_term, worker=self._setup.worker, purpose=purpose)
        epoch, weights = self._newest(read_member(log.records()))
        self._stage.tell("claim", member=member.index, term=term, epoch=epoch, node=self._node)
        return _Training(member, log, epoch, weights, epoch), term

    def _newest(self, memory: MemberMemory) -> tuple[int, str]:
        """Epoch and weights of the newest checkpoint whose bytes verify; (0, ""): none."""
        for body in memory.checkpoints:
            try:
                state = json.loads(get_blob(self._store, BlobRef.from_json(body["state"], where="checkpoint")))
            except DamagedStore:
                continue
            return int(state["epoch"]), str(state["weights"])
        return 0, ""

    def _checkpoint(self, training: _Training) -> None:
        index, epoch = training.member.index, training.epoch
        gate = self._stage.upload_gate(index)
        if gate.exists():
            self._stage.tell("uploading", member=index, epoch=epoch)
            while gate.exists():
                threading.Event().wait(0.01)
        state = self._keep(json.dumps({"epoch": epoch, "weights": training.weights}).encode())
        training.log.append(
            "checkpoint",
            state=state,
            epoch=epoch,
            best_epoch=epoch,
            stopped=False,
            versions={"light": "1"},
            at=time.time(),
        )
        training.saved_epoch = epoch
        self._emit(ev.Checkpointed(self._setup.worker, index, epoch))

    def _publish(self, training: _Training, *, late: bool) -> None:
        history = _history(training.epoch)
        model = f"weights {training.weights}".encode()
        training.log.append(
            "final",
            model=self._keep(model),
            history=self._keep(history_to_parquet(history)),
            epochs=training.epoch,
            best_epoch=training.epoch,
            stopped_epoch=None,
            at_best=history[-1],
            weights_sha256=hashlib.sha256(model).hexdigest(),
            engine="solo",
            train_s=round(EPOCH_S * training.epoch, 3),
            late=late,
            at=time.time(),
        )
        self._emit(ev.MemberTrained(self._setup.worker, training.member.index, late=late))

    def _publish_late(self, member: MemberPlan) -> None:
        training, _ = self._begin(member, "publish")
        if training.epoch == 0:
            self._emit(ev.NothingToPublish(self._setup.worker, member.index))
        else:
            self._publish(training, late=True)

    def _predict(self, member: MemberPlan, dataset: Dataset) -> None:
        log = Log.open(self._store, self._setup.layout.member_log(member.index))
        final = read_member(log.records()).final
        if final is None:
            raise OrchestratorError("there is no published model to predict with", where=f"member {member.index}")
        get_blob(self._store, BlobRef.from_json(final["model"], where="final"))
        rng = np.random.default_rng(member.seed)
        blobs = {}
        for split, labels in _labels(dataset).items():
            noise = rng.dirichlet(np.ones(NUM_CLASSES), len(labels))
            rows = (0.7 * noise + 0.3 * np.eye(NUM_CLASSES)[labels]).astype(np.float32)
            blobs[split] = self._keep(predictions_to_parquet(rows))
        self._emit(ev.MemberPredicted(self._setup.worker, member.index, blobs))

    def _keep(self, body: bytes) -> dict[str, JSON]:
        return put_blob(self._store, self._setup.layout, body).to_json()


def _labels(dataset: Dataset) -> dict[str, Any]:
    """The class indices [N] of the splits that members are scored on."""
    return {name: to_targets(TaskKind.MULTICLASS, split.y) for name, split in dataset.splits() if name != "train"}


def _history(epochs: int) -> list[dict[str, float]]:
    return [{"epoch": epoch, "loss": 1 / epoch, "val_loss": 1.5 / epoch} for epoch in range(1, epochs + 1)]
