"""Who has looked at the same data: each run leaves a mark under the data's fingerprint, so that others can count it.

A figure on validation rows is worth less, the more runs, members and trials were compared on these rows before: whoever
picks the best of twenty has fitted the validation set by hand. All that is counted is what this storage knows.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from orchestrator.planning.ports import Store
from orchestrator.storage.layout import RunLayout, looks_at
from orchestrator.storage.retry import Patience

_COUNTS = re.compile(r"(\d{1,9})-(\d{1,9})\Z", re.ASCII)


@dataclass(frozen=True)
class Looks:
    """Other runs on the same data, and how many members and trials they planned."""

    runs: int = 0
    members: int = 0
    trials: int = 0


def mark_look(store: Store, layout: RunLayout, fingerprint: str, *, members: int, trials: int = 0) -> None:
    """Leave this run's mark; doing so again changes nothing.

    Raises:
        StoreUnavailable: out of reach.
    """
    key = layout.look(fingerprint, members, trials)
    Patience().retry(lambda: store.create(key, b""))


def other_looks(store: Store, layout: RunLayout, fingerprint: str) -> Looks:
    """What other runs left there up to now.

    Raises:
        StoreUnavailable: out of reach.
    """
    prefix = looks_at(fingerprint)
    found: dict[str, tuple[int, int]] = {}
    for key in Patience().retry(lambda: store.list(prefix)):
        run, _, name = key.removeprefix(f"{prefix}/").rpartition("/")
        counts = _COUNTS.match(name)
        if counts is not None and run != layout.root:
            members, trials = found.get(run, (0, 0))  # a run that has grown left several: the largest counts
            found[run] = max(members, int(counts[1])), max(trials, int(counts[2]))
    return Looks(len(found), sum(each[0] for each in found.values()), sum(each[1] for each in found.values()))
