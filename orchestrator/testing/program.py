"""What the workers of a `FakeCluster` do with their commands: to the store, all that real ones do; but no training."""

from __future__ import annotations

import hashlib
import random
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from orchestrator.errors import DamagedStore, Fenced, InvalidInput, OrchestratorError
from orchestrator.planning import commands as cmd
from orchestrator.planning import events as ev
from orchestrator.planning.members import MemberPlan
from orchestrator.planning.outputs import ONLY
from orchestrator.planning.packs import Architecture
from orchestrator.planning.plan import Plan
from orchestrator.planning.ports import Store
from orchestrator.planning.recovery import MemberMemory, Purpose, read_member
from orchestrator.storage.blobs import get_blob, put_blob
from orchestrator.storage.layout import RunLayout
from orchestrator.storage.log import Log
from orchestrator.storage.members import claim_unpublished
from orchestrator.storage.plans import KnownPlan
from orchestrator.storage.records import JSON, BlobRef
from orchestrator.storage.retry import Patience
from orchestrator.storage.tables import history_to_parquet, labels_to_parquet, predictions_to_parquet
from orchestrator.testing.stores import FakeClock

PredictFault = Literal["crash", "preempted", "node_lost", "out_of_memory", "user_error", "stall"]
WorkerFault = PredictFault | Literal["diverge", "fenced", "unheard"]
"""How an attempt goes wrong in a `FakeCluster`. `unheard`: the worker publishes and dies before it can say so."""

Step = float | ev.Event
"""Seconds that pass, or something to tell."""

VERSIONS: Mapping[str, str] = {"fake": "1"}
_PREFLIGHT_S = 1.0
_SAVE_S = 0.1


@dataclass(frozen=True)
class Script:
    """What happens in a `FakeCluster`; its arguments say what each field means."""

    faults: Mapping[tuple[int, int], WorkerFault]
    fault_epochs: Mapping[tuple[int, int], int]
    predict_faults: Mapping[tuple[int, int], PredictFault]
    drains: Mapping[tuple[int, int], float | None]
    epochs: int
    epoch_s: float
    checkpoint_every: int
    rows: Mapping[str, int]
    num_classes: int
    preflight_error: InvalidInput | None
    seed: int

    @property
    def scored(self) -> list[str]:
        """The splits that members are scored on."""
        return [split for split in self.rows if split != "train"]

    def labels(self, split: str) -> npt.NDArray[np.int64]:
        """The split's labels [N]."""
        return np.random.default_rng([len(split)]).integers(0, self.num_classes, self.rows[split])

    def predictions(self, seed: int, split: str) -> npt.NDArray[np.float32]:
        """What a member of that seed predicts, [N, C] float32: noise of its own, leaning towards the labels."""
        rng = np.random.default_rng([seed, len(split)])
        noise = rng.dirichlet(np.ones(self.num_classes), self.rows[split])
        return (0.7 * noise + 0.3 * np.eye(self.num_classes)[self.labels(split)]).astype(np.float32)


class Silence(Exception):
    """The worker says nothing more: it hangs, or is gone."""


class _Ended(Exception):
    """The command is over; the worker lives."""


@dataclass
class Training:
    """What a worker trains: the newest finished epoch, and the newest one that a checkpoint holds."""

    worker: str
    member: MemberPlan
    log: Log
    epoch: int
    saved_epoch: int


