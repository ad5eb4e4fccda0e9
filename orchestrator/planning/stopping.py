"""Being asked to stop: what trains saves its newest epoch, then the run ends; and saving in general. Pure."""

from __future__ import annotations

from dataclasses import replace

from orchestrator.errors import OrchestratorError
from orchestrator.planning.commands import Command, SaveNow
from orchestrator.planning.schedule_state import State, Stepped, Stopping, abort, change_worker


def request_stop(state: State, error: OrchestratorError, now: float) -> Stepped:
    """Have workers that train save and give up; `end_when_saved` ends the run. Whoever asks twice waits no longer."""
    if state.stopping is not None:
        return abort(state, error)
    state = replace(state, stopping=Stopping(error, now + state.settings.faults.stop_grace_s))
    return tell_to_save(state, *state.workers)


def end_when_saved(state: State, now: float) -> Stepped:
    """End a run that is being stopped once nobody has anything left to save, or the grace is over."""
    if state.stopping is None or state.over:
        return state, []
    saving = any((w.trains and not w.saved) or w.publishing for w in state.workers.values())
    if saving and now < state.stopping.until:
        return state, []
    return abort(state, state.stopping.error)


def tell_to_save(state: State, *workers: str) -> Stepped:
    """Have those of the workers that train save their newest epoch and give up their members; each is told once."""
    commands: list[Command] = []
    for name in workers:
        worker = state.workers[name]
        if worker.trains and not worker.told_to_save:
            state = change_worker(state, name, told_to_save=True)
            commands.append(SaveNow(name, stop=True))
    return state, commands
