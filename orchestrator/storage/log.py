"""The append-only log: how writers are ordered and fenced without leases, clocks or trust in memory.

Record n is the object `<prefix>/<n>.json`, created only if it is not there. Whoever creates it owns slot n; that is all
the store has to promise. A writer first appends a `claim` with a term above all before; from then on it writes records
of its term. Claims and records compete for the same next slot, so a writer that slept through its successor's claim
finds its slot taken by a higher term and ends with `Fenced`. Nothing here reads a clock to decide who may write.

An answer that was lost says nothing about its write: the slot is read back and the nonce in it tells whose it is.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace

from orchestrator.errors import DamagedStore, Fenced, MissingObject, StoreUnavailable
from orchestrator.planning.ports import Store
from orchestrator.storage.layout import new_nonce, record_key, record_seq
from orchestrator.storage.records import JSON, MAX_RECORD_BYTES, Record, decode, encode
from orchestrator.storage.retry import REREADS, Patience

_DAMAGE_HINT = "the log is not guessed at: restore the object from a backup, or start a new run with --fresh"


class Log:
    """One writer's, or reader's, view of a log. Use `Log.open`; not for several threads at once.

    Readers call `refresh` and `records`. Writers call `claim` once, then `append`.
    """

    def __init__(self, store: Store, prefix: str, patience: Patience, nonce: Callable[[], str]) -> None:
        self._store = store
        self._prefix = prefix
        self._patience = patience
        self._nonce = nonce
        self._known: dict[int, Record] = {}
        self._end = 0
        self._own_term: int | None = None
        self._in_doubt: set[str] = set()

    @classmethod
    def open(
        cls,
        store: Store,
        prefix: str,
        *,
        deadline_s: float = 120.0,
        nonce: Callable[[], str] = new_nonce,
        sleep: Callable[[float], object] = time.sleep,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> Log:
        """Find the end of the log at `prefix`, which may be empty, and read its last record.

        The listing is taken for how far the log goes at least, never for its end: a listing may be stale, a read of one
        key is not.

        Args:
            store: where the log is.
            prefix: a key without `/` at its end, from `RunLayout`.
            deadline_s: how long one operation goes on trying while the store is out of reach, in seconds.
            nonce, sleep, monotonic: effects, replaced in tests.

        Raises:
            DamagedStore: the log has a gap, a foreign object or garbage; the key is named.
            StoreUnavailable: out of reach for longer than the deadline.
        """
        log = cls(store, prefix, Patience(deadline_s, sleep, monotonic), nonce)
        log._end = log._gallop(log._listed_end())
        if log._end:
            log._record(log._end - 1)
        return log

    @property
    def last(self) -> Record | None:
        """The newest record known; None when the log is empty."""
        return self._known[self._end - 1] if self._end else None

    @property
    def num_records(self) -> int:
        """How many records are known."""
        return self._end

    @property
    def term(self) -> int:
        """The highest term known; 0 when the log is empty. Terms never fall along a log, so it is the last record's."""
        last = self.last
        return last.term if last else 0

    def records(self) -> list[Record]:
        """All records known, in order, read on first use.

        Raises:
            DamagedStore: a record is missing or garbage, or contradicts the one before it.
            StoreUnavailable: out of reach for longer than the deadline.
        """
        records = [self._record(seq) for seq in range(self._end)]
        for before, record in zip([None, *records], records, strict=False):
            self._check_order(before, record)
        return records

    def refresh(self) -> list[Record]:
        """Read what was appended since, and return it. Raises like `records`."""
        new: list[Record] = []
        while (record := self._read(self._end)) is not None:
            self._admit(record)
            new.append(record)
        return new

    def claim(self, /, **body: JSON) -> int:
        """Become the writer: append a `claim` with a term above all others, and return that term.

        Every earlier writer is fenced from now on: its next append fails.

        Args:
            body: what the claim says. With `coord_term`, the term of the coordinator that sent this writer, the claim
                is refused when a successor of that coordinator has sent another writer already.

        Raises:
            Fenced: the coordinator behind this writer has been superseded.
            DamagedStore: as in `records`.
            StoreUnavailable: out of reach, or outrun by other claims, for longer than the deadline.
        """
        give_up_at = self._patience.monotonic() + self._patience.deadline_s
        while True:
            self.refresh()
            term = self.claim_if_unchanged(**body)
            if term is not None:
                return term
            if self._patience.monotonic() > give_up_at:
                raise StoreUnavailable("other writers keep claiming this log", where=self._prefix, hint="start later")

    def claim_if_unchanged(self, /, **body: JSON) -> int | None:
        """Become the writer only if nothing was appended since this view last read the log.

        For starts that would not take a run from a live coordinator: what they saw is what they decide on, and of
        several that saw the same only one becomes the writer.

        Returns:
            The term, or None: a record of another stands in the next slot now, and is known to this view.

        Raises:
            Fenced, DamagedStore, StoreUnavailable: as `claim`.
        """
        self._check_coordinator(body.get("coord_term"))
        claim = self._draft("claim", self.term + 1, body)
        holder = self._settle(claim)
        self._admit(holder)
        if holder is not claim:
            return None
        self._own_term = claim.term
        return claim.term

    @contextmanager
    def within(self, deadline_s: float) -> Iterator[None]:
        """While the block runs, operations go on trying no longer than that, should the store be out of reach."""
        before = self._patience
        self._patience = replace(before, deadline_s=min(deadline_s, before.deadline_s))
        try:
            yield
        finally:
            self._patience = before

    def append(self, kind: str, /, **body: JSON) -> Record:
        """Append a record of the term that this writer claimed.

        After StoreUnavailable the record may still appear; a second call then appends it a second time, so readers take
        the last of two equal records.

        Args:
            kind: one of `records.KINDS` but `claim`.
            body: what the record says.

        Raises:
            Fenced: a successor has claimed the log; nothing was written, and nothing will be.
            DamagedStore: the slot holds what no correct writer can have put there.
            StoreUnavailable: the outcome stayed unknown for longer than the deadline.
            RuntimeError: there was no claim before.
            ValueError: a kind or body that no record can have.
        """
        if kind == "claim":
            raise ValueError("a claim is made by `claim`, which raises the term")
        if self._own_term is None:
            raise RuntimeError(f"claim the log {self._prefix} before appending to it")
        while True:
            # First of all: a record of ours behind a successor's claim must never be tried, because the store takes it.
            if self.term > self._own_term:
                raise Fenced(
                    f"term {self._own_term} was superseded by term {self.term}",
                    where=self._prefix,
                    hint="another start of this run took over; what is recorded stands",
                )
            record = self._draft(kind, self._own_term, body)
            holder = self._settle(record)
            if holder.term == self._own_term and holder.nonce not in {record.nonce, *self._in_doubt}:
                raise self._damaged(holder.seq, f"two writers share term {holder.term}")
            self._admit(holder)
            if holder is record:
                return record

    def _draft(self, kind: str, term: int, body: Mapping[str, JSON]) -> Record:
        """The record for the next slot, as a reader will see it (tuples as lists, nothing shared with `body`)."""
        data = encode(Record(self._end, kind, term, self._nonce(), body))
        return decode(data, key=record_key(self._prefix, self._end), seq=self._end)

    def _settle(self, record: Record) -> Record:
        """Try to put `record` into its slot until it is known who holds that slot; return who does."""
        key, data = record_key(self._prefix, record.seq), encode(record)

        def attempt() -> Record:
            try:
                if self._store.create(key, data):
                    return record
            except StoreUnavailable:
                pass  # the write may have happened: only the slot itself can tell
            # A refusal is read back too: something between us and the store may have repeated our own write.
            holder = self._fetch(record.seq)
            if holder is None:
                raise StoreUnavailable("the outcome of a write is unknown", where=key, hint="start again later")
            return record if holder.nonce == record.nonce else holder

        self._in_doubt.add(record.nonce)  # until settled: when this raises, a late write may still arrive
        holder = self._patience.retry(attempt)
        self._in_doubt.discard(record.nonce)
        return holder

    def _check_coordinator(self, coord_term: JSON) -> None:
        """Refuse to work for a coordinator that an earlier claim shows to be superseded."""
        if not isinstance(coord_term, int):
            return
        for seq in reversed(range(self._end)):  # each claim was checked like this one, so the newest has the highest
            record = self._record(seq)
            if record.kind == "claim":
                seen = record.body.get("coord_term")
                if isinstance(seen, int) and seen > coord_term:
                    raise Fenced(
                        f"coordinator term {coord_term} was superseded by {seen}",
                        where=self._prefix,
                        hint="this worker belongs to a coordinator that was replaced, and ends",
                    )
                return

    def _listed_end(self) -> int:
        """One past the last record that a listing shows; loud about anything that is no record and about gaps."""
        for _ in range(REREADS):  # like any answer, a listing may be damaged on its way
            with suppress(DamagedStore):
                return self._listed_end_once()
        return self._listed_end_once()

    def _listed_end_once(self) -> int:
        seqs = set()
        for key in self._patience.retry(lambda: self._store.list(self._prefix)):
            seq = record_seq(self._prefix, key)
            if seq is None:
                raise DamagedStore("this object does not belong into a log", where=key, hint=_DAMAGE_HINT)
            seqs.add(seq)
        end = max(seqs, default=-1) + 1
        for seq in sorted(set(range(end)) - seqs):
            self._record(seq)  # the listing may be the one that is wrong; a real gap raises
        return end

    def _gallop(self, start: int) -> int:
        """One past the last record, from `start` upward: doubling steps, then halving, so few reads do."""
        low, high, step = start, start, 1
        while self._read(high) is not None:
            low, high, step = high + 1, high + step, step * 2
        while low < high:
            middle = (low + high) // 2
            if self._read(middle) is None:
                high = middle
            else:
                low = middle + 1
        return low

    def _admit(self, record: Record) -> None:
        """Take the next record into this view."""
        self._check_order(self.last, record)
        self._known[record.seq] = record
        self._end = record.seq + 1

    def _check_order(self, before: Record | None, record: Record) -> None:
        """A claim raises the term; every other record has the term of the claim before it."""
        term = before.term if before else 0
        if record.kind == "claim" and record.term <= term:
            raise self._damaged(record.seq, f"it claims term {record.term} after term {term}")
        if record.kind != "claim" and record.term != term:
            raise self._damaged(record.seq, f"a {record.kind!r} of term {record.term} stands in term {term}")

    def _record(self, seq: int) -> Record:
        record = self._read(seq)
        if record is None:
            raise self._damaged(seq, "it is missing, but later records exist")
        return record

    def _read(self, seq: int) -> Record | None:
        """The record in a slot, from memory if it was read before; None for an empty slot."""
        record = self._known.get(seq) or self._patience.retry(lambda: self._fetch(seq))
        if record is not None:
            self._known[seq] = record
        return record

    def _fetch(self, seq: int) -> Record | None:
        """Read a slot from the store. Garbage is read again three times: it may have come about in transit."""
        for _ in range(REREADS):
            with suppress(DamagedStore):
                return self._fetch_once(seq)
        return self._fetch_once(seq)

    def _fetch_once(self, seq: int) -> Record | None:
        key = record_key(self._prefix, seq)
        try:
            return decode(self._store.get(key, max_bytes=MAX_RECORD_BYTES), key=key, seq=seq)
        except MissingObject:
            return None

    def _damaged(self, seq: int, what: str) -> DamagedStore:
        key = record_key(self._prefix, seq)
        return DamagedStore(f"record {seq} contradicts the log: {what}", where=key, hint=_DAMAGE_HINT)
