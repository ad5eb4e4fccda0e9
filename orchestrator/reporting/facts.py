"""From the schedule's last state to the facts that a selection fixes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from orchestrator.ensemble.tasks import TaskKind
from orchestrator.planning.events import PreflightPassed
from orchestrator.planning.folds import OUT_OF_FOLD
from orchestrator.planning.members import MemberPlan
from orchestrator.planning.outputs import split_of
from orchestrator.planning.policies import decide_enough
from orchestrator.planning.recovery import MemberMemory, RunMemory
from orchestrator.planning.schedule import MemberState, State
from orchestrator.planning.schedule_state import pack_of
from orchestrator.reporting.selection import MemberFacts


def member_facts(plan: MemberPlan, schedule: State, memory: MemberMemory) -> MemberFacts:
    """What is known of a member: where the schedule left it, and what its log says."""
    state = schedule.members[plan.index]
    left_out = state.status == "unneeded" and memory.final is not None
    return MemberFacts(
        plan=plan,
        status=_status(state, memory),
        attempts=memory.attempts,
        preemptions=state.preemptions,
        message=f"trained, but {state.message}" if left_out else state.message,
        final=memory.final,
        final_seq=memory.final_seq,
        predictions=state.predictions,
        engine=pack_of(schedule, plan.index).engine,
    )


def _status(state: MemberState, memory: MemberMemory) -> str:
    if state.status == "done":
        return "late" if state.late else "succeeded"
    return unneeded_status(memory.attempts) if state.status == "unneeded" else state.status


def unneeded_status(attempts: int) -> str:
    """The status of a member that `stop_when` leaves out, from how often it was begun."""
    return "stopped" if attempts else "not_started"


def stop_facts(state: State, members: Sequence[MemberFacts]) -> dict[str, Any] | None:
    """What `stop_when` decided, as `StoppedResult` has it; None: the job has no such rule.

    What members would have taken is estimated from those that were trained to their end, each by its share of its
    pack's time.

    Args:
        state: the schedule's last one.
        members: all.
    """
    rule = state.settings.stop_rule
    if rule is None:
        return None
    beyond = [each for each in members if state.members[each.plan.index].status == "unneeded"]
    times = [
        float(each.final.get("train_s", 0.0)) / len(pack_of(state, each.plan.index).members)
        for each in members
        if each.final is not None and not each.final.get("late")
    ]
    never_begun = sum(each.status == "not_started" for each in beyond)
    return {
        "metric": rule.metric,
        "min_delta": rule.min_delta,
        "patience": rule.patience,
        "decided_at": state.enough,
        "reason": decide_enough(state.scores, rule).reason,
        "scores": list(state.scores),
        "not_trained": [each.plan.index for each in beyond if each.final is None],
        "left_out": [each.plan.index for each in beyond if each.final is not None],
        "saved_s": round(never_begun * sum(times) / len(times), 3) if times else 0.0,
    }


def stop_notes(stopped: Mapping[str, Any] | None) -> tuple[str, ...]:
    """What the result says in words of `stop_when`; see `stop_facts`."""
    if stopped is None:
        return ()
    if stopped["decided_at"] is None:
        return (f"stop_when left no member out: {stopped['reason']}",)
    notes = [f"stopped with the first {stopped['decided_at']} members: {stopped['reason']}"]
    if stopped["not_trained"]:
        saved = f"about {stopped['saved_s']:,.1f} worker-seconds of training saved"
        notes.append(f"members not trained: {ranges(stopped['not_trained'])}; {saved}")
    if stopped["left_out"]:
        notes.append(f"members trained before that was known, and left out: {ranges(stopped['left_out'])}")
    return tuple(notes)


def ranges(indices: Sequence[int]) -> str:
    """Ascending indices in words: `4, 6–15`."""
    parts: list[list[int]] = []
    for index in indices:
        if parts and index == parts[-1][-1] + 1:
            parts[-1][1:] = [index]
        else:
            parts.append([index])
    return ", ".join("–".join(map(str, part)) for part in parts)


def tasks_told(passed: PreflightPassed) -> dict[str, TaskKind]:
    """What each output tells, in the order of the model."""
    return {output: TaskKind(task) for output, task in passed.tasks.items()}


def notes_of(passed: PreflightPassed, memory: RunMemory) -> tuple[str, ...]:
    """What the result says in words of how the run came about."""
    notes = [f"trained on {passed.device.upper()}, {'' if passed.deterministic else 'not '}deterministic"]
    if not {"validation", OUT_OF_FOLD} & set(map(split_of, passed.labels)):
        notes.append("there is no validation set, so there is no validation accuracy and no weighted ensemble")
    if len(memory.code_digests) > 1:
        told = " → ".join(code[:12] for code in memory.code_digests)
        notes.append(f"the job's own code changed during the run, which was accepted by --accept-code-change: {told}")
    return tuple(notes)
