"""How far a figure could have come out otherwise: the paired bootstrap over rows (Efron and Tibshirani 1993).

Every figure is computed on the same resamples of the rows, so figures of two ensembles can be subtracted resample by
resample: what makes a row hard for both cancels, and the interval of a gain is far narrower than those of the two.
Rows that belong together are drawn together (the cluster bootstrap, Field and Welsh 2007).
Only rows are resampled. How much training anew would change is not in these intervals.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from orchestrator.ensemble.metrics import per_example, predicted_classes
from orchestrator.ensemble.tasks import Array, Float64, TaskKind, check_predictions, normalised
from orchestrator.errors import InvalidData, OrchestratorError
from orchestrator.planning.seeds import Namespace

_STREAM = 2  # of Namespace.SPLITS: 0 splits the data, 1 deals the folds of `crossfit`
_BLOCK_BYTES = _KEPT_BYTES = 32 * 2**20
_BYTES_A_DRAW = 24  # a row number, a count as a whole number, and one as float64
_NUM_BINS = 15  # of `calibration.reliability`, which `Scores.ece` comes from


class Resamples:
    """Draws of N rows out of N with replacement, the same ones at every call; with groups of G out of G.

    Args:
        num_rows: N, at least 1.
        seed: the job's root seed; the stream is `SeedSequence(seed, spawn_key=(2, 2))`.
        num_resamples: B, at least 1. The ends of a 95 % interval are then known to some 7 % of its width for
            100, 2 % for 1,000.
        groups: which rows belong together, [N] of 0 … G − 1; None: each is for itself.

    Raises:
        InvalidData: no rows.
        OrchestratorError: fewer resamples than one.
    """

    def __init__(self, num_rows: int, seed: int, num_resamples: int = 1000, groups: Array | None = None) -> None:
        if num_rows < 1:
            raise InvalidData("there are no rows to resample", where="intervals", hint="give the set some rows")
        if num_resamples < 1:
            raise OrchestratorError(f"{num_resamples} resamples tell nothing", where="intervals", hint="at least 1")
        self.num_rows = num_rows
        self.num_resamples = num_resamples
        self._seed = seed
        self._groups = groups
        self._num_units = num_rows if groups is None else int(groups.max()) + 1
        self._drawn: list[npt.NDArray[np.uint8]] | None = None

    def means(self, values: Array) -> Float64:
        """Means of the columns over each resample, [B, V].

        Memory: at most 96 MB besides `values` and the result (more above a million rows). The draws are kept where they
        take no more than 32 MB; else they are made anew at each call, which takes most of its time.

        Args:
            values: [N, V].

        Raises:
            OrchestratorError: another number of rows, or not two axes.
        """
        values = np.asarray(values, dtype=np.float64)
        if values.ndim != 2 or len(values) != self.num_rows:
            raise OrchestratorError(
                f"values of shape {values.shape} do not fit resamples of {self.num_rows} rows",
                where="intervals",
                hint="the axes are [rows, figures]",
            )
        return np.concatenate([counts @ values / counts.sum(axis=1, keepdims=True) for counts in self._counts()])

    def _counts(self) -> Iterator[Float64]:
        """How often each resample has each row: blocks [b, N]."""
        drawn: Iterable[npt.NDArray[np.integer[Any]]] = self._drawn or self._draw()
        if self._drawn is None and self.num_resamples * self.num_rows <= _KEPT_BYTES:
            self._drawn = [counts.astype(np.uint8) for counts in drawn]  # nobody draws the same 256 times
            drawn = self._drawn
        return (counts.astype(np.float64) for counts in drawn)

    def _draw(self) -> Iterator[npt.NDArray[np.intp]]:
        """Blocks of counts; where they are cut changes no draw."""
        rng = np.random.default_rng(np.random.SeedSequence(self._seed, spawn_key=(int(Namespace.SPLITS), _STREAM)))
        block = max(1, _BLOCK_BYTES // (_BYTES_A_DRAW * self.num_rows))
        for start in range(0, self.num_resamples, block):
            size = min(block, self.num_resamples - start)
            units = rng.integers(0, self._num_units, size=(size, self._num_units))
            units += np.arange(size)[:, np.newaxis] * self._num_units
            counts = np.bincount(units.ravel(), minlength=units.size).reshape(units.shape)
            yield counts if self._groups is None else counts[:, self._groups]


def interval(samples: Array, level: float = 0.95) -> tuple[float, float]:
    """The percentile interval (low, high) of a figure's samples [B].

    Samples that are NaN (a figure that its resample does not define) are left out; where all are, both ends are NaN.

    Args:
        samples: [B], of a figure, or the difference of two figures' samples.
        level: the share of samples inside, in (0, 1).

    Raises:
        OrchestratorError: another level.
    """
    if not 0 < level < 1:
        raise OrchestratorError(f"{level} is no level of an interval", where="intervals", hint="such as 0.95")
    told = np.asarray(samples, dtype=np.float64)
    told = told[~np.isnan(told)]
    if told.size == 0:
        return float("nan"), float("nan")
    low, high = np.quantile(told, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def metric_samples(resamples: Resamples, task: TaskKind, targets: Array, predictions: Array) -> dict[str, Float64]:
    """Each metric on each resample, [B], as `metrics.score` would give it there.

    Args:
        resamples: of as many rows as there are targets.
        task, targets, predictions: as for `metrics.score`.

    Returns:
        `accuracy`, `nll`, `brier` and `ece` for classification, `rmse`, `mae` and `r2` for regression (NaN where a
        resample has one value alone).

    Raises:
        InvalidData, InvalidModel: what `tasks.check_predictions` refuses.
        OrchestratorError: another number of rows than the resamples'.
    """
    targets = np.asarray(targets)
    rows = per_example(task, targets, predictions)
    if task is TaskKind.REGRESSION:
        return _of_regression(resamples, targets, check_predictions(task, targets, predictions), rows["absolute_error"])
    gaps = _calibration_gaps(task, targets, check_predictions(task, targets, predictions))
    means = resamples.means(np.column_stack([*rows.values(), gaps]))
    by_name = dict(zip(rows, means.T[: len(rows)], strict=True))
    return {**by_name, "ece": np.abs(means[:, len(rows) :]).sum(axis=1)}


def _of_regression(
    resamples: Resamples, targets: Float64, values: Float64, absolute_errors: Float64
) -> dict[str, Float64]:
    centred = targets - targets.mean(axis=0)  # else the variance of large numbers drowns in rounding
    columns = [np.square(values - targets), centred, np.square(centred), absolute_errors[:, np.newaxis]]
    means = resamples.means(np.concatenate(columns, axis=1))
    squared_error, mean, mean_of_squares = np.split(means[:, :-1], 3, axis=1)
    variance = mean_of_squares - np.square(mean)
    variance[variance <= 1e-12 * np.mean(np.square(centred), axis=0)] = np.nan
    return {
        "rmse": np.sqrt(squared_error.mean(axis=1)),
        "mae": means[:, -1],
        "r2": np.mean(1 - squared_error / variance, axis=1),
    }


def _calibration_gaps(task: TaskKind, targets: Array, values: Float64) -> Float64:
    """Columns [N, 15], one for each bin of `calibration.reliability`: the sum of |their means| is the ECE."""
    match task:
        case TaskKind.MULTICLASS:
            confidence = normalised(values).max(axis=1, keepdims=True)
            right = (predicted_classes(values) == targets)[:, np.newaxis]
        case TaskKind.BINARY:
            confidence = np.maximum(values, 1 - values)
            right = (predicted_classes(values) == targets)[:, np.newaxis]
        case _:
            confidence, right = values, targets
    edges = np.linspace(0, 1, _NUM_BINS + 1)
    bins = np.clip(np.searchsorted(edges, confidence, side="left") - 1, 0, _NUM_BINS - 1)
    gaps = np.zeros((len(values), _NUM_BINS))
    rows = np.broadcast_to(np.arange(len(values))[:, np.newaxis], bins.shape)
    np.add.at(gaps, (rows, bins), right - confidence)
    gaps /= confidence.shape[1]
    return gaps
