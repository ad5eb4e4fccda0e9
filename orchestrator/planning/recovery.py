"""What a coordinator must know of its predecessors, read from the records. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from orchestrator.planning.events import Cause


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
        ended: attempts that ended, by member and cause, since the last `failed` or `stopped` (which renew budgets).
        attempts: attempts that ended, by member, over all times.
        preemptions: of these, how many were no fault of the member, over all times.
        selection: body of the `selection` record, or None: whoever comes next must finish it.
        done: body of the `done` record, or None.
    """

    opened: Mapping[str, Any] | None = None
    packed: Mapping[str, Any] | None = None
    ended: Mapping[int, Mapping[Cause, int]] = field(default_factory=dict)
    attempts: Mapping[int, int] = field(default_factory=dict)
    preemptions: Mapping[int, int] = field(default_factory=dict)
    selection: Mapping[str, Any] | None = None
    done: Mapping[str, Any] | None = None


def read_run(records: Iterable[RecordLike]) -> RunMemory:
    """Fold the coordinator's log into what a coordinator must remember."""
    opened = packed = selection = done = None
    ended: dict[int, Counter[Cause]] = {}
    attempts: Counter[int] = Counter()
    preemptions: Counter[int] = Counter()
    for record in records:
        body = record.body
        match record.kind:
            case "opened":
                opened = opened or body
            case "packed":
                packed = body
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
    return RunMemory(opened, packed, ended, attempts, preemptions, selection, done)


@dataclass(frozen=True)
class MemberMemory:
    """What a member's log says: its published model, or that it diverged (which training again would repeat)."""

    final: Mapping[str, Any] | None = None
    final_seq: int | None = None
    diverged: str | None = None


def read_member(records: Iterable[RecordLike]) -> MemberMemory:
    """Fold a member's log; a `final` that a later `void` took back does not count."""
    memory = MemberMemory()
    for seq, record in enumerate(records):
        match record.kind:
            case "final":
                memory = MemberMemory(final=record.body, final_seq=seq)
            case "void":
                memory = MemberMemory()
            case "failed" if record.body.get("status") == "diverged":
                memory = MemberMemory(diverged=str(record.body.get("message", "diverged")))
    return memory
