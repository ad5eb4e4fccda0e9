"""What a worker prints reaches the streams, the logs of those whose it is, and, where a job asks, the coordinator."""

from __future__ import annotations

import io
import logging
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout

import pytest

from orchestrator.planning.naming import prefix_of
from orchestrator.training.printing import (
    MAX_LINE_CHARS,
    MAX_LINES_PER_S,
    Lines,
    captured,
    printing,
    teed,
)

logger = logging.getLogger("orchestrator.worker")


class Log(io.StringIO):
    """The log of an attempt."""

    @property
    def text(self) -> str:
        return self.getvalue()


@contextmanager
def own_streams() -> Iterator[tuple[io.StringIO, io.StringIO]]:
    """Streams that nobody else replaces; whatever happens in the block, they have to be there again at its end."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        yield out, err
        assert (sys.stdout, sys.stderr) == (out, err)


def say(text: str) -> None:
    sys.stdout.write(text)


@pytest.mark.parametrize(
    ("members", "prefix"),
    [
        ((3,), "[member 3]"),
        ((0, 1, 2, 3), "[members 0–3]"),
        ((5, 0, 1, 2), "[members 0–2, 5]"),
        ((1, 3, 5), "[members 1, 3, 5]"),
    ],
)
def test_a_line_names_its_members_briefly(members: tuple[int, ...], prefix: str) -> None:
    assert prefix_of(members) == prefix


def test_what_is_printed_reaches_the_streams_with_its_member_and_the_log_as_it_is() -> None:
    log = Log()
    with own_streams() as (out, err), captured({3: log}):
        print("out", 1)  # noqa: T201  # it is what is tested
        sys.stderr.write("err\n")
        sys.stdout.writelines(["a\n", "\n", "b\nc"])
        sys.stdout.write("d\n")
        assert sys.stdout.isatty() is False
        sys.stdout.flush()
    assert out.getvalue() == "[member 3] out 1\n[member 3] a\n\n[member 3] b\n[member 3] cd\n"
    assert err.getvalue() == "[member 3] err\n"
    assert log.text == "out 1\nerr\na\n\nb\ncd\n"


def test_in_a_pack_a_member_has_its_own_lines_and_those_of_all() -> None:
    logs = {0: Log(), 1: Log()}
    with own_streams() as (out, _), captured(logs):
        say("compiling\n")
        for member in logs:
            with printing(member):
                say(f"epoch of {member}\n")
                logger.info("told by %s", member)
        say("over\n")
    assert out.getvalue().splitlines() == [
        "[members 0–1] compiling",
        "[member 0] epoch of 0",
        "[member 1] epoch of 1",
        "[members 0–1] over",
    ]
    for member, log in logs.items():
        assert f"compiling\nepoch of {member}\n" in log.text
        assert f"told by {member}\n" in log.text
        assert log.text.endswith("over\n")
        assert f"of {1 - member}" not in log.text
        assert f"by {1 - member}" not in log.text


def test_another_thread_prints_for_the_whole_pack() -> None:
    logs = {0: Log(), 1: Log()}
    with own_streams() as (out, _), captured(logs), printing(0):
        thread = threading.Thread(target=say, args=("from beside\n",))
        thread.start()
        thread.join()
    assert out.getvalue() == "[members 0–1] from beside\n"


def test_a_handler_that_was_there_before_writes_to_the_log_of_whom_is_trained_then() -> None:
    own = logging.getLogger("a library's")
    with own_streams(), teed():
        handler = logging.StreamHandler(sys.stderr)  # keeps the stream that it finds, as TensorFlow's does
        own.addHandler(handler)
        try:
            logs = [Log(), Log()]
            for member, log in enumerate(logs):
                with captured({member: log}):
                    own.warning("trained %s", member)
                own.warning("in between")
        finally:
            own.removeHandler(handler)
    assert [log.text for log in logs] == ["trained 0\n", "trained 1\n"]


def test_what_is_logged_reaches_the_log_from_info_up_and_no_stream() -> None:
    log = Log()
    with own_streams() as (out, err), captured({3: log}):
        logger.info("epoch %s", 1)
        logger.debug("too much")
    assert "INFO epoch 1\n" in log.text
    assert "too much" not in log.text
    assert out.getvalue() == err.getvalue() == ""


def test_what_the_stream_refuses_is_refused_and_is_in_no_log() -> None:
    log = Log()
    with own_streams(), captured({3: log}):
        with pytest.raises(TypeError):
            sys.stdout.write(b"bytes")  # type: ignore[arg-type]
        say("text\n")
    assert log.text == "text\n"


def test_nested_captures_and_errors_leave_everything_as_it_was() -> None:
    package = logging.getLogger("orchestrator")
    before = package.level, list(package.handlers)
    outer, inner = Log(), Log()

    def print_and_raise(log: Log, text: str, error: type[BaseException]) -> None:
        with captured({1: log}):
            say(text)
            raise error

    with own_streams():
        with captured({0: outer}):
            say("1\n")
            with pytest.raises(ZeroDivisionError):
                print_and_raise(inner, "2\n", ZeroDivisionError)
            say("3\n")
        with pytest.raises(KeyboardInterrupt):
            print_and_raise(outer, "4\n", KeyboardInterrupt)
    assert outer.text == "1\n2\n3\n4\n"
    assert inner.text == "2\n"
    assert (package.level, package.handlers) == before


@pytest.mark.parametrize("level", [logging.NOTSET, logging.DEBUG, logging.INFO, logging.ERROR])
def test_the_level_that_somebody_chose_is_put_back(level: int) -> None:
    package, log = logging.getLogger("orchestrator"), Log()
    before = package.level
    package.setLevel(level)
    try:
        with own_streams(), captured({0: log}):
            logger.info("told")
        assert package.level == level
    finally:
        package.setLevel(before)
    assert "told" in log.text


class Shown:
    """What the coordinator is told, on a clock that is moved by hand."""

    def __init__(self) -> None:
        self.told: list[tuple[tuple[int, ...], str]] = []
        self.now = 0.0
        self.lines = Lines(lambda members, line: self.told.append((members, line)), lambda: self.now)


def test_lines_are_shown_whole_each_with_its_members() -> None:
    told: list[tuple[tuple[int, ...], str]] = []
    with own_streams(), captured({0: Log(), 1: Log()}, lambda members, line: told.append((members, line))):
        say("a")
        with printing(1):
            say("mine\n")
        say("ll\n\n   \n")
        say("no end")
    assert told == [((1,), "mine"), ((0, 1), "all"), ((0, 1), "no end")]


def test_of_a_bar_that_is_drawn_over_and_over_the_last_state_is_shown() -> None:
    shown = Shown()
    shown.lines.write((0,), "1/3 =\r2/3 ==\r")
    shown.lines.write((0,), "3/3 ===\r\n")
    assert shown.told == [((0,), "3/3 ===")]


def test_a_loop_that_prints_is_shown_in_part_and_what_is_left_out_is_counted() -> None:
    shown = Shown()
    for number in range(10_000):
        shown.lines.write((0,), f"{number}\n")
    assert len(shown.told) == MAX_LINES_PER_S
    shown.now += 1
    shown.lines.write((1,), "later\n")
    left_out = f"({10_000 - MAX_LINES_PER_S:,} more lines are in the log)"
    assert shown.told[MAX_LINES_PER_S:] == [((0,), left_out), ((1,), "later")]


def test_a_line_without_end_is_cut_and_not_kept_for_ever() -> None:
    shown = Shown()
    for _ in range(100):
        shown.lines.write((0,), "x" * (MAX_LINE_CHARS + 1))
    assert all(len(line) == MAX_LINE_CHARS for _, line in shown.told)
    assert shown.lines._unfinished == {}


def test_secrets_are_blotted_out_of_what_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_API_TOKEN", "abcdefgh12345678")
    shown = Shown()
    shown.lines.write((0,), "the token is abcdefgh12345678\n")
    assert shown.told == [((0,), "the token is ***")]
