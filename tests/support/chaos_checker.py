"""What must be true of a store after chaos, read without the product's `Log`: a list of what is not."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from orchestrator.errors import DamagedStore, MissingObject
from orchestrator.planning.ports import Store
from orchestrator.storage.layout import RunLayout, record_key
from orchestrator.storage.records import Record, decode
from tests.support.chaos_writer import EPOCHS, state_after


def read_records(store: Store, prefix: str) -> list[Record]:
    """Everything in a log, in order.

    Raises:
        DamagedStore: garbage, a gap, or an object that is no record.
    """
    keys = store.list(prefix)
    expected = [record_key(prefix, seq) for seq in range(len(keys))]
    if keys != expected:
        raise DamagedStore(f"gap or foreign object: {sorted(set(keys) ^ set(expected))}", where=prefix)
    return [decode(store.get(key), key=key, seq=seq) for seq, key in enumerate(keys)]


def read_journals(journals: Iterable[Path]) -> list[dict[str, Any]]:
    """All acknowledgements that writers kept."""
    return [json.loads(line) for path in journals for line in path.read_text(encoding="utf-8").splitlines()]


def faults_of_log(records: list[Record], acknowledged: Iterable[dict[str, Any]]) -> Iterator[str]:
    """R3 and durability: terms rise, nobody writes behind a successor's claim, nothing acknowledged is lost."""
    term = 0
    for record in records:
        if record.kind == "claim":
            if record.term <= term:
                yield f"slot {record.seq} claims term {record.term} after term {term}"
        elif record.term != term:
            yield f"slot {record.seq}: a {record.kind} of term {record.term} stands in term {term}"
        term = max(term, record.term)
    if len({record.nonce for record in records}) != len(records):
        yield "a record stands twice"
    for entry in acknowledged:
        seq = entry["seq"]
        if seq >= len(records) or records[seq].nonce != entry["nonce"]:
            yield f"the {entry['kind']} acknowledged to term {entry['term']} in slot {seq} is not there"


def faults_of_member(
    store: Store, layout: RunLayout, acknowledged: list[dict[str, Any]], *, orphans: int
) -> Iterator[str]:
    """What is wrong with the member that `chaos_writer` wrote.

    Args:
        store, layout: where.
        acknowledged: from the journals.
        orphans: how many blobs that no record names are excused: one for each writer that was killed or fenced, and
            one for each answer that was lost.
    """
    records = read_records(store, layout.member_log(0))
    yield from faults_of_log(records, acknowledged)
    finals = [record.seq for record in records if record.kind == "final"]
    if finals != [len(records) - 1]:
        yield f"`final` stands at {finals} of {len(records)} records, not once and last"
    epochs = [record.body["epoch"] for record in records if record.kind == "checkpoint"]
    if epochs != list(range(1, EPOCHS + 1)):
        yield f"epochs were skipped or published twice: {epochs}"
    named: set[str] = set()
    for record in records:
        if record.kind == "checkpoint":
            named.add(record.body["state"]["key"])  # type: ignore[index, call-overload, arg-type]
            if record.body["state"]["sha256"] != _sha256(state_after(int(str(record.body["epoch"])))):  # type: ignore[index, call-overload]
                yield f"epoch {record.body['epoch']} is not what an uninterrupted training gives"
        elif record.kind == "final":
            for part in ("model", "history"):
                named.add(record.body[part]["key"])  # type: ignore[index, call-overload, arg-type]
                yield from faults_of_blob(store, record.body[part], f"final, {part}")
    unnamed = [key for key in store.list(f"{layout.root}/blobs") if key not in named]
    if len(unnamed) > orphans:
        yield f"{len(unnamed)} blobs are named by no record, only {orphans} are excused"


def faults_of_blob(store: Store, ref: Any, where: str) -> Iterator[str]:
    """A blob that a record names is there, with the bytes that it says."""
    try:
        body = store.get(ref["key"])
    except MissingObject:
        yield f"{where}: the blob {ref['key']} is gone"
        return
    if (_sha256(body), len(body)) != (ref["sha256"], ref["size"]):
        yield f"{where}: the blob {ref['key']} has other bytes than recorded"


def faults_of_run(
    store: Store, layout: RunLayout, members: int, acknowledged: list[dict[str, Any]], results: Iterable[str]
) -> Iterator[str]:
    """What is wrong with a run that has ended with a result.

    Args:
        store, layout: where.
        members: how many the ensemble has.
        acknowledged: what coordinators were told of the coordinator's log.
        results: sha256 of what each coordinator that returned a result returned.
    """
    records = read_records(store, layout.coord_log)
    yield from faults_of_log(records, acknowledged)
    kinds = [record.kind for record in records]
    for once in ("selection", "done"):
        if kinds.count(once) != 1:
            yield f"the log has {kinds.count(once)} records `{once}`, not one: {kinds}"
    if kinds[-1] != "done":
        yield f"something follows `done`: {kinds}"
        return
    done: Any = records[-1].body
    yield from faults_of_blob(store, done["result"], "done")
    copy = _sha256(store.get(layout.result))
    if {copy, *results} != {done["result"]["sha256"]}:
        yield f"results differ: result.json {copy}, done {done['result']['sha256']}, returned {set(results)}"
    selection: Any = records[kinds.index("selection")].body
    for index in range(members):
        yield from _faults_of_run_member(store, layout, selection["members"][index])


def _faults_of_run_member(store: Store, layout: RunLayout, selected: Any) -> Iterator[str]:
    """The selection names the one `final` that stands, workers' coordinators rise, and the bytes are there."""
    index = selected["index"]
    records = read_records(store, layout.member_log(index))
    for fault in faults_of_log(records, ()):
        yield f"member {index}: {fault}"
    standing: list[int] = []
    coordinator = 0
    for record in records:
        if record.kind == "claim":
            now = int(str(record.body["coord_term"]))
            if now < coordinator:
                yield f"member {index}: a worker of coordinator {now} claims after one of {coordinator}"
            coordinator = now
        elif record.kind == "final":
            standing.append(record.seq)
        elif record.kind == "void":
            standing.clear()
    if standing != [selected["seq"]]:
        yield f"member {index}: `final` stands at {standing}, selected was {selected['seq']}"
    for part in ("model", "history"):
        yield from faults_of_blob(store, selected["final"][part], f"member {index}, {part}")


def _sha256(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()
