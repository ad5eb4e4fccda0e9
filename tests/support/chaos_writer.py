"""A writer of one member's log, as a worker is one: claim, resume, checkpoint, collect, publish. It trains nothing.

The state after epoch e is a function of the state after epoch e − 1, so a skipped or damaged epoch shows in the bytes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from orchestrator.errors import DamagedStore, Fenced
from orchestrator.planning.ports import Store
from orchestrator.planning.recovery import MemberMemory, read_member
from orchestrator.storage.blobs import get_blob, put_blob
from orchestrator.storage.layout import RunLayout
from orchestrator.storage.records import BlobRef
from orchestrator.storage.retry import Patience
from tests.support.chaos_actor import Site, Wire
from tests.support.chaos_gate import GatedStore, JournaledLog, open_journaled

LAYOUT = RunLayout("chaos", "chaos-run")
EPOCHS = 12
KEPT = 2
"""How many of the newest checkpoints keep their blobs."""


def state_after(epoch: int) -> bytes:
    """The state that an uninterrupted training has after `epoch`."""
    state = b"the start"
    for _ in range(epoch):
        state = next_state(state)
    return state


def next_state(state: bytes) -> bytes:
    return hashlib.sha256(state).digest() * 64


def no_pause(seconds: float) -> None:
    """Retries follow at once: the conductor decides when the store is well again."""


def write_member(wire: Wire, site: Site) -> str:
    """Train member 0 from wherever it is to its `final`."""
    store = GatedStore(site.open(), wire.ask)
    patience = Patience(sleep=no_pause)
    log = open_journaled(store, LAYOUT.member_log(0), wire.acknowledged, sleep=no_pause)
    if not _claim(log, wire.name):
        return "finished"
    memory = read_member(log.records())
    refs = [_state_ref(body) for body in reversed(memory.checkpoints)]
    state = _resume(store, log, refs, patience)
    collected = 0
    for epoch in range(len(refs) + 1, EPOCHS + 1):
        state = next_state(state)
        refs.append(put_blob(store, LAYOUT, state, patience=patience))
        log.append("checkpoint", epoch=epoch, state=refs[-1].to_json())
        for ref in refs[collected:-KEPT]:  # only now: the append has shown that this writer owns the log
            patience.retry(lambda ref=ref: store.delete(ref.key))  # type: ignore[misc]
        collected = max(0, len(refs) - KEPT)
    history = put_blob(store, LAYOUT, b"the history", patience=patience)
    log.append("final", model=refs[-1].to_json(), history=history.to_json(), epochs=EPOCHS)
    return "finished"


def _resume(store: Store, log: JournaledLog, refs: Sequence[BlobRef], patience: Patience) -> bytes:
    """The newest state. Only who has been superseded already may find it collected."""
    if not refs:
        return state_after(0)
    try:
        return get_blob(store, refs[-1], patience=patience)
    except DamagedStore:
        if any(record.kind == "claim" for record in log.refresh()):
            raise Fenced("superseded while resuming", where=refs[-1].key) from None
        raise


def _claim(log: JournaledLog, writer: str) -> bool:
    """Become the writer; False when the member is published: only a `void` may be followed by a claim then."""
    while True:
        memory: MemberMemory = read_member(log.records())
        if memory.final is not None:
            return False
        if log.claim_if_unchanged(writer=writer) is not None:
            return True


def _state_ref(body: object) -> BlobRef:
    return BlobRef.from_json(body["state"], where="checkpoint")  # type: ignore[index]
