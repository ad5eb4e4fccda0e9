"""When which worker was at which member, read from the logs. Pure.

Times are for people: each is by the clock of the machine that wrote it, and no decision rests on them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

from orchestrator.planning.recovery import RecordLike

LOST = "lost"
"""How an attempt ended of whose end nobody could tell: its coordinator died as well."""


@dataclass(frozen=True)
class Span:
    """One attempt at a member. Times are UTC epoch seconds.

    Attributes:
        member: whom the worker had claimed.
        attempt: the how-manieth of the member, from 1; it spans several claims where a search trained it on.
        worker: its name.
        since: from when the member waited for this attempt.
        begin, end: of the attempt; equal where only one of them is known.
        outcome: `published`, `late`, `diverged`, the cause of its end (`preempted`, `crash`, …), or `lost`.
    """

    member: int
    attempt: int
    worker: str
    since: float
    begin: float
    end: float
    outcome: str


@dataclass(frozen=True)
class Timeline:
    """A run over its workers.

    Attributes:
        began, ended: of what is known, in UTC epoch seconds.
        starts: when each coordinator began.
        spans: attempts, by worker and begin.
    """

    began: float
    ended: float
    starts: tuple[float, ...]
    spans: tuple[Span, ...]

    @property
    def workers(self) -> tuple[str, ...]:
        """Names of the workers, in the order of `spans`."""
        return tuple(dict.fromkeys(span.worker for span in self.spans))

    @property
    def busy_s(self) -> float:
        """Worker-seconds: for how long workers were at members, a pack of several counted once."""
        total = 0.0
        for worker in self.workers:
            until = float("-inf")
            for span in self.spans:
                if span.worker == worker:
                    total += max(0.0, span.end - max(span.begin, until))
                    until = max(until, span.end)
        return total


def read_timeline(run: Iterable[RecordLike], members: Mapping[int, Sequence[RecordLike]]) -> Timeline | None:
    """The timeline that a run's logs tell; None where no attempt has a time.

    Args:
        run: the coordinator's records.
        members: each member's records. Claims of before version 1 have no time: it follows from what came after.
    """
    run = list(run)
    starts = tuple(at for record in run if record.kind == "claim" and (at := _at(record)) is not None)
    opened = [float(str(record.body["started_at"])) for record in run if record.kind == "opened"]
    ended = [record.body for record in run if record.kind == "ended"]
    asked = _asked_at(run)
    spans = [
        replace(span, since=min(max(span.since, asked.get(member, span.since)), span.begin))
        for member, records in members.items()
        for span in _spans(member, records, [body for body in ended if body["member"] == member], (*starts, *opened))
    ]
    if not spans:
        return None
    spans.sort(key=lambda span: (_worker_order(span.worker), span.begin, span.member))
    times = [*starts, *opened, *(span.begin for span in spans), *(span.end for span in spans)]
    return Timeline(min(times), max(times), starts, tuple(spans))


def _asked_at(run: Iterable[RecordLike]) -> dict[int, float]:
    """When a search asked for each of its trials, which waited for nothing before."""
    asked: dict[int, float] = {}
    for record in run:
        at = _at(record)
        if record.kind == "generation" and at is not None:
            asked |= dict.fromkeys(range(len(asked), len(asked) + len(record.body["params"])), at)
    return asked


def _worker_order(worker: str) -> tuple[int, str]:
    """`w2` before `w10`."""
    return len(worker), worker


def _spans(
    member: int, records: Sequence[RecordLike], ended: Sequence[Mapping[str, Any]], starts: Sequence[float]
) -> list[Span]:
    """The attempts at one member, in the order of its log."""
    claims = [seq for seq, record in enumerate(records) if record.kind == "claim"]
    spans: list[Span] = []
    attempt, trains_on = 0, False
    for first, after in pairwise([*claims, len(records)]):
        group = records[first:after]
        if "worker" not in group[0].body:  # a coordinator's claim: nobody trains
            trains_on = "trains_on" in group[-1].body
            continue
        attempt, trains_on = attempt + (not trains_on), False
        begin = _begin(group)
        if begin is None:
            continue
        following = _at(records[after]) if after < len(records) else None
        end, outcome = _end(group, begin, following, ended)
        earlier = [at for at in starts if at <= begin]
        since = spans[-1].end if spans else min(earlier, default=begin)
        worker = str(group[0].body["worker"])
        spans.append(Span(member, attempt, worker, min(since, begin), begin, max(begin, end), outcome))
    return spans


def _begin(group: Sequence[RecordLike]) -> float | None:
    """When an attempt began: as its claim says, else as its records let conclude."""
    claimed = _at(group[0])
    if claimed is not None:
        return claimed
    for record in group:
        at = _at(record)
        if at is not None:
            return at - float(str(record.body.get("train_s", 0.0)))
    return None


def _end(
    group: Sequence[RecordLike], begin: float, following: float | None, ended: Sequence[Mapping[str, Any]]
) -> tuple[float, str]:
    """When and how an attempt ended: by its own last record, else as its coordinator noted, else by its last sign."""
    last = group[-1]
    last_sign = max([begin, *(at for record in group if (at := _at(record)) is not None)])
    if last.kind == "final":
        return last_sign, "late" if last.body.get("late") else "published"
    noted = [body for body in ended if body["at"] >= begin and (following is None or body["at"] <= following)]
    if last.kind == "failed":
        end = last_sign if _at(last) is not None or not noted else float(noted[0]["at"])
        diverged = last.body.get("status") == "diverged"
        return end, "diverged" if diverged else str(last.body.get("cause", "failed"))
    if noted:
        return float(noted[0]["at"]), str(noted[0]["cause"])
    return last_sign, LOST


def _at(record: RecordLike) -> float | None:
    at = record.body.get("at")
    return float(at) if isinstance(at, int | float) else None
