"""Enough members: no further one starts once the ensemble's own score has stopped improving. Pure.

Members are settled in any order, but scored in that of their index: the ensemble of the first k members is scored when
all of them are through. Once these scores tell that there are enough, whoever comes after is left out, trained or not.
So the order of finishing changes what was trained in vain, never what the ensemble is made of.
"""

from __future__ import annotations

from dataclasses import replace

from orchestrator.planning import events as ev
from orchestrator.planning.commands import Command, KillWorker, Note, RecordEnough, ScorePrefix
from orchestrator.planning.policies import decide_enough
from orchestrator.planning.schedule_state import MemberState, State, Stepped, WorkerState, remove_worker

_ABSENT = ("failed", "diverged", "not_started")
"""A member of these is through, and not in the ensemble."""


def ask_for_score(state: State) -> Stepped:
    """Ask for the score of the next ensemble in the order of the index, when its members are through."""
    rule = state.settings.stop_rule
    if rule is None or state.enough is not None or state.scoring or state.stopping is not None:
        return state, []
    while len(state.scores) < len(state.members):
        member = state.members[len(state.scores)]
        if member.status == "done":
            return replace(state, scoring=True), [ScorePrefix(len(state.scores) + 1, member.predictions)]
        if member.status not in _ABSENT:
            break
        state = replace(state, scores=(*state.scores, None))
    return state, []


def take_score(state: State, event: ev.PrefixScored, now: float) -> Stepped:
    """Take a score in; where there are enough members now, the others are left out and their workers ended."""
    rule = state.settings.stop_rule
    state = replace(state, scores=(*state.scores, event.score), scoring=False)
    if rule is None:
        return state, []
    decision = decide_enough(state.scores, rule)
    enough = decision.num_members
    if enough is None or enough == len(state.members):
        return state, []
    state = replace(
        state,
        enough=enough,
        members={i: leave_out(member, enough) if i >= enough else member for i, member in state.members.items()},
        waiting=(),
        unpredicted=(),
        unpublished=(),
        delayed={},
    )
    text = f"enough: {decision.reason}; members from {enough} on are left out"
    commands: list[Command] = [RecordEnough(enough, state.scores, decision.reason), Note(text)]
    for name, worker in state.workers.items():
        if worker.members or worker.publishing:  # all before them are through: whom they work on is left out
            state = remove_worker(state, name, now)
            commands.append(KillWorker(name))
    return state, commands


def leave_out(member: MemberState, enough: int) -> MemberState:
    """A member that is not needed, unless it has come to an end of its own."""
    if member.status in _ABSENT:
        return member
    message = f"not needed: the ensemble had stopped improving with {enough} members"
    return replace(member, status="unneeded", message=message)


def awaits_score(state: State, worker: WorkerState) -> bool:
    """Whether a worker had better not start a pack yet, because there may be enough members in a moment."""
    return state.settings.stop_rule is not None and (state.scoring or bool(worker.publishing))
