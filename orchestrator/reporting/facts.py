"""From the schedule's last state to the facts that a selection fixes."""

from __future__ import annotations

from orchestrator.planning.events import PreflightPassed
from orchestrator.planning.members import MemberPlan
from orchestrator.planning.recovery import MemberMemory, RunMemory
from orchestrator.planning.schedule import MemberState
from orchestrator.reporting.selection import MemberFacts


def member_facts(plan: MemberPlan, state: MemberState, memory: MemberMemory) -> MemberFacts:
    """What is known of a member: where the schedule left it, and what its log says."""
    return MemberFacts(
        plan=plan,
        status=("late" if state.late else "succeeded") if state.status == "done" else state.status,
        attempts=memory.attempts,
        preemptions=state.preemptions,
        message=state.message,
        final=memory.final,
        final_seq=memory.final_seq,
        predictions=state.predictions,
    )


def notes_of(passed: PreflightPassed, memory: RunMemory) -> tuple[str, ...]:
    """What the result says in words of how the run came about."""
    notes = [f"trained on {passed.device.upper()}, {'' if passed.deterministic else 'not '}deterministic"]
    if "validation" not in passed.labels:
        notes.append("there is no validation set, so there is no validation accuracy and no weighted ensemble")
    if len(memory.code_digests) > 1:
        told = " → ".join(code[:12] for code in memory.code_digests)
        notes.append(f"the job's own code changed during the run, which was accepted by --accept-code-change: {told}")
    return tuple(notes)
