"""The fake cluster: workers without processes, that write what real ones write."""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from orchestrator.errors import InvalidInput
from orchestrator.planning import commands as cmd
from orchestrator.planning import events as ev
from orchestrator.planning.placement import ClusterShape, NodeShape
from orchestrator.planning.plan import Plan
from orchestrator.planning.ports import Store
from orchestrator.storage.layout import RunLayout
from orchestrator.testing.program import FakeProgram, PredictFault, Script, Silence, Step, WorkerFault
from orchestrator.testing.stores import FakeClock

_ROWS: Mapping[str, int] = {"train": 40, "validation": 24, "test": 12}
_START_S = 1.0


class FakeCluster:
    """The `Cluster` port without processes, Ray or TensorFlow: everything happens in `poll`, on a `FakeClock`.

    Its workers do to the store what real ones do: they claim the member's log, resume from its newest checkpoint,
    append `checkpoint`, `final` and `failed` records, write blobs (history, predictions and labels as real Parquet
    files), and tell the same events in the same order. A member's model depends on its seed (and on lateness) alone,
    what it predicts on its seed; how long it takes depends on `seed`, so another `seed` is another order of finishing.

    Args:
        store: the store that the controller has.
        layout: keys of the run.
        plan: the members.
        coord_term: what the coordinator's claim returned.
        clock: moved on by `poll`, so that nothing waits.
        faults: what goes wrong in training or in publishing late, by (member, term of its claim, from 1): after the
            last epoch, before its checkpoint.
        fault_epochs: the epoch after which a fault strikes instead, by the same.
        predict_faults: what goes wrong in predicting, by (member, how often this cluster was asked for it, from 1).
        drains: after which (member, epoch) its worker's node is announced to be taken away, and in how many seconds it
            is (None: never). Once each.
        room: for how many workers there is a place from which second on, the first from 0: nodes come and go. Those
            that come too early wait; those that were placed last lose theirs. Empty: there always is one.
        epochs: how many each member trains, at most as many as its own settings say.
        epoch_s: seconds of one epoch, give or take half of it.
        checkpoint_every: epochs from one checkpoint to the next.
        rows: rows by split; without `validation` there is no validation set.
        num_classes: of the labels.
        fingerprint: of the data.
        data_error, preflight_error: what the data task, or the preflight, answers instead of passing.
        seed: of the durations.

    Attributes:
        fired: each fault that struck, as (member, which attempt, fault), and (member, epoch, "drain") for each notice:
            a fault test asserts that its fault fired.
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
        fault_epochs: Mapping[tuple[int, int], int] | None = None,
        predict_faults: Mapping[tuple[int, int], PredictFault] | None = None,
        drains: Mapping[tuple[int, int], float | None] | None = None,
        room: Sequence[tuple[float, int]] = (),
        epochs: int = 3,
        epoch_s: float = 1.0,
        checkpoint_every: int = 1,
        rows: Mapping[str, int] = _ROWS,
        num_classes: int = 3,
        fingerprint: str = "f" * 64,
        data_error: InvalidInput | None = None,
        preflight_error: InvalidInput | None = None,
        seed: int = 0,
    ) -> None:
        self._script = Script(
            faults=dict(faults or {}),
            fault_epochs=dict(fault_epochs or {}),
            predict_faults=dict(predict_faults or {}),
            drains=dict(drains or {}),
            epochs=epochs,
            epoch_s=epoch_s,
            checkpoint_every=checkpoint_every,
            rows=dict(rows),
            num_classes=num_classes,
            preflight_error=preflight_error,
            seed=seed,
        )
        self._program = FakeProgram(store, layout, plan, coord_term, clock, self._script)
        self.fired = self._program.fired
        self.sent: list[cmd.WorkerCommand] = []
        self.closed = False
        self._plan, self._clock = plan, clock
        self._alive: set[str] = set()
        self._room: int | None = dict(room).get(0)
        self._placed: list[str] = []
        self._unplaced: list[str] = []
        self._working: dict[str, Iterator[Step]] = {}
        self._agenda: list[_Entry] = []
        self._num_planned = 0
        digests = {split: row_digests(fingerprint)[split] for split in self._script.scored}
        loaded = ev.DataLoaded(fingerprint, self._script.rows, digests)
        self._plan_next(0.0, None, iter([loaded if data_error is None else ev.DataFailed(data_error)]))
        for at_s, number in (change for change in room if change[0] > 0):
            self._plan_next(at_s, None, self._change_room(number))

    def shape(self) -> ClusterShape:
        if self._room is None:
            return ClusterShape((NodeShape(num_cpus=4, num_gpus=0),), can_grow=False)
        return ClusterShape((NodeShape(self._room, 0),) if self._room else (), can_grow=True)

    def send(self, commands: Iterable[cmd.WorkerCommand]) -> None:
        for command in commands:
            self.sent.append(command)
            match command:
                case cmd.StartWorker(worker=worker):
                    self._alive.add(worker)
                    self._unplaced.append(worker)
                    self._place()
                case cmd.KillWorker(worker=worker):
                    self._leave(worker)
                case cmd.SaveNow(worker=worker, stop=stop) if worker in self._alive:
                    self._plan_next(0.0, worker, self._save(worker, stop))
                case _ if command.worker in self._alive:
                    self._working[command.worker] = self._program.handle(command)
                    self._plan_next(0.0, command.worker, self._working[command.worker])

    def poll(self, timeout_s: float) -> Sequence[ev.Event]:
        """The next things to happen within `timeout_s` on the clock, which moves to the moment when they do."""
        until = self._clock.monotonic() + timeout_s
        while self._agenda and self._agenda[0].at <= until:
            entry = heapq.heappop(self._agenda)
            if entry.worker is not None and entry.worker not in self._alive:
                continue
            self._clock.advance(max(0.0, entry.at - self._clock.monotonic()))
            happened = self._happens(entry)
            if happened:
                return happened
        self._clock.advance(max(0.0, until - self._clock.monotonic()))
        return ()

    def close(self) -> None:
        self._alive.clear()
        self.closed = True

    def labels(self, split: str) -> npt.NDArray[np.int64]:
        """The split's labels [N]."""
        return self._script.labels(split)

    def predictions(self, member: int, split: str) -> npt.NDArray[np.float32]:
        """What a member predicts, [N, C] float32."""
        return self._script.predictions(self._plan.members[member].seed, split)

    def _happens(self, entry: _Entry) -> list[ev.Event]:
        """Take an entry's steps up to the next one that lets time pass."""
        happened: list[ev.Event] = []
        try:
            for step in entry.steps:
                if isinstance(step, float):
                    self._plan_next(step, entry.worker, entry.steps)
                    break
                happened.append(step)
                if isinstance(step, ev.NodeDraining) and step.remaining_s is not None:
                    self._plan_next(step.remaining_s, step.worker, _node_lost(step.worker))
        except Silence:
            self._leave(entry.worker or "")
        return happened

    def _place(self) -> None:
        """Workers that wait for a place start where there is one."""
        while self._unplaced and (self._room is None or len(self._placed) < self._room):
            worker = self._unplaced.pop(0)
            self._placed.append(worker)
            self._plan_next(_START_S, worker, iter([ev.WorkerReady(worker, node="node-0", pid=1)]))

    def _leave(self, worker: str) -> None:
        self._alive.discard(worker)
        self._placed = [other for other in self._placed if other != worker]
        self._unplaced = [other for other in self._unplaced if other != worker]
        self._place()

    def _change_room(self, number: int) -> Iterator[Step]:
        self._room = number
        for worker in self._placed[number:]:
            yield ev.WorkerLost(worker, ev.Cause.NODE_LOST, "its node is gone")
            self._leave(worker)
        self._place()
        yield ev.NodesChanged(self.shape())

    def _save(self, worker: str, stop: bool) -> Iterator[Step]:
        """`SaveNow` waits for nothing; with `stop`, what the worker trains is given up when it is saved."""
        yield from self._program.save(worker)
        if stop and self._program.training.pop(worker, None) is not None:
            self._agenda = [entry for entry in self._agenda if entry.steps is not self._working[worker]]
            heapq.heapify(self._agenda)
            yield ev.WorkerIdle(worker)

    def _plan_next(self, after_s: float, worker: str | None, steps: Iterator[Step]) -> None:
        self._num_planned += 1  # what falls on one moment happens in the order of planning
        heapq.heappush(self._agenda, _Entry(self._clock.monotonic() + after_s, self._num_planned, worker, steps))


def row_digests(fingerprint: str) -> dict[str, str]:
    """The digests of the rows of the splits that a `FakeCluster` with data of this fingerprint scores on."""
    return {split: hashlib.sha256(f"{fingerprint} {split}".encode()).hexdigest() for split in ("validation", "test")}


@dataclass(frozen=True, order=True)
class _Entry:
    """Something that will happen: the next steps of a worker (None: of the data task)."""

    at: float
    order: int
    worker: str | None = field(compare=False)
    steps: Iterator[Step] = field(compare=False)


def _node_lost(worker: str) -> Iterator[Step]:
    yield ev.WorkerLost(worker, ev.Cause.NODE_LOST, "its node was taken away")
    raise Silence
