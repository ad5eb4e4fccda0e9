"""Ports for servers that tests start, and start again on the same port."""

from __future__ import annotations

import os
import random
import socket
from contextlib import ExitStack

_FIRST, _LAST = 20_000, 32_000
"""Below the range from which systems take the ports of outgoing connections: what is free here stays so while a server
is down. Above that from which Ray takes the ports of its workers."""

_SLICES = 8
"""For pytest-xdist's workers, so that no two pick the same port before either of them has used it."""

_CHANCE = random.SystemRandom()


def free_ports(count: int) -> list[int]:
    """Different ports of this machine that nobody uses at the moment, in random order.

    Raises:
        RuntimeError: there are not so many.
    """
    width = (_LAST - _FIRST) // _SLICES
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    first = _FIRST + worker % _SLICES * width
    with ExitStack() as held:
        found: list[int] = []
        for port in _CHANCE.sample(range(first, first + width), width):
            if len(found) == count:
                return found
            try:
                held.enter_context(socket.socket()).bind(("", port))
            except OSError:
                continue
            found.append(port)
    raise RuntimeError(f"fewer than {count} of the ports {first}–{first + width} are free")
