"""When which worker was at which member: from records as they are written, and as they were before they had a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from orchestrator.reporting.timeline import Span, Timeline, read_timeline


@dataclass(frozen=True)
class Told:
    kind: str
    body: dict[str, Any] = field(default_factory=dict)


def claim(worker: str, at: float | None = None, **body: Any) -> Told:
    return Told("claim", {"coord_term": 1, "worker": worker, **({} if at is None else {"at": at}), **body})


def final(at: float, train_s: float = 5.0, late: bool = False) -> Told:
    return Told("final", {"at": at, "train_s": train_s, "late": late})


def ended(member: int, cause: str, at: float) -> Told:
    return Told("ended", {"member": member, "attempt": 1, "cause": cause, "message": "", "at": at})


RUN = [Told("claim", {"at": 100.0}), Told("opened", {"started_at": 101.0})]


def timeline(members: dict[int, Sequence[Told]], run: Sequence[Told] = RUN) -> Timeline:
    found = read_timeline(run, members)
    assert found is not None
    return found


def test_an_attempt_lasts_from_its_claim_to_its_last_record_and_waited_since_the_run_began() -> None:
    found = timeline({0: [claim("w0", 103.0), Told("checkpoint", {"at": 105.0}), final(110.0)]})
    assert found == Timeline(100.0, 110.0, (100.0,), (Span(0, 1, "w0", 100.0, 103.0, 110.0, "published"),))


def test_a_taken_node_ends_an_attempt_when_the_coordinator_noted_it_and_the_member_waits_for_the_next() -> None:
    log = [claim("w0", 103.0), Told("checkpoint", {"at": 105.0}), claim("w1", 120.0), final(130.0)]
    found = timeline({0: log}, [*RUN, ended(0, "preempted", 107.0)])
    assert found.spans == (
        Span(0, 1, "w0", 100.0, 103.0, 107.0, "preempted"),
        Span(0, 2, "w1", 107.0, 120.0, 130.0, "published"),
    )


@pytest.mark.parametrize(
    ("last", "outcome", "end"),
    [
        (Told("failed", {"status": "failed", "cause": "user_error", "at": 106.0}), "user_error", 106.0),
        (Told("failed", {"status": "diverged", "message": "NaN", "at": 106.0}), "diverged", 106.0),
        (final(106.0, late=True), "late", 106.0),
        (Told("checkpoint", {"at": 105.5}), "lost", 105.5),
    ],
)
def test_how_an_attempt_ended(last: Told, outcome: str, end: float) -> None:
    [span] = timeline({0: [claim("w0", 103.0), last]}).spans
    assert (span.outcome, span.end) == (outcome, end)


def test_records_of_before_claims_had_a_time_still_make_a_timeline() -> None:
    log = [claim("w0"), Told("failed", {"status": "failed", "cause": "crash"}), claim("w1"), final(130.0, train_s=8.0)]
    found = timeline({0: log}, [*RUN, ended(0, "crash", 107.0)])
    assert found.spans == (Span(0, 2, "w1", 100.0, 122.0, 130.0, "published"),)


def test_a_coordinators_claim_is_no_attempt() -> None:
    log = [
        claim("w0", 103.0),
        final(110.0),
        Told("claim", {"coord_term": 1, "run_id": "x"}),
        Told("void", {"at": 111.0}),
    ]
    assert [span.outcome for span in timeline({0: log}).spans] == ["published"]


def test_a_trial_on_its_next_rung_is_at_the_same_attempt() -> None:
    coordinator, on = Told("claim", {"coord_term": 1}), Told("void", {"at": 111.0, "trains_on": 3})
    log = [claim("w0", 103.0), final(110.0), coordinator, on, claim("w1", 112.0), claim("w0", 114.0), final(120.0)]
    assert [(span.attempt, span.worker) for span in timeline({0: log}).spans] == [(1, "w0"), (2, "w0"), (1, "w1")]


def test_a_trial_waits_from_when_it_was_asked_for() -> None:
    asked = [Told("generation", {"params": [{}] * size, "told": [], "at": at}) for size, at in ((2, 101.5), (1, 110.0))]
    logs = {0: [claim("w0", 103.0), final(105.0)], 2: [claim("w0", 112.0), final(115.0)]}
    assert [span.since for span in timeline(logs, [*RUN, *asked]).spans] == [101.5, 110.0]


def test_what_a_lost_worker_left_open_before_the_coordinator_gave_the_member_up_ends_with_its_note() -> None:
    given_up = [Told("claim", {"coord_term": 1, "run_id": "x"}), Told("failed", {"cause": "crash", "at": 109.0})]
    found = timeline({0: [claim("w0", 103.0), *given_up]}, [*RUN, ended(0, "crash", 108.0)])
    assert [(span.end, span.outcome) for span in found.spans] == [(108.0, "crash")]


def test_members_of_a_pack_share_the_workers_time_and_workers_are_sorted_by_number() -> None:
    members = {
        0: [claim("w10", 103.0), final(110.0)],
        1: [claim("w10", 103.0), final(112.0)],
        2: [claim("w2", 103.0), final(104.0)],
        3: [claim("w2", 108.0), final(109.5)],
    }
    found = timeline(members)
    assert found.workers == ("w2", "w10")
    assert found.busy_s == pytest.approx(9.0 + 1.0 + 1.5)


def test_every_start_of_a_coordinator_is_told() -> None:
    run = [*RUN, Told("claim", {"at": 150.0})]
    assert timeline({0: [claim("w0", 155.0), final(160.0)]}, run).starts == (100.0, 150.0)


def test_without_any_time_there_is_no_timeline() -> None:
    assert read_timeline([], {0: [claim("w0")]}) is None
    assert read_timeline(RUN, {0: []}) is None
