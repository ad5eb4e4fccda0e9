"""Looking on at a run from outside, by what is stored: until it has a result, has ended, or nobody works on it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from orchestrator import api
from orchestrator.attach import Start, await_end
from orchestrator.errors import Interrupted, InvalidJob, OrchestratorError, RunEnded, TimedOut
from orchestrator.planning.ports import Store
from orchestrator.reporting.attempts import LogTail
from orchestrator.reporting.result import Result
from orchestrator.storage.layout import RunLayout
from orchestrator.storage.local import LocalStore
from orchestrator.storage.log import Log
from orchestrator.testing import FakeClock, MemoryStore
from tests.support.report_runs import LAYOUT, finished_run

TAKEOVER_S = 15.0


def follow(
    store: Store,
    clock: FakeClock,
    at_pause: Callable[[int], object],
    *,
    interruption: Callable[[], OrchestratorError | None] = lambda: None,
    give_up_at: float | None = None,
) -> Result:
    pauses = 0

    def pause(seconds: float) -> None:
        nonlocal pauses
        pauses += 1
        assert pauses < 1000, "it never ends"
        clock.advance(seconds)
        at_pause(pauses)

    return await_end(
        Start(store, LAYOUT, "tuesday", TAKEOVER_S, attach=True, claim={}),
        Log.open(store, LAYOUT.coord_log),
        clock=clock,
        note=lambda text: None,
        interruption=interruption,
        give_up_at=give_up_at,
        pause=pause,
    )


def beat(store: Store, n: int) -> None:
    store.put(LAYOUT.beat, json.dumps({"term": 1, "n": n, "at": 0}).encode())


def begin(store: Store, *, takeover_s: float = TAKEOVER_S) -> Log:
    """A run with a coordinator that has claimed it."""
    spec = {"run_id": "tuesday", "job": {"members": {"count": 3}, "faults": {"takeover_s": takeover_s}}}
    store.create(LAYOUT.spec, json.dumps(spec).encode())
    log = Log.open(store, LAYOUT.coord_log)
    log.claim(run_id="tuesday")
    return log


def test_a_live_run_is_followed_until_it_has_ended_and_nothing_is_written() -> None:
    store, clock = MemoryStore(), FakeClock()
    log = begin(store)
    keys = store.list("")

    def at_pause(number: int) -> None:
        beat(store, number)
        if number == 40:
            assert store.list("") == sorted([*keys, LAYOUT.beat])
            log.append("failed", exit_code=4, message="too few members")

    with pytest.raises(RunEnded, match="too few members") as caught:
        follow(store, clock, at_pause)
    assert caught.value.exit_code == 4
    assert clock.monotonic() == 40.0


@pytest.mark.parametrize("claimed", [True, False])
def test_a_run_on_which_nobody_works_is_not_waited_for(claimed: bool) -> None:
    store, clock = MemoryStore(), FakeClock()
    if claimed:
        begin(store)
    with pytest.raises(RunEnded, match="nobody works on the run") as caught:
        follow(store, clock, lambda number: None)
    assert caught.value.exit_code == 75
    assert clock.monotonic() == TAKEOVER_S


def test_the_waiting_ends_as_it_was_asked_to() -> None:
    store, clock = MemoryStore(), FakeClock()
    begin(store)
    with pytest.raises(TimedOut):
        follow(store, clock, lambda number: beat(store, number), give_up_at=20.0)
    assert clock.monotonic() == 20.0
    error = Interrupted("SIGINT", signal_number=2)
    with pytest.raises(Interrupted) as caught:
        follow(store, clock, lambda number: None, interruption=lambda: error)
    assert caught.value.exit_code == 130


def test_the_result_of_a_finished_run_is_returned_at_once(tmp_path: Path) -> None:
    result, _ = finished_run(LocalStore(tmp_path))
    assert api.wait("tuesday", storage=str(tmp_path)) == result
    assert api.wait("digits-run", storage=str(tmp_path), timeout_s=0.0) == result


def test_a_run_that_is_not_there_is_waited_for_only_within_a_time(tmp_path: Path) -> None:
    with pytest.raises(InvalidJob, match="--timeout SECONDS"):
        api.wait("tuesday", storage=str(tmp_path))
    with pytest.raises(InvalidJob, match="--address"):
        api.status("tuesday", storage=str(tmp_path))
    with pytest.raises(TimedOut, match="has not begun") as caught:
        api.wait("tuesday", storage=str(tmp_path), timeout_s=0.0)
    assert caught.value.exit_code == 124

    results: list[Result] = []

    def begins() -> None:
        results.append(finished_run(LocalStore(tmp_path))[0])

    found = api.wait("tuesday", storage=str(tmp_path), timeout_s=60.0, interruption=begins)
    assert [found] == results


def test_an_id_that_several_runs_have_is_refused_at_once_and_not_waited_for(tmp_path: Path) -> None:
    for job in ("digits", "wine"):
        LocalStore(tmp_path).create(RunLayout(job, "tuesday-1").spec, b"{}")
    with pytest.raises(InvalidJob, match="several") as caught:
        api.wait("tuesday-1", storage=str(tmp_path), timeout_s=60.0)
    assert "wine/tuesday-1" in str(caught.value.hint)


def put(store: Store, member: int, term: int, chunk: int, body: bytes) -> None:
    store.put(f"{LAYOUT.attempt_prefix(member, term)}/log-{chunk:05d}.txt", body)


def read(tail: LogTail, *, last: bool = False) -> list[tuple[int, int, str]]:
    return [(attempt.member, attempt.term, line) for attempt, line in tail.read(last=last)]


def test_a_log_is_read_on_line_by_line_whatever_its_chunks_cut() -> None:
    store = MemoryStore()
    tail = LogTail(store, LAYOUT)
    assert read(tail) == []
    put(store, 0, 1, 0, "one\ntü".encode()[:-1])
    assert read(tail) == [(0, 1, "one")]
    put(store, 0, 1, 1, "tü".encode()[-1:] + b"r\n\x1b[31mred\nend")
    put(store, 1, 1, 0, b"other\n")
    store.put(f"{LAYOUT.attempt_prefix(1, 1)}/history.csv", b"no log\n")
    assert read(tail) == [(0, 1, "tür"), (0, 1, "red"), (1, 1, "other")]
    assert read(tail) == []
    assert read(tail, last=True) == [(0, 1, "end")]


def test_a_members_newest_attempt_is_read_to_its_end_and_later_ones_follow() -> None:
    store = MemoryStore()
    for term in (1, 2):
        put(store, 0, term, 0, f"attempt {term}\n".encode())
    put(store, 1, 1, 0, b"other\n")
    tail = LogTail(store, LAYOUT, member=0)
    assert read(tail) == [(0, 2, "attempt 2")]
    put(store, 0, 2, 1, b"its end\n")
    for term in (3, 4):
        put(store, 0, term, 0, f"attempt {term}\n".encode())
    assert read(tail) == [(0, 2, "its end"), (0, 3, "attempt 3"), (0, 4, "attempt 4")]
    assert read(tail, last=True) == []


def test_following_the_logs_ends_with_the_run_and_misses_no_line(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    log = begin(store)
    put(store, 2, 1, 0, b"epoch 1\n")
    lines: list[tuple[int, int, str]] = []
    notes: list[str] = []

    def goes_on() -> None:
        put(store, 2, 1, 1, b"epoch 2\nepoch")
        if lines:
            put(store, 2, 1, 2, b" 3")
            log.append("stopped", exit_code=143, message="SIGTERM")

    api.follow_logs(
        "tuesday",
        storage=str(tmp_path),
        on_line=lambda *line: lines.append(line),
        on_note=notes.append,
        interruption=goes_on,
    )
    assert lines == [(2, 1, "epoch 1"), (2, 1, "epoch 2"), (2, 1, "epoch 3")]
    assert len(notes) == 1
    assert "SIGTERM" in notes[0]
