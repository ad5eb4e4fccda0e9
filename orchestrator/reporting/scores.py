"""The scores in `result.json`: of one prediction, of one split, as frozen models."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, SerializerFunctionWrapHandler, model_serializer

FigureName = Literal["ensemble", "weighted", "best_member", "members_mean"]
SplitName = Literal["out_of_fold", "validation", "test"]
Metric = Literal["accuracy", "nll", "brier", "ece", "auc", "top_k", "rmse", "mae", "r2", "gaussian_nll"]


class Frozen(BaseModel):
    """Base of all parts of a result."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, populate_by_name=True)


class Interval(Frozen):
    """A 95 % interval from a paired bootstrap over the rows; see `orchestrator.ensemble.intervals`."""

    low: float
    high: float


class Metrics(Frozen):
    """Scores of one prediction, by `orchestrator.ensemble.metrics`; what does not apply to the task is left out."""

    accuracy: float | None = None
    nll: float | None = None
    brier: float | None = None
    ece: float | None = None
    auc: float | None = None
    top_k: float | None = None
    rmse: float | None = None
    mae: float | None = None
    r2: float | None = None
    gaussian_nll: float | None = None

    @model_serializer(mode="wrap")
    def _without_absent_ones(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Nine nulls for each of a thousand members would tell nothing."""
        found: dict[str, Any] = serialize(self)
        return {name: value for name, value in found.items() if value is not None or name not in Metrics.model_fields}


class Figure(Metrics):
    """One scored prediction.

    Attributes:
        n: number of rows.
        member: the member's index where the figure is of one member.
        scored_on: which rows, and what else they were used for.
        intervals: of some of the metrics, by name.
        naive: the same metrics where the rows that were scored also fitted the weights: what most tools report.
        optimism: by how much `naive` looks better than the figure; above 0: it flatters.
    """

    n: int
    scored_on: str
    member: int | None = None
    intervals: Mapping[str, Interval] = {}
    naive: Mapping[str, float] = {}
    optimism: Mapping[str, float] = {}


class Gain(Frozen):
    """How much better one figure is than another in a metric: above 0 is better, whichever way the metric points.

    The interval is paired: both figures are scored on the same resampled rows. Neither is scaled by a temperature, also
    where what is delivered is: single members are not, and what scaling brings is told by `Calibration`.
    """

    of: FigureName
    over: FigureName
    metric: Metric
    gain: float
    interval: Interval


class ReliabilityBin(Frozen):
    """Rows whose confidence lies in one bin: how many, how sure they were on average, and how often right."""

    count: int
    confidence: float
    accuracy: float


class Calibration(Frozen):
    """Temperature scaling of the delivered prediction (Guo et al. 2017), fitted on validation rows alone.

    On validation rows `after` is cross-fitted: each row is scaled by a temperature that other rows gave.
    """

    temperature: float
    before: Metrics
    after: Metrics
    reliability_before: tuple[ReliabilityBin, ...] = ()
    reliability_after: tuple[ReliabilityBin, ...] = ()


class DiversityFigures(Frozen):
    """How much the members differ; entropies in nats. `orchestrator.ensemble.diversity` defines each.

    `pairs` is the disagreement of each two of the first 16 members.
    """

    disagreement: float | None = None
    member_correlation: float | None = None
    predictive_entropy: float | None = None
    mean_entropy: float | None = None
    mutual_information: float | None = None
    spread: float | None = None
    pairs: tuple[tuple[float, ...], ...] = ()


class CurvePoint(Frozen):
    """The plain average of the first `members` members: by index, and its mean, lowest and highest over orders."""

    members: int
    metric: Metric
    in_order: float
    mean: float
    low: float
    high: float


class CoveragePoint(Frozen):
    """Accuracy on the share `coverage` of the rows of which the prediction is surest."""

    coverage: float
    accuracy: float


class SplitScores(Frozen):
    """What a split says. `weighted` is None without weights, `best_member` where no validation rows chose one.

    Attributes:
        gains: of what is delivered over the best member and the members' mean, and of `weighted` over `ensemble`.
        confusion: rows by true class, columns by predicted class.
        recall: by class; None where the split has no such row.
        aurc: area under the risk-coverage curve; 0 is best.
    """

    ensemble: Figure
    members_mean: Figure
    weighted: Figure | None = None
    best_member: Figure | None = None
    gains: tuple[Gain, ...] = ()
    calibration: Calibration | None = None
    diversity: DiversityFigures | None = None
    curve: tuple[CurvePoint, ...] = ()
    selective: tuple[CoveragePoint, ...] = ()
    aurc: float | None = None
    confusion: tuple[tuple[int, ...], ...] | None = None
    recall: tuple[float | None, ...] | None = None


class MemberScores(Metrics):
    """One member's scores on a split."""
