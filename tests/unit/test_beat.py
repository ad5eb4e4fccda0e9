"""The coordinator's beat."""

from __future__ import annotations

import json
import threading

import pytest

from orchestrator.errors import StoreUnavailable
from orchestrator.storage.beat import Beat, read_beat
from orchestrator.testing import MemoryStore

KEY = "job/run/coord/beat.json"
CONTROL = "digits/run/control"


class CountingStore(MemoryStore):
    """Tells when so many beats have been tried; the first `failures` of them are not written."""

    def __init__(self, wanted: int, failures: int = 0) -> None:
        super().__init__()
        self.enough = threading.Event()
        self._tries, self._wanted, self._failures = 0, wanted, failures

    def put(self, key: str, body: bytes) -> None:
        self._tries += 1
        if self._tries <= self._failures:
            raise StoreUnavailable("injected")
        super().put(key, body)
        if self._tries >= self._wanted:
            self.enough.set()


def test_the_beat_counts_up_under_its_term() -> None:
    store = CountingStore(wanted=3)
    with Beat(store, KEY, CONTROL, term=4, every_s=0.001, epoch=lambda: 1e9):
        assert store.enough.wait(10)
    beat = read_beat(store, KEY)
    assert beat is not None
    assert (beat.term, beat.n >= 2, beat.at) == (4, True, 1e9)
    assert json.loads(store.get(KEY))["at"] == 1e9


def test_a_beat_that_cannot_be_written_is_left_out_and_the_next_one_comes() -> None:
    store = CountingStore(wanted=4, failures=3)
    with Beat(store, KEY, CONTROL, term=1, every_s=0.001, epoch=lambda: 0.0):
        assert store.enough.wait(10)
    beat = read_beat(store, KEY)
    assert beat is not None
    assert beat.n >= 3


def test_nothing_is_written_after_the_end() -> None:
    store, before = CountingStore(wanted=1), set(threading.enumerate())
    with Beat(store, KEY, CONTROL, term=1, every_s=0.001, epoch=lambda: 0.0) as beat:
        assert store.enough.wait(10)
    beat.join(10)
    assert not [thread for thread in set(threading.enumerate()) - before if thread.name == "beat"]


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'{"term": "x", "n": 1}', b"\xff"])
def test_what_is_no_beat_counts_as_none(body: bytes) -> None:
    store = MemoryStore()
    assert read_beat(store, KEY) is None
    store.put(KEY, body)
    assert read_beat(store, KEY) is None


def test_a_coordinator_that_thaws_leaves_the_beat_of_its_successor_alone() -> None:
    store = CountingStore(wanted=1)
    with Beat(store, KEY, CONTROL, term=2, every_s=0.001, epoch=lambda: 2.0):
        assert store.enough.wait(10)
    with Beat(store, KEY, CONTROL, term=1, every_s=0.001, epoch=lambda: 1.0) as thawed:
        thawed.join(10)
    beat = read_beat(store, KEY)
    assert beat is not None
    assert (beat.term, beat.at) == (2, 2.0)


def test_an_error_that_no_store_should_raise_does_not_end_the_beat() -> None:
    class Odd(CountingStore):
        def list(self, prefix: str) -> list[str]:
            raise ZeroDivisionError("a bug")

    store = Odd(wanted=3)
    with Beat(store, KEY, CONTROL, term=1, every_s=0.001, epoch=lambda: 0.0):
        assert store.enough.wait(10)


def test_requests_to_stop_are_seen_beside_the_beat() -> None:
    store = CountingStore(wanted=3)
    store.create(f"{CONTROL}/stop-n1.json", b"{}")
    with Beat(store, KEY, CONTROL, term=1, every_s=0.001, epoch=lambda: 0.0) as beat:
        assert store.enough.wait(10)
        assert beat.stop_requests() == (f"{CONTROL}/stop-n1.json",)
