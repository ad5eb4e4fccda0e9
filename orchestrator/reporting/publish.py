"""From a selection to what users read: the `done` record, `result.json`, the members' readable copies."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any, NoReturn

from orchestrator.errors import DamagedStore, MissingObject, OrchestratorError, StoreUnavailable
from orchestrator.planning.ports import Store
from orchestrator.planning.recovery import RunMemory
from orchestrator.reporting.result import Result, from_json, to_json
from orchestrator.reporting.selection import COPIES, COUNTED, result_of
from orchestrator.storage.blobs import get_blob, put_blob
from orchestrator.storage.layout import RunLayout
from orchestrator.storage.log import Log
from orchestrator.storage.parallel import in_order
from orchestrator.storage.records import BlobRef
from orchestrator.storage.retry import Patience

logger = logging.getLogger("orchestrator")


def finish(store: Store, layout: RunLayout, log: Log, selection: Mapping[str, Any]) -> Result:
    """Carry a selection to its end; a successor that finds a selection calls this too.

    Args:
        store: where the run lives.
        layout: its keys.
        log: the coordinator's log, claimed by the caller.
        selection: body of the `selection` record.

    Raises:
        Fenced: a successor finishes it.
    """
    result = result_of(selection, layout, lambda ref: get_blob(store, ref))
    body = to_json(result)
    _copy_members(store, layout, selection)
    log.append("done", result=put_blob(store, layout, body).to_json(), exit_code=result.exit_code)
    with suppress(StoreUnavailable):  # `done` is the truth; whoever reads it next creates the copy
        store.create(layout.result, body)
    return result


def finished_result(store: Store, layout: RunLayout, memory: RunMemory) -> Result:
    """The result that the `done` record names; `result.json`, its copy, is created should it be missing.

    Should the named bytes be lost, the copy has them, or the selection gives them again.

    Args:
        store, layout: where the run lives.
        memory: what the coordinator's log says; it has `done`.

    Raises:
        DamagedStore: the bytes are lost everywhere.
    """
    named: Any = (memory.done or {})["result"]
    ref = BlobRef.from_json(named, where=f"{layout.coord_log}, done")
    try:
        body = get_blob(store, ref)
    except DamagedStore as lost:
        body = _regained(store, layout, ref, memory.selection) or _raise(lost)
    with suppress(StoreUnavailable):
        store.create(layout.result, body)
    return from_json(body)


def _regained(store: Store, layout: RunLayout, ref: BlobRef, selection: Mapping[str, Any] | None) -> bytes | None:
    """The result's bytes from elsewhere; only those that the record names."""

    def copy() -> bytes:
        return Patience().retry(lambda: store.get(layout.result, max_bytes=ref.size))

    def anew() -> bytes:
        return b"" if selection is None else to_json(result_of(selection, layout, lambda blob: get_blob(store, blob)))

    for source in (copy, anew):
        with suppress(DamagedStore, MissingObject):
            body = source()
            if hashlib.sha256(body).hexdigest() == ref.sha256:
                return body
    return None


def _raise(error: OrchestratorError) -> NoReturn:
    raise error


def _copy_members(store: Store, layout: RunLayout, selection: Mapping[str, Any]) -> None:
    """Readable copies; one that cannot be made for want of its blob does not keep the result from its users."""

    def copy(file: tuple[BlobRef, str]) -> None:
        ref, key = file
        try:
            body = get_blob(store, ref)
        except DamagedStore as error:
            logger.warning("there is no readable copy %s: %s", key, error)
            return
        Patience().retry(lambda: store.put(key, body))

    for _ in in_order(copy, _copies(layout, selection), num_bytes=lambda file: file[0].size):
        pass


def _copies(layout: RunLayout, selection: Mapping[str, Any]) -> Iterator[tuple[BlobRef, str]]:
    """Each blob that a selected member has a readable copy of, and the key of that."""
    for member in selection["members"]:
        if member["status"] not in COUNTED:
            continue
        for part, name in COPIES.items():
            ref = BlobRef.from_json(member["final"][part], where=f"member {member['index']}, {part}")
            yield ref, layout.member_copy(member["index"], name)
        for split, stored in member["predictions"].items():
            ref = BlobRef.from_json(stored, where=f"member {member['index']}, predictions of {split}")
            yield ref, layout.member_copy(member["index"], f"{split}.parquet")
