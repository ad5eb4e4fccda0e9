"""The schedule: a pure state machine. `step(state, event, now) -> (state, commands)`.

A member goes `waiting → running → trained → predicting → done`, or ends as `failed` or `diverged`; a worker goes
`starting → idle → busy → idle …`. A trained member is predicted before the next pack starts, by the worker that
trained it where it can be: its model is still built there. After the job's deadline a member without a model goes
`waiting → publishing → trained …`, or ends as `not_started`; whoever comes after enough members is `unneeded`. Members
wait in packs, which are decided after the preflight.

What belongs to one subject alone stands beside this file: `assignment` (who does what next), `attempts` (counting,
retrying, giving up), `packing`, `crew` (how many workers), `stopping`, `draining`, `lateness`, `enough`, `pace` (who is
hung). What all of them know is in `schedule_state`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

from orchestrator.errors import ClusterUnavailable, OrchestratorError, QuorumMissed, TimedOut
from orchestrator.planning import events as ev
from orchestrator.planning.assignment import assign
from orchestrator.planning.attempts import end_attempt, requeue
from orchestrator.planning.commands import Command, KillWorker, Note, Select
from orchestrator.planning.crew import follow_nodes, staff
from orchestrator.planning.draining import PREEMPTED, cause_of_loss, drain, end_drained
from orchestrator.planning.enough import ask_for_score, leave_out, take_score
from orchestrator.planning.events import Cause, Event
from orchestrator.planning.lateness import NOTHING_IN_TIME, cut_off, end_overdue, put_back
from orchestrator.planning.members import whole_configurations
from orchestrator.planning.pace import Pace, alive, epoch_ended, is_stalled, longest_silence_s, moved_on
from orchestrator.planning.packing import split, use_packs
from orchestrator.planning.packs import packs_from_json
from orchestrator.planning.policies import QuorumDecision, decide_quorum, exhausted
from orchestrator.planning.recovery import RunMemory
from orchestrator.planning.schedule_state import (
    MemberState,
    Settings,
    State,
    Stepped,
    WorkerState,
    abort,
    change_worker,
    pack_of,
    release,
    remove_worker,
    set_member,
    set_worker,
)
from orchestrator.planning.searching import ask_for_trials, take_models, take_preflight, take_trials, unseen_trials
from orchestrator.planning.stopping import end_when_saved, request_stop

__all__ = ["MemberState", "Settings", "State", "begin", "step"]


def begin(
    settings: Settings,
    now: float,
    memory: RunMemory,
    trained: Sequence[int],
    diverged: Mapping[int, str],
    *,
    late: Collection[int] = (),
) -> Stepped:
    """The first state, from what predecessors left.

    Members that are published are not trained again, and a member that has used up its budget gets no further attempt.

    Args:
        settings: what never changes.
        now: monotonic seconds.
        memory: what the coordinator's log says.
        trained: members that are published; of these, `late` were cut short by the deadline.
        diverged: why the members without a model have none.
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
            known = replace(known, status="trained", late=i in late)
        members[i] = known if memory.enough is None or i < memory.enough else leave_out(known, memory.enough)
    state = State(
        settings,
        settings.crew,
        members,
        solo_crew=settings.solo_crew,
        unpredicted=tuple(i for i, member in members.items() if member.status == "trained"),
        scores=memory.scores,
        enough=memory.enough,
        without_worker_since=now,
        began=now,
    )
    if memory.packed is not None:
        state = use_packs(state, packs_from_json(memory.packed["packs"]))
    return _advance(replace(state, unseen=unseen_trials(state)), now, [])


def step(state: State, event: Event, now: float) -> Stepped:
    """Take one event in; `now` is the coordinator's monotonic clock in seconds."""
    if state.over or _is_stale(state, event):
        return state, []
    state, commands = _take_in(state, event, now)
    state, end = end_when_saved(state, now)
    return state, [*commands, *end]


def _is_stale(state: State, event: Event) -> bool:
    """Whether a worker speaks that was given up: its member has been retried, so a late word must not count twice."""
    worker = getattr(event, "worker", None)
    return worker is not None and worker not in state.workers


