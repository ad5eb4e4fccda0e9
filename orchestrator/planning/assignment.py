"""What an idle worker does next. Pure.

The preflight comes before everything, predicting before publishing, publishing before training: what is nearly done is
finished first, so that a deadline or a loss finds as many members as can be counted. Where training comes next, it is
sent along with what is to be predicted first: a round trip to the coordinator for each member would cost short ones
a sixth of their time.
"""

from __future__ import annotations

from dataclasses import replace

from orchestrator.planning.commands import LookAtTrials, Predict, Preflight, PublishLate, TrainPack
from orchestrator.planning.enough import awaits_score
from orchestrator.planning.pace import Pace
from orchestrator.planning.schedule_state import State, Stepped, WorkerState, WorkerTask, set_member, set_worker


def assign(state: State, worker: str, now: float) -> Stepped:
    """Give an idle worker the next task, if there is one for it."""
    if state.preflight is None:
        if state.rows is None or any(w.task == "preflight" for w in state.workers.values()):
            return state, []
        return _set_to(state, worker, "preflight", (), now), [Preflight(worker)]
    own = tuple(i for i in state.unpredicted if state.members[i].trained_by == worker)
    if own and state.settings.stop_rule is None and not state.unpublished:  # else a score decides whether to train
        trained, commands = _train_next(state, worker, now, own)
        if commands:
            return trained, commands
    member = own[0] if own else _orphan(state)
    if member is not None:
        left = tuple(i for i in state.unpredicted if i != member)
        state = set_member(replace(state, unpredicted=left), member, status="predicting")
        return _set_to(state, worker, "predicting", (member,), now), [Predict(worker, member)]
    if state.unpublished:
        member = state.unpublished[0]
        state = set_member(replace(state, unpublished=state.unpublished[1:]), member, status="publishing")
        return _set_to(state, worker, "publishing", (member,), now), [PublishLate(worker, member)]
    if state.unseen and not any(w.task == "preflight" for w in state.workers.values()):
        return _set_to(state, worker, "preflight", (), now), [LookAtTrials(worker, state.unseen)]
    if awaits_score(state, state.workers[worker]):
        return state, []
    return _train_next(state, worker, now)


def _train_next(state: State, worker: str, now: float, predict: tuple[int, ...] = ()) -> Stepped:
    """The next pack that waits, with those of its members that may start; first the members to `predict`."""
    while state.waiting:
        pack = state.packs[state.waiting[0]]
        state = replace(state, waiting=state.waiting[1:])
        members = tuple(i for i in pack.members if state.members[i].status == "waiting" and i not in state.delayed)
        if members:
            for member in members:
                state = set_member(state, member, status="running", epoch=0)
            for member in predict:
                state = set_member(state, member, status="predicting")
            state = replace(state, unpredicted=tuple(i for i in state.unpredicted if i not in predict))
            state = _set_to(state, worker, "training", members, now, predict)
            return state, [TrainPack(worker, pack, members, predict)]
    return state, []


def _set_to(
    state: State, name: str, task: WorkerTask, members: tuple[int, ...], now: float, predicting: tuple[int, ...] = ()
) -> State:
    """The worker begins a task; what it publishes goes on beside it."""
    publishing = state.workers[name].publishing
    return set_worker(state, name, WorkerState(task, Pace(now), members, publishing, predicting))


def _orphan(state: State) -> int | None:
    """A member to predict whose trainer is gone: others have their model at hand where they were trained."""
    orphans = (i for i in state.unpredicted if state.members[i].trained_by not in state.workers)
    return next(orphans, None)