class FakeProgram:
    """The program of all workers of a `FakeCluster`.

    Each method is one command as `training.program` handles it, told step by step.

    Attributes:
        training: what each worker trains now.
        fired: each fault that struck.
    """

    def __init__(
        self, store: Store, layout: RunLayout, plan: Plan, coord_term: int, clock: FakeClock, script: Script
    ) -> None:
        self.training: dict[str, Training] = {}
        self.fired: list[tuple[int, int, WorkerFault | Literal["drain"]]] = []
        self._store, self._layout = store, layout
        self._coord_term, self._clock, self._script = coord_term, clock, script
        self._patience = Patience(sleep=clock.sleep, monotonic=clock.monotonic)
        self._members = KnownPlan(plan, lambda: self._open_log(layout.coord_log))
        self._predictions: Counter[int] = Counter()
        self._drained: set[tuple[int, int]] = set()

    def handle(self, command: cmd.WorkerCommand) -> Iterator[Step]:
        """Carry out one command. Raises Silence when nothing more will be heard of the worker."""
        self._members.refresh()
        try:
            match command:
                case cmd.Preflight():
                    yield _PREFLIGHT_S
                    yield self._preflight(command.worker)
                case cmd.LookAtTrials(trials=trials):
                    yield _PREFLIGHT_S
                    yield ev.TrialsSeen(command.worker, {index: Architecture("fake") for index in trials})
                case cmd.TrainPack(members=members, predict=predict):
                    for member in predict:
                        yield from self._predict(command.worker, member)
                    for member in members:
                        yield from self._train(command.worker, self._members[member])
                case cmd.PublishLate(member=index):
                    yield from self._publish_late(command.worker, self._members[index])
                case cmd.Predict(member=index):
                    yield from self._predict(command.worker, index)
        except Fenced as fenced:
            yield ev.WorkerFenced(command.worker, str(fenced))
            raise Silence from fenced
        except OrchestratorError as error:
            yield ev.WorkerFailed(command.worker, error)
        except _Ended:
            pass
        self.training.pop(command.worker, None)
        yield ev.WorkerIdle(command.worker)

    def save(self, worker: str) -> Iterator[Step]:
        """Publish the newest finished epoch of what the worker trains."""
        yield _SAVE_S
        training = self.training.get(worker)
        try:
            if training is not None and training.epoch > training.saved_epoch:
                yield self._checkpoint(training)
        except Fenced as fenced:
            yield ev.WorkerFenced(worker, str(fenced))
            raise Silence from fenced
        except OrchestratorError as error:
            yield ev.WorkerFailed(worker, error)
        yield ev.Saved(worker)

    def _preflight(self, worker: str) -> ev.Event:
        script = self._script
        if script.preflight_error is not None:
            return ev.PreflightFailed(worker, script.preflight_error)
        labels = {split: self._keep(labels_to_parquet(script.labels(split))) for split in script.scored}
        return ev.PreflightPassed(
            worker, {ONLY: "multiclass"}, "cpu", deterministic=True, versions=VERSIONS, labels=labels
        )

    def _train(self, worker: str, member: MemberPlan) -> Iterator[Step]:
        script, index, log = self._script, member.index, self._open(member.index)
        if (published := self._claim(log, worker, index, "train")) is not None:
            yield published
            return
        term, began = log.term, self._clock.monotonic()
        done = self._newest_epoch(read_member(log.records()))
        training = self.training[worker] = Training(worker, member, log, done, done)
        epoch_s = script.epoch_s * random.Random(f"{script.seed}/{index}/{term}").uniform(0.5, 1.5)
        fault = script.faults.get((index, term))
        epochs = min(script.epochs, member.train.epochs)
        strikes_at = script.fault_epochs.get((index, term), epochs)
        strikes = fault is not None and fault != "unheard"
        while training.epoch < epochs:
            yield epoch_s
            training.epoch += 1
            yield ev.EpochEnded(worker, index, training.epoch, epochs, _history(training.epoch)[-1])
            if strikes and training.epoch >= strikes_at:
                strikes = False
                yield from self._strike(training, term)
            if training.epoch % script.checkpoint_every == 0:
                yield self._checkpoint(training)
            yield from self._drain(training)
        if strikes:
            yield from self._strike(training, term)
        self._publish(training, late=False, train_s=self._clock.monotonic() - began)
        if fault == "unheard":
            self.fired.append((index, term, fault))
            yield from _heard(worker, index, fault)
        yield ev.MemberTrained(worker, index)

    def _claim(self, log: Log, worker: str, index: int, purpose: Purpose) -> ev.Event | None:
        """Claim a member, unless a worker that was lost, or is superseded, published it before: then tell of that."""
        final = claim_unpublished(
            log, coord_term=self._coord_term, worker=worker, purpose=purpose, at=self._clock.epoch()
        ).final
        return None if final is None else ev.MemberTrained(worker, index, late=bool(final["late"]))

    def _publish_late(self, worker: str, member: MemberPlan) -> Iterator[Step]:
        yield self._script.epoch_s / 4
        index, log = member.index, self._open(member.index)
        if (published := self._claim(log, worker, index, "publish")) is not None:
            yield published
            return
        term, epoch = log.term, self._newest_epoch(read_member(log.records()))
        training = Training(worker, member, log, epoch, epoch)
        if (index, term) in self._script.faults:
            yield from self._strike(training, term)
        if epoch == 0:
            yield ev.NothingToPublish(worker, index)
            return
        self._publish(training, late=True, train_s=0.0)
        yield ev.MemberTrained(worker, index, late=True)

    def _predict(self, worker: str, member: int) -> Iterator[Step]:
        yield self._script.epoch_s / 4
        self._predictions[member] += 1
        fault = self._script.predict_faults.get((member, self._predictions[member]))
        if fault is not None:
            self.fired.append((member, self._predictions[member], fault))
            yield from _heard(worker, member, fault)
            return
        final = read_member(self._open(member).records()).final
        if final is None:
            raise OrchestratorError("there is no published model to predict with", where=f"member {member}")
        try:
            self._get(final["model"])
        except DamagedStore as error:
            yield ev.ModelLost(worker, member, error.what)
            return
        seed = self._members[member].seed
        predictions = {split: self._script.predictions(seed, split) for split in self._script.scored}
        blobs = {split: self._keep(predictions_to_parquet(values)) for split, values in predictions.items()}
        yield ev.MemberPredicted(worker, member, blobs)

    def _strike(self, training: Training, term: int) -> Iterator[Step]:
        """The fault of this attempt strikes. Ends the worker's command, but for `fenced`."""
        worker, index = training.worker, training.member.index
        fault = self._script.faults[index, term]
        self.fired.append((index, term, fault))
        if fault == "fenced":  # by a worker that took this one for dead: the next append fails
            self._open(index).claim(coord_term=self._coord_term, worker="rival")
            return
        if fault == "diverge":
            training.log.append("failed", status="diverged", message="injected", at=self._clock.epoch())
            yield ev.MemberDiverged(worker, index, "injected")
            raise _Ended
        if fault in ("user_error", "out_of_memory"):
            training.log.append("failed", status="failed", cause=fault, message="injected", at=self._clock.epoch())
        yield from _heard(worker, index, fault)
        raise _Ended

    def _drain(self, training: Training) -> Iterator[Step]:
        moment = (training.member.index, training.epoch)
        if moment in self._script.drains and moment not in self._drained:
            self._drained.add(moment)
            self.fired.append((*moment, "drain"))
            yield ev.NodeDraining(training.worker, self._script.drains[moment])

    def _checkpoint(self, training: Training) -> ev.Event:
        index, epoch = training.member.index, training.epoch
        training.log.append(
            "checkpoint",
            state=self._keep(f"the state of seed {training.member.seed} after epoch {epoch}".encode()),
            epoch=epoch,
            best_epoch=epoch,
            stopped=False,
            versions=VERSIONS,
            at=self._clock.epoch(),
        )
        training.saved_epoch = epoch
        return ev.Checkpointed(training.worker, index, epoch)

    def _newest_epoch(self, memory: MemberMemory) -> int:
        """The epoch of the newest checkpoint whose bytes verify; 0: none."""
        for body in memory.checkpoints:
            try:
                self._get(body["state"])
            except DamagedStore:
                continue
            return int(body["epoch"])
        return 0

    def _publish(self, training: Training, *, late: bool, train_s: float) -> None:
        """Append `final`. The model depends on the member's seed and on lateness alone, not on interruptions."""
        model = f"the best model of seed {training.member.seed}{', cut short' if late else ''}".encode()
        history = _history(training.epoch)
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
            worker=training.worker,
            train_s=round(train_s, 3),
            late=late,
            at=self._clock.epoch(),
        )

    def _open(self, member: int) -> Log:
        return self._open_log(self._layout.member_log(member))

    def _open_log(self, prefix: str) -> Log:
        return Log.open(self._store, prefix, sleep=self._clock.sleep, monotonic=self._clock.monotonic)

    def _keep(self, body: bytes) -> dict[str, JSON]:
        return put_blob(self._store, self._layout, body, patience=self._patience).to_json()

    def _get(self, reference: object) -> bytes:
        return get_blob(self._store, BlobRef.from_json(reference, where="fake"), patience=self._patience)


def _heard(worker: str, member: int, fault: WorkerFault) -> Iterator[Step]:
    """What is heard of a worker when a fault strikes it."""
    if fault == "stall":
        raise Silence
    if fault in ("user_error", "out_of_memory"):
        yield ev.AttemptFailed(worker, member, ev.Cause(fault), "injected")
        return
    cause = ev.Cause.CRASH if fault == "unheard" else ev.Cause(fault)
    yield ev.WorkerLost(worker, cause, "injected")
    raise Silence


def _history(epochs: int) -> list[dict[str, float]]:
    return [{"epoch": epoch, "loss": 1 / epoch, "val_loss": 1.5 / epoch} for epoch in range(1, epochs + 1)]
