"""A node will be taken away: its workers save and are replaced elsewhere. Pure."""

from __future__ import annotations

from orchestrator.planning.commands import Command, KillWorker
from orchestrator.planning.events import Cause
from orchestrator.planning.schedule_state import State, Stepped, WorkerState, change_worker, remove_worker
from orchestrator.planning.stopping import tell_to_save

PREEMPTED = "its node is being taken away"


def drain(state: State, name: str) -> Stepped:
    """Mark a worker; what it trains is saved at once, anything shorter is finished."""
    return tell_to_save(change_worker(state, name, draining=True), name)


def end_drained(state: State, now: float) -> Stepped:
    """End the marked workers that do nothing; new ones are placed elsewhere."""
    commands: list[Command] = []
    for name, worker in state.workers.items():
        if worker.draining and worker.task in ("starting", "idle") and not worker.publishing:
            state = remove_worker(state, name, now)
            commands.append(KillWorker(name))
    return state, commands


def cause_of_loss(worker: WorkerState, cause: Cause) -> Cause:
    """Why a worker was lost: on a node that is being taken away, that is the reason of all but its own appetite."""
    return Cause.PREEMPTED if worker.draining and cause is not Cause.OUT_OF_MEMORY else cause
