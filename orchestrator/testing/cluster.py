"""The fake cluster: workers without processes, that write what real ones write."""

from __future__ import annotations

import hashlib
import heapq
import random
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt

from orchestrator.errors import Fenced, InvalidInput, OrchestratorError
from orchestrator.planning import commands as cmd
from orchestrator.planning import events as ev
from orchestrator.planning.members import MemberPlan
from orchestrator.planning.placement import ClusterShape, NodeShape
from orchestrator.planning.plan import Plan
from orchestrator.planning.ports import Store
from orchestrator.planning.recovery import read_member
from orchestrator.storage.blobs import get_blob, put_blob
from orchestrator.storage.layout import RunLayout
from orchestrator.storage.log import Log
from orchestrator.storage.records import JSON, BlobRef
from orchestrator.storage.tables import history_to_parquet, labels_to_parquet, predictions_to_parquet
from orchestrator.testing.stores import FakeClock

PredictFault = Literal["crash", "preempted", "node_lost", "out_of_memory", "user_error", "stall"]
WorkerFault = PredictFault | Literal["diverge", "fenced", "unheard"]
"""How an attempt goes wrong in a `FakeCluster`. `unheard`: the worker publishes and dies before it can say so."""

_ROWS: Mapping[str, int] = {"train": 40, "validation": 24, "test": 12}
_START_S = _PREFLIGHT_S = 1.0


