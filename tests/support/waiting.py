"""Waiting for what happens elsewhere, with an end."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TypeVar

WAIT_S = 300.0
"""Longer than anything here takes on a busy machine: a wait that comes to its end is a failure."""

T = TypeVar("T")


def wait_until(happened: Callable[[], T], what: str | Callable[[], str], within_s: float = WAIT_S) -> T:
    """Ask until `happened()` is true, and return it.

    Args:
        happened: asked some twenty times a second.
        what: is waited for; a function of it tells what is known when the wait has been in vain.
        within_s: seconds to wait.

    Raises:
        TimeoutError: it took longer.
    """
    deadline = time.monotonic() + within_s
    pause = threading.Event()
    while not (value := happened()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {within_s:g} s for: {what if isinstance(what, str) else what()}")
        pause.wait(0.05)
    return value
