"""Whether a run has a live coordinator, from what is seen of it. Pure; safety never depends on it.

A coordinator appends to its log and overwrites its beat. Who looks twice and sees that one of them moved knows that it
lives; the times are the looker's own. A wrong answer costs work, never correctness: the log decides who may write.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Action = Literal["claim", "wait", "follow", "end"]


@dataclass(frozen=True)
class Sign:
    """What one look at a run shows.

    Attributes:
        num_records: length of the coordinator's log.
        last_kind: kind of its last record; None: it is empty.
        beat: term and count of the beat; None: there is none.
    """

    num_records: int
    last_kind: str | None
    beat: tuple[int, int] | None


@dataclass(frozen=True)
class Watch:
    """What was seen so far: the last sign, since when (monotonic seconds), and whether it ever moved meanwhile."""

    sign: Sign
    since: float
    alive: bool = False


@dataclass(frozen=True)
class LivenessDecision:
    """`claim` the run, `wait` for a sign of life, `follow` the live coordinator, or `end` with the run it ended."""

    action: Action
    reason: str


def look(watch: Watch | None, sign: Sign, now: float, takeover_s: float) -> tuple[Watch, LivenessDecision]:
    """Decide after a look at an unfinished run.

    Args:
        watch: what earlier looks gave; None at the first.
        sign: what this look shows.
        now: monotonic seconds of the one who looks.
        takeover_s: how long nothing may move before the coordinator counts as dead or frozen.
    """
    if watch is None:
        watch = Watch(sign, now)
    elif sign != watch.sign:
        watch = Watch(sign, now, alive=True)
    if sign.last_kind is None:
        return watch, LivenessDecision("claim", "the run is new")
    if sign.last_kind in ("failed", "stopped"):
        if watch.alive:
            return watch, LivenessDecision("end", f"its coordinator ended the run: {sign.last_kind}")
        return watch, LivenessDecision("claim", f"an earlier start ended without a result ({sign.last_kind})")
    silent_s = now - watch.since
    if silent_s >= takeover_s:
        return watch, LivenessDecision("claim", f"its coordinator gave no sign of life for {silent_s:.0f} s")
    if watch.alive:
        return watch, LivenessDecision("follow", "its coordinator is alive")
    return watch, LivenessDecision("wait", f"looking for a sign of life of its coordinator, up to {takeover_s:g} s")
