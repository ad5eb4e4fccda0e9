from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.errors import MissingObject, StoreUnavailable
from orchestrator.storage.retry import LONGEST_PAUSE_S, Patience, pause_s
from orchestrator.testing import FakeClock


def patience(clock: FakeClock, deadline_s: float = 60.0) -> Patience:
    return Patience(deadline_s, clock.sleep, clock.monotonic, lambda: 0.5)


@given(st.integers(1, 10_000), st.floats(0, 1, exclude_max=True))
def test_pauses_grow_to_a_cap_and_are_never_nothing(failures: int, jitter: float) -> None:
    pause = pause_s(failures, jitter)
    assert 0.05 <= pause <= LONGEST_PAUSE_S
    assert pause <= pause_s(failures + 1, jitter)


def test_a_success_ends_the_tries() -> None:
    tries: list[int] = []

    def attempt() -> str:
        tries.append(1)
        if len(tries) < 3:
            raise StoreUnavailable("not yet")
        return "done"

    assert patience(FakeClock()).retry(attempt) == "done"


def test_the_deadline_counts_the_time_that_the_tries_take() -> None:
    clock = FakeClock()
    tries = []

    def slow() -> None:
        tries.append(clock.monotonic())
        clock.advance(25)
        raise StoreUnavailable("hangs")

    with pytest.raises(StoreUnavailable) as raised:
        patience(clock).retry(slow)
    assert len(tries) == 3
    assert "3 tries" in "".join(raised.value.__notes__)


def test_other_errors_are_not_retried() -> None:
    clock = FakeClock()

    def missing() -> None:
        raise MissingObject("gone")

    with pytest.raises(MissingObject):
        patience(clock).retry(missing)
    assert clock.monotonic() == 0
