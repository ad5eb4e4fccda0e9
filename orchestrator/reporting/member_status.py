"""Where one member of a run stands, from the records of its log. Pure.

Nothing is stored at each epoch: figures are those of the newest checkpoint, or of the published model, as old as it is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from orchestrator.planning.recovery import RecordLike, read_member


@dataclass(frozen=True)
class MemberStatus:
    """One member of a run as the logs show it.

    Attributes:
        index: which.
        status: once the ensemble is fixed, as in the result; before, `not_started`, `started`, `trained`, `late`
            (published at the deadline), `diverged`, `failed` or `stopped` (there are enough members without it, or the
            run ended before its training did; `RunStatus` knows).
        attempts: claims of its log by workers that were to train it.
        preemptions: attempts that ended because a node was taken or lost.
        checkpoint_epoch, checkpoint_at, checkpoint_age_s: of the newest checkpoint; None where there is none.
        epochs: trained in all, once it is published.
        best_epoch: of the published model, else of the newest checkpoint.
        last_cause, last_message: why the last attempt that ended in an error did.
        max_epochs: the most that it is trained for; None where the stored job does not tell.
        scores: what Keras reported, by its names: at the best epoch of the published model, else at the newest
            checkpoint.
        worker: who claimed it last.
        engine: how it is trained, `solo` or `fused`; None: that is not decided yet.
        sign_at, sign_age_s: when its newest record was written.
        left_s: at most about how many seconds of training are left, at the pace of its checkpoints; None: that is
            not known, or nobody works on the run.
    """

    index: int
    status: str
    attempts: int
    preemptions: int
    checkpoint_epoch: int | None
    checkpoint_at: float | None
    checkpoint_age_s: float | None
    epochs: int | None
    best_epoch: int | None
    last_cause: str | None
    last_message: str | None
    max_epochs: int | None = None
    scores: Mapping[str, float] = field(default_factory=dict)
    worker: str | None = None
    engine: str | None = None
    sign_at: float | None = None
    sign_age_s: float | None = None
    left_s: float | None = None

    @property
    def epoch(self) -> int:
        """The newest one that storage knows of; 0: none."""
        return self.epochs or self.checkpoint_epoch or 0


def age(at: float | None, now: float) -> float | None:
    """Seconds since then. Clocks differ: what lies in this machine's future is shown as just now."""
    return None if at is None else round(max(0.0, now - at), 3)


def member_status(
    index: int,
    records: Sequence[RecordLike],
    *,
    ended: Mapping[str, Any],
    preemptions: int,
    max_epochs: int | None,
    engine: str | None,
    now: float,
) -> MemberStatus:
    """Fold a member's log into where it stands.

    Args:
        index: which.
        records: of its log.
        ended: body of the coordinator's newest record of an attempt at it that ended.
        preemptions, max_epochs: see `MemberStatus`.
        engine: that of its pack.
        now: UTC epoch seconds of this machine.
    """
    memory = read_member(records)
    final = memory.final or {}
    checkpoint: Mapping[str, Any] = memory.checkpoints[0] if memory.checkpoints else {}
    if memory.final is not None:
        status = "late" if final.get("late") else "trained"
    elif memory.diverged is not None:
        status = "diverged"
    else:
        has_failed = bool(records) and records[-1].kind == "failed"
        status = "failed" if has_failed else "started" if memory.attempts else "not_started"
    sign_at = max((at for record in records if (at := written_at(record)) is not None), default=None)
    left_s = None if status != "started" or max_epochs is None else _time_left(records, max_epochs, now)
    return MemberStatus(
        index=index,
        status=status,
        attempts=memory.attempts,
        preemptions=preemptions,
        checkpoint_epoch=checkpoint.get("epoch"),
        checkpoint_at=checkpoint.get("at"),
        checkpoint_age_s=age(checkpoint.get("at"), now),
        epochs=final.get("epochs"),
        best_epoch=final.get("best_epoch", checkpoint.get("best_epoch")),
        last_cause=ended.get("cause"),
        last_message=ended.get("message"),
        max_epochs=max_epochs,
        scores=dict(final.get("at_best") or checkpoint.get("scores") or {}),
        worker=_worker(records),
        engine=final.get("engine", engine),
        sign_at=sign_at,
        sign_age_s=age(sign_at, now),
        left_s=left_s,
    )


def epoch_at(records: Sequence[RecordLike], at: float) -> int:
    """The newest epoch of which a member's records of until then tell; 0: none."""
    epochs = [0]
    for record in records:
        written = written_at(record)
        if written is not None and written <= at:
            epochs.append(int(record.body.get("epochs", record.body.get("epoch", 0))))
    return max(epochs)


def _time_left(records: Sequence[RecordLike], max_epochs: int, now: float) -> float | None:
    """From the newest attempt's checkpoints alone: a worker may claim a member long before its turn comes."""
    claim = max((seq for seq, record in enumerate(records) if record.kind == "claim"), default=0)
    marks = [
        (float(at), int(record.body["epoch"]))
        for record in records[claim:]
        if record.kind == "checkpoint" and (at := written_at(record)) is not None
    ]
    begun_at = written_at(records[claim])
    if len(marks) == 1 and begun_at is not None:
        marks = [(begun_at, epoch_at(records[:claim], begun_at)), *marks]
    if len(marks) < 2 or marks[-1][1] <= marks[0][1]:
        return None
    (first_at, first), (last_at, last) = marks[0], marks[-1]
    pace_s = max(last_at - first_at, 0.0) / (last - first)
    return round(max(0.0, pace_s * (max_epochs - last) - max(0.0, now - last_at)), 3)


def _worker(records: Sequence[RecordLike]) -> str | None:
    workers = [record.body["worker"] for record in records if record.kind == "claim" and "worker" in record.body]
    return str(workers[-1]) if workers else None


def written_at(record: RecordLike) -> float | None:
    """When a record was written, in UTC epoch seconds of its writer; None: it does not say."""
    at = record.body.get("at")
    return float(at) if isinstance(at, int | float) else None
