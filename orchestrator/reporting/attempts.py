"""What attempts at members left in storage besides their records: logs in chunks, and files that callbacks wrote."""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterable, Iterator, Mapping
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
    files = _files(store, layout)
    of_member = {place: keys for place, keys in files.items() if member in (None, place[0])}
    if term is None:
        wanted = _newest(of_member, layout)
    else:
        wanted = tuple(_attempt(layout, *place, of_member[place]) for place in sorted(of_member) if place[1] == term)
    if not wanted:
        known = ", ".join(f"member {m} attempt {t}" for m, t in sorted(files)[-5:]) or "none"
        what = "no attempt" if member is None else f"no attempt at member {member}"
        what += " has left a log or a file" if term is None else f" of number {term} has left a log or a file"
        raise InvalidJob(what, where=f"run {layout.run_key}", hint=f"there are: {known}")
    return wanted


def _files(store: Store, layout: RunLayout, member: int | None = None) -> dict[tuple[int, int], list[str]]:
    """The keys of what attempts left, by member and term."""
    files: dict[tuple[int, int], list[str]] = {}
    for key in store.list(layout.attempts):
        file = layout.attempt_file(key)
        if file is not None and member in (None, file.member):
            files.setdefault((file.member, file.term), []).append(key)
    return files


def _newest(files: Mapping[tuple[int, int], Iterable[str]], layout: RunLayout) -> tuple[Attempt, ...]:
    newest = {place[0]: place for place in sorted(files)}.values()
    return tuple(_attempt(layout, *place, files[place]) for place in newest)


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


class LogTail:
    """What attempts at members add to their logs in storage, look after look, line by line. Nothing comes twice.

    It begins with each member's newest attempt, from its first line; attempts that come later follow.

    Args:
        store, layout: the run.
        member: only this one's; default all members'.
    """

    def __init__(self, store: Store, layout: RunLayout, *, member: int | None = None) -> None:
        self._store = store
        self._layout = layout
        self._member = member
        self._first: dict[int, int] = {}  # the attempt with which a member's log begins here
        self._readers: dict[tuple[int, int], _Reader] = {}

    def read(self, *, last: bool = False) -> Iterator[tuple[Attempt, str]]:
        """The lines that were added since the last look, each with its attempt and without its newline.

        Args:
            last: nothing more comes: a line that no newline ends is one, too.

        Raises:
            DamagedStore, StoreUnavailable: as `read_log`; the next look goes on where this one ended.
        """
        files = _files(self._store, self._layout, self._member)
        for newest in _newest(files, self._layout):
            self._first.setdefault(newest.member, newest.term)
        # An attempt that a later one follows may still have sent its end since the last look.
        for place in (place for place in sorted(files) if place[1] >= self._first[place[0]]):
            attempt = _attempt(self._layout, *place, files[place])
            reader = self._readers.setdefault(place, _Reader())
            for key in attempt.log[reader.num_chunks :]:
                for line in reader.take(self._store.get(key, max_bytes=MAX_CHUNK_BYTES)):
                    yield attempt, line
            if last and (line := reader.rest()):
                yield attempt, line


class _Reader:
    """How far one log has been read. A chunk may end within a line, or within a character."""

    def __init__(self) -> None:
        self.num_chunks = 0
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._unfinished = ""

    def take(self, chunk: bytes) -> list[str]:
        """The lines that this chunk completes."""
        self.num_chunks += 1
        *lines, self._unfinished = (self._unfinished + self._decoder.decode(chunk)).split("\n")
        return [printable(line) for line in lines]

    def rest(self) -> str:
        """What came after the last newline."""
        rest, self._unfinished = self._unfinished + self._decoder.decode(b"", final=True), ""
        return printable(rest)


def printable(text: str) -> str:
    """The text without what could move, colour or hang a terminal; newlines and tabs stay, `\\r` becomes a newline."""
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    return _CONTROL.sub("", _ESCAPE.sub("", text))
