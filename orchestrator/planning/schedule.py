"""The schedule: a pure state machine. `step(state, event, now) -> (state, commands)`.

A member goes `waiting → running → trained → predicting → done`, or ends as `failed` or `diverged`; a worker goes
`starting → idle → busy → idle …`. A trained member is predicted before the next pack starts, by the worker that
trained it where it can be: its model is still built there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from orchestrator.errors import ClusterUnavailable, OrchestratorError, QuorumMissed, TimedOut
from orchestrator.planning import events as ev
from orchestrator.planning.commands import (
    Abort,
    Command,
    KillWorker,
    Note,
    Predict,
    Preflight,
    RecordEnded,
    Select,
    StartWorker,
    TrainPack,
)
from orchestrator.planning.events import Cause, Event
from orchestrator.planning.plan import Plan
from orchestrator.planning.policies import decide_quorum, decide_retry, exhausted, is_stalled
from orchestrator.planning.recovery import RunMemory
from orchestrator.planning.seeds import jitter
from orchestrator.spec import FaultsSpec

MemberStatus = Literal["waiting", "running", "trained", "predicting", "done", "failed", "diverged"]
WorkerTask = Literal["starting", "idle", "preflight", "training", "predicting"]


@dataclass(frozen=True)
class Settings:
    """What never changes during a run.

    Attributes:
        plan: members and packs.
        num_workers: how many workers train side by side.
        faults: budgets and time limits.
        quorum: fewest members for a result; None: all.
        seed: the job's seed, for the jitter of retries.
        deadline: monotonic second at which the run ends in `TimedOut`; None: never.
    """

    plan: Plan
    num_workers: int
    faults: FaultsSpec
    quorum: int | None = None
    seed: int = 0
    deadline: float | None = None


@dataclass(frozen=True)
class MemberState:
    """Where a member stands. `attempts` counts those that ended; `ended` only those that count against budgets."""

    status: MemberStatus = "waiting"
    attempts: int = 0
    preemptions: int = 0
    ended: Mapping[Cause, int] = field(default_factory=dict)
    epoch: int = 0
    message: str | None = None
    trained_by: str | None = None
    predictions: Mapping[str, Mapping[str, object]] = field(default_factory=dict)


@dataclass(frozen=True)
class WorkerState:
    """What a worker does: its task, the member it works on, and when it last gave a sign of progress."""

    task: WorkerTask
    last_progress: float
    member: int | None = None


@dataclass(frozen=True)
class State:
    """All that the schedule knows. Queues hold what waits: packs to train, members to predict, members to retry."""

    settings: Settings
    members: Mapping[int, MemberState]
    workers: Mapping[str, WorkerState] = field(default_factory=dict)
    packs: tuple[int, ...] = ()
    unpredicted: tuple[int, ...] = ()
    delayed: Mapping[int, float] = field(default_factory=dict)
    began: float = 0.0
    data_loaded: bool = False
    preflight: ev.PreflightPassed | None = None
    num_started: int = 0
    failed_starts: int = 0
    without_worker_since: float | None = None
    over: bool = False


Stepped = tuple[State, list[Command]]


def begin(
    settings: Settings, now: float, memory: RunMemory, trained: Sequence[int], diverged: Mapping[int, str]
) -> Stepped:
    """The first state, from what predecessors left.

    Members that are published are not trained again, and a member that has used up its budget gets no further attempt.
    """
    members: dict[int, MemberState] = {}
    for plan in settings.plan.members:
        i = plan.index
        known = MemberState(
            attempts=memory.attempts.get(i, 0),
            preemptions=memory.preemptions.get(i, 0),
            ended=memory.ended.get(i, {}),
        )
        spent = exhausted(known.ended, settings.faults)
        if i in diverged:
            known = replace(known, status="diverged", message=diverged[i])
        elif spent is not None:
            known = replace(known, status="failed", message=f"{spent} (in an earlier start of this run)")
        elif i in trained:
            known = replace(known, status="trained")
        members[i] = known
    packs = tuple(p.index for p in settings.plan.packs if any(members[m].status == "waiting" for m in p.members))
    unpredicted = tuple(i for i, member in members.items() if member.status == "trained")
    state = State(settings, members, packs=packs, unpredicted=unpredicted, without_worker_since=now, began=now)
    return _advance(state, now, [])


def step(state: State, event: Event, now: float) -> Stepped:
    """Take one event in; `now` is the coordinator's monotonic clock in seconds."""
    if state.over or _is_stale(state, event):
        return state, []
    match event:
        case ev.DataLoaded():
            return _advance(replace(state, data_loaded=True), now, [])
        case ev.WorkerReady():
            return _advance(_on_ready(state, event, now), now, [])
        case ev.WorkerIdle():
            return _advance(_set_worker(state, event.worker, WorkerState("idle", now)), now, [])
        case ev.WorkerLost():
            state, commands = _on_lost(state, event, now)
            return _advance(state, now, commands)
        case ev.PreflightPassed():
            return _advance(replace(state, preflight=event, failed_starts=0), now, [])
        case ev.Progress():
            return _touch(state, event.worker, now), []
        case ev.EpochEnded():
            return _touch(_set_member(state, event.member, epoch=event.epoch), event.worker, now), []
        case ev.MemberTrained():
            state = _set_member(
                _release(state, event.worker, now),
                event.member,
                status="trained",
                message=None,
                trained_by=event.worker,
            )
            return replace(state, unpredicted=(*state.unpredicted, event.member)), []
        case ev.MemberPredicted():
            state = _release(state, event.worker, now)
            return _set_member(state, event.member, status="done", message=None, predictions=event.blobs), []
        case ev.MemberDiverged():
            state = _set_member(
                _release(state, event.worker, now), event.member, status="diverged", message=event.message
            )
            return state, [Note(f"member {event.member} diverged: {event.message}")]
        case ev.AttemptFailed():
            state = _release(state, event.worker, now)
            return _on_attempt_failed(state, event.member, event.cause, event.message, now)
        case ev.DataFailed() | ev.PreflightFailed() | ev.WorkerFailed() | ev.StopRequested():
            return _abort(state, event.error)
        case ev.WorkerFenced():
            state, commands = _on_lost(state, ev.WorkerLost(event.worker, Cause.CRASH, event.message), now)
            return _advance(state, now, [KillWorker(event.worker), *commands])
        case ev.Tick():
            return _on_tick(state, now)


