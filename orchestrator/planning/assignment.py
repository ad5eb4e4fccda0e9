"""What an idle worker does next. Pure.

The preflight comes before everything, predicting before publishing, publishing before training: what is nearly done is
finished first, so that a deadline or a loss finds as many members as can be counted.
"""

from __future__ import annotations

from dataclasses import replace

from orchestrator.planning.commands import Predict, Preflight, PublishLate, TrainPack
from orchestrator.planning.pace import Pace
from orchestrator.planning.schedule_state import State, Stepped, WorkerState, set_member, set_worker


def assign(state: State, worker: str, now: float) -> Stepped:
    """Give an idle worker the next task, if there is one for it."""
    if state.preflight is None:
        if not state.data_loaded or any(w.task == "preflight" for w in state.workers.values()):
            return state, []
        return set_worker(state, worker, WorkerState("preflight", Pace(now))), [Preflight(worker)]
    member = _to_predict(state, worker)
    if member is not None:
        left = tuple(i for i in state.unpredicted if i != member)
        state = set_member(replace(state, unpredicted=left), member, status="predicting")
        return set_worker(state, worker, WorkerState("predicting", Pace(now), member)), [Predict(worker, member)]
    if state.unpublished:
        member = state.unpublished[0]
        state = set_member(replace(state, unpublished=state.unpublished[1:]), member, status="publishing")
        return set_worker(state, worker, WorkerState("publishing", Pace(now), member)), [PublishLate(worker, member)]
    if state.packs:
        pack = state.packs[0]
        member = state.settings.plan.packs[pack].members[0]
        state = set_member(replace(state, packs=state.packs[1:]), member, status="running", epoch=0)
        return set_worker(state, worker, WorkerState("training", Pace(now), member)), [TrainPack(worker, pack)]
    return state, []


def _to_predict(state: State, worker: str) -> int | None:
    """A member that this worker trained, else one whose trainer is gone: whoever trained it has its model at hand."""
    own = (i for i in state.unpredicted if state.members[i].trained_by == worker)
    orphans = (i for i in state.unpredicted if state.members[i].trained_by not in state.workers)
    return next(own, next(orphans, None))
