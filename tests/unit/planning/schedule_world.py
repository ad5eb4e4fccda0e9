"""A world for the schedule: it carries commands out, knows what may happen next, and checks every promise at each step.

`World.step` takes any event in; `World.possible` and `World.mishaps` list what could happen next. Random walks over
them are the property tests, chosen walks the examples.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import TypeVar

from planning_examples import plan

from orchestrator.errors import OrchestratorError
from orchestrator.planning import commands as cmd
from orchestrator.planning import events as ev
from orchestrator.planning.events import Cause
from orchestrator.planning.outputs import ONLY
from orchestrator.planning.packs import Architecture, Pack, PackingRules
from orchestrator.planning.placement import ClusterShape, Crew, NodeShape, Placing
from orchestrator.planning.policies import StopRule
from orchestrator.planning.recovery import RunMemory
from orchestrator.planning.schedule import Settings, begin, step
from orchestrator.spec import FaultsSpec, ResourcesSpec

Kind = TypeVar("Kind", bound=cmd.Command)


@dataclass
class Busy:
    """What a worker of the world does.

    Attributes:
        task, members: what, and on whom of those that are not settled.
        publishing: whom it trained before and publishes meanwhile.
        predicting: whom it predicts before it trains.
        settled: it has only `WorkerIdle` left to say.
        pack: what it trains.
        told: it was told to save and to give up; `saved`: it did.
    """

    task: str
    members: tuple[int, ...] = ()
    publishing: tuple[int, ...] = ()
    predicting: tuple[int, ...] = ()
    settled: bool = False
    pack: Pack | None = None
    told: bool = False
    saved: bool = False

    @property
    def unsettled(self) -> tuple[int, ...]:
        return (*self.members, *self.publishing, *self.predicting)

    def settle(self, member: int) -> None:
        self.publishing = tuple(i for i in self.publishing if i != member)
        self.predicting = tuple(i for i in self.predicting if i != member)
        if member in self.members:
            self.members = tuple(i for i in self.members if i != member)
            self.settled = not self.members


class World:
    """Workers, and what has been seen of them.

    Args:
        num_members, num_workers, quorum, faults, deadline, cutoff: of the run.
        pack_size: of packs, trained by the fused engine; 1: each member alone, by `fit`.
        packing, crew, solo_crew: instead of what follows from these.
        nodes_change: nodes come and go, as mishaps.
        placing: what decides of the workers then; it follows from `nodes_change`.
        stop_rule: when there are enough members; `score` tells that of the ensemble of the first so many.
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
        cutoff: float | None = None,
        pack_size: int = 1,
        packing: PackingRules | None = None,
        crew: Crew | None = None,
        solo_crew: Crew | None = None,
        nodes_change: bool = False,
        placing: Placing | None = None,
        stop_rule: StopRule | None = None,
        score: Callable[[int], float | None] = float,
        memory: RunMemory | None = None,
        trained: Sequence[int] = (),
        diverged: Mapping[int, str] | None = None,
    ) -> None:
        self.settings = Settings(
            plan(num_members),
            crew or Crew(num_workers),
            faults or FaultsSpec(),
            quorum,
            deadline=deadline,
            cutoff=cutoff,
            packing=packing or PackingRules("fused" if pack_size > 1 else "solo", max_members=pack_size),
            solo_crew=solo_crew,
            placing=placing or (Placing(ResourcesSpec()) if nodes_change else None),
            stop_rule=stop_rule,
        )
        self.nodes_change = nodes_change
        self.score = score
        self.to_score: int | None = None
        self.cutoff = cutoff
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
        self.late: set[int] = set()
        self.drained: set[str] = set()
        self.stop_requested = False
        self.settled = set(diverged or {})
        self.enough = memory.enough
        self.data_loaded = self.preflight_passed = False
        self.state, commands = begin(self.settings, 0.0, memory, trained, diverged or {})
        self._carry_out(commands)

    def step(self, *events: ev.Event) -> list[cmd.Command]:
        """Let things happen; returns the commands that followed, but for the record of the packs."""
        before = len(self.sent)
        for event in events:
            self._happens(event)
            was_over = self.state.over
            self.state, commands = step(self.state, event, self.now)
            assert not (was_over and commands), "something was done after the end"
            self._carry_out(commands)
            self._check()
        return [command for command in self.sent[before:] if not isinstance(command, cmd.RecordPacked)]

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
        return self.step(self.passed(names[0]), ev.WorkerIdle(names[0]))

    def possible(self) -> list[ev.Event]:
        """All good things that could happen next."""
        events: list[ev.Event] = [] if self.data_loaded else [ev.DataLoaded("f", {"train": 1})]
        if self.to_score is not None:
            events.append(ev.PrefixScored(self.to_score, self.score(self.to_score)))
        for name, busy in self.workers.items():
            if busy.task == "starting":
                events.append(ev.WorkerReady(name, "n", 1))
            elif busy.settled or busy.saved:
                events.append(ev.WorkerIdle(name, busy.publishing))
            elif busy.task == "preflight":
                events.append(self.passed(name))
            elif busy.told:
                events.append(ev.Saved(name))
            events += [ev.MemberTrained(name, member) for member in busy.publishing]
            events += [ev.MemberPredicted(name, member, {}) for member in busy.predicting]
            for member in busy.members if not busy.predicting else ():
                events += self._good_news(name, busy, member)
        return events

    def _good_news(self, name: str, busy: Busy, member: int) -> list[ev.Event]:
        match busy.task:
            case "train" if not busy.told:
                news = [ev.EpochEnded(name, member, 1, 2, {}), ev.Checkpointed(name, member, 1), ev.Progress(name)]
                return [*news, ev.MemberTrained(name, member), ev.WorkerIdle(name, busy.unsettled)]
            case "publish":
                return [ev.MemberTrained(name, member, late=True), ev.NothingToPublish(name, member)]
            case "predict":
                return [ev.MemberPredicted(name, member, {})]
        return []

    def passed(self, worker: str) -> ev.PreflightPassed:
        """All is well; all members are of one architecture."""
        return passed(worker, len(self.settings.plan.members))

    def mishaps(self) -> list[ev.Event]:
        """All that could go wrong next: errors and deaths of workers, and late words of those given up."""
        events = [mishap for name, busy in self.workers.items() for mishap in self._mishaps(name, busy)]
        if self.nodes_change:
            events += [ev.NodesChanged(nodes_of(num_cpus)) for num_cpus in (0, 1, 3)]
        for name in self.gone[-1:]:
            events += [ev.WorkerIdle(name), ev.MemberTrained(name, 0)]
        return events

    def _mishaps(self, name: str, busy: Busy) -> list[ev.Event]:
        deaths = (Cause.CRASH, Cause.PREEMPTED, Cause.NODE_LOST, Cause.OUT_OF_MEMORY)
        events: list[ev.Event] = [ev.WorkerLost(name, cause, "gone") for cause in deaths]
        events.append(ev.NodeDraining(name, 30.0))
        for member in busy.unsettled:
            errors = (Cause.USER_ERROR, Cause.OUT_OF_MEMORY)
            events += [ev.AttemptFailed(name, member, cause, "error") for cause in errors]
            if member in busy.predicting:
                events.append(ev.ModelLost(name, member, "damaged"))
            elif busy.task == "train" and not busy.predicting:
                events += [ev.MemberDiverged(name, member, "NaN"), ev.MemberTrained(name, member)]
            if busy.task == "predict" and member in busy.members:
                events.append(ev.ModelLost(name, member, "damaged"))
            events.append(ev.WorkerFenced(name, "superseded"))
        begun = busy.task == "train" and busy.members and not busy.predicting
        if begun and busy.pack is not None and len(busy.pack.members) > 1:
            events.append(ev.PackTooLarge(name, busy.pack.index, "no memory"))
            events.append(ev.PackRefused(name, busy.pack.index, "the compiler refuses it"))
        return events

    def _happens(self, event: ev.Event) -> None:
        """The world's own view of an event of a living worker."""
        worker = getattr(event, "worker", None)
        if worker is not None and worker not in self.workers:
            return
        match event:
            case ev.DataLoaded():
                self.data_loaded = True
            case ev.WorkerReady():
                self.workers[event.worker] = Busy("idle")
            case ev.WorkerIdle(publishing=publishing):
                self.workers[event.worker] = Busy("idle", publishing=publishing)
            case ev.WorkerLost():
                self._bury(event.worker)
            case ev.PreflightPassed():
                self.preflight_passed = True
                self.workers[event.worker].settled = True
            case ev.MemberTrained(member=member, late=late):
                self.published.add(member)
                self.late |= {member} if late else set()
                self.workers[event.worker].settle(member)
            case (
                ev.MemberPredicted(member=member)
                | ev.MemberDiverged(member=member)
                | ev.NothingToPublish(member=member)
            ):
                self.settled.add(member)
                self.workers[event.worker].settle(member)
            case ev.AttemptFailed(member=member) | ev.ModelLost(member=member):
                self.workers[event.worker].settle(member)
            case ev.PackTooLarge() | ev.PackRefused():
                self.workers[event.worker].members = ()
                self.workers[event.worker].settled = True
            case ev.Saved():
                self.workers[event.worker].saved = True
            case ev.PrefixScored():
                self.to_score = None
            case ev.NodeDraining():
                self.drained.add(event.worker)
            case ev.StopRequested():
                self.stop_requested = True

    def _bury(self, worker: str) -> None:
        del self.workers[worker]
        self.gone.append(worker)

    def _carry_out(self, commands: Sequence[cmd.Command]) -> None:
        for command in commands:
            assert self.end is None, f"{command} after the end"
            self.sent.append(command)
            if self.stop_requested:
                assert not isinstance(command, cmd.StartWorker | cmd.TrainPack | cmd.PublishLate | cmd.Predict)
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
                case cmd.TrainPack(worker=worker, pack=pack, members=members, predict=predict):
                    assert self.data_loaded
                    assert self.preflight_passed, "training before the preflight passed"
                    assert members
                    assert set(members) <= set(pack.members)
                    assert not set(members) & self.published, "a published member is trained again"
                    assert self.cutoff is None or self.now < self.cutoff, "training after the deadline"
                    assert set(predict) <= self.published, "nothing to predict with"
                    self._assign(worker, Busy("train", members, predicting=predict, pack=pack))
                case cmd.SaveNow(worker=worker, stop=stop):
                    busy = self.workers[worker]
                    assert stop
                    assert busy.task == "train", "nothing to save"
                    assert not busy.told, "told twice"
                    busy.told = True
                case cmd.PublishLate(worker=worker, member=member):
                    assert self.preflight_passed
                    assert self.cutoff is not None
                    assert self.now >= self.cutoff, "late before the deadline"
                    assert member not in self.published, "a published member is published again"
                    self._assign(worker, Busy("publish", (member,)))
                case cmd.Void(member=member):
                    self.published.remove(member)
                    self.late.discard(member)
                case cmd.RecordFailed(member=member):
                    assert all(member not in busy.unsettled for busy in self.workers.values())
                    assert member not in self.published, "a claim after `final`"
                case cmd.Predict(worker=worker, member=member):
                    assert member in self.published, "nothing to predict with"
                    self._assign(worker, Busy("predict", (member,)))
                case cmd.ScorePrefix(num_members=num_members):
                    assert self.to_score is None, "one at a time"
                    assert self.enough is None, "a score that nobody needs"
                    assert num_members - 1 in self.settled
                    self.to_score = num_members
                case cmd.RecordEnough(num_members=num_members):
                    assert self.enough is None, "decided twice"
                    assert num_members < len(self.settings.plan.members), "nothing to leave out"
                    self.enough = num_members
                case cmd.RecordEnded(member=member, attempt=attempt, cause=cause):
                    self.attempts[member] += 1
                    assert attempt == self.attempts[member], "attempts are numbered without gaps"
                    self.ended[member, cause] += 1
                case cmd.Select() | cmd.Abort():
                    self.end = command

    def _assign(self, worker: str, task: Busy) -> None:
        assert self.workers[worker].task == "idle", f"{worker} is busy"
        assert worker not in self.drained, "work for a node that is being taken away"
        task.publishing = self.workers[worker].publishing
        for member in (*task.members, *task.predicting):
            assert self.enough is None or member < self.enough, "work on a member that is left out"
            assert member not in self.settled, "a settled member gets more work"
            at_work = [i for busy in self.workers.values() for i in busy.unsettled]
            assert member not in at_work, "one member on two workers"
        self.workers[worker] = task

    def _check(self) -> None:
        if any(busy.task == "starting" for busy in self.workers.values()):
            assert len(self.workers) <= self.state.crew.num_workers, "a worker waits for a place that nobody needs"
        assert set(self.state.workers) == set(self.workers)
        faults = self.settings.faults
        assert {index for index, member in self.state.members.items() if member.late} <= self.late
        for index, member in self.state.members.items():
            count = {cause: self.ended[index, cause] for cause in Cause}
            assert count[Cause.USER_ERROR] <= 1
            assert count[Cause.OUT_OF_MEMORY] <= faults.max_out_of_memory + 1
            crashes = count[Cause.CRASH] + count[Cause.STALL] + count[Cause.DAMAGED]
            assert crashes <= faults.max_crashes + 1
            spent = (
                count[Cause.USER_ERROR] > 0
                or count[Cause.OUT_OF_MEMORY] > faults.max_out_of_memory
                or crashes > faults.max_crashes
            )
            assert (member.status == "failed") == spent, "a member fails exactly when a budget is gone"


