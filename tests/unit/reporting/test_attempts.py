"""Logs of attempts: the newest of each member, in order, and nothing in them that could harm a terminal."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st
from run_examples import LAYOUT

from orchestrator.errors import DamagedStore, InvalidJob
from orchestrator.reporting.attempts import MAX_CHUNK_BYTES, Attempt, find_attempts, printable, read_log
from orchestrator.testing import MemoryStore


def leave(store: MemoryStore, member: int, term: int, name: str, body: bytes = b"") -> str:
    key = f"{LAYOUT.attempt_prefix(member, term)}/{name}"
    store.put(key, body)
    return key


@pytest.fixture
def store() -> MemoryStore:
    store = MemoryStore()
    for member, term in ((0, 1), (0, 10), (0, 2), (11, 3), (2, 1)):
        leave(store, member, term, "log-00001.txt", b"second\n")
        leave(store, member, term, "log-00000.txt", b"member %d, attempt %d\n" % (member, term))
    return store


def test_the_newest_attempt_of_each_member_comes_in_the_order_of_members(store: MemoryStore) -> None:
    found = find_attempts(store, LAYOUT)
    assert [(each.member, each.term) for each in found] == [(0, 10), (2, 1), (11, 3)]
    assert "".join(read_log(store, found[0])) == "member 0, attempt 10\nsecond\n"


def test_one_member_and_one_attempt_can_be_asked_for(store: MemoryStore) -> None:
    assert [(each.member, each.term) for each in find_attempts(store, LAYOUT, member=0)] == [(0, 10)]
    assert [(each.member, each.term) for each in find_attempts(store, LAYOUT, member=0, term=2)] == [(0, 2)]
    assert [(each.member, each.term) for each in find_attempts(store, LAYOUT, term=1)] == [(0, 1), (2, 1)]


@pytest.mark.parametrize(
    ("asked", "words"),
    [({"member": 7}, "at member 7"), ({"member": 0, "term": 9}, "of number 9"), ({"term": 99}, "99")],
)
def test_an_attempt_that_left_nothing_is_told_with_those_that_did(
    store: MemoryStore, asked: dict[str, int], words: str
) -> None:
    with pytest.raises(InvalidJob, match=words) as caught:
        find_attempts(store, LAYOUT, **asked)
    assert "member 11 attempt 3" in str(caught.value.hint)


def test_files_of_callbacks_are_named_apart_from_the_log() -> None:
    store = MemoryStore()
    log = leave(store, 0, 1, "log-00000.txt", b"x")
    files = [leave(store, 0, 1, name) for name in ("csv/log-00000.txt", "log-1.txt.bak", "tb/train/events.v2")]
    assert find_attempts(store, LAYOUT) == (Attempt(0, 1, (log,), tuple(files)),)


def test_a_character_that_two_chunks_share_is_put_together_again() -> None:
    store = MemoryStore()
    body = "épochs → 5".encode()
    leave(store, 0, 1, "log-00000.txt", body[:1])
    leave(store, 0, 1, "log-00001.txt", body[1:10])
    leave(store, 0, 1, "log-00002.txt", body[10:] + b"\xe2")
    assert "".join(read_log(store, *find_attempts(store, LAYOUT))) == "épochs → 5�"


def test_a_chunk_that_is_too_large_is_refused_before_it_is_read() -> None:
    store = MemoryStore()
    leave(store, 0, 1, "log-00000.txt", bytes(MAX_CHUNK_BYTES + 1))
    with pytest.raises(DamagedStore, match=f"{MAX_CHUNK_BYTES + 1} bytes"):
        list(read_log(store, *find_attempts(store, LAYOUT)))


@given(st.binary())
def test_no_control_character_reaches_the_terminal(body: bytes) -> None:
    store = MemoryStore()
    leave(store, 0, 1, "log-00000.txt", body)
    text = "".join(read_log(store, *find_attempts(store, LAYOUT)))
    assert {character for character in text if unicodedata.category(character) == "Cc"} <= {"\n", "\t"}


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\tb\nc", "a\tb\nc"),
        ("\x1b[31mred\x1b[0m", "red"),
        ("\x1b[2J\x1b[?25l\x1b[38;5;1mx", "x"),
        ("\x1b]0;title\x07x", "]0;titlex"),
        ("1/5\r2/5\r\n", "1/5\n2/5\n"),
        ("\x9b31mred", "31mred"),
        ("\0\x08\x7f", ""),
        ("Zürich – 日本", "Zürich – 日本"),
    ],
)
def test_escapes_go_and_words_stay(text: str, shown: str) -> None:
    assert printable(text) == shown
