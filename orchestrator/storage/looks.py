"""Who has looked at the same rows: each run leaves a mark for every split that it is scored on, for others to count.

A figure on validation rows is worth less, the more runs, members and trials were compared on these rows: whoever picks
the best of twenty has fitted the validation set by hand. Counted is what this storage knows: the runs that were scored
on the same rows in the same order, in a validation or a test set alike, before this run or while it was at work. Splits
that only overlap are different rows.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial

from orchestrator.planning.ports import Store
from orchestrator.storage.layout import RunLayout, looks_at
from orchestrator.storage.retry import Patience

_COUNTS = re.compile(r"(\d{1,9})-(\d{1,9})\Z", re.ASCII)


@dataclass(frozen=True)
class Looks:
    """Other runs on the same rows, and how many members and trials they planned."""

    runs: int = 0
    members: int = 0
    trials: int = 0


def mark_look(store: Store, layout: RunLayout, rows: Iterable[str], *, members: int, trials: int = 0) -> None:
    """Leave this run's marks; doing so again changes nothing.

    Args:
        store, layout: where the run lives.
        rows: digests of the rows of each split that the run is scored on.
        members, trials: how many it plans.

    Raises:
        StoreUnavailable: out of reach.
    """
    for digest in rows:
        key = layout.look(digest, members, trials)
        Patience().retry(partial(store.create, key, b""))


def other_looks(store: Store, layout: RunLayout, rows: Iterable[str]) -> Looks:
    """What other runs have left up to now at any of these rows; each run counts once. Arguments as for `mark_look`.

    Raises:
        StoreUnavailable: out of reach.
    """
    found: dict[str, tuple[int, int]] = {}
    for prefix in map(looks_at, rows):
        for key in Patience().retry(partial(store.list, prefix)):
            run, _, name = key.removeprefix(f"{prefix}/").rpartition("/")
            counts = _COUNTS.match(name)
            if counts is not None and run != layout.root:
                members, trials = found.get(run, (0, 0))  # one that has grown left several marks: the largest counts
                found[run] = max(members, int(counts[1])), max(trials, int(counts[2]))
    return Looks(len(found), sum(each[0] for each in found.values()), sum(each[1] for each in found.values()))