def _is_stale(state: State, event: Event) -> bool:
    """Whether a worker speaks that was given up: its member has been retried, so a late word must not count twice."""
    worker = getattr(event, "worker", None)
    return worker is not None and worker not in state.workers


def _on_ready(state: State, event: ev.WorkerReady, now: float) -> State:
    state = replace(state, without_worker_since=None)
    return _set_worker(state, event.worker, WorkerState("idle", now))


def _on_lost(state: State, event: ev.WorkerLost, now: float) -> Stepped:
    worker = state.workers[event.worker]
    workers = {name: w for name, w in state.workers.items() if name != event.worker}
    state = replace(state, workers=workers)
    alone = all(w.task == "starting" for w in workers.values())
    if alone and state.without_worker_since is None:
        state = replace(state, without_worker_since=now)
    if worker.member is not None:
        return _on_attempt_failed(state, worker.member, event.cause, event.message, now)
    commands: list[Command] = [Note(f"worker {event.worker} is gone ({event.cause.value}): {event.message}")]
    if event.cause in (Cause.PREEMPTED, Cause.NODE_LOST):
        return state, commands
    state = replace(state, failed_starts=state.failed_starts + 1)
    if _gives_up_starting(state) and (alone or state.preflight is None):
        error = ClusterUnavailable(
            f"{state.failed_starts} workers in a row ended before they did any work: {event.message}",
            hint="look into Ray's worker logs; the environment on the nodes must have this package and TensorFlow",
        )
        return _abort(state, error)
    return state, commands


def _gives_up_starting(state: State) -> bool:
    return state.failed_starts > state.settings.faults.max_crashes


def _on_attempt_failed(state: State, index: int, cause: Cause, message: str, now: float) -> Stepped:
    member = state.members[index]
    ended = {**member.ended, cause: member.ended.get(cause, 0) + 1}
    attempt = member.attempts + 1
    commands: list[Command] = [RecordEnded(index, attempt, cause, message)]
    decision = decide_retry(cause, ended, state.settings.faults, jitter(state.settings.seed, index, attempt))
    preempted = cause in (Cause.PREEMPTED, Cause.NODE_LOST)
    preemptions = member.preemptions + preempted
    state = _set_member(
        state, index, attempts=attempt, preemptions=preemptions, ended=ended, message=message, trained_by=None
    )
    commands.append(Note(f"member {index}, attempt {attempt}: {message} ({decision.reason})"))
    if not decision.retry:
        return _set_member(state, index, status="failed"), commands
    predicting = member.status in ("trained", "predicting")
    state = _set_member(state, index, status="trained" if predicting else "waiting")
    return replace(state, delayed={**state.delayed, index: now + decision.delay_s}), commands


