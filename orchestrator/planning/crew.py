"""The crew follows the cluster: more workers where nodes come, fewer where they go. Pure."""

from __future__ import annotations

from dataclasses import replace

from orchestrator.planning import events as ev
from orchestrator.planning.commands import Command, KillWorker, Note, StartWorker
from orchestrator.planning.pace import Pace
from orchestrator.planning.packing import share_out
from orchestrator.planning.placement import place_again
from orchestrator.planning.schedule_state import State, Stepped, WorkerState, remove_worker, set_worker


def follow_nodes(state: State, event: ev.NodesChanged) -> Stepped:
    """Decide anew how many workers there shall be. Whoever works goes on: of a node that is lost, its worker's end
    tells."""
    placing = state.settings.placing
    if placing is None or not event.shape.can_grow:
        return state, []
    num_members = len(state.members)
    placement = place_again(event.shape, placing, num_members, alone=state.alone)
    solo = place_again(event.shape, placing, num_members, alone=True)
    before, waits = (state.crew, state.waits), placement.num_at_once == 0
    state = replace(state, crew=placement.crew, solo_crew=solo.crew, waits=waits)
    if (state.crew, waits) == before:
        return state, []
    note = Note(f"{'waiting for a node' if waits else 'nodes have changed'}: {placement.reason}")
    at_work = sum(bool(worker.members or worker.predicting) for worker in state.workers.values())
    state, commands = share_out(state, placement.num_at_once - at_work)
    return state, [note, *commands]


def staff(state: State, num_wanted: int, now: float) -> Stepped:
    """Start workers that are missing; end those that are too many and have not started, the newest first.

    These wait for a place that nobody needs, and where nodes are started on demand one would be paid for each.
    """
    waiting = [name for name, worker in state.workers.items() if worker.task == "starting"]
    surplus = waiting[::-1][: max(0, len(state.workers) - num_wanted)]
    commands: list[Command] = [KillWorker(name) for name in surplus]
    for name in surplus:
        state = remove_worker(state, name, now)
    while len(state.workers) < num_wanted:
        name = f"w{state.num_started}"
        state = set_worker(replace(state, num_started=state.num_started + 1), name, WorkerState("starting", Pace(now)))
        commands.append(StartWorker(name, state.crew.num_cpus))
    return state, commands
