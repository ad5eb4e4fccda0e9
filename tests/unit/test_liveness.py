"""Who may claim a run, from what is seen of its coordinator."""

from __future__ import annotations

import pytest

from orchestrator.planning.liveness import Sign, Watch, look

TAKEOVER_S = 15.0


def looks(*seen: tuple[float, Sign]) -> list[str]:
    """The actions decided at each of these looks (monotonic second, sign)."""
    watch: Watch | None = None
    actions = []
    for now, sign in seen:
        watch, decision = look(watch, sign, now, TAKEOVER_S)
        actions.append(decision.action)
        assert decision.reason
    return actions


def test_a_new_run_is_claimed_at_once() -> None:
    assert looks((0.0, Sign(0, None, None))) == ["claim"]


@pytest.mark.parametrize("end", ["failed", "stopped"])
def test_a_run_that_ended_without_a_result_is_claimed_at_once_whatever_its_last_beat(end: str) -> None:
    assert looks((0.0, Sign(5, end, (1, 7)))) == ["claim"]


@pytest.mark.parametrize(
    "moved", [Sign(3, "opened", (1, 8)), Sign(4, "packed", (1, 7)), Sign(4, "claim", (2, 0))], ids=str
)
def test_whatever_moves_between_two_looks_shows_a_live_coordinator(moved: Sign) -> None:
    assert looks((0.0, Sign(3, "opened", (1, 7))), (1.0, moved)) == ["wait", "follow"]


def test_a_coordinator_that_is_silent_for_the_whole_time_is_taken_over() -> None:
    still = Sign(3, "opened", (1, 7))
    assert looks((0.0, still), (14.9, still), (15.0, still)) == ["wait", "wait", "claim"]


def test_silence_counts_from_the_last_move_also_of_a_coordinator_that_was_alive() -> None:
    first, second = Sign(3, "opened", (1, 7)), Sign(3, "opened", (1, 8))
    seen = [(0.0, first), (10.0, second), (24.0, second), (25.0, second)]
    assert looks(*seen) == ["wait", "follow", "follow", "claim"]


def test_who_followed_a_live_coordinator_ends_as_it_does() -> None:
    live, ended = Sign(3, "opened", (1, 7)), Sign(4, "failed", (1, 7))
    assert looks((0.0, live), (1.0, ended)) == ["wait", "end"]
