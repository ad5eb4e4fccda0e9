"""Scores as the result tells them: plain numbers that JSON can say."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from orchestrator.ensemble.calibration import reliability
from orchestrator.ensemble.intervals import interval
from orchestrator.ensemble.metrics import METRICS, Scores
from orchestrator.ensemble.tasks import TaskKind
from orchestrator.reporting.members_pass import MembersPass
from orchestrator.reporting.scores import CurvePoint, Interval, Metrics, ReliabilityBin

Array = npt.NDArray[Any]
Float64 = npt.NDArray[np.float64]
Samples = Mapping[str, Float64]
"""A prediction's scores on each resample [B], by metric."""


def curve_points(seen: MembersPass) -> tuple[CurvePoint, ...]:
    """The plain average over its size, metric by metric."""
    return tuple(
        CurvePoint(
            members=point.members,
            metric=metric,
            in_order=point.in_order,
            mean=point.mean,
            low=point.low,
            high=point.high,
        )
        for metric, points in seen.curve.result().items()
        for point in points
    )


def told_metrics(scores: Scores) -> dict[str, float]:
    """The metrics that there are and that JSON can say: r2 of a constant target has no number."""
    told = {name: value for name, value in vars(scores).items() if name != "n" and value is not None}
    return {name: float(value) for name, value in told.items() if np.isfinite(value)}


def calibration_metrics(scores: Scores) -> Metrics:
    """The metrics that a temperature is judged by."""
    return Metrics(accuracy=scores.accuracy, nll=scores.nll, brier=scores.brier, ece=scores.ece)


def reliability_bins(task: TaskKind, targets: Array, values: Float64) -> tuple[ReliabilityBin, ...]:
    """The bins of a reliability diagram that hold rows, of a prediction [N, C]."""
    found = reliability(task, targets, values)
    rows = zip(found.count, found.confidence, found.accuracy, strict=True)
    return tuple(ReliabilityBin(count=int(n), confidence=float(c), accuracy=float(a)) for n, c, a in rows if n)


def told_intervals(samples: Samples) -> dict[str, Interval]:
    """The interval of each metric that every resample defines."""
    return {name: told_interval(values) for name, values in samples.items() if np.isfinite(values).all()}


def told_interval(values: Float64) -> Interval:
    """The 95 % interval of what resamples [B] gave."""
    low, high = interval(values)
    return Interval(low=low, high=high)


def better_by(metric: str, value: float, than: float) -> float:
    """How much better a value is than another, whichever way the metric points."""
    return value - than if METRICS[metric].greater_is_better else than - value
