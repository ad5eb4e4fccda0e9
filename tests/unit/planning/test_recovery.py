"""What a coordinator remembers of its predecessors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from orchestrator.planning.events import Cause
from orchestrator.planning.recovery import MemberMemory, RunMemory, read_member, read_run


@dataclass(frozen=True)
class Told:
    """A record as recovery sees it."""

    kind: str
    body: Mapping[str, Any] = field(default_factory=dict)


def ended(member: int, cause: Cause) -> Told:
    return Told("ended", {"member": member, "cause": cause.value})


def test_an_empty_log_is_a_fresh_run() -> None:
    assert read_run([]) == RunMemory()
    assert read_run([Told("claim")]) == RunMemory()


def test_the_first_opening_stands() -> None:
    memory = read_run([Told("opened", {"started_at": 1}), Told("claim"), Told("opened", {"started_at": 2})])
    assert memory.opened == {"started_at": 1}


def test_packs_selection_and_done_are_remembered() -> None:
    memory = read_run([Told("packed", {"packs": []}), Told("selection", {"s": 1}), Told("done", {"d": 1})])
    assert (memory.packed, memory.selection, memory.done) == ({"packs": []}, {"s": 1}, {"d": 1})


def test_how_many_members_are_enough_is_remembered_with_the_scores_that_it_rests_on() -> None:
    memory = read_run([Told("enough", {"num_members": 3, "scores": [0.5, None, 0.5], "reason": "r"}), Told("claim")])
    assert (memory.enough, memory.scores) == (3, (0.5, None, 0.5))
    assert (read_run([Told("claim")]).enough, read_run([Told("failed")]).scores) == (None, ())


def test_attempts_are_counted_by_member_and_cause() -> None:
    memory = read_run(
        [ended(0, Cause.CRASH), ended(0, Cause.CRASH), ended(0, Cause.NODE_LOST), ended(2, Cause.PREEMPTED)]
    )
    assert memory.ended == {0: {Cause.CRASH: 2, Cause.NODE_LOST: 1}, 2: {Cause.PREEMPTED: 1}}
    assert memory.attempts == {0: 3, 2: 1}
    assert memory.preemptions == {0: 1, 2: 1}


def test_a_coordinator_that_died_leaves_its_budgets_a_recorded_end_renews_them() -> None:
    died = [Told("claim"), ended(0, Cause.CRASH), Told("claim")]
    assert read_run(died).ended == {0: {Cause.CRASH: 1}}
    for end in ("failed", "stopped"):
        memory = read_run([*died, Told(end), Told("claim")])
        assert memory.ended == {}
        assert memory.attempts == {0: 1}, "the report still says how many attempts there were"


def test_a_member_is_what_its_newest_record_says() -> None:
    final, void = Told("final", {"model": "a"}), Told("void", {"reason": "blob gone"})
    diverged = Told("failed", {"status": "diverged", "message": "loss is NaN"})
    assert read_member([Told("claim")]) == MemberMemory()
    assert read_member([Told("claim"), final]) == MemberMemory(final={"model": "a"}, final_seq=1)
    assert read_member([Told("claim"), final, void]) == MemberMemory()
    assert read_member([Told("claim"), diverged]) == MemberMemory(diverged="loss is NaN")
    assert read_member([Told("claim"), final, Told("claim")]) == MemberMemory(final={"model": "a"}, final_seq=1)


def test_attempts_are_the_claims_of_workers_that_were_to_train_the_member() -> None:
    train, old = Told("claim", {"worker": "w0", "purpose": "train"}), Told("claim", {"worker": "w0"})
    late, coordinator = Told("claim", {"worker": "w0", "purpose": "publish"}), Told("claim", {"run_id": "night"})
    void = Told("void", {"reason": "blob gone"})
    assert read_member([train, late, coordinator, void, old, late]).attempts == 2
    assert read_member([late, coordinator]).attempts == 0


def test_a_trial_that_goes_on_to_the_next_rung_is_at_the_same_attempt() -> None:
    train, final, coordinator = Told("claim", {"worker": "w0"}), Told("final", {}), Told("claim", {"coord_term": 1})
    on = Told("void", {"reason": "the search trains it on", "trains_on": 3})
    assert [read_member([train, final, coordinator, on, *more]).attempts for more in ([], [train], [train, train])] == [
        1,
        1,
        2,
    ]


def test_an_attempt_that_failed_otherwise_leaves_the_member_to_be_trained() -> None:
    assert read_member([Told("claim"), Told("failed", {"status": "failed", "cause": "user_error"})]) == MemberMemory()
