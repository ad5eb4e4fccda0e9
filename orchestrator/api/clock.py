"""The clocks of this machine."""

from __future__ import annotations

import time


class SystemClock:
    """The Clock port on this machine's clocks."""

    def monotonic(self) -> float:
        return time.monotonic()

    def epoch(self) -> float:
        return time.time()