class FakeCluster:
    """The `Cluster` port without processes, Ray or TensorFlow: everything happens in `poll`, on a `FakeClock`.

    Its workers do to the store what real ones do: they claim the member's log, append `final` and `failed` records,
    write blobs (history, predictions and labels as real Parquet files), and tell the same events in the same order.
    What a member predicts depends on its seed alone; how long it takes depends on `seed`, so another `seed` is another
    order of finishing.

    Args:
        store: the store that the controller has.
        layout: keys of the run.
        plan: members and packs.
        coord_term: what the coordinator's claim returned.
        clock: moved on by `poll`, so that nothing waits.
        faults: what goes wrong in training, by (member, term of its claim, from 1): after the last epoch, before the
            model is published.
        predict_faults: what goes wrong in predicting, by (member, how often this cluster was asked for it, from 1).
        epochs: how many each member trains.
        epoch_s: seconds of one epoch, give or take half of it.
        rows: rows by split; without `validation` there is no validation set.
        num_classes: of the labels.
        fingerprint: of the data.
        data_error, preflight_error: what the data task, or the preflight, answers instead of passing.
        seed: of the durations.

    Attributes:
        fired: each fault that struck, as (member, which attempt, fault): a fault test asserts that its fault fired.
        sent: all commands, in order.
        closed: whether `close` was called.
    """

    def __init__(
        self,
        store: Store,
        layout: RunLayout,
        plan: Plan,
        *,
        coord_term: int,
        clock: FakeClock,
        faults: Mapping[tuple[int, int], WorkerFault] | None = None,
        predict_faults: Mapping[tuple[int, int], PredictFault] | None = None,
        epochs: int = 3,
        epoch_s: float = 1.0,
        rows: Mapping[str, int] = _ROWS,
        num_classes: int = 3,
        fingerprint: str = "f" * 64,
        data_error: InvalidInput | None = None,
        preflight_error: InvalidInput | None = None,
        seed: int = 0,
    ) -> None:
        self.fired: list[tuple[int, int, WorkerFault]] = []
        self.sent: list[cmd.WorkerCommand] = []
        self.closed = False
        self._store, self._layout, self._plan = store, layout, plan
        self._coord_term, self._clock, self._seed = coord_term, clock, seed
        self._faults, self._predict_faults = dict(faults or {}), dict(predict_faults or {})
        self._epochs, self._epoch_s = epochs, epoch_s
        self._rows, self._num_classes = dict(rows), num_classes
        self._preflight_error = preflight_error
        self._alive: set[str] = set()
        self._predictions: Counter[int] = Counter()
        self._agenda: list[tuple[float, int, str | None, Iterator[float | ev.Event]]] = []
        self._num_planned = 0
        loaded = ev.DataLoaded(fingerprint, self._rows) if data_error is None else ev.DataFailed(data_error)
        self._plan_next(0.0, None, iter([loaded]))

    def shape(self) -> ClusterShape:
        return ClusterShape((NodeShape(num_cpus=4, num_gpus=0),), can_grow=False)

    def send(self, commands: Iterable[cmd.WorkerCommand]) -> None:
        for command in commands:
            self.sent.append(command)
            match command:
                case cmd.StartWorker(worker=worker):
                    self._alive.add(worker)
                    self._plan_next(_START_S, worker, iter([ev.WorkerReady(worker, node="node-0", pid=1)]))
                case cmd.KillWorker(worker=worker):
                    self._alive.discard(worker)
                case _ if command.worker in self._alive:
                    self._plan_next(0.0, command.worker, self._handle(command))

    def poll(self, timeout_s: float) -> Sequence[ev.Event]:
        """The next things to happen within `timeout_s` on the clock, which moves to the moment when they do."""
        until = self._clock.monotonic() + timeout_s
        while self._agenda and self._agenda[0][0] <= until:
            at, _, worker, steps = heapq.heappop(self._agenda)
            if worker is not None and worker not in self._alive:
                continue
            self._clock.advance(max(0.0, at - self._clock.monotonic()))
            happened: list[ev.Event] = []
            for step in steps:
                if isinstance(step, float):
                    self._plan_next(step, worker, steps)
                    break
                happened.append(step)
            if happened:
                return happened
        self._clock.advance(until - self._clock.monotonic())
        return ()

    def close(self) -> None:
        self._alive.clear()
        self.closed = True

    def labels(self, split: str) -> npt.NDArray[np.int64]:
        """The split's labels [N]."""
        return np.random.default_rng([len(split)]).integers(0, self._num_classes, self._rows[split])

    def predictions(self, member: int, split: str) -> npt.NDArray[np.float32]:
        """What a member predicts, [N, C] float32: noise of its own, leaning towards the labels."""
        rng = np.random.default_rng([self._plan.members[member].seed, len(split)])
        noise = rng.dirichlet(np.ones(self._num_classes), self._rows[split])
        return (0.7 * noise + 0.3 * np.eye(self._num_classes)[self.labels(split)]).astype(np.float32)

    def _plan_next(self, after_s: float, worker: str | None, steps: Iterator[float | ev.Event]) -> None:
        self._num_planned += 1  # what falls on one moment happens in the order of planning
        heapq.heappush(self._agenda, (self._clock.monotonic() + after_s, self._num_planned, worker, steps))

    def _handle(self, command: cmd.WorkerCommand) -> Iterator[float | ev.Event]:
        """One command, as `training.program` handles it: a float lets seconds pass, an event is told."""
        try:
            match command:
                case cmd.Preflight():
                    yield _PREFLIGHT_S
                    yield self._preflight(command.worker)
                case cmd.TrainPack(pack=pack):
                    for member in self._plan.packs[pack].members:
                        yield from self._train(command.worker, self._plan.members[member])
                case cmd.Predict(member=index):
                    yield from self._predict(command.worker, index)
        except Fenced as fenced:
            yield ev.WorkerFenced(command.worker, str(fenced))
            return
        except OrchestratorError as error:
            yield ev.WorkerFailed(command.worker, error)
        except _Silence:
            return
        yield ev.WorkerIdle(command.worker)

    def _preflight(self, worker: str) -> ev.Event:
        if self._preflight_error is not None:
            return ev.PreflightFailed(worker, self._preflight_error)
        scored = [split for split in self._rows if split != "train"]
        return ev.PreflightPassed(
            worker,
            task="multiclass",
            device="cpu",
            deterministic=True,
            versions={"fake": "1"},
            labels={split: self._keep(labels_to_parquet(self.labels(split))) for split in scored},
        )

    def _train(self, worker: str, member: MemberPlan) -> Iterator[float | ev.Event]:
        log = self._open(member.index)
        term = log.claim(coord_term=self._coord_term, worker=worker)
        began = self._clock.monotonic()
        epoch_s = self._epoch_s * random.Random(f"{self._seed}/{member.index}/{term}").uniform(0.5, 1.5)
        history: list[dict[str, float]] = []
        for epoch in range(1, self._epochs + 1):
            yield epoch_s
            history.append({"epoch": epoch, "loss": 1 / epoch, "val_loss": 1.5 / epoch})
            yield ev.EpochEnded(worker, member.index, epoch, self._epochs, dict(history[-1]))
        fault = self._faults.get((member.index, term))
        if fault is not None:
            self.fired.append((member.index, term, fault))
        if fault == "diverge":
            log.append("failed", status="diverged", message="injected")
            yield ev.MemberDiverged(worker, member.index, "injected")
            return
        if fault in ("user_error", "out_of_memory"):
            log.append("failed", status="failed", cause=fault, message="injected")
        if fault == "fenced":  # by a worker that took this one for dead
            self._open(member.index).claim(coord_term=self._coord_term, worker="rival")
        elif fault is not None and fault != "unheard":
            yield from self._strike(worker, member.index, fault)
            return
        model = f"the best model of seed {member.seed}".encode()
        log.append(
            "final",
            model=self._keep(model),
            history=self._keep(history_to_parquet(history)),
            epochs=self._epochs,
            best_epoch=self._epochs,
            stopped_epoch=None,
            at_best=history[-1],
            weights_sha256=hashlib.sha256(model).hexdigest(),
            engine="solo",
            train_s=round(self._clock.monotonic() - began, 3),
        )
        if fault == "unheard":
            yield from self._strike(worker, member.index, "crash")
        yield ev.MemberTrained(worker, member.index)

    def _predict(self, worker: str, member: int) -> Iterator[float | ev.Event]:
        yield self._epoch_s / 4
        self._predictions[member] += 1
        fault = self._predict_faults.get((member, self._predictions[member]))
        if fault is not None:
            self.fired.append((member, self._predictions[member], fault))
            yield from self._strike(worker, member, fault)
            return
        final = read_member(self._open(member).records()).final
        if final is None:
            raise OrchestratorError("there is no published model to predict with", where=f"member {member}")
        get_blob(self._store, BlobRef.from_json(final["model"], where=f"member {member}"))
        scored = [split for split in self._rows if split != "train"]
        blobs = {split: self._keep(predictions_to_parquet(self.predictions(member, split))) for split in scored}
        yield ev.MemberPredicted(worker, member, blobs)

    def _strike(self, worker: str, member: int, fault: PredictFault) -> Iterator[ev.Event]:
        """What is heard of the worker when the fault strikes."""
        if fault == "stall":
            raise _Silence
        if fault in ("user_error", "out_of_memory"):
            yield ev.AttemptFailed(worker, member, ev.Cause(fault), "injected")
            return
        self._alive.discard(worker)
        yield ev.WorkerLost(worker, ev.Cause(fault), "injected")
        raise _Silence

    def _open(self, member: int) -> Log:
        prefix = self._layout.member_log(member)
        return Log.open(self._store, prefix, sleep=self._clock.sleep, monotonic=self._clock.monotonic)

    def _keep(self, body: bytes) -> dict[str, JSON]:
        return put_blob(self._store, self._layout, body).to_json()


class _Silence(Exception):
    """The worker says nothing more: it hangs, or is gone."""
