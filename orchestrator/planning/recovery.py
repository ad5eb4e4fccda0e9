"""What a coordinator must know of its predecessors, read from the records. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol

from orchestrator.planning.events import Cause

Purpose = Literal["train", "publish"]
"""What a worker claims a member for: to train it, or to publish at the deadline what it has, which trains nothing."""


class RecordLike(Protocol):
    """The part of a record that recovery reads."""

    @property
    def kind(self) -> str: ...
    @property
    def body(self) -> Mapping[str, Any]: ...


@dataclass(frozen=True)
class RunMemory:
    """What the coordinator's log says.

    Attributes:
        opened: body of the `opened` record, or None.
        packed: body of the newest `packed` record, or None.
        generations: bodies of the `generation` and `rung` records: what a search has tried, see `planning.search`.
        enough: how many members make the ensemble, as it was decided; None: it was not.
        scores: what that rests on; see `policies.decide_enough`.
        ended: attempts that ended, by member and cause, since the last `failed` or `stopped` (which renew budgets).
        attempts: attempts that ended, by member, over all times.
        preemptions: of these, how many were no fault of the member, over all times.
        selection: body of the `selection` record, or None: whoever comes next must finish it.
        done: body of the `done` record, or None.
        first_claim_at: when the run began, in UTC epoch seconds, or None: deadlines count from there.
        bases: the run's copies of the models that members start from: references to blobs, by source.
        code_digests: of the job's own code, in the order in which coordinators came with it; each once.
    """

    opened: Mapping[str, Any] | None = None
    packed: Mapping[str, Any] | None = None
    ended: Mapping[int, Mapping[Cause, int]] = field(default_factory=dict)
    attempts: Mapping[int, int] = field(default_factory=dict)
    preemptions: Mapping[int, int] = field(default_factory=dict)
    selection: Mapping[str, Any] | None = None
    done: Mapping[str, Any] | None = None
    first_claim_at: float | None = None
    code_digests: tuple[str, ...] = ()
    bases: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    enough: int | None = None
    scores: tuple[float | None, ...] = ()
    generations: tuple[Mapping[str, Any], ...] = ()


def read_run(records: Iterable[RecordLike]) -> RunMemory:
    """Fold the coordinator's log into what a coordinator must remember."""
    opened = packed = selection = done = None
    ended: dict[int, Counter[Cause]] = {}
    attempts: Counter[int] = Counter()
    preemptions: Counter[int] = Counter()
    began: float | None = None
    codes: dict[str, None] = {}
    bases: dict[str, Mapping[str, Any]] = {}
    enough: Mapping[str, Any] = {}
    generations: list[Mapping[str, Any]] = []
    for record in records:
        body = record.body
        match record.kind:
            case "claim":
                began = body.get("at") if began is None else began
                codes |= {body["code_digest"]: None} if "code_digest" in body else {}
            case "opened":
                opened = opened or body
            case "base":
                bases.setdefault(body["source"], body["model"])
            case "packed":
                packed = body
            case "generation" | "rung":
                generations.append(body)
            case "enough":
                enough = body
            case "ended":
                cause = Cause(body["cause"])
                ended.setdefault(body["member"], Counter())[cause] += 1
                attempts[body["member"]] += 1
                preemptions[body["member"]] += cause in (Cause.PREEMPTED, Cause.NODE_LOST)
            case "failed" | "stopped":
                ended = {}
            case "selection":
                selection = body
            case "done":
                done = body
    return RunMemory(
        opened,
        packed,
        ended,
        attempts,
        preemptions,
        selection,
        done,
        began,
        tuple(codes),
        enough=enough.get("num_members"),
        bases=bases,
        scores=tuple(enough.get("scores", ())),
        generations=tuple(generations),
    )


@dataclass(frozen=True)
class MemberMemory:
    """What a member's log says.

    Attributes:
        final: body of the `final` record that stands, or None.
        final_seq: its place in the log.
        diverged: why training ended without a model, which training again would repeat; or None.
        checkpoints: bodies of the `checkpoint` records, newest first. They outlive a `void`: the best epoch of a voided
            model may still be reached from them.
        attempts: claims by workers that were to train it, whatever became of them. A coordinator's claim (to void, to
            record a failure) and one to publish late are none; nor is one that only goes on to a search's next rung.
        trains_on: its model was taken back for a search's next rung, to which nobody has gone on yet.
    """

    final: Mapping[str, Any] | None = None
    final_seq: int | None = None
    diverged: str | None = None
    checkpoints: tuple[Mapping[str, Any], ...] = ()
    attempts: int = 0
    trains_on: bool = False


def read_member(records: Iterable[RecordLike]) -> MemberMemory:
    """Fold a member's log; a `final` that a later `void` took back does not count."""
    memory = MemberMemory()
    for seq, record in enumerate(records):
        match record.kind:
            case "claim" if "worker" in record.body and record.body.get("purpose") != "publish":
                memory = replace(memory, attempts=memory.attempts + (not memory.trains_on), trains_on=False)
            case "checkpoint":
                memory = replace(memory, checkpoints=(record.body, *memory.checkpoints))
            case "final":
                memory = replace(memory, final=record.body, final_seq=seq, diverged=None)
            case "void":
                on = "trains_on" in record.body
                memory = replace(memory, final=None, final_seq=None, diverged=None, trains_on=on)
            case "failed" if record.body.get("status") == "diverged":
                message = str(record.body.get("message", "diverged"))
                memory = replace(memory, final=None, final_seq=None, diverged=message)
    return memory


def goes_on(memory: MemberMemory, epochs: int) -> bool:
    """Whether a published trial is to train on to so many epochs: not one that has stopped early, or was cut short."""
    final = memory.final
    return (
        final is not None
        and final["epochs"] < epochs
        and final.get("stopped_epoch") is None
        and not final.get("late", False)
    )
