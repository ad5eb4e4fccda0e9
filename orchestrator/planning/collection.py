"""Which stored objects of a run may be thrown away: what no record names, of a run at which nobody works. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

ENDED = ("done", "failed", "stopped")
"""Kinds of the last record of a coordinator that has left."""


@dataclass(frozen=True)
class Sight:
    """What one look at a run shows.

    Attributes:
        num_records: length of the coordinator's log.
        last_kind: kind of its last record; None: it is empty.
        beat: term and count of the beat; None: there is none.
        probes: keys of the probe's objects that lie there: a start that just begins shows in nothing else.
    """

    num_records: int
    last_kind: str | None
    beat: tuple[int, int] | None
    probes: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Candidate:
    """An object that may be deleted, and why."""

    key: str
    reason: str


def needs_watching(sight: Sight) -> bool:
    """Whether one look leaves open if somebody works on the run: a second look, some seconds later, has to tell."""
    return sight.last_kind not in ENDED or bool(sight.probes)


def at_work(before: Sight, now: Sight) -> str | None:
    """What moved between two looks at a run, which somebody therefore works on; None when nothing did."""
    changes = {
        "its log": (before.num_records, before.last_kind) != (now.num_records, now.last_kind),
        "its beat": before.beat != now.beat,
        "its probe": before.probes != now.probes,
    }
    moved = [name for name, changed in changes.items() if changed]
    return f"somebody works on it: {' and '.join(moved)} moved" if moved else None


def collectable(keys: Iterable[str], bodies: Iterable[object], *, blobs: str, probe: str) -> tuple[Candidate, ...]:
    """The blobs that no record names, and what probes left behind.

    Nothing but these two kinds is ever a candidate. A record names a blob when the blob's key stands anywhere in its
    body, whatever the kind of the record and however deep.

    Args:
        keys: the run's objects, listed *before* its logs were read: what was uploaded since is then no candidate, and
            what a record appended since names is kept.
        bodies: of all records of all logs of the run.
        blobs, probe: the prefixes of blobs and of probes' objects.
    """
    named = _texts(bodies)
    found = []
    for key in sorted(keys):
        if key.startswith(f"{probe}/"):
            found.append(Candidate(key, "left behind by a probe"))
        elif key.startswith(f"{blobs}/") and key not in named:
            found.append(Candidate(key, "no record names it"))
    return tuple(found)


def _texts(values: Iterable[object]) -> set[str]:
    """Every text in nested JSON values."""
    texts: set[str] = set()
    waiting = list(values)
    while waiting:
        value = waiting.pop()
        if isinstance(value, str):
            texts.add(value)
        elif isinstance(value, Mapping):
            waiting.extend(value.values())
        elif isinstance(value, Sequence):
            waiting.extend(value)
    return texts
