"""A world for the schedule: it carries commands out, knows what may happen next, and checks every promise at each step.

`World.step` takes any event in; `World.possible` and `World.mishaps` list what could happen next. Random walks over
them are the property tests, chosen walks the examples.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from planning_examples import plan

from orchestrator.planning import commands as cmd
from orchestrator.planning import events as ev
from orchestrator.planning.events import Cause
from orchestrator.planning.recovery import RunMemory
from orchestrator.planning.schedule import Settings, begin, step
from orchestrator.spec import FaultsSpec


@dataclass
class Busy:
    """What a worker of the world does: `settled` when it has only `WorkerIdle` left to say."""

    task: str
    member: int | None = None
    settled: bool = False


class World:
    """Workers, and what has been seen of them.

    Args:
        num_members, num_workers, quorum, faults, deadline: of the run.
        memory, trained, diverged: what predecessors left.
    """

    def __init__(
        self,
        num_members: int = 3,
        num_workers: int = 2,
        *,
        quorum: int | None = None,
        faults: FaultsSpec | None = None,
        deadline: float | None = None,
        memory: RunMemory | None = None,
        trained: Sequence[int] = (),
        diverged: Mapping[int, str] | None = None,
    ) -> None:
        self.settings = Settings(plan(num_members), num_workers, faults or FaultsSpec(), quorum, deadline=deadline)
        self.now = 0.0
        self.workers: dict[str, Busy] = {}
        self.gone: list[str] = []
        self.sent: list[cmd.Command] = []
        self.end: cmd.Select | cmd.Abort | None = None
        memory = memory or RunMemory()
        self.ended: Counter[tuple[int, Cause]] = Counter(
            {(index, cause): count for index, counts in memory.ended.items() for cause, count in counts.items()}
        )
        self.attempts: Counter[int] = Counter(memory.attempts)
        self.published = set(trained)
        self.settled = set(diverged or {})
        self.data_loaded = self.preflight_passed = False
        self.state, commands = begin(self.settings, 0.0, memory, trained, diverged or {})
        self._carry_out(commands)

    def step(self, *events: ev.Event) -> list[cmd.Command]:
        """Let things happen; returns the commands that followed."""
        before = len(self.sent)
        for event in events:
            self._happens(event)
            was_over = self.state.over
            self.state, commands = step(self.state, event, self.now)
            assert not (was_over and commands), "something was done after the end"
            self._carry_out(commands)
            self._check()
        return self.sent[before:]

    def tick(self, seconds: float) -> list[cmd.Command]:
        """Let time pass."""
        self.now += seconds
        return self.step(ev.Tick())

    def train_all_of(self, worker: str, member: int) -> list[cmd.Command]:
        """A worker trains its member well and is idle again."""
        return self.step(ev.MemberTrained(worker, member), ev.WorkerIdle(worker))

    def get_ready(self, *workers: str) -> list[cmd.Command]:
        """Data, workers (all that were started) and preflight are fine; the first worker checks."""
        names = workers or tuple(self.workers)
        self.step(ev.DataLoaded("f", {"train": 1}), *(ev.WorkerReady(name, "n", 1) for name in names))
        return self.step(passed(names[0]), ev.WorkerIdle(names[0]))

    def possible(self) -> list[ev.Event]:
        """All good things that could happen next."""
        events: list[ev.Event] = [] if self.data_loaded else [ev.DataLoaded("f", {"train": 1})]
        for name, busy in self.workers.items():
            if busy.task == "starting":
                events.append(ev.WorkerReady(name, "n", 1))
            elif busy.settled:
                events.append(ev.WorkerIdle(name))
            elif busy.task == "preflight":
                events.append(passed(name))
            elif busy.task == "train" and busy.member is not None:
                events += [ev.EpochEnded(name, busy.member, 1, 2, {}), ev.MemberTrained(name, busy.member)]
            elif busy.task == "predict" and busy.member is not None:
                events.append(ev.MemberPredicted(name, busy.member, {}))
        return events

    def mishaps(self) -> list[ev.Event]:
        """All that could go wrong next: errors and deaths of workers, and late words of those given up."""
        events = [mishap for name, busy in self.workers.items() for mishap in self._mishaps(name, busy)]
        for name in self.gone[-1:]:
            events += [ev.WorkerIdle(name), ev.MemberTrained(name, 0)]
        return events

    def _mishaps(self, name: str, busy: Busy) -> list[ev.Event]:
        deaths = (Cause.CRASH, Cause.PREEMPTED, Cause.NODE_LOST, Cause.OUT_OF_MEMORY)
        events: list[ev.Event] = [ev.WorkerLost(name, cause, "gone") for cause in deaths]
        if busy.member is not None and not busy.settled:
            errors = (Cause.USER_ERROR, Cause.OUT_OF_MEMORY)
            events += [ev.AttemptFailed(name, busy.member, cause, "error") for cause in errors]
            if busy.task == "train":
                events.append(ev.MemberDiverged(name, busy.member, "NaN"))
            events.append(ev.WorkerFenced(name, "superseded"))
        return events

    def _happens(self, event: ev.Event) -> None:
        """The world's own view of an event of a living worker."""
        worker = getattr(event, "worker", None)
        if worker is not None and worker not in self.workers:
            return
        match event:
            case ev.DataLoaded():
                self.data_loaded = True
            case ev.WorkerReady() | ev.WorkerIdle():
                self.workers[event.worker] = Busy("idle")
            case ev.WorkerLost():
                self._bury(event.worker)
            case ev.PreflightPassed():
                self.preflight_passed = True
                self.workers[event.worker].settled = True
            case ev.MemberTrained(member=member):
                self.published.add(member)
                self.workers[event.worker].settled = True
            case ev.MemberPredicted(member=member) | ev.MemberDiverged(member=member):
                self.settled.add(member)
                self.workers[event.worker].settled = True
            case ev.AttemptFailed():
                self.workers[event.worker].settled = True

    def _bury(self, worker: str) -> None:
        del self.workers[worker]
        self.gone.append(worker)

    def _carry_out(self, commands: Sequence[cmd.Command]) -> None:
        for command in commands:
            assert self.end is None, f"{command} after the end"
            self.sent.append(command)
            match command:
                case cmd.StartWorker(worker=worker):
                    assert worker not in self.workers
                    assert worker not in self.gone, "a name was used twice"
                    self.workers[worker] = Busy("starting")
                case cmd.KillWorker(worker=worker):
                    self._bury(worker)
                case cmd.Preflight(worker=worker):
                    assert self.data_loaded, "preflight before the data is there"
                    assert not self.preflight_passed, "a second preflight"
                    assert all(busy.task != "preflight" for busy in self.workers.values()), "two preflights at once"
                    self._assign(worker, Busy("preflight"))
                case cmd.TrainPack(worker=worker, pack=pack):
                    assert self.data_loaded
                    assert self.preflight_passed, "training before the preflight passed"
                    assert pack not in self.published, "a published member is trained again"
                    self._assign(worker, Busy("train", pack))
                case cmd.Predict(worker=worker, member=member):
                    assert member in self.published, "nothing to predict with"
                    self._assign(worker, Busy("predict", member))
                case cmd.RecordEnded(member=member, attempt=attempt, cause=cause):
                    self.attempts[member] += 1
                    assert attempt == self.attempts[member], "attempts are numbered without gaps"
                    self.ended[member, cause] += 1
                case cmd.Select() | cmd.Abort():
                    self.end = command

    def _assign(self, worker: str, task: Busy) -> None:
        assert self.workers[worker].task == "idle", f"{worker} is busy"
        if task.member is not None:
            assert task.member not in self.settled, "a settled member gets more work"
            at_work = [busy.member for busy in self.workers.values() if not busy.settled]
            assert task.member not in at_work, "one member on two workers"
        self.workers[worker] = task

    def _check(self) -> None:
        assert len(self.workers) <= self.settings.num_workers
        assert set(self.state.workers) == set(self.workers)
        faults = self.settings.faults
        for index, member in self.state.members.items():
            count = {cause: self.ended[index, cause] for cause in Cause}
            assert count[Cause.USER_ERROR] <= 1
            assert count[Cause.OUT_OF_MEMORY] <= faults.max_out_of_memory + 1
            assert count[Cause.CRASH] + count[Cause.STALL] <= faults.max_crashes + 1
            spent = (
                count[Cause.USER_ERROR] > 0
                or count[Cause.OUT_OF_MEMORY] > faults.max_out_of_memory
                or count[Cause.CRASH] + count[Cause.STALL] > faults.max_crashes
            )
            assert (member.status == "failed") == spent, "a member fails exactly when a budget is gone"


def passed(worker: str) -> ev.PreflightPassed:
    return ev.PreflightPassed(worker, task="multiclass", device="cpu", deterministic=True, versions={}, labels={})
