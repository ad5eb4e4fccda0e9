"""Try again within a deadline: the only retry loop of this room above the stores' own."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from orchestrator.errors import StoreUnavailable

T = TypeVar("T")

FIRST_PAUSE_S = 0.1
LONGEST_PAUSE_S = 5.0
REREADS = 3
"""How often bytes that do not verify are read again before they count as damaged: it may have happened in transit."""


def pause_s(failures: int, jitter: float) -> float:
    """Seconds to wait after the `failures`-th failure in a row (from 1): doubling, capped, between half and all of it.

    Args:
        failures: how many tries have failed.
        jitter: a number in [0, 1) that keeps writers which failed together from coming back together.
    """
    longest = min(FIRST_PAUSE_S * 2.0 ** min(failures - 1, 30), LONGEST_PAUSE_S)
    return longest * (0.5 + jitter / 2)


@dataclass(frozen=True)
class Patience:
    """How long to go on trying, and by whose clock.

    Args:
        deadline_s: seconds from the first try after which no further one starts.
        sleep, monotonic, jitter: effects, replaced in tests.
    """

    deadline_s: float = 60.0
    sleep: Callable[[float], object] = time.sleep
    monotonic: Callable[[], float] = time.monotonic
    jitter: Callable[[], float] = random.random

    def retry(self, attempt: Callable[[], T]) -> T:
        """Call `attempt` until it does not raise StoreUnavailable; at the deadline that error goes to the caller."""
        started = self.monotonic()
        failures = 0
        while True:
            try:
                return attempt()
            except StoreUnavailable as error:
                failures += 1
                pause = pause_s(failures, self.jitter())
                elapsed = self.monotonic() - started
                if elapsed + pause > self.deadline_s:
                    error.add_note(f"gave up after {failures} tries in {elapsed:.0f} s")
                    raise
                self.sleep(pause)
