"""A job's log, followed over a connection that may drop."""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
import time
from collections.abc import AsyncIterator, Callable

_RECONNECT_S = 1.0


class LogFollower:
    """Hands out a log's lines in the thread that pumps, each of them once, however often the stream drops.

    A stream starts at the log's beginning; what earlier streams brought is skipped. A thread of its own reads the
    stream, so that a silent or half-open connection cannot hold the one who waits.

    Args:
        connect: opens a stream of chunks of the log, from its beginning; called in the reading thread.
        on_line: gets each line without its newline, in the thread that calls `pump` and `finish`.
    """

    def __init__(self, connect: Callable[[], AsyncIterator[str]], on_line: Callable[[str], None]) -> None:
        self._connect = connect
        self._on_line = on_line
        self._delivered = 0  # characters of the log
        self._unfinished = ""  # a line whose newline has not come yet
        self._stream = _Stream(connect)
        self._retry_at: float | None = None

    def pump(self, for_s: float) -> None:
        """Hand out what comes within `for_s` seconds; open a new stream when the last one dropped."""
        until = time.monotonic() + for_s
        while (left := until - time.monotonic()) > 0:
            self._take(self._stream.read(left))
        if self._stream.alive:
            return
        if self._retry_at is None:
            self._retry_at = time.monotonic() + _RECONNECT_S
        elif time.monotonic() >= self._retry_at:
            self._drain()
            self._stream = _Stream(self._connect)
            self._retry_at = None

    def finish(self, whole_log: str) -> None:
        """Hand out what `whole_log` has beyond the lines handed out so far, the last line included."""
        self._drain()
        self._emit(whole_log[self._delivered :])
        if self._unfinished:
            self._on_line(self._unfinished)
            self._unfinished = ""

    def close(self) -> None:
        """Stop reading."""
        self._stream.close()

    def _drain(self) -> None:
        while chunk := self._stream.read(0.0):
            self._take(chunk)

    def _take(self, chunk: str) -> None:
        start = self._stream.position
        self._stream.position += len(chunk)
        self._emit(chunk[max(0, self._delivered - start) :])

    def _emit(self, fresh: str) -> None:
        self._delivered += len(fresh)
        *lines, self._unfinished = (self._unfinished + fresh).split("\n")
        for line in lines:
            self._on_line(line)


class _Stream:
    """One connection, read by a daemon thread into a queue until it ends, for whatever reason."""

    def __init__(self, connect: Callable[[], AsyncIterator[str]]) -> None:
        self.position = 0  # characters handed out
        self._chunks: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._loop = asyncio.new_event_loop()
        self._task = self._loop.create_task(self._follow(connect))
        self._thread = threading.Thread(target=self._run, name="job-log", daemon=True)
        self._thread.start()

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    def read(self, timeout_s: float) -> str:
        """The next chunk, or an empty text when none comes in time."""
        try:
            return self._chunks.get(timeout=timeout_s) if timeout_s > 0 else self._chunks.get_nowait()
        except queue.Empty:
            return ""

    def close(self) -> None:
        # The loop may have closed between the look and the call: then there is nothing left to stop.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._task.cancel)
        self._thread.join(timeout=5.0)

    async def _follow(self, connect: Callable[[], AsyncIterator[str]]) -> None:
        async for chunk in connect():
            self._chunks.put(chunk)

    def _run(self) -> None:
        # A dropped stream is no news: the follower opens another, and the job's status decides.
        with contextlib.suppress(Exception, asyncio.CancelledError):
            self._loop.run_until_complete(self._task)
        with contextlib.suppress(Exception):
            self._loop.run_until_complete(self._loop.shutdown_asyncgens())
        self._loop.close()
