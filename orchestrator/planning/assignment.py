"""What an idle worker does next. Pure.

The preflight comes before everything, predicting before publishing, publishing before training: what is nearly done is
finished first, so that a deadline or a loss finds as many members as can be counted.
"""

from __future__ import annotations

from dataclasses import replace

from orchestrator.planning.commands import Predict, Preflight, PublishLate, TrainPack
from orchestrator.planning.enough import awaits_score
from orchestrator.planning.pace import Pace
from orchestrator.planning.schedule_state import State, Stepped, WorkerState, WorkerTask, set_member, set_worker


def assign(state: State, worker: str, now: float) -> Stepped:
    """Give an idle worker the next task, if there is one for it."""
    if state.preflight is None:
        if state.rows is None or any(w.task == "preflight" for w in state.workers.values()):
            return state, []
        return _set_to(state, worker, "preflight", (), now), [Preflight(worker)]
    member = _to_predict(state, worker)
    if member is not None:
        left = tuple(i for i in state.unpredicted if i != member)
        state = set_member(replace(state, unpredicted=left), member, status="predicting")
        return _set_to(state, worker, "predicting", (member,), now), [Predict(worker, member)]
    if state.unpublished:
        member = state.unpublished[0]
        state = set_member(replace(state, unpublished=state.unpublished[1:]), member, status="publishing")
        return _set_to(state, worker, "publishing", (member,), now), [PublishLate(worker, member)]
    if awaits_score(state, state.workers[worker]):
        return state, []
    while state.waiting:
        pack = state.packs[state.waiting[0]]
        state = replace(state, waiting=state.waiting[1:])
        members = tuple(i for i in pack.members if state.members[i].status == "waiting" and i not in state.delayed)
        if members:
            for member in members:
                state = set_member(state, member, status="running", epoch=0)
            return _set_to(state, worker, "training", members, now), [TrainPack(worker, pack, members)]
    return state, []


def _set_to(state: State, name: str, task: WorkerTask, members: tuple[int, ...], now: float) -> State:
    """The worker begins a task; what it publishes goes on beside it."""
    publishing = state.workers[name].publishing
    return set_worker(state, name, WorkerState(task, Pace(now), members, publishing))


def _to_predict(state: State, worker: str) -> int | None:
    """A member that this worker trained, else one whose trainer is gone: whoever trained it has its model at hand."""
    own = (i for i in state.unpredicted if state.members[i].trained_by == worker)
    orphans = (i for i in state.unpredicted if state.members[i].trained_by not in state.workers)
    return next(own, next(orphans, None))