def _take_in(state: State, event: Event, now: float) -> Stepped:
    match event:
        case ev.DataLoaded(rows=rows):
            return _advance(replace(state, rows=rows), now, [])
        case ev.PreflightPassed():
            state, commands = take_preflight(state, event)
            return _advance(state, now, commands)
        case ev.TrialsSeen():
            state, commands = take_models(state, event)
            return _advance(state, now, commands)
        case ev.TrialsAsked():
            state, commands = take_trials(state, event)
            return _advance(state, now, commands)
        case ev.DataFailed() | ev.PreflightFailed():
            return abort(state, event.error)
        case ev.WorkerFailed():
            return _on_failed(state, event)
        case ev.StopRequested():
            return request_stop(state, event.error, now)
        case ev.Tick():
            return _on_tick(state, now)
        case ev.Progress() | ev.EpochEnded() | ev.Checkpointed() | ev.Saved():
            return _on_sign(state, event, now), []
        case ev.Printed():
            return state, []
        case ev.WorkerReady() | ev.WorkerIdle() | ev.WorkerLost() | ev.WorkerFenced() | ev.NodeDraining():
            state, commands = _on_worker(state, event, now)
            return _advance(state, now, commands)
        case ev.NodesChanged():
            state, commands = follow_nodes(state, event)
            return _advance(state, now, commands)
        case ev.PrefixScored():
            state, commands = take_score(state, event, now)
            return _advance(state, now, commands)
        case ev.Measured():  # who plans asks for it; no run does
            return state, []
        case _:
            state, commands = _on_member(state, event, now)
            state, asked = ask_for_score(state)
            return state, [*commands, *asked]


def _on_failed(state: State, event: ev.WorkerFailed) -> Stepped:
    """It ends the run; one that is being stopped ends as it was asked to, and waits for nothing more of this worker."""
    if state.stopping is None:
        return abort(state, event.error)
    note = Note(f"worker {event.worker} could not save: {event.error}")
    return change_worker(state, event.worker, saved=True), [note]


def _on_sign(state: State, event: ev.Progress | ev.EpochEnded | ev.Checkpointed | ev.Saved, now: float) -> State:
    worker = state.workers[event.worker]
    match event:
        case ev.Progress():
            return change_worker(state, event.worker, pace=moved_on(worker.pace, now))
        case ev.EpochEnded(member=member, epoch=epoch):
            state = set_member(state, member, epoch=epoch)
            return change_worker(state, event.worker, pace=epoch_ended(worker.pace, now))
        case ev.Checkpointed(member=member, epoch=epoch):
            state = set_member(state, member, checkpoint_epoch=epoch)
            return change_worker(state, event.worker, pace=alive(worker.pace, now))
        case ev.Saved():
            return change_worker(state, event.worker, pace=alive(worker.pace, now), saved=True)


def _on_worker(
    state: State,
    event: ev.WorkerReady | ev.WorkerIdle | ev.WorkerLost | ev.WorkerFenced | ev.NodeDraining,
    now: float,
) -> Stepped:
    match event:
        case ev.WorkerReady(worker=worker):
            state = replace(state, without_worker_since=None)
            return change_worker(state, worker, task="idle", pace=Pace(now)), []
        case ev.WorkerIdle():
            return _on_idle(state, event, now)
        case ev.WorkerLost():
            return _on_lost(state, event, now)
        case ev.WorkerFenced(worker=worker, message=message):
            state, commands = _on_lost(state, ev.WorkerLost(worker, Cause.CRASH, message), now)
            return state, [KillWorker(worker), *commands]
        case ev.NodeDraining(worker=worker):
            return drain(state, worker)


def _on_idle(state: State, event: ev.WorkerIdle, now: float) -> Stepped:
    name, worker = event.worker, state.workers[event.worker]
    unsettled = worker.unsettled
    publishing = tuple(i for i in unsettled if i in event.publishing)
    idle = WorkerState("idle", Pace(now), publishing=publishing, draining=worker.draining)
    state = set_worker(state, name, idle)
    commands: list[Command] = []
    for index in (i for i in unsettled if i not in publishing):
        if worker.told_to_save and (state.stopping is not None or state.cut_at is not None):
            state = put_back(state, index)
            continue
        cause, message = Cause.CRASH, "the worker gave it up without a word"
        if worker.told_to_save:
            cause, message = Cause.PREEMPTED, PREEMPTED
        state, ended = end_attempt(state, index, cause, message, now)
        commands += ended
    return state, commands


