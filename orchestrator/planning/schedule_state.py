"""What the schedule knows. Frozen: each step makes a new one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from orchestrator.errors import OrchestratorError
from orchestrator.planning import events as ev
from orchestrator.planning.commands import Abort, Command
from orchestrator.planning.events import Cause
from orchestrator.planning.pace import Pace, alive
from orchestrator.planning.packs import Pack, PackingRules
from orchestrator.planning.placement import Crew, Placing
from orchestrator.planning.plan import Plan
from orchestrator.planning.policies import StopRule
from orchestrator.spec import FaultsSpec

MemberStatus = Literal[
    "waiting", "running", "publishing", "trained", "predicting", "done", "failed", "diverged", "not_started", "unneeded"
]
WorkerTask = Literal["starting", "idle", "preflight", "training", "publishing", "predicting"]


@dataclass(frozen=True)
class SearchRules:
    """What the schedule knows of a search.

    Attributes:
        num_first: trials of the first generation.
        num_trials: of all.
        num_kept: trials that are to become members.
        pruned: trials that cannot.
    """

    num_first: int
    num_trials: int
    num_kept: int
    pruned: tuple[int, ...] = ()


@dataclass(frozen=True)
class Settings:
    """What never changes during a run.

    Attributes:
        plan: the members.
        crew: the workers that train side by side at first.
        faults: budgets and time limits.
        quorum: fewest members for a result; None: all.
        seed: the job's seed, for the jitter of retries.
        deadline: monotonic second at which the run ends in `TimedOut`; None: never.
        cutoff: monotonic second at which training ends and members count with their best epoch so far; None: never.
        packing: what the job says of engines.
        solo_crew: the workers to have instead, where members turn out to be trained one by one; None: the same.
        placing: what decides of the workers when nodes come or go; None: they stay as many.
        stop_rule: when there are enough members; None: when all are through.
        search: of a run whose members are the trials of a search; None: there is none.
    """

    plan: Plan
    crew: Crew
    faults: FaultsSpec
    quorum: int | None = None
    seed: int = 0
    deadline: float | None = None
    cutoff: float | None = None
    packing: PackingRules = field(default_factory=PackingRules)
    solo_crew: Crew | None = None
    placing: Placing | None = None
    stop_rule: StopRule | None = None
    search: SearchRules | None = None


@dataclass(frozen=True)
class MemberState:
    """Where a member stands.

    Attributes:
        status: see `schedule`.
        attempts: how many ended.
        preemptions: of these, how many were no fault of the member.
        ended: those that count against budgets, by cause.
        epoch: the newest one that the current attempt has finished; 0: none.
        checkpoint_epoch: the newest one that a checkpoint in storage holds; None: none is known.
        message: why it is not well.
        trained_by: the worker that has its model at hand.
        late: its model is the best so far of a training that the job's deadline ended.
        predictions: references of what it predicts, by split.
    """

    status: MemberStatus = "waiting"
    attempts: int = 0
    preemptions: int = 0
    ended: Mapping[Cause, int] = field(default_factory=dict)
    epoch: int = 0
    checkpoint_epoch: int | None = None
    message: str | None = None
    trained_by: str | None = None
    late: bool = False
    predictions: Mapping[str, Mapping[str, object]] = field(default_factory=dict)


@dataclass(frozen=True)
class WorkerState:
    """What a worker does.

    Attributes:
        task: its task.
        pace: its signs of life in this task.
        members: whom it works on, each until it is settled.
        publishing: whom it has trained before and publishes meanwhile, each until it is settled.
        predicting: whom it predicts before it trains, each until it is settled.
        draining: its node will be taken away.
        told_to_save: it was told to save the newest epoch and to give up its member.
        saved: it has answered.
    """

    task: WorkerTask
    pace: Pace
    members: tuple[int, ...] = ()
    publishing: tuple[int, ...] = ()
    predicting: tuple[int, ...] = ()
    draining: bool = False
    told_to_save: bool = False
    saved: bool = False

    @property
    def unsettled(self) -> tuple[int, ...]:
        """All whom it works on, whatever it does with them."""
        return (*self.publishing, *self.predicting, *self.members)

    @property
    def trains(self) -> bool:
        """Whether it has a member in training that is not settled."""
        return self.task == "training" and bool(self.members)


@dataclass(frozen=True)
class Stopping:
    """The run ends in `error`, as soon as workers have saved and at the monotonic second `until` at the latest."""

    error: OrchestratorError
    until: float


@dataclass(frozen=True)
class State:
    """All that the schedule knows.

    Attributes:
        settings: what never changes.
        members, workers: by index and by name.
        crew: the workers that train side by side.
        solo_crew: those to have instead, once members turn out to be trained one by one; None: the same.
        alone: they have.
        waits: no node has a place for a worker.
        packs: all there are; empty until they are decided. A pack that was halved is followed by its halves.
        waiting: packs waiting to be trained, by index.
        unpublished: members waiting for their best epoch so far to be published, after the cutoff.
        unpredicted: members waiting to be predicted.
        delayed: members that wait for a retry, until which monotonic second.
        began: monotonic second of the start.
        rows: of the loaded data, by split; None: it is not loaded.
        preflight: what has to be there before a member starts, as the data.
        num_started: workers so far.
        failed_starts: workers in a row that were lost before they did any work.
        without_worker_since: monotonic second since which no worker is up; None: one is.
        cut_at: monotonic second at which training ended because of the cutoff; None: it has not.
        scores: of the ensembles of the first 1, 2, … members, as far as they are known; None: the last one is absent.
        scoring: the next score was asked for.
        unseen: trials whose models are to be looked at before they are packed.
        asking: what a search tries next was asked for.
        searched: a search tries nothing more.
        enough: members with an index below this make the ensemble; None: all, as far as is known.
        stopping: the run is being stopped.
        over: nothing happens any more.
    """

    settings: Settings
    crew: Crew
    members: Mapping[int, MemberState]
    workers: Mapping[str, WorkerState] = field(default_factory=dict)
    solo_crew: Crew | None = None
    alone: bool = False
    waits: bool = False
    packs: tuple[Pack, ...] = ()
    waiting: tuple[int, ...] = ()
    unpublished: tuple[int, ...] = ()
    unpredicted: tuple[int, ...] = ()
    delayed: Mapping[int, float] = field(default_factory=dict)
    began: float = 0.0
    rows: Mapping[str, int] | None = None
    preflight: ev.PreflightPassed | None = None
    num_started: int = 0
    failed_starts: int = 0
    without_worker_since: float | None = None
    cut_at: float | None = None
    scores: tuple[float | None, ...] = ()
    scoring: bool = False
    unseen: tuple[int, ...] = ()
    asking: bool = False
    searched: bool = False
    enough: int | None = None
    stopping: Stopping | None = None
    over: bool = False


Stepped = tuple[State, list[Command]]


def set_member(state: State, index: int, **changes: object) -> State:
    """The state with changed fields of a member."""
    return replace(state, members={**state.members, index: replace(state.members[index], **changes)})  # type: ignore[arg-type]  # fields by name


def set_worker(state: State, name: str, worker: WorkerState) -> State:
    """The state with a worker that does something else now."""
    return replace(state, workers={**state.workers, name: worker})


def change_worker(state: State, name: str, **changes: object) -> State:
    """The state with changed fields of a worker."""
    return set_worker(state, name, replace(state.workers[name], **changes))  # type: ignore[arg-type]  # fields by name


def remove_worker(state: State, name: str, now: float) -> State:
    """The state without a worker; where no other is up, waiting for one begins."""
    workers = {other: worker for other, worker in state.workers.items() if other != name}
    state = replace(state, workers=workers)
    if state.without_worker_since is None and all(worker.task == "starting" for worker in workers.values()):
        state = replace(state, without_worker_since=now)
    return state


def release(state: State, name: str, index: int, now: float) -> State:
    """A member is settled: should its worker die before it says `idle`, that is no attempt of the member."""
    worker = state.workers[name]
    members = tuple(i for i in worker.members if i != index)
    publishing = tuple(i for i in worker.publishing if i != index)
    predicting = tuple(i for i in worker.predicting if i != index)
    left = {"members": members, "publishing": publishing, "predicting": predicting}
    begins_to_train = bool(worker.predicting) and not predicting
    pace = alive(worker.pace, now) if any(left.values()) and not begins_to_train else Pace(now)
    return change_worker(replace(state, failed_starts=0), name, **left, pace=pace)


def pack_of(state: State, index: int) -> Pack:
    """The pack of a member; of one that was halved, the half."""
    return next(pack for pack in reversed(state.packs) if index in pack.members)


def abort(state: State, error: OrchestratorError) -> Stepped:
    """The run ends without a result."""
    return replace(state, over=True), [Abort(error)]
