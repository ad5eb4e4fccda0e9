"""Whole runs without a controller: the schedule, a fake cluster, and coordinators that follow one another."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from planning_examples import plan

from orchestrator.errors import Interrupted
from orchestrator.planning import commands as cmd
from orchestrator.planning import events as ev
from orchestrator.planning.packs import packs_to_json
from orchestrator.planning.placement import Crew, Placing
from orchestrator.planning.policies import StopRule
from orchestrator.planning.recovery import read_member, read_run
from orchestrator.planning.schedule import Settings, State, begin, step
from orchestrator.spec import FaultsSpec, ResourcesSpec
from orchestrator.storage.layout import RunLayout
from orchestrator.storage.log import Log
from orchestrator.storage.records import Record
from orchestrator.testing import FakeClock, FakeCluster, MemoryStore

LAYOUT = RunLayout("digits", "digits-run")
POLL_S = 0.5
STOP = Interrupted("stopped by the test")


@dataclass
class Run:
    """A run of some members; each `start` is a coordinator that works on it until its end, or until it is killed.

    Attributes:
        trained: how often each (member, epoch) was trained, over all starts.
        lost_models: members whose model was taken back.
        stop_rule: when there are enough members; `scores` are those of the ensembles of the first 1, 2, … members.
    """

    num_members: int = 3
    faults: FaultsSpec = field(default_factory=FaultsSpec)
    quorum: int | None = 1
    store: MemoryStore = field(default_factory=MemoryStore)
    clock: FakeClock = field(default_factory=FakeClock)
    trained: Counter[tuple[int, int]] = field(default_factory=Counter)
    lost_models: list[int] = field(default_factory=list)
    stop_rule: StopRule | None = None
    scores: Sequence[float] = ()
    answers: list[ev.Event] = field(default_factory=list)

    def start(
        self,
        *,
        num_workers: int = 2,
        cutoff_s: float | None = None,
        stop_s: float | None = None,
        kill_s: float | None = None,
        **cluster: Any,
    ) -> cmd.Select | cmd.Abort | None:
        """Work on the run. Times count from this start; after `kill_s` the coordinator is gone, which gives None."""
        self.began = self.clock.monotonic()
        self.log = self._open(LAYOUT.coord_log)
        self.the_plan = plan(self.num_members)
        self.cluster = FakeCluster(
            self.store, LAYOUT, self.the_plan, coord_term=self.log.claim(), clock=self.clock, **cluster
        )
        settings = Settings(
            self.the_plan,
            Crew(num_workers),
            self.faults,
            self.quorum,
            cutoff=None if cutoff_s is None else self.began + cutoff_s,
            stop_rule=self.stop_rule,
            placing=Placing(ResourcesSpec()) if "room" in cluster else None,
        )
        members = {index: read_member(self.member_log(index).records()) for index in range(self.num_members)}
        self.state, commands = begin(
            settings,
            self.began,
            read_run(self.log.records()),
            [index for index, memory in members.items() if memory.final],
            {index: memory.diverged for index, memory in members.items() if memory.diverged},
            late=[index for index, memory in members.items() if memory.final and memory.final["late"]],
        )
        end = self._carry_out(commands)
        for _ in range(2_000):
            if end is not None or (kill_s is not None and self.elapsed() >= kill_s):
                self.cluster.close()
                return end
            events = list(self.cluster.poll(POLL_S))
            if stop_s is not None and self.elapsed() >= stop_s:
                events, stop_s = [*events, ev.StopRequested(STOP)], None
            happened = deque([*events, ev.Tick()])
            while happened:
                event = happened.popleft()
                if isinstance(event, ev.EpochEnded):
                    self.trained[event.member, event.epoch] += 1
                self.state, commands = step(self.state, event, self.clock.monotonic())
                end = self._carry_out(commands) or end
                happened.extendleft(self.answers)
                self.answers.clear()
        raise AssertionError(f"the run does not end: {self.state}")

    def elapsed(self) -> float:
        """Seconds since the newest start."""
        return self.clock.monotonic() - self.began

    def member_log(self, member: int) -> Log:
        return self._open(LAYOUT.member_log(member))

    def log_records(self) -> list[Record]:
        """All records of the coordinators so far."""
        return list(self._open(LAYOUT.coord_log).records())

    def models(self, state: State) -> dict[int, bytes]:
        """The published bytes of the members that are done."""
        finals = {
            i: read_member(self.member_log(i).records()).final for i, m in state.members.items() if m.status == "done"
        }
        return {index: self.store.get(final["model"]["key"]) for index, final in finals.items() if final is not None}

    def _carry_out(self, commands: list[cmd.Command]) -> cmd.Select | cmd.Abort | None:
        for command in commands:
            match command:
                case cmd.RecordEnded(member=member, attempt=attempt, cause=cause):
                    self.log.append("ended", member=member, attempt=attempt, cause=cause.value)
                case cmd.RecordPacked(packs=packs):
                    self.log.append("packed", packs=packs_to_json(packs))
                case cmd.ScorePrefix(num_members=num_members):
                    self.answers.append(ev.PrefixScored(num_members, self.scores[num_members - 1]))
                case cmd.RecordEnough(num_members=num_members, scores=scores):
                    self.log.append("enough", num_members=num_members, scores=scores)
                case cmd.Void(member=member, reason=reason):
                    self.lost_models.append(member)
                    self._claim(member).append("void", reason=reason)
                case cmd.RecordFailed(member=member, cause=cause):
                    self._claim(member).append("failed", status="failed", cause=cause.value)
                case cmd.Select() | cmd.Abort():
                    return command
                case cmd.Note():
                    pass
                case _:
                    self.cluster.send([command])
        return None

    def _claim(self, member: int) -> Log:
        log = self.member_log(member)
        log.claim(coord_term=self.log.term)
        return log

    def _open(self, prefix: str) -> Log:
        return Log.open(self.store, prefix, sleep=self.clock.sleep, monotonic=self.clock.monotonic)
