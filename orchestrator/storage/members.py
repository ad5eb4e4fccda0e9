"""A member's log: a published model is not claimed away, only a `void` record takes it back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from orchestrator.planning.recovery import MemberMemory, read_member
from orchestrator.storage.log import Log
from orchestrator.storage.records import JSON


def claim_unpublished(log: Log, /, **body: JSON) -> MemberMemory:
    """Claim a member's log unless its model is published; of what happens meanwhile, nothing is overlooked.

    Args:
        log: the member's log, open.
        body: what the claim says, as for `Log.claim`.

    Returns:
        What the log says: with `final`, nothing was claimed; else the caller is its writer, and this was said before
        its claim.

    Raises:
        Fenced, DamagedStore, StoreUnavailable: as `Log.claim`.
    """
    while True:
        memory = read_member(log.records())
        if memory.final is not None or log.claim_if_unchanged(**body) is not None:
            return memory


def model_file(final: Mapping[str, Any]) -> str:
    """What the file of a member's model is called, from the body of its `final` record."""
    return "best.weights.h5" if final.get("weights_only") else "best.keras"


def copies_of(final: Mapping[str, Any]) -> dict[str, str]:
    """The readable copies of a member's files: part of its `final` record → name of the file."""
    return {"model": model_file(final), "history": "history.parquet"}
