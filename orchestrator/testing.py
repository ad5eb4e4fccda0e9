"""Shipped fakes at the real seams, for our tests and for yours: nothing has to be patched.

MemoryStore   the `Store` port over a dictionary
FaultyStore   any store, with faults injected by rules
FakeClock     the `Clock` port, moved by hand
FakeCluster   the `Cluster` port without processes: a trainer without TensorFlow, with faults by script
"""

from __future__ import annotations

import hashlib
import heapq
import random
import threading
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from orchestrator.errors import Fenced, InvalidInput, MissingObject, OrchestratorError, StoreUnavailable
from orchestrator.planning import commands as cmd
from orchestrator.planning import events as ev
from orchestrator.planning.members import MemberPlan
from orchestrator.planning.placement import ClusterShape, NodeShape
from orchestrator.planning.plan import Plan
from orchestrator.planning.ports import Store
from orchestrator.planning.recovery import read_member
from orchestrator.storage.blobs import get_blob, put_blob
from orchestrator.storage.layout import RunLayout, check_key
from orchestrator.storage.log import Log
from orchestrator.storage.records import JSON, BlobRef
from orchestrator.storage.tables import history_to_parquet, labels_to_parquet, predictions_to_parquet


class MemoryStore:
    """The `Store` port over a dictionary, safe for threads; other processes do not see it.

    Args:
        name: what stands in the URL.
    """

    def __init__(self, name: str = "fake") -> None:
        self._name = name
        self._objects: dict[str, bytes] = {}
        self._lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"memory://{self._name}"

    def create(self, key: str, body: bytes) -> bool:
        with self._lock:
            if check_key(key) in self._objects:
                return False
            self._objects[key] = bytes(body)
            return True

    def put(self, key: str, body: bytes) -> None:
        with self._lock:
            self._objects[check_key(key)] = bytes(body)

    def put_file(self, key: str, path: str) -> None:
        self.put(key, Path(path).read_bytes())

    def get(self, key: str) -> bytes:
        with self._lock:
            try:
                return self._objects[check_key(key)]
            except KeyError:
                raise MissingObject("no such object", where=f"{self.url}/{key}") from None

    def get_file(self, key: str, path: str) -> None:
        Path(path).write_bytes(self.get(key))

    def list(self, prefix: str) -> list[str]:
        folder = f"{check_key(prefix)}/" if prefix else ""
        with self._lock:
            return sorted(key for key in self._objects if key.startswith(folder))

    def delete(self, key: str) -> None:
        with self._lock:
            self._objects.pop(check_key(key), None)


Method = Literal["create", "put", "put_file", "get", "get_file", "list", "delete"]


@dataclass(frozen=True)
class Fault:
    """A rule: which calls of a store go wrong, and how.

    Args:
        method: the method of the port.
        effect: `before` raises without doing anything; `after` does it, then raises (a lost response); `truncate` and
            `corrupt` return the first half, or one flipped bit, of what `get` or `get_file` read.
        key: only calls whose key contains this.
        nth: the first matching call that goes wrong, from 1.
        times: how many from there on; None is all of them.
        probability: chance of each of these calls to go wrong, by the store's seed.
        error: what `before` and `after` raise.
    """

    method: Method
    effect: Literal["before", "after", "truncate", "corrupt"]
    key: str = ""
    nth: int = 1
    times: int | None = 1
    probability: float = 1.0
    error: type[OrchestratorError] = StoreUnavailable


class FaultyStore:
    """Any store, with faults. `fired` counts how often each rule struck: a fault test asserts that its fault fired.

    Args:
        inner: the store that does the work.
        rules: what goes wrong; rules can also be added later with `inject`.
        seed: for rules with a probability, so that a failure replays.
    """

    def __init__(self, inner: Store, rules: Iterable[Fault] = (), *, seed: int = 0) -> None:
        self.fired: Counter[Fault] = Counter()
        self._inner = inner
        self._matched: dict[Fault, int] = {}
        self._random = random.Random(seed)
        self._lock = threading.Lock()
        for rule in rules:
            self.inject(rule)

    def inject(self, rule: Fault) -> None:
        """Add a rule; its `nth` counts from now."""
        with self._lock:
            self._matched[rule] = 0

    def heal(self) -> None:
        """Forget all rules; `fired` stays."""
        with self._lock:
            self._matched.clear()

    @property
    def url(self) -> str:
        return self._inner.url

    def create(self, key: str, body: bytes) -> bool:
        with _Effects(self, "create", key):
            return self._inner.create(key, body)

    def put(self, key: str, body: bytes) -> None:
        with _Effects(self, "put", key):
            self._inner.put(key, body)

    def put_file(self, key: str, path: str) -> None:
        with _Effects(self, "put_file", key):
            self._inner.put_file(key, path)

    def get(self, key: str) -> bytes:
        with _Effects(self, "get", key) as effects:
            return effects.spoil(self._inner.get(key))

    def get_file(self, key: str, path: str) -> None:
        with _Effects(self, "get_file", key) as effects:
            self._inner.get_file(key, path)
            file = Path(path)
            file.write_bytes(effects.spoil(file.read_bytes()))

    def list(self, prefix: str) -> list[str]:
        with _Effects(self, "list", prefix):
            return self._inner.list(prefix)

    def delete(self, key: str) -> None:
        with _Effects(self, "delete", key):
            self._inner.delete(key)

    def _strike(self, method: Method, key: str) -> tuple[Fault, ...]:
        """The rules that strike this call."""
        struck = []
        with self._lock:
            for rule, matched in self._matched.items():
                if rule.method != method or rule.key not in key:
                    continue
                self._matched[rule] = count = matched + 1
                due = count >= rule.nth and (rule.times is None or count < rule.nth + rule.times)
                if due and self._random.random() < rule.probability:
                    self.fired[rule] += 1
                    struck.append(rule)
        return tuple(struck)


class _Effects:
    """What the rules do to one call."""

    def __init__(self, store: FaultyStore, method: Method, key: str) -> None:
        self._rules = store._strike(method, key)
        self._what = f"{method} {key}"

    def __enter__(self) -> _Effects:
        self._raise("before")
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self._raise("after")

    def spoil(self, body: bytes) -> bytes:
        for rule in self._rules:
            if rule.effect == "truncate":
                body = body[: len(body) // 2]
            if rule.effect == "corrupt" and body:
                middle = len(body) // 2
                body = body[:middle] + bytes([body[middle] ^ 1]) + body[middle + 1 :]
        return body

    def _raise(self, effect: str) -> None:
        for rule in self._rules:
            if rule.effect == effect:
                raise rule.error(f"injected fault {effect} the effect", where=self._what)


class FakeClock:
    """The `Clock` port, moved by hand; `sleep` moves it too, so that nothing waits.

    Args:
        epoch: UTC epoch seconds at the start.
    """

    def __init__(self, epoch: float = 1_700_000_000.0) -> None:
        self._start = epoch
        self._elapsed = 0.0

    def monotonic(self) -> float:
        return self._elapsed

    def epoch(self) -> float:
        return self._start + self._elapsed

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        if seconds < 0:
            raise ValueError("time does not go back")
        self._elapsed += seconds

    def sleep(self, seconds: float) -> None:
        """Like `time.sleep`, without waiting."""
        self.advance(seconds)


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
