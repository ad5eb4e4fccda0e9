"""A deadline as a job says it: a duration from the run's first claim, or a moment with its time zone."""

from __future__ import annotations

import re
from datetime import datetime

_DURATION = re.compile(r"(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?\Z", re.ASCII)
_UNITS_S = (86_400, 3_600, 60, 1)


def deadline_at(deadline: float | str, first_claim_at: float) -> float:
    """When a deadline falls, in UTC epoch seconds.

    Args:
        deadline: a number of seconds or a text such as `90m`, `6h30m` or `2026-11-22T06:00:00+01:00`.
        first_claim_at: when the run began, in UTC epoch seconds.

    Raises:
        ValueError: it is neither; `deadline_problem` says so for people.
    """
    if not isinstance(deadline, str):
        return first_claim_at + deadline
    seconds = _duration_s(deadline)
    if seconds is not None:
        return first_claim_at + seconds
    moment = datetime.fromisoformat(deadline)
    if moment.tzinfo is None:
        raise ValueError(f"{deadline!r} has no time zone")
    return moment.timestamp()


def deadline_problem(deadline: float | str) -> str | None:
    """What is wrong with a deadline; None when nothing is."""
    if not isinstance(deadline, str):
        return None if deadline > 0 else f"must be above 0 seconds, not {deadline:g}"
    if _duration_s(deadline) is not None:
        return None
    try:
        moment = datetime.fromisoformat(deadline)
    except ValueError:
        return (
            "must be seconds, a duration such as `6h30m`, or a time with its zone such as `2026-11-22T06:00:00+01:00`, "
            f"not {deadline!r}"
        )
    return None if moment.tzinfo else f"needs a time zone: `{deadline}Z` or `{deadline}+01:00`"


def _duration_s(text: str) -> float | None:
    match = _DURATION.match(text)
    seconds = sum(int(count or 0) * unit for count, unit in zip(match.groups(), _UNITS_S, strict=True)) if match else 0
    return float(seconds) if seconds > 0 else None
