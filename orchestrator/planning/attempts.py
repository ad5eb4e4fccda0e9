"""An attempt at a member ended: count it, and try again or give the member up. Pure."""

from __future__ import annotations

from dataclasses import replace

from orchestrator.planning.commands import Command, Note, RecordEnded, RecordFailed, Void
from orchestrator.planning.events import Cause
from orchestrator.planning.policies import decide_retry
from orchestrator.planning.schedule_state import State, Stepped, pack_of, set_member
from orchestrator.planning.seeds import jitter


def end_attempt(
    state: State, index: int, cause: Cause, message: str, now: float, *, claimed_by_lost: bool = False
) -> Stepped:
    """Count an attempt that ended in an error, and decide what becomes of the member.

    Args:
        state: the state.
        index: the member.
        cause, message: why it ended.
        now: monotonic seconds.
        claimed_by_lost: a worker that is lost held the member's log and may still write there: where the member is
            given up, no further claim would fence it. (A lost worker that predicted held no log, and a living one has
            recorded the failure itself.)
    """
    member = state.members[index]
    attempt, ended = member.attempts + 1, {**member.ended, cause: member.ended.get(cause, 0) + 1}
    commands: list[Command] = [RecordEnded(index, attempt, cause, message)]
    damaged = cause is Cause.DAMAGED
    if damaged:
        commands.append(Void(index, message))
    decision = decide_retry(cause, ended, state.settings.faults, jitter(state.settings.seed, index, attempt))
    commands.append(Note(f"member {index}, attempt {attempt}: {message} ({decision.reason})"))
    is_published = member.status == "predicting" and not damaged
    state = set_member(
        state,
        index,
        status="trained" if is_published else "waiting",
        attempts=attempt,
        preemptions=member.preemptions + (cause in (Cause.PREEMPTED, Cause.NODE_LOST)),
        ended=ended,
        message=message,
        trained_by=None,
        late=member.late and is_published,
    )
    if not decision.retry:
        if claimed_by_lost or damaged:
            commands.append(RecordFailed(index, cause, message))
        return set_member(state, index, status="failed"), commands
    is_cut_short = state.cut_at is not None and member.status == "running"  # publishing is nothing to back off from
    if decision.delay_s == 0 or is_cut_short:
        return requeue(state, index), commands
    return replace(state, delayed={**state.delayed, index: now + decision.delay_s}), commands


def requeue(state: State, index: int) -> State:
    """Have the member wait for a worker: to be predicted, to be trained or, after the cutoff, to be published late.

    A pack waits as a whole: until the last of its members that are to be tried again may start.
    """
    state = replace(state, delayed={member: at for member, at in state.delayed.items() if member != index})
    if state.members[index].status == "trained":
        return replace(state, unpredicted=(*state.unpredicted, index))
    if state.cut_at is not None:
        return replace(state, unpublished=(*state.unpublished, index))
    pack = pack_of(state, index)
    later = any(i in state.delayed and state.members[i].status == "waiting" for i in pack.members)
    if later or pack.index in state.waiting:
        return state
    return replace(state, waiting=(*state.waiting, pack.index))
