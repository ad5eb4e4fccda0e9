"""The job's deadline: training ends, and members count with their best epoch so far. Pure.

After the cutoff no member is trained any more. Those in training save and give up; whoever has not done so when the
grace is over is ended, and its member counts from its newest checkpoint. Every member without a model is then published
late by some worker, or has nothing to publish.
"""

from __future__ import annotations

from dataclasses import replace

from orchestrator.planning.attempts import requeue
from orchestrator.planning.commands import Command, KillWorker, Note
from orchestrator.planning.schedule_state import State, Stepped, remove_worker, set_member
from orchestrator.planning.stopping import tell_to_save

NOTHING_IN_TIME = "no finished epoch before the deadline"


def cut_off(state: State, now: float) -> Stepped:
    """End training when the cutoff has come."""
    cutoff = state.settings.cutoff
    if cutoff is None or state.cut_at is not None or now < cutoff:
        return state, []
    state = replace(state, cut_at=now, waiting=())
    waiting = [index for index, member in state.members.items() if member.status == "waiting"]
    for index in waiting:
        state = requeue(state, index)
    state, commands = tell_to_save(state, *state.workers)
    num_late = len(waiting) + sum(len(worker.members) for worker in state.workers.values() if worker.trains)
    if num_late:
        text = f"the deadline has come: {num_late} of {len(state.members)} members count with their best epoch so far"
        commands = [Note(text), *commands]
    return state, commands


def end_overdue(state: State, now: float) -> Stepped:
    """End the workers that still train when the grace after the cutoff is over."""
    if state.cut_at is None or now < state.cut_at + state.settings.faults.stop_grace_s:
        return state, []
    commands: list[Command] = []
    for name, worker in state.workers.items():
        if worker.trains:
            state = remove_worker(state, name, now)
            for member in worker.unsettled:
                state = put_back(state, member)
            commands.append(KillWorker(name))
    return state, commands


def put_back(state: State, index: int) -> State:
    """A member that was told to give up waits again, to be predicted if it is published; no attempt has failed."""
    is_published = state.members[index].status == "predicting"
    return requeue(set_member(state, index, status="trained" if is_published else "waiting"), index)
