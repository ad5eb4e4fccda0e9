"""What attempts at members left in storage besides their records: logs in chunks, and files that callbacks wrote."""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from orchestrator.errors import InvalidJob
from orchestrator.planning.ports import Store
from orchestrator.storage.layout import RunLayout

MAX_CHUNK_BYTES = 64 * 2**20
"""The most that one chunk of a log may have; workers write far smaller ones."""

_CHUNK = re.compile(r"log-\d+\.txt\Z", re.ASCII)
_ESCAPE = re.compile(r"\x1b\[[0-9;:<=>?]*[ -/]*[@-~]")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


@dataclass(frozen=True)
class Attempt:
    """One attempt at a member; `term` is its number in the member's log.

    Attributes:
        log: keys of the chunks of its log, in order.
        files: keys of everything else that it left.
    """

    member: int
    term: int
    log: tuple[str, ...]
    files: tuple[str, ...]


def find_attempts(
    store: Store, layout: RunLayout, *, member: int | None = None, term: int | None = None
) -> tuple[Attempt, ...]:
    """The attempts that left something, by member.

    Args:
        store, layout: the run.
        member: only this one's; default all members'.
        term: the attempt; default each member's newest.

    Raises:
        InvalidJob: there is none.
    """
    files: dict[tuple[int, int], list[str]] = {}
    for key in store.list(layout.attempts):
        file = layout.attempt_file(key)
        if file is not None:
            files.setdefault((file.member, file.term), []).append(key)
    of_member = [place for place in files if member in (None, place[0])]
    newest = {place[0]: place for place in sorted(of_member)}.values()
    wanted = newest if term is None else [place for place in of_member if place[1] == term]
    if not wanted:
        known = ", ".join(f"member {m} attempt {t}" for m, t in sorted(files)[-5:]) or "none"
        what = "no attempt" if member is None else f"no attempt at member {member}"
        what += " has left a log or a file" if term is None else f" of number {term} has left a log or a file"
        raise InvalidJob(what, where=f"run {layout.run_key}", hint=f"there are: {known}")
    return tuple(_attempt(layout, *place, files[place]) for place in sorted(wanted))


def is_chunk(name: str) -> bool:
    """Whether an attempt's file of this name is a chunk of its log."""
    return _CHUNK.match(name) is not None


def _attempt(layout: RunLayout, member: int, term: int, keys: Iterable[str]) -> Attempt:
    prefix = f"{layout.attempt_prefix(member, term)}/"
    keys = sorted(keys)
    log = [key for key in keys if is_chunk(key.removeprefix(prefix))]
    return Attempt(member, term, tuple(log), tuple(key for key in keys if key not in log))


def read_log(store: Store, attempt: Attempt) -> Iterator[str]:
    """The text of an attempt's log, chunk after chunk, safe to show.

    What is not UTF-8 becomes `�`; a character that two chunks share is put together again.

    Raises:
        DamagedStore: a chunk is larger than any that workers write.
        StoreUnavailable: out of reach.
    """
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    for key in attempt.log:
        yield printable(decoder.decode(store.get(key, max_bytes=MAX_CHUNK_BYTES)))
    yield printable(decoder.decode(b"", final=True))


def printable(text: str) -> str:
    """The text without what could move, colour or hang a terminal; newlines and tabs stay, `\\r` becomes a newline."""
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    return _CONTROL.sub("", _ESCAPE.sub("", text))
