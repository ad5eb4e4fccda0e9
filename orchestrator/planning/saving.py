"""When a member's finished epoch becomes a checkpoint. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator.spec import FaultsSpec


@dataclass(frozen=True)
class SaveDecision:
    """Whether the epoch that just ended is uploaded, and why."""

    save: bool
    reason: str


def decide_checkpoint(
    faults: FaultsSpec, *, epoch: int, saved_epoch: int, since_last_s: float, uploading: bool
) -> SaveDecision:
    """Decide at the end of an epoch.

    Args:
        faults: the interval, by seconds or by epochs.
        epoch: the one that ended (1-based).
        saved_epoch: the newest one that was saved, or is being saved.
        since_last_s: seconds since the last upload began, or since training did.
        uploading: whether an upload of this member is under way: a slow store is skipped, never queued for.
    """
    if uploading:
        return SaveDecision(False, "an upload is under way")
    every = faults.checkpoint_every_epochs
    if every is not None:
        due = epoch - saved_epoch >= every
        return SaveDecision(due, f"{epoch - saved_epoch} of {every} epochs since the last one")
    due = since_last_s >= faults.checkpoint_every_s
    return SaveDecision(due, f"{since_last_s:.0f} of {faults.checkpoint_every_s:g} s since the last one")