def nodes_of(*cpus: int) -> ClusterShape:
    """A cluster of nodes with so many CPUs each; 0: no node."""
    return ClusterShape(tuple(NodeShape(num, 0) for num in cpus if num), can_grow=True)


def passed(worker: str, num_members: int = 0) -> ev.PreflightPassed:
    return ev.PreflightPassed(
        worker,
        tasks={ONLY: "multiclass"},
        device="cpu",
        deterministic=True,
        versions={},
        labels={},
        architectures={index: Architecture("one") for index in range(num_members)},
    )


def walk(world: World, rnd: Random, mishaps: int, *, steps: int = 2_000) -> Counter[str]:
    """Let random things happen until the run ends, at most so many steps; returns the mishaps that were met."""
    met: Counter[str] = Counter()
    for _ in range(steps):
        if world.end is not None:
            break
        wrong = world.mishaps() if mishaps > 0 and rnd.random() < 0.3 else []
        events = wrong or world.possible()
        if not events or rnd.random() < 0.1:
            world.tick(rnd.choice([1.0, 70.0]) if events else 601.0)
            continue
        event = rnd.choice(events)
        if wrong:
            mishaps -= 1
            late = hasattr(event, "worker") and event.worker not in world.workers
            met["late" if late else type(event).__name__] += 1
        world.step(event)
    assert world.end is not None or steps < 2_000, "the run does not end"
    return met


def error_of(world: World) -> OrchestratorError:
    """The error in which the run ended."""
    assert isinstance(world.end, cmd.Abort), f"the run ended in {world.end}"
    return world.end.error


def commands_of(commands: list[cmd.Command], kind: type[Kind]) -> list[Kind]:
    """Those of one kind."""
    return [command for command in commands if isinstance(command, kind)]
