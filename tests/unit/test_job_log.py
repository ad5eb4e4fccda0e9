"""Following a job's log over streams that drop: every line arrives once, in order."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import closing

from orchestrator.cluster.jobs.log import LogFollower


def dropping(*streams: list[str]) -> tuple[Callable[[], AsyncIterator[str]], list[int]]:
    """A log whose n-th stream brings `streams[n]` and then breaks; and the numbers of the streams opened."""
    opened: list[int] = []

    async def connect() -> AsyncIterator[str]:
        number = len(opened)
        opened.append(number)
        for chunk in streams[min(number, len(streams) - 1)]:
            yield chunk
        raise ConnectionResetError("dropped")

    return connect, opened


def pump_until(log: LogFollower, done: Callable[[], bool]) -> None:
    for _ in range(200):
        log.pump(0.05)
        if done():
            return
    raise AssertionError("the log did not come in time")


def test_a_dropped_stream_is_taken_up_where_it_ended() -> None:
    connect, opened = dropping(["one\ntw"], ["one\n", "two\nthree\n"])
    lines: list[str] = []
    with closing(LogFollower(connect, lines.append)) as log:
        pump_until(log, lambda: len(lines) >= 3)
    assert lines == ["one", "two", "three"]
    assert opened[:2] == [0, 1]


def test_the_whole_log_fills_in_what_no_stream_brought() -> None:
    connect, _ = dropping(["one\ntw"])
    lines: list[str] = []
    with closing(LogFollower(connect, lines.append)) as log:
        pump_until(log, lambda: bool(lines))
        log.finish("one\ntwo\nlast without newline")
    assert lines == ["one", "two", "last without newline"]


def test_a_stream_that_never_opens_loses_nothing() -> None:
    async def refused() -> AsyncIterator[str]:
        raise ConnectionRefusedError
        yield ""

    lines: list[str] = []
    with closing(LogFollower(refused, lines.append)) as log:
        log.pump(0.01)
        log.finish("all of it\n")
    assert lines == ["all of it"]


def test_a_silent_stream_does_not_hold_the_one_who_waits() -> None:
    async def silent() -> AsyncIterator[str]:
        yield "only\n"
        await asyncio.Event().wait()

    lines: list[str] = []
    with closing(LogFollower(silent, lines.append)) as log:
        pump_until(log, lambda: bool(lines))
        log.finish("only\nrest\n")
    assert lines == ["only", "rest"]
