"""A search within the schedule: when all trials so far are through, what comes next is asked for. Pure.

Trials are members of the plan: they train on the same workers and in packs, retry, resume and are predicted as members
are. A generation begins when all before it is through; its models are looked at first, because they decide its packs.
"""

from __future__ import annotations

from dataclasses import replace

from orchestrator.planning import events as ev
from orchestrator.planning.commands import AskTrials, Note
from orchestrator.planning.packing import pack_members, use_packs
from orchestrator.planning.schedule_state import MemberState, State, Stepped, set_member


def ask_for_trials(state: State) -> Stepped | None:
    """Ask for what comes next; None: nothing does, there is no search or it is over, by the deadline too."""
    if state.settings.search is None or state.searched or state.cut_at is not None:
        return None
    done = {i: member.predictions for i, member in state.members.items() if member.status == "done"}
    return replace(state, asking=True), [AskTrials(done)]


def take_trials(state: State, event: ev.TrialsAsked) -> Stepped:
    """Take the trials of a generation in, or that there are none any more."""
    new = tuple(member.index for member in event.plan.members if member.index not in state.members)
    rules = state.settings.search and replace(state.settings.search, pruned=event.pruned)
    for index in event.again:
        state = set_member(state, index, status="waiting", epoch=0, trained_by=None, late=False, predictions={})
    state = replace(
        state,
        settings=replace(state.settings, plan=event.plan, search=rules),
        members={**state.members, **{index: MemberState() for index in new}},
        unseen=new,
        asking=False,
        searched=event.over,
    )
    return use_packs(state, state.packs), [Note(f"search: {event.reason}")]


def unseen_trials(state: State) -> tuple[int, ...]:
    """Trials of a resumed search that nobody has packed; the preflight sees the models of the first generation."""
    rules = state.settings.search
    if rules is None:
        return ()
    packed = {index for pack in state.packs for index in pack.members}
    return tuple(index for index in state.members if index >= rules.num_first and index not in packed)


def take_preflight(state: State, passed: ev.PreflightPassed) -> Stepped:
    """Pack all members, unless there are trials to be looked at first."""
    state = replace(state, preflight=passed, failed_starts=0)
    return (state, []) if state.unseen else pack_members(state, passed)


def take_models(state: State, seen: ev.TrialsSeen) -> Stepped:
    """Pack the trials whose models were looked at."""
    passed = state.preflight
    if passed is None:  # nobody is told to look before it
        return state, []
    passed = replace(passed, architectures={**passed.architectures, **seen.architectures})
    state, commands = pack_members(replace(state, preflight=passed, unseen=()), passed)
    wrong = [] if seen.message is None else [Note(f"search: a model cannot be built or used: {seen.message}")]
    return state, [*wrong, *commands]
