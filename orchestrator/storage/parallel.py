"""Many requests at the same time: each mostly waits for the store, and a run has thousands of objects."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")

AT_ONCE = 16
"""Requests at the same time: enough to hide a latency of 150 ms, few enough for one client's connections."""

MAX_BYTES = 256 * 2**20
"""What may be held that nobody has taken yet."""


def in_order(
    do: Callable[[T], R],
    items: Iterable[T],
    *,
    num_bytes: Callable[[T], int] = lambda item: 0,
    at_once: int = AT_ONCE,
    max_bytes: int = MAX_BYTES,
) -> Iterator[R]:
    """What `do` gives for each item, in their order, worked out ahead of its taker in threads.

    Memory is bounded, however many items there are and however slowly results are taken.

    Args:
        do: safe to call from several threads.
        items: taken one by one, as their turn comes.
        num_bytes: what the result of an item takes in memory.
        at_once: how many items are at most at work, or done and not taken.
        max_bytes: how much these may take together; a single item may take more.

    Raises:
        Whatever `do` raises, in the turn of its item; those after it that are at work are waited for, others not begun.
    """
    ahead: deque[tuple[Future[R], int]] = deque()
    held = 0
    with ThreadPoolExecutor(at_once, thread_name_prefix="store") as pool:
        try:
            for item in items:
                size = num_bytes(item)
                while ahead and (len(ahead) == at_once or held + size > max_bytes):
                    future, taken = ahead.popleft()
                    held -= taken
                    yield future.result()
                ahead.append((pool.submit(do, item), size))
                held += size
            while ahead:
                yield ahead.popleft()[0].result()
        finally:
            for future, _ in ahead:
                future.cancel()


def in_background(call: Callable[[], T]) -> Future[T]:
    """Run `call` in a thread that may block for ever: a process that ends does not wait for it."""
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(call())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, name="background", daemon=True).start()
    return future
