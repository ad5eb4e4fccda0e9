"""The cluster's head as a coordinator sees it: answers, silence, notices; no Ray."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from orchestrator.cluster.head import ASK_EVERY_S, Head, Nodes
from orchestrator.errors import ClusterUnavailable
from orchestrator.storage.parallel import in_background
from orchestrator.testing import FakeClock

WAIT_S = 60.0


class Answers:
    """Plays the head: answers what `nodes` says when asked, while it is not `deaf`."""

    def __init__(self) -> None:
        self.nodes = Nodes(frozenset({"a", "b"}))
        self.hears = threading.Event()
        self.hears.set()
        self.error: Exception | None = None
        self.asked = 0

    def __call__(self) -> Nodes:
        self.asked += 1
        assert self.hears.wait(WAIT_S)
        if self.error is not None:
            raise self.error
        return self.nodes


@pytest.fixture
def answers() -> Answers:
    return Answers()


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


def listen_until(head: Head, happened: Callable[[], bool]) -> None:
    """Answers come from a thread: listen until one is in."""
    pause = threading.Event()
    for _ in range(int(WAIT_S / 0.01)):
        head.listen()
        if happened():
            return
        pause.wait(0.01)
    raise AssertionError("no answer")


def test_a_notice_is_known_after_the_next_answer_and_stays_known(answers: Answers, clock: FakeClock) -> None:
    head = Head(answers, monotonic=clock.monotonic)
    answers.nodes = Nodes(frozenset({"a", "b"}), {"b": 60.0})
    listen_until(head, lambda: bool(head.leaving))
    assert head.leaving == {"b": 60.0}
    answers.nodes = Nodes(frozenset({"a"}))
    clock.advance(ASK_EVERY_S)
    asked = answers.asked
    listen_until(head, lambda: answers.asked > asked)
    assert head.leaving == {"b": 60.0}


def test_the_head_is_not_asked_more_often_than_it_should_be(answers: Answers, clock: FakeClock) -> None:
    head = Head(answers, monotonic=clock.monotonic)
    answers.nodes = Nodes(frozenset(), {"b": None})
    listen_until(head, lambda: bool(head.leaving))
    for _ in range(10):
        head.listen()
    assert answers.asked == 1


def test_a_silent_head_ends_the_run_in_time_and_not_before(answers: Answers, clock: FakeClock) -> None:
    answers.hears.clear()
    head = Head(answers, silence_s=30, monotonic=clock.monotonic)
    head.listen()
    clock.advance(30)
    head.listen()
    clock.advance(1)
    with pytest.raises(ClusterUnavailable, match="silent for 30 s") as caught:
        head.listen()
    assert caught.value.exit_code == 75
    answers.hears.set()


def test_a_question_that_fails_is_silence_too(answers: Answers, clock: FakeClock) -> None:
    answers.error = ConnectionError("gone")
    head = Head(answers, silence_s=30, monotonic=clock.monotonic)
    listen_until(head, lambda: answers.asked == 1)
    with pytest.raises(ClusterUnavailable):  # noqa: PT012 - which of the questions is the last one is not known
        for _ in range(40):
            clock.advance(ASK_EVERY_S)
            head.listen()


def test_an_answer_in_time_ends_the_silence(answers: Answers, clock: FakeClock) -> None:
    answers.hears.clear()
    head = Head(answers, silence_s=30, monotonic=clock.monotonic)
    head.listen()
    clock.advance(29)
    answers.nodes = Nodes(frozenset(), {"b": None})
    answers.hears.set()
    listen_until(head, lambda: bool(head.leaving))
    clock.advance(29)
    head.listen()


def test_a_coordinator_that_was_busy_elsewhere_takes_no_answer_for_silence(answers: Answers, clock: FakeClock) -> None:
    head = Head(answers, silence_s=30, monotonic=clock.monotonic)
    head.listen()
    for thread in threading.enumerate():
        if thread.name == "head":  # the answer is there when its thread is over
            thread.join(WAIT_S)
    assert answers.asked == 1
    clock.advance(600)
    head.listen()


def test_whether_a_node_lives_is_asked_anew(answers: Answers, clock: FakeClock) -> None:
    head = Head(answers, monotonic=clock.monotonic)
    assert head.is_alive("a")
    answers.nodes = Nodes(frozenset({"b"}))
    assert not head.is_alive("a")
    assert head.is_alive("b")


def test_what_waits_for_a_silent_head_is_given_up(answers: Answers, clock: FakeClock) -> None:
    never = threading.Event()
    with pytest.raises(ClusterUnavailable, match="head has been silent"):
        Head(answers, silence_s=0.01, monotonic=clock.monotonic).answer(never.wait)
    never.set()
    assert Head(answers, silence_s=WAIT_S, monotonic=clock.monotonic).answer(lambda: "started") == "started"


def test_what_runs_in_the_background_hands_on_its_result_or_error() -> None:
    assert in_background(lambda: 7).result(WAIT_S) == 7
    assert isinstance(in_background(lambda: 1 // 0).exception(WAIT_S), ZeroDivisionError)
