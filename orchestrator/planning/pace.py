"""How long a busy worker may be silent before it counts as hung: a multiple of its own pace. Pure.

Signs of life come at most about once a second, as many as there are batches. A worker's pace is the longest silence
between two of them since its first epoch ended; by then all that a model compiles has been compiled. The longest, not
the median: validation, saving and callbacks pause every epoch, and a median of quick steps knows nothing of them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

FACTOR = 20
ENOUGH_SIGNS = 5
WITHIN_EPOCH_S = 30.0
AT_EPOCH_END_S = 300.0
"""At an epoch's end a worker may publish, which storage out of reach holds up; its calls have ends of their own."""


@dataclass(frozen=True)
class Pace:
    """What is known of a worker's signs of life in its current task.

    Attributes:
        last: monotonic second of the newest one.
        longest_s: the longest silence between two of them since the first epoch ended.
        num_silences: how many of these silences there were.
        since_epoch: signs since the newest epoch ended; None: none has ended.
    """

    last: float
    longest_s: float = 0.0
    num_silences: int = 0
    since_epoch: int | None = None


def alive(pace: Pace, now: float) -> Pace:
    """A word that tells no pace: it does not come from the work itself."""
    return replace(pace, last=now)


def moved_on(pace: Pace, now: float) -> Pace:
    """A sign of life from within the work."""
    if pace.since_epoch is None:
        return alive(pace, now)
    return replace(_measured(pace, now), since_epoch=pace.since_epoch + 1)


def epoch_ended(pace: Pace, now: float) -> Pace:
    """The end of an epoch."""
    return replace(alive(pace, now) if pace.since_epoch is None else _measured(pace, now), since_epoch=0)


def _measured(pace: Pace, now: float) -> Pace:
    longest_s = max(pace.longest_s, now - pace.last)
    return replace(pace, last=now, longest_s=longest_s, num_silences=pace.num_silences + 1)


def longest_silence_s(
    pace: Pace,
    stall_s: float,
    *,
    within_epoch_s: float = WITHIN_EPOCH_S,
    at_epoch_end_s: float = AT_EPOCH_END_S,
) -> float:
    """How many seconds of silence are too many.

    Args:
        pace: what is known of the worker.
        stall_s: the most in any case, and all there is while the pace is not known.
        within_epoch_s, at_epoch_end_s: the least, by where the worker is. A first sign after an epoch's end may tell of
            a batch before it (signs are told once a second, ends of epochs at once), so it takes two to be within.
    """
    if pace.since_epoch is None or pace.num_silences < ENOUGH_SIGNS:
        return stall_s
    least = within_epoch_s if pace.since_epoch >= 2 else at_epoch_end_s
    return min(stall_s, max(least, FACTOR * pace.longest_s))


def is_stalled(pace: Pace, stall_s: float, now: float) -> bool:
    """Whether a busy worker has been silent for too long, on the coordinator's own monotonic clock."""
    return now - pace.last > longest_silence_s(pace, stall_s)
