"""Finds, run by run, stored objects that mean nothing, and deletes them when asked to.

The order makes it safe. A run's objects are listed first; a run that may be at work is then watched; its logs are read
last. So a blob whose record is still on its way has the whole of that time, and a blob uploaded meanwhile is not on the
list. A writer that was frozen all the while and wakes up to name a blob that is gone damages nothing: who reads the
blob finds it missing, and an older checkpoint is used or the member trained again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from orchestrator.errors import DamagedStore
from orchestrator.planning.collection import Candidate, Sight, at_work, collectable, needs_watching
from orchestrator.planning.ports import Store
from orchestrator.storage.beat import read_beat
from orchestrator.storage.layout import RunLayout
from orchestrator.storage.log import Log

TAKEOVER_S = 15.0
"""How long a run that may be at work is watched, in seconds: no coordinator is silent for so long."""


@dataclass(frozen=True)
class PrunedRun:
    """What was found in one run.

    Attributes:
        job, run_key: which.
        candidates: objects that mean nothing.
        deleted: whether they are gone now.
        skipped: why the run was left alone, or None.
    """

    job: str
    run_key: str
    candidates: tuple[Candidate, ...] = ()
    deleted: bool = False
    skipped: str | None = None


def prune_runs(
    store: Store,
    layouts: Sequence[RunLayout],
    *,
    delete: bool,
    takeover_s: float = TAKEOVER_S,
    pause: Callable[[float], object] = time.sleep,
) -> tuple[PrunedRun, ...]:
    """Find what no record names in these runs, and delete it if `delete`; a run at work is skipped with the reason.

    Args:
        store: where the runs live.
        layouts: which.
        delete: False only looks.
        takeover_s: how long to watch runs that did not end in order, all at once, in seconds.
        pause: waits that long; replaced in tests.

    Raises:
        AccessDenied, StoreUnavailable: the store refuses, or is out of reach.
    """
    seen = [_first_look(store, layout) for layout in layouts]
    if any(isinstance(look, _Look) and needs_watching(look.sight) for look in seen):
        pause(takeover_s)
    return tuple(
        look if isinstance(look, PrunedRun) else _prune(store, layout, look, delete)
        for layout, look in zip(layouts, seen, strict=True)
    )


@dataclass(frozen=True)
class _Look:
    keys: tuple[str, ...]
    sight: Sight


def _first_look(store: Store, layout: RunLayout) -> _Look | PrunedRun:
    keys = tuple(store.list(layout.root))
    try:
        return _Look(keys, _sight(store, layout))
    except DamagedStore as error:
        return _skipped(layout, error)


def _prune(store: Store, layout: RunLayout, before: _Look, delete: bool) -> PrunedRun:
    try:
        work = at_work(before.sight, _sight(store, layout))
        if work is not None:
            return PrunedRun(layout.job, layout.run_key, skipped=work)
        logs = {log for key in (*before.keys, *store.list(layout.members)) if (log := layout.log_of(key))}
        bodies = [record.body for log in sorted(logs) for record in Log.open(store, log).records()]
    except DamagedStore as error:
        return _skipped(layout, error)
    candidates = collectable(before.keys, bodies, blobs=layout.blobs, probe=layout.probe)
    if delete:
        for candidate in candidates:
            store.delete(candidate.key)
    return PrunedRun(layout.job, layout.run_key, candidates, deleted=delete)


def _sight(store: Store, layout: RunLayout) -> Sight:
    last = Log.open(store, layout.coord_log).last
    beat = read_beat(store, layout.beat)
    return Sight(
        num_records=last.seq + 1 if last else 0,
        last_kind=last.kind if last else None,
        beat=(beat.term, beat.n) if beat else None,
        probes=frozenset(store.list(layout.probe)),
    )


def _skipped(layout: RunLayout, error: DamagedStore) -> PrunedRun:
    """What a damaged log names cannot be known, so nothing of its run is touched."""
    return PrunedRun(layout.job, layout.run_key, skipped=f"{error.where}: {error.what}")
