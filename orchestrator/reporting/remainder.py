"""What a start of a run would find and skip, from where the run stands. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from orchestrator.reporting.facts import ranges
from orchestrator.reporting.run_status import RunStatus

State = Literal["new", "begun", "live", "selected", "finished", "other", "unknown"]

_HAS_MODEL = ("trained", "late", "succeeded")


@dataclass(frozen=True)
class Remainder:
    """What a start of a run would do.

    Attributes:
        state: `new`: nothing is stored; `begun`: it goes on; `live`: it attaches to the coordinator that is at work;
            `selected`: it finishes the ensemble that is fixed; `finished`: it returns the recorded result; `other`: it
            is refused, the run id stands for another job; `unknown`: storage cannot be read from here.
        text: the same in a sentence.
        starts: how many there have been.
        exit_code: of the recorded result.
        done: members with a published model, which are not trained again.
        going_on: members that go on, and the epoch (1-based) of the checkpoint from which they do.
        diverged: members that are not trained again, for they would diverge again.
        left: members that begin from the beginning.
        to_come: trials of a search that have not been asked for yet.
    """

    state: State
    text: str
    starts: int = 0
    exit_code: int | None = None
    done: tuple[int, ...] = ()
    going_on: Mapping[int, int] = field(default_factory=dict)
    diverged: tuple[int, ...] = ()
    left: tuple[int, ...] = ()
    to_come: int = 0

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        listed = {name: list(getattr(self, name)) for name in ("done", "diverged", "left")}
        return {**asdict(self), **listed, "going_on": {str(index): epoch for index, epoch in self.going_on.items()}}


def not_begun(members: Sequence[int]) -> Remainder:
    """Of a run of which nothing is stored."""
    return Remainder("new", "nothing: the run has not begun", left=tuple(members))


def unreadable(why: str) -> Remainder:
    """Where nothing can be said."""
    return Remainder("unknown", f"storage cannot be read from here: {why}")


def of_another_job(status: RunStatus, changes: Sequence[str], *, code_alone: bool) -> Remainder:
    """Of a run whose spec is another one's.

    Args:
        status: where that run stands.
        changes: what differs, a text each.
        code_alone: nothing but the job's own code does.
    """
    told = f"a start is refused (exit 2): the run id stands for another job ({'; '.join(changes)}); "
    told += "undo that, or give another --run-id, or --fresh"
    if code_alone:
        told += "; with --accept-code-change it goes on with the changed code"
    return Remainder("other", told, starts=status.terms)


def remainder_of(status: RunStatus, members: Sequence[int], *, num_trials: int | None = None) -> Remainder:
    """What is left of a run.

    Args:
        status: where it stands, with its members.
        members: indices that the plan knows; a search may have come further.
        num_trials: of a search, in all; None: there is none.
    """
    known = {member.index: member for member in status.members}
    done = tuple(index for index, member in known.items() if member.status in _HAS_MODEL)
    diverged = tuple(index for index, member in known.items() if member.status == "diverged")
    going_on = {
        index: member.checkpoint_epoch
        for index, member in known.items()
        if index not in (*done, *diverged) and member.checkpoint_epoch is not None
    }
    through = {*done, *diverged, *going_on}
    left = tuple(index for index in sorted({*members, *known}) if index not in through)
    to_come = max(0, (num_trials or 0) - len({*members, *known}))
    if status.num_done is not None:  # who is not in the ensemble by now will not be
        going_on, left, to_come = {}, (), 0
    state: State = "begun"
    if status.status in ("succeeded", "partial", "gate_failed"):
        state, told = "finished", f"everything: a start returns the recorded result, {status.status}"
    elif status.status == "live":
        state, told = "live", "a coordinator is at work: a start attaches to it and waits for its result"
    elif status.num_done is not None:
        state, told = "selected", "all training: the ensemble is fixed, and a start evaluates it"
    else:
        told = "; ".join(_told(done, going_on, diverged, left)) or "nothing: no member has begun"
        told += f"; trials to come: {to_come}" if to_come else ""
    return Remainder(state, told, status.terms, status.exit_code, done, going_on, diverged, left, to_come)


def _told(
    done: Sequence[int], going_on: Mapping[int, int], diverged: Sequence[int], left: Sequence[int]
) -> Iterator[str]:
    if done:
        yield f"trained: {ranges(done)}"
    by_epoch: dict[int, list[int]] = {}
    for index, epoch in going_on.items():
        by_epoch.setdefault(epoch, []).append(index)
    for epoch, indices in sorted(by_epoch.items(), reverse=True):
        yield f"going on after epoch {epoch}: {ranges(indices)}"
    if diverged:
        yield f"diverged, and not trained again: {ranges(diverged)}"
    if left and (done or going_on or diverged):
        yield f"left: {ranges(left)}"