def _on_lost(state: State, event: ev.WorkerLost, now: float) -> Stepped:
    cause = cause_of_loss(state.workers[event.worker], event.cause)
    state, commands = _halved(state, event) if cause is Cause.OUT_OF_MEMORY else (state, [])
    worker = state.workers[event.worker]
    state = remove_worker(state, event.worker, now)
    for index in worker.unsettled:
        trains = worker.task in ("training", "publishing") and index in worker.members
        claimed = index in worker.publishing or trains
        state, ended = end_attempt(state, index, cause, event.message, now, claimed_by_lost=claimed)
        commands += ended
    if commands:
        return state, commands
    commands.append(Note(f"worker {event.worker} is gone ({cause.value}): {event.message}"))
    if cause in (Cause.PREEMPTED, Cause.NODE_LOST):
        return state, commands
    state = replace(state, failed_starts=state.failed_starts + 1)
    hopeless = state.without_worker_since is not None or state.preflight is None
    if hopeless and _gives_up_starting(state) and state.stopping is None:
        error = ClusterUnavailable(
            f"{state.failed_starts} workers in a row ended before they did any work: {event.message}",
            hint="look into Ray's worker logs; the environment on the nodes must have this package and TensorFlow",
        )
        return abort(state, error)
    return state, commands


def _halved(state: State, event: ev.WorkerLost) -> Stepped:
    """A worker is killed for memory before its program can say that the pack is too large: the kill says so."""
    worker = state.workers[event.worker]
    if not worker.trains:
        return state, []
    pack = pack_of(state, worker.members[0])
    if len(pack.members) == 1:
        return state, []
    return split(state, ev.PackTooLarge(event.worker, pack.index, event.message))


def _gives_up_starting(state: State) -> bool:
    return state.failed_starts > state.settings.faults.max_crashes


def _on_member(
    state: State,
    event: ev.MemberTrained
    | ev.MemberPredicted
    | ev.MemberDiverged
    | ev.NothingToPublish
    | ev.ModelLost
    | ev.AttemptFailed
    | ev.PackTooLarge
    | ev.PackRefused,
    now: float,
) -> Stepped:
    """A worker settles a member, or gives a pack up; it says `idle` when it has done all it was told."""
    if isinstance(event, ev.PackTooLarge | ev.PackRefused):
        return split(state, event)
    state, index = release(state, event.worker, event.member, now), event.member
    match event:
        case ev.MemberTrained(worker=worker, late=late):
            state = set_member(state, index, status="trained", message=None, trained_by=worker, late=late)
            return replace(state, unpredicted=(*state.unpredicted, index)), []
        case ev.MemberPredicted(blobs=blobs):
            return set_member(state, index, status="done", message=None, predictions=blobs), []
        case ev.MemberDiverged(message=message):
            state = set_member(state, index, status="diverged", message=message)
            return state, [Note(f"member {index} diverged: {message}")]
        case ev.NothingToPublish():
            return set_member(state, index, status="not_started", message=NOTHING_IN_TIME), []
        case ev.ModelLost(message=message):
            return end_attempt(state, index, Cause.DAMAGED, message, now)
        case ev.AttemptFailed(cause=cause, message=message):
            return end_attempt(state, index, cause, message, now)


def _on_tick(state: State, now: float) -> Stepped:
    settings = state.settings
    if state.stopping is not None:
        return state, []
    if settings.deadline is not None and now >= settings.deadline:
        error = TimedOut("the time given by --timeout is over", hint="start again to resume")
        return request_stop(state, error, now)
    waited_in_vain = _waited_in_vain(state, now)
    if waited_in_vain is not None:
        return abort(state, waited_in_vain)
    state, commands = end_overdue(state, now)
    for name, worker in state.workers.items():
        busy = worker.task not in ("starting", "idle") or bool(worker.publishing)
        if busy and is_stalled(worker.pace, settings.faults.stall_s, now):
            message = f"no progress for {longest_silence_s(worker.pace, settings.faults.stall_s):g} s"
            state, lost = _on_lost(state, ev.WorkerLost(name, Cause.STALL, message), now)
            commands += [KillWorker(name), *lost]
    for index in [member for member, at in state.delayed.items() if at <= now]:
        state = requeue(state, index)
    return _advance(state, now, commands)


