"""Which checkpoint a member goes on from: the newest that verifies."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.errors import DamagedStore, IdentityChanged, MissingObject
from orchestrator.planning.ports import Store
from orchestrator.storage.blobs import get_blob_file
from orchestrator.storage.records import BlobRef
from orchestrator.training.checkpoint import Best, Snapshot, read_best, read_checkpoint

logger = logging.getLogger("orchestrator.worker")


@dataclass(frozen=True)
class Recovered:
    """Where a member goes on.

    Attributes:
        snapshot: the state to go on from; None: from the beginning.
        checkpoints: bodies of the checkpoint that was used and of those before it, newest first.
        reason: for the attempt's log.
    """

    snapshot: Snapshot | None
    checkpoints: Sequence[Mapping[str, Any]]
    reason: str


def newest_checkpoint(
    store: Store, checkpoints: Sequence[Mapping[str, Any]], member: int, versions: Mapping[str, str], folder: Path
) -> Recovered:
    """The newest checkpoint that verifies.

    Going back is allowed, skipping ahead never: an older checkpoint ends in the same bits, later.

    Args:
        store: where the blobs are.
        checkpoints: bodies of the member's `checkpoint` records, newest first.
        member: whose.
        versions: of this worker's packages.
        folder: local scratch.

    Raises:
        IdentityChanged: the checkpoint was made with other versions, which may round otherwise.
        StoreUnavailable: out of reach.
    """
    for number, body in enumerate(checkpoints):
        try:
            snapshot = _read(store, body, member, folder)
        except (DamagedStore, MissingObject) as error:
            logger.warning("the checkpoint of epoch %s cannot be used: %s", body.get("epoch"), error)
            continue
        check_versions(body["versions"], versions, where=f"member {member}, checkpoint of epoch {snapshot.epoch}")
        return Recovered(snapshot, checkpoints[number:], f"goes on from the checkpoint of epoch {snapshot.epoch}")
    reason = f"none of {len(checkpoints)} checkpoints can be used" if checkpoints else "there is no checkpoint"
    return Recovered(None, (), f"starts from the beginning: {reason}")


def _read(store: Store, body: Mapping[str, Any], member: int, folder: Path) -> Snapshot:
    where = f"member {member}, checkpoint"
    best: Best | None = None
    if body["best"] is not None:
        get_blob_file(store, BlobRef.from_json(body["best"], where=where), str(folder / "best.blob"))
        best = read_best(folder / "best.blob")
    get_blob_file(store, BlobRef.from_json(body["state"], where=where), str(folder / "state.blob"))
    snapshots = read_checkpoint(folder / "state.blob", {member: best})
    row = int(body["row"])
    if not 0 <= row < len(snapshots) or snapshots[row].member != member:
        raise DamagedStore("the checkpoint holds another member", where=where, hint="an older checkpoint is used")
    return snapshots[row]


def check_versions(then: Mapping[str, str], now: Mapping[str, str], *, where: str) -> None:
    """Refuse to go on with other versions of what shapes the numbers.

    Raises:
        IdentityChanged: with the difference.
    """
    names = sorted(name for name in {*then, *now} if then.get(name) != now.get(name))
    if names:
        told = ", ".join(f"{name} {then.get(name)} → {now.get(name)}" for name in names)
        raise IdentityChanged(
            f"the checkpoint was made with other versions: {told}",
            where=where,
            hint="install the versions of before, or start a new run with --fresh",
        )
