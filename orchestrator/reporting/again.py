"""A finished run's figures once more, from what is stored alone: no GPU, no data, no model is needed."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from typing import Any

from orchestrator.errors import DamagedStore, InvalidJob, MissingObject
from orchestrator.planning.ports import Store
from orchestrator.planning.recovery import read_run
from orchestrator.reporting.conclude import result_of
from orchestrator.reporting.publish import finished_result
from orchestrator.reporting.result import Result, to_json
from orchestrator.reporting.selection import reselect
from orchestrator.spec import parse_job
from orchestrator.storage.blobs import get_blob
from orchestrator.storage.layout import RunLayout
from orchestrator.storage.log import Log
from orchestrator.storage.retry import Patience

_TRIED = (
    "ensemble.combine",
    "ensemble.weights",
    "ensemble.calibrate",
    "ensemble.output",
    "ensemble.gate",
    "search.keep",
)
"""What can be asked anew of members that are there."""

EXACT, FITTED = 1e-9, 1e-6
"""How far a figure may be from the stored one, relative to it (absolute below 1): another CPU sums in another order,
and what was fitted has followed an optimiser's path besides."""

_FITTED = ("weighted", "weights", "temperature", "calibration", "gains", "selective", "aurc", "gate")
"""Parts of a result that rest on fitted weights, a stacking or a temperature."""


def evaluate_again(
    store: Store, layout: RunLayout, overrides: Sequence[str] = ()
) -> tuple[Result, tuple[str, ...] | None]:
    """Compute the result from the kept predictions and labels. Nothing is written.

    Args:
        store, layout: where the run lives.
        overrides: `ensemble.…=value` texts: the same members, combined and judged in another way; `search.keep=…`:
            other trials of a search as members.

    Returns:
        The result, and where it differs from the stored one, see `differing`; None with overrides, or where nothing is
        stored.

    Raises:
        InvalidJob: the run has no selection yet, or an override would need other members.
        DamagedStore: predictions, labels or the spec are gone.
    """
    foreign = [text for text in overrides if not text.startswith(_TRIED)]
    if foreign:
        raise InvalidJob(
            f"{foreign[0]!r} would need other members",
            where="evaluate",
            hint="on members that are trained, ensemble.combine, weights, calibrate, output and gate can be tried, as "
            "in ensemble.weights=nll; and search.keep on the trials of a search",
        )
    memory = read_run(Log.open(store, layout.coord_log).records())
    if memory.selection is None:
        raise InvalidJob(
            "the run has not been evaluated yet: its members are not fixed",
            where=f"run {layout.run_key}",
            hint="start it again to finish it; `orchestrator status` tells where it stands",
        )

    def read(ref: Any) -> bytes:
        return get_blob(store, ref)

    if overrides:
        job = parse_job(stored_job(store, layout), filename="spec.json", overrides=overrides)
        return result_of(reselect(memory.selection, job, read), layout, read), None
    result = result_of(memory.selection, layout, read)
    return result, None if memory.done is None else differing(result, finished_result(store, layout, memory))


def differing(result: Result, stored: Result) -> tuple[str, ...]:
    """Where two results of one run differ by more than rounding: dotted paths such as `test.ensemble.nll`, sorted.

    Numbers may be `EXACT` apart, those that rest on a fit `FITTED`; all else must be equal.
    """
    fitted = (*_FITTED, "ensemble") if stored.temperature is not None else _FITTED
    return tuple(_differing(json.loads(to_json(result)), json.loads(to_json(stored)), (), fitted))


def _differing(ours: Any, theirs: Any, path: tuple[str, ...], fitted: Sequence[str]) -> Iterator[str]:
    if isinstance(ours, dict) and isinstance(theirs, dict):
        for key in sorted(ours.keys() | theirs.keys()):
            if key not in ours or key not in theirs:
                yield ".".join((*path, key))
            else:
                yield from _differing(ours[key], theirs[key], (*path, key), fitted)
    elif isinstance(ours, list) and isinstance(theirs, list) and len(ours) == len(theirs):
        for place, (one, other) in enumerate(zip(ours, theirs, strict=True)):
            yield from _differing(one, other, (*path, str(place)), fitted)
    elif isinstance(ours, float) and isinstance(theirs, float):
        slack = FITTED if any(part in fitted for part in path) else EXACT
        if not math.isclose(ours, theirs, rel_tol=slack, abs_tol=slack):
            yield ".".join(path)
    elif ours != theirs:
        yield ".".join(path)


def stored_job(store: Store, layout: RunLayout) -> dict[str, Any]:
    """The job as the run's `spec.json` has it, every key. Raises DamagedStore."""
    return dict(stored_spec(store, layout)["job"])


def stored_spec(store: Store, layout: RunLayout) -> dict[str, Any]:
    """The run's `spec.json`, which holds its job.

    Raises:
        DamagedStore: it is gone, or is no such file.
    """
    try:
        spec = json.loads(Patience().retry(lambda: store.get(layout.spec)))
        return {**spec, "job": dict(spec["job"])}
    except (MissingObject, ValueError, KeyError, TypeError) as error:
        raise DamagedStore(
            f"the run's spec cannot be read: {error}",
            where=layout.spec,
            hint="the figures as they were can be computed without it; or restore the object from a backup",
        ) from error