def _waited_in_vain(state: State, now: float) -> OrchestratorError | None:
    faults, since = state.settings.faults, state.without_worker_since
    if since is not None and now - since > faults.node_wait_s:
        why = f": {state.crew.reason}" if state.crew.reason else ""
        return ClusterUnavailable(
            f"no worker could be started for {faults.node_wait_s:g} s{why}",
            hint="no node has what `resources` asks for: add nodes, ask for less, or raise faults.node_wait_s",
        )
    if state.rows is None and now - state.began > faults.data_wait_s:
        return ClusterUnavailable(
            f"the data was not loaded within {faults.data_wait_s:g} s",
            hint="make the data function faster, or raise faults.data_wait_s",
        )
    return None


def _advance(state: State, now: float, commands: list[Command]) -> Stepped:
    """Give idle workers something to do, start missing workers, and end the run when nothing is left."""
    if state.over or state.stopping is not None:
        return state, commands
    state, cut = cut_off(state, now)
    state, ended = end_drained(state, now)
    state, asked = ask_for_score(state)
    commands = [*commands, *cut, *ended, *asked]
    for name, worker in state.workers.items():
        if worker.task == "idle" and not worker.draining:
            state, command = assign(state, name, now)
            commands += command
    waiting = _num_to_train(state) + len(state.unpublished) + len(state.unpredicted) + len(state.delayed)
    work = waiting + sum(_is_at_work(worker) for worker in state.workers.values())
    if work == 0:
        if state.scoring or state.asking:
            return state, commands
        searching = ask_for_trials(state)
        return _finish(state, commands) if searching is None else (searching[0], [*commands, *searching[1]])
    wanted = min(state.crew.num_workers, work)
    if _gives_up_starting(state):  # the workers that do work go on without more beside them
        wanted = min(1, wanted)
    state, staffed = staff(state, wanted, now)
    return state, [*commands, *staffed]


def _decide_quorum(state: State, good: Collection[int], num_wanted: int) -> QuorumDecision:
    """Of a search no more count than are kept; with folds whole configurations do, each with all of its members."""
    members, quorum, search = state.settings.plan.members, state.settings.quorum, state.settings.search
    if search is not None:
        return decide_quorum(min(search.num_kept, len(set(good) - set(search.pruned))), search.num_kept, quorum)
    if not any(member.fold for member in members):
        return decide_quorum(len(good), num_wanted, quorum)
    configurations = {member.configuration for member in members}
    return decide_quorum(len(whole_configurations(members, good)), len(configurations), quorum, "configurations")


def _num_to_train(state: State) -> int:
    """How many packs wait to be trained; before they are decided, how many members."""
    if state.packs or state.cut_at is not None:
        return len(state.waiting) + len(state.unseen)
    return sum(member.status == "waiting" for member in state.members.values())


def _is_at_work(worker: WorkerState) -> bool:
    return worker.task in ("training", "publishing", "predicting") or bool(worker.publishing)


def _finish(state: State, commands: list[Command]) -> Stepped:
    wanted = {i: member for i, member in state.members.items() if state.enough is None or i < state.enough}
    good = tuple(index for index, member in wanted.items() if member.status == "done")
    decision = _decide_quorum(state, good, len(wanted))
    if decision.enough:
        return replace(state, over=True), [*commands, Select(good, decision.reason)]
    why = [f"member {i}: {m.message}" for i, m in wanted.items() if m.status != "done"]
    error = QuorumMissed(
        f"{decision.reason}\n  " + "\n  ".join(why[:10]),
        hint="give it a later `ensemble.deadline` and start again: members go on from their checkpoints"
        if state.cut_at is not None
        else "a later start trains members again that failed, but not those that diverged: that would repeat; with "
        "`ensemble.quorum`, under another run id, fewer members are enough",
    )
    state, ended = abort(state, error)
    return state, [*commands, *ended]