def _on_tick(state: State, now: float) -> Stepped:
    settings = state.settings
    if settings.deadline is not None and now >= settings.deadline:
        return _abort(state, TimedOut("the time given by --timeout is over", hint="start again to resume"))
    since = state.without_worker_since
    if since is not None and now - since > settings.faults.node_wait_s:
        error = ClusterUnavailable(
            f"no worker could be started for {settings.faults.node_wait_s:g} s",
            hint="no node has what `resources` asks for: add nodes, ask for less, or raise faults.node_wait_s",
        )
        return _abort(state, error)
    if not state.data_loaded and now - state.began > settings.faults.data_wait_s:
        error = ClusterUnavailable(
            f"the data was not loaded within {settings.faults.data_wait_s:g} s",
            hint="make the data function faster, or raise faults.data_wait_s",
        )
        return _abort(state, error)
    commands: list[Command] = []
    for name, worker in state.workers.items():
        busy = worker.task not in ("starting", "idle")
        if busy and is_stalled(now, worker.last_progress, settings.faults.stall_s):
            message = f"no progress for {settings.faults.stall_s:g} s"
            state, lost = _on_lost(state, ev.WorkerLost(name, Cause.STALL, message), now)
            commands += [KillWorker(name), *lost]
    due = [member for member, at in state.delayed.items() if at <= now]
    for index in due:
        state = _requeue(state, index)
    return _advance(state, now, commands)


def _requeue(state: State, index: int) -> State:
    delayed = {member: at for member, at in state.delayed.items() if member != index}
    state = replace(state, delayed=delayed)
    if state.members[index].status == "trained":
        return replace(state, unpredicted=(*state.unpredicted, index))
    pack = next(p.index for p in state.settings.plan.packs if index in p.members)
    return replace(state, packs=(*state.packs, pack))


def _advance(state: State, now: float, commands: list[Command]) -> Stepped:
    """Give idle workers something to do, start missing workers, and end the run when nothing is left."""
    if state.over:
        return state, commands
    for name, worker in state.workers.items():
        if worker.task == "idle":
            state, command = _assign(state, name, now)
            commands += command
    if not (state.packs or state.unpredicted or state.delayed or _busy(state)):
        return _finish(state, commands)
    work = len(state.packs) + len(state.unpredicted) + len(state.delayed) + _busy(state)
    wanted = min(state.settings.num_workers, work)
    if _gives_up_starting(state):  # the workers that do work go on without more beside them
        wanted = 1
    while len(state.workers) < wanted:
        name = f"w{state.num_started}"
        state = _set_worker(replace(state, num_started=state.num_started + 1), name, WorkerState("starting", now))
        commands.append(StartWorker(name))
    return state, commands


def _assign(state: State, worker: str, now: float) -> Stepped:
    if state.preflight is None:
        if not state.data_loaded or any(w.task == "preflight" for w in state.workers.values()):
            return state, []
        return _set_worker(state, worker, WorkerState("preflight", now)), [Preflight(worker)]
    member = _to_predict(state, worker)
    if member is not None:
        left = tuple(i for i in state.unpredicted if i != member)
        state = _set_member(replace(state, unpredicted=left), member, status="predicting")
        return _set_worker(state, worker, WorkerState("predicting", now, member)), [Predict(worker, member)]
    if state.packs:
        pack = state.packs[0]
        member = state.settings.plan.packs[pack].members[0]
        state = _set_member(replace(state, packs=state.packs[1:]), member, status="running", epoch=0)
        return _set_worker(state, worker, WorkerState("training", now, member)), [TrainPack(worker, pack)]
    return state, []


def _to_predict(state: State, worker: str) -> int | None:
    """A member that this worker trained, else one whose trainer is gone: whoever trained it has its model at hand."""
    own = (i for i in state.unpredicted if state.members[i].trained_by == worker)
    orphans = (i for i in state.unpredicted if state.members[i].trained_by not in state.workers)
    return next(own, next(orphans, None))


def _busy(state: State) -> int:
    return sum(worker.task in ("training", "predicting") for worker in state.workers.values())


def _finish(state: State, commands: list[Command]) -> Stepped:
    good = tuple(index for index, member in state.members.items() if member.status == "done")
    decision = decide_quorum(len(good), len(state.members), state.settings.quorum)
    state = replace(state, over=True)
    if decision.enough:
        return state, [*commands, Select(good, decision.reason)]
    why = [f"member {i}: {m.message}" for i, m in state.members.items() if m.status != "done"]
    error = QuorumMissed(
        f"{decision.reason}\n  " + "\n  ".join(why[:10]),
        hint="a later start trains the missing members again; `ensemble.quorum` accepts fewer",
    )
    return state, [*commands, Abort(error)]


def _abort(state: State, error: OrchestratorError) -> Stepped:
    return replace(state, over=True), [Abort(error)]


def _set_member(state: State, index: int, **changes: object) -> State:
    return replace(state, members={**state.members, index: replace(state.members[index], **changes)})  # type: ignore[arg-type]  # fields by name


def _set_worker(state: State, name: str, worker: WorkerState) -> State:
    return replace(state, workers={**state.workers, name: worker})


def _release(state: State, name: str, now: float) -> State:
    """The worker's member is settled: should the worker die before it says `idle`, that is no attempt of the member."""
    state = replace(state, failed_starts=0)
    return _set_worker(state, name, replace(state.workers[name], member=None, last_progress=now))


def _touch(state: State, name: str, now: float) -> State:
    return _set_worker(state, name, replace(state.workers[name], last_progress=now))
