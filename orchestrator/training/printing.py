"""What a worker prints while it trains, and whose it is.

It goes on to the streams that were there, each line with its member (Ray keeps these, and its dashboard shows them); as
it is to the logs of the members' attempts; and, where the job asks for it, line by line to the coordinator. Ray could
bring lines to the driver as well, but it leaves those out that differ in numbers alone, such as those of two members.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Protocol, TextIO

from orchestrator.planning.naming import prefix_of
from orchestrator.storage.redact import redact

MAX_LINES_PER_S = 50
"""What a worker shows: a loop that prints must not drown the others. All of it is in the members' logs."""

MAX_LINE_CHARS = 1_000

Show = Callable[[tuple[int, ...], str], None]
"""Takes a line that these members printed."""


class Sink(Protocol):
    """The log of an attempt."""

    def write(self, text: str) -> None:
        """Add to it."""


_at_work: ContextVar[int | None] = ContextVar("member", default=None)
_captures: list[_Capture] = []


@contextmanager
def printing(member: int) -> Iterator[None]:
    """While the block runs, what this thread prints is this member's, and not the whole pack's."""
    token = _at_work.set(member)
    try:
        yield
    finally:
        _at_work.reset(token)


@contextmanager
def captured(logs: Mapping[int, Sink], show: Show | None = None) -> Iterator[None]:
    """Copy what this process prints and logs to the logs of these members while the block runs.

    Args:
        logs: by member.
        show: takes the lines that are printed, `MAX_LINES_PER_S` at most, without secrets; None: nobody does.
    """
    lines = None if show is None else Lines(show)
    capture = _Capture(logs, lines)
    root, level = logging.getLogger("orchestrator"), logging.getLogger("orchestrator").level
    handler = _Handler(capture)
    with teed():
        root.addHandler(handler)
        root.setLevel(min(logging.INFO, level or logging.INFO))
        _captures.append(capture)
        try:
            yield
        finally:
            _captures.remove(capture)
            root.removeHandler(handler)
            root.setLevel(level)
            if lines is not None:
                lines.close()


@contextmanager
def teed() -> Iterator[None]:
    """Have this process' streams hear of captures while the block runs.

    Who keeps a stream for later, as handlers of logs do, should find it like this from the beginning.
    """
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = (stream if isinstance(stream, _Tee) else _Tee(stream) for stream in before)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before


class _Capture:
    """Where the text goes that members of one pack print."""

    def __init__(self, logs: Mapping[int, Sink], lines: Lines | None) -> None:
        self._logs, self._lines = logs, lines

    def whose(self) -> tuple[int, ...]:
        """The member that is at work in this thread; all of them where none alone is."""
        member = _at_work.get()
        return (member,) if member is not None and member in self._logs else tuple(self._logs)

    def log(self, text: str) -> None:
        for member in self.whose():
            self._logs[member].write(text)

    def print(self, text: str) -> None:
        self.log(text)
        if self._lines is not None:
            self._lines.write(self.whose(), text)


class _Tee:
    """Writes to the stream that was there, each line with the members whose it is, and to what captures."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._begins_line = True

    def write(self, text: str) -> int:
        if not _captures:
            return self._stream.write(text)
        self._stream.write(self._prefixed(text, prefix_of(_captures[-1].whose())))  # first: it refuses what is no text
        for capture in tuple(_captures):
            capture.print(text)
        return len(text)

    def _prefixed(self, text: str, prefix: str) -> str:
        first, *others = text.split("\n")
        parts = [first if not (first and self._begins_line) else f"{prefix} {first}"]
        parts += [f"{prefix} {line}" if line else "" for line in others]
        self._begins_line = not others[-1] if others else self._begins_line and not first
        return "\n".join(parts)

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


class _Handler(logging.Handler):
    """Writes records to the logs alone. (A `StreamHandler` would flush them, which sends them, at each record.)"""

    def __init__(self, capture: _Capture) -> None:
        super().__init__()
        self._capture = capture
        self.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._capture.log(f"{self.format(record)}\n")
        except Exception:  # as every handler: a message that cannot be formatted is no reason to end
            self.handleError(record)


class Lines:
    """Whole lines of what is printed, as many as somebody can read.

    Args:
        show: takes each line, without its end.
        monotonic: seconds that never go back.
    """

    def __init__(self, show: Show, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._show, self._monotonic = show, monotonic
        self._lock = threading.Lock()
        self._unfinished: dict[tuple[int, ...], str] = {}
        self._second, self._shown = -1.0, 0
        self._left_out: dict[tuple[int, ...], int] = {}

    def write(self, whose: tuple[int, ...], text: str) -> None:
        """Take text that these members print."""
        with self._lock:
            *lines, rest = (self._unfinished.pop(whose, "") + text).split("\n")
            if len(rest) > MAX_LINE_CHARS:
                lines, rest = [*lines, rest], ""
            if rest:
                self._unfinished[whose] = rest
            for line in lines:
                self._line(whose, line)

    def close(self) -> None:
        """Show what has no end, and say what was left out."""
        with self._lock:
            for whose, rest in self._unfinished.items():
                self._line(whose, rest)
            self._unfinished.clear()
            self._say_left_out()

    def _line(self, whose: tuple[int, ...], line: str) -> None:
        line = line.rstrip("\r").rpartition("\r")[2]  # of a bar that is drawn over and over, how it looks at last
        if not line.strip():
            return
        second = self._monotonic() // 1
        if second != self._second:
            self._say_left_out()
            self._second, self._shown = second, 0
        self._shown += 1
        if self._shown > MAX_LINES_PER_S:
            self._left_out[whose] = self._left_out.get(whose, 0) + 1
            return
        self._show(whose, redact(line, os.environ)[:MAX_LINE_CHARS])

    def _say_left_out(self) -> None:
        for whose, count in self._left_out.items():
            self._show(whose, f"({count:,} more lines are in the log)")
        self._left_out.clear()
