"""Which checkpoint a pack goes on from: the newest that all its members have and that verifies."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.errors import DamagedStore, IdentityChanged
from orchestrator.planning.ports import Store
from orchestrator.storage.blobs import get_blob_file
from orchestrator.storage.records import BlobRef
from orchestrator.training.checkpoint import Best, Snapshot, read_best, read_checkpoint

logger = logging.getLogger("orchestrator.worker")


@dataclass(frozen=True)
class Recovered:
    """Where a pack goes on.

    Attributes:
        snapshots: the state of each member to go on from; empty: from the beginning.
        checkpoints: by member, bodies of the checkpoint that was used and of those before it, newest first.
        reason: for the attempts' log.
    """

    snapshots: Mapping[int, Snapshot]
    checkpoints: Mapping[int, Sequence[Mapping[str, Any]]]
    reason: str


def newest_checkpoint(
    store: Store, checkpoints: Mapping[int, Sequence[Mapping[str, Any]]], versions: Mapping[str, str], folder: Path
) -> Recovered:
    """The newest epoch of which every member of a pack has a checkpoint that verifies.

    Going back is allowed, skipping ahead never: an older checkpoint ends in the same bits, later.

    Args:
        store: where the blobs are.
        checkpoints: by member, bodies of its `checkpoint` records, newest first.
        versions: of this worker's packages.
        folder: local scratch.

    Raises:
        IdentityChanged: the checkpoint was made with other versions, which may round otherwise.
        StoreUnavailable: out of reach.
    """
    by_epoch = [{int(body["epoch"]): n for n, body in reversed(list(enumerate(b)))} for b in checkpoints.values()]
    common = sorted(set.intersection(*(set(epochs) for epochs in by_epoch)), reverse=True) if by_epoch else []
    for epoch in common:
        places = {member: epochs[epoch] for member, epochs in zip(checkpoints, by_epoch, strict=True)}
        bodies = {member: checkpoints[member][place] for member, place in places.items()}
        try:
            snapshots = _read(store, bodies, folder)
        except DamagedStore as error:
            logger.warning("the checkpoint of epoch %s cannot be used: %s", epoch, error)
            continue
        for member, body in bodies.items():
            check_versions(body["versions"], versions, where=f"member {member}, checkpoint of epoch {epoch}")
        before = {member: checkpoints[member][place:] for member, place in places.items()}
        return Recovered(snapshots, before, f"goes on from the checkpoint of epoch {epoch}")
    num_seen = max((len(bodies) for bodies in checkpoints.values()), default=0)
    reason = f"none of {num_seen} checkpoints can be used" if num_seen else "there is no checkpoint"
    return Recovered({}, {}, f"starts from the beginning: {reason}")


def _read(store: Store, bodies: Mapping[int, Mapping[str, Any]], folder: Path) -> dict[int, Snapshot]:
    """The members' snapshots; a state that several of them are in is downloaded once."""
    bests = {member: _read_best(store, body, member, folder) for member, body in bodies.items()}
    states: dict[str, tuple[Snapshot, ...]] = {}
    snapshots = {}
    for member, body in bodies.items():
        where = f"member {member}, checkpoint"
        reference = BlobRef.from_json(body["state"], where=where)
        if reference.key not in states:
            get_blob_file(store, reference, str(folder / "state.blob"))
            states[reference.key] = read_checkpoint(folder / "state.blob", bests)
        rows, row = states[reference.key], int(body["row"])
        if not 0 <= row < len(rows) or rows[row].member != member:
            raise DamagedStore("the checkpoint holds another member", where=where, hint="an older checkpoint is used")
        snapshots[member] = rows[row]
    return snapshots


def _read_best(store: Store, body: Mapping[str, Any], member: int, folder: Path) -> Best | None:
    if body["best"] is None:
        return None
    reference = BlobRef.from_json(body["best"], where=f"member {member}, checkpoint")
    get_blob_file(store, reference, str(folder / "best.blob"))
    return read_best(folder / "best.blob")


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
