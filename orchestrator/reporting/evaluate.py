"""Figures from predictions: what the ensemble is worth on a split, honestly.

Nothing is scored on rows that fitted it: on the rows on which weights, a stacking or a temperature were fitted, each
row is predicted by what the *other* folds gave (cross-fitting); the naive figure stands beside it, with its optimism.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import zip_longest
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from orchestrator.ensemble.calibration import apply_temperature, fit_temperature, reliability
from orchestrator.ensemble.combine import Spread
from orchestrator.ensemble.crossfit import (
    assign_folds,
    cross_fit_average,
    cross_fit_stacking,
    cross_fit_temperature,
    cross_fit_weights,
    row_weights,
)
from orchestrator.ensemble.diversity import (
    COVERAGES,
    aurc,
    member_correlation,
    pairwise_disagreement,
    selective_prediction,
)
from orchestrator.ensemble.fitting import Fitter, make_fitter
from orchestrator.ensemble.intervals import Resamples, interval, metric_samples
from orchestrator.ensemble.metrics import METRICS, Scores, confusion_matrix, headline, per_class_recall, score
from orchestrator.ensemble.stacking import Stacking, fit_stacking
from orchestrator.ensemble.tasks import TaskKind
from orchestrator.ensemble.weights import Weights
from orchestrator.errors import InvalidJob, OrchestratorError
from orchestrator.reporting.members_pass import MembersPass, mean_scores
from orchestrator.reporting.result import (
    Calibration,
    CoveragePoint,
    CurvePoint,
    DiversityFigures,
    Figure,
    FigureName,
    Gain,
    Interval,
    Metric,
    Metrics,
    ReliabilityBin,
    SplitName,
    SplitScores,
)

Array = npt.NDArray[Any]
Float64 = npt.NDArray[np.float64]
Samples = Mapping[str, Float64]

MOST_IN_PAIRS = 16
"""Members whose disagreement is told for each two of them."""

MOST_CLASSES = 100
"""A confusion matrix of more classes than these is left out of the result."""


@dataclass(frozen=True)
class Rules:
    """How the members are combined and judged, as the selection has fixed it.

    Attributes:
        combine: `mean`, `logits`, `weighted` or `stacking`: which prediction is delivered.
        weights: of the weighted average, one for each member that counts; None: there is none.
        calibrate: what is delivered is scaled by a temperature that was fitted on validation rows.
        seed: root of the job's randomness.
        used_for: what else the validation rows were used for, such as `early stopping`.
    """

    combine: str = "mean"
    weights: Weights | None = None
    calibrate: bool = False
    seed: int = 0
    used_for: tuple[str, ...] = ()

    @property
    def delivered(self) -> Literal["ensemble", "weighted"]:
        """The figure of the prediction that is delivered."""
        return "weighted" if self.combine in ("weighted", "stacking") else "ensemble"


@dataclass(frozen=True)
class Chosen:
    """What validation rows have decided. Test rows only use it: deciding again on them would flatter the figures."""

    best_member: int | None = None
    temperature: float | None = None
    stacking: Stacking | None = None


@dataclass(frozen=True)
class Evaluated:
    """The figures of a split, each member's scores in the order of their indices, and what validation rows decided.

    `delivered` is the prediction [N, C] that the job asked for, as it was scored: cross-fitted where it was fitted.
    """

    split: SplitScores
    members: tuple[Scores, ...]
    chosen: Chosen
    delivered: Float64 = field(compare=False)


def evaluate_split(
    name: SplitName,
    task: TaskKind,
    targets: Array,
    predictions: Iterable[Array],
    indices: Sequence[int],
    rules: Rules | None = None,
    chosen: Chosen | None = None,
) -> Evaluated:
    """Score every member, their mean, their average and their weighted average on one split.

    On `validation` the best member, the temperature and the stacking are found; test rows only use them.

    Args:
        name: of the split.
        task: what the models tell.
        targets: as `orchestrator.ensemble.tasks.to_targets` gives them.
        predictions: [N, C] for each member, in the order of `indices`; gone through up to three times, one at a time.
        indices: the members' indices.
        rules: how to combine; by default the plain mean.
        chosen: what the validation rows decided, for other rows.

    Raises:
        InvalidData, InvalidModel: labels or predictions that cannot be scored or combined.
        InvalidJob: another number of weights than of members, or a way of combining that does not suit the task.
        OrchestratorError: another number of predictions than of members, or an unknown best member.
    """
    rules, chosen = rules or Rules(), chosen or Chosen()
    if rules.weights is not None and len(rules.weights.values) != len(indices):
        raise InvalidJob(f"{len(rules.weights.values)} weights for {len(indices)} members", where="weights")
    if chosen.best_member is not None and chosen.best_member not in indices:
        known = list(indices)
        raise OrchestratorError(f"the best member {chosen.best_member} is not among the members {known}", where=name)
    return _Evaluation(name, task, targets, predictions, tuple(indices), rules, chosen).run()


def choose_best(task: TaskKind, indices: Sequence[int], scores: Sequence[Scores]) -> int:
    """Index of the member with the best headline metric; ties go to the lower nll, then to the lower index."""

    def rank(each: Scores) -> tuple[float, float]:
        value = float(getattr(each, headline(task)))
        return (-value if METRICS[headline(task)].greater_is_better else value, each.nll or 0.0)

    return min((rank(each), index) for each, index in zip(scores, indices, strict=True))[1]


@dataclass(frozen=True)
class _Prediction:
    """A prediction [N, C]; where it was cross-fitted, also the naive one, that was fitted on all these rows.

    `variance` is the members' [N, D], of regression; `fitted` says what these rows were used for besides; `without`
    gives the prediction in which no label of a fold had a part, where `values` were cross-fitted.
    """

    values: Float64
    naive: Float64 | None = None
    variance: Float64 | None = None
    fitted: tuple[str, ...] = ()
    without: Callable[[int], Float64] | None = None


@dataclass
class _Evaluation:
    name: SplitName
    task: TaskKind
    targets: Array
    predictions: Iterable[Array]
    indices: tuple[int, ...]
    rules: Rules
    chosen: Chosen
    samples: dict[FigureName, Samples] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.resamples = Resamples(len(self.targets), self.rules.seed)
        few = len(self.targets) < 2  # then there are no other rows to fit on: nothing is cross-fitted
        self.folds = None if few else assign_folds(self.task, self.targets, seed=self.rules.seed)

    def run(self) -> Evaluated:
        seen, fitter = self._see()
        plain = _Prediction(seen.plain.average(), variance=seen.variance())
        fitted = self._fitted(seen, fitter)
        delivered = fitted if fitted is not None and self.rules.delivered == "weighted" else plain
        scaled, calibration = self._calibrated(delivered)
        ensemble = self._figure("ensemble", plain)
        weighted = None if fitted is None else self._figure("weighted", fitted)
        unscaled: dict[FigureName, Figure | None] = {"ensemble": ensemble, "weighted": weighted}
        if self.rules.calibrate and scaled is not None:
            if delivered is plain:
                ensemble = self._figure(None, scaled)
            else:
                weighted = self._figure(None, scaled)
            delivered = scaled
        mean = self._members_mean(seen)
        best = self._best_member(seen)
        regression = self.task is TaskKind.REGRESSION
        split = SplitScores(
            ensemble=ensemble,
            weighted=weighted,
            members_mean=mean,
            best_member=best,
            gains=tuple(self._gains({**unscaled, "members_mean": mean, "best_member": best})),
            calibration=calibration,
            diversity=self._diversity(seen),
            curve=_curve(seen),
            selective=self._selective(delivered),
            aurc=None if regression else aurc(self.task, self.targets, delivered.values),
            **self._by_class(delivered),
        )
        return Evaluated(split, tuple(seen.scores), self.chosen, delivered.values)

    # -- passes over the members -------------------------------------------------------------------------------------

    def _see(self) -> tuple[MembersPass, Fitter | None]:
        rules = self.rules
        seen = MembersPass(
            self.task,
            self.targets,
            num_members=len(self.indices),
            combine="logits" if rules.combine == "logits" else "mean",
            weights=rules.weights,
            resamples=self.resamples,
            seed=rules.seed,
        )
        fitter = None
        if self.folds is not None and rules.weights is not None and rules.weights.fitted_on == self.name:
            fitter = make_fitter(rules.weights.method, self.task, self.targets, self.folds)
        for index, prediction in self._members():
            seen.add(prediction, name=f"{self.name}: member {index}")
            if fitter is not None:
                fitter.see(prediction)
        return seen, fitter

    def _members(self) -> Iterable[tuple[int, Array]]:
        for index, prediction in zip_longest(self.indices, self.predictions):
            if index is None or prediction is None:
                raise OrchestratorError(f"not one prediction for each of {len(self.indices)} members", where=self.name)
            yield index, prediction

    def _fitted(self, seen: MembersPass, fitter: Fitter | None) -> _Prediction | None:
        """The weighted average, or the stacking."""
        if self.rules.combine == "stacking":
            return self._stacked()
        if seen.weighted is None:
            return None
        average, variance = seen.weighted.average(), seen.variance(weighted=True)
        if self.rules.weights is None or self.rules.weights.fitted_on != self.name:
            return _Prediction(average, variance=variance)
        if fitter is None or self.folds is None:  # a single row: there is no other to fit on
            return None
        without = partial(cross_fit_average, self.task, fitter, self.folds, self.predictions)
        spread = None
        if self.task is TaskKind.REGRESSION:
            by_fold, spread = cross_fit_weights(fitter, self.folds), Spread(self.task)
            for position, (_, prediction) in enumerate(self._members()):
                spread.add(prediction, row_weights(by_fold, self.folds, position))
        variance = spread.variance() if spread is not None and spread.of_several() else None
        return _Prediction(without(), average, variance, ("weights",), without)

    def _stacked(self) -> _Prediction | None:
        """All predictions in memory at once: what a stacking may take is bounded by its number of features."""
        if self.name != "validation" or self.folds is None:
            known = self.chosen.stacking
            return None if known is None else _Prediction(known.combine(self.predictions))
        together = np.stack([prediction for _, prediction in self._members()])
        stacking = fit_stacking(self.task, self.targets, together)
        self.chosen = replace(self.chosen, stacking=stacking)
        without = partial(cross_fit_stacking, self.task, self.targets, together, self.folds)
        return _Prediction(without(), stacking.combine(together), fitted=("stacking",), without=without)

    def _calibrated(self, delivered: _Prediction) -> tuple[_Prediction | None, Calibration | None]:
        """What is delivered, scaled; and what scaling does to it. None without validation rows to fit it on."""
        costly = self.rules.combine == "stacking" and not self.rules.calibrate  # ten more fits, only to be told
        if self.task is TaskKind.REGRESSION or costly:
            return None, None
        if self.name == "validation" and self.folds is not None and self.folds.max() > 1:
            temperature = fit_temperature(self.task, self.targets, delivered.values)
            without = delivered.without
            after, _ = cross_fit_temperature(self.task, self.targets, delivered.values, self.folds, without)
            self.chosen = replace(self.chosen, temperature=temperature)
            base = delivered.values if delivered.naive is None else delivered.naive
            naive = apply_temperature(self.task, base, temperature)
            scaled = _Prediction(after, naive, fitted=(*delivered.fitted, "temperature"))
        elif self.chosen.temperature is None:
            return None, None
        else:
            temperature = self.chosen.temperature
            scaled = _Prediction(apply_temperature(self.task, delivered.values, temperature))
        calibration = Calibration(
            temperature=temperature,
            before=_calibration_metrics(score(self.task, self.targets, delivered.values)),
            after=_calibration_metrics(score(self.task, self.targets, scaled.values)),
            reliability_before=_bins(self.task, self.targets, delivered.values),
            reliability_after=_bins(self.task, self.targets, scaled.values),
        )
        return scaled, calibration

    # -- figures -----------------------------------------------------------------------------------------------------

    def _figure(self, name: FigureName | None, of: _Prediction, member: int | None = None) -> Figure:
        """A figure; with a name, its samples are kept for the gains."""
        scores = score(self.task, self.targets, of.values, spread=of.variance)
        samples = metric_samples(self.resamples, self.task, self.targets, of.values)
        if name is not None:
            self.samples[name] = samples
        naive: dict[str, float] = {}
        if of.naive is not None:
            naive = _metrics(score(self.task, self.targets, of.naive))
        told = _metrics(scores)
        return Figure(
            **told,
            n=scores.n,
            scored_on=self._rows(*of.fitted),
            member=member,
            intervals=_intervals(samples),
            naive=naive,
            optimism={
                metric: _better_by(metric, value, told[metric]) for metric, value in naive.items() if metric in told
            },
        )

    def _members_mean(self, seen: MembersPass) -> Figure:
        scores = mean_scores(seen.scores)
        self.samples["members_mean"] = seen.mean_samples()
        intervals = _intervals(self.samples["members_mean"])
        return Figure(**_metrics(scores), n=scores.n, scored_on=self._rows(), intervals=intervals)

    def _best_member(self, seen: MembersPass) -> Figure | None:
        """Chosen on validation rows alone and only named elsewhere."""
        used: tuple[str, ...] = ()
        if self.name == "validation":
            best = choose_best(self.task, self.indices, seen.scores)
            self.chosen = replace(self.chosen, best_member=best)
            used = ("choice of the best member",)
        elif self.chosen.best_member is None:
            return None
        else:
            best = self.chosen.best_member
        own = next(prediction for index, prediction in self._members() if index == best)
        return self._figure("best_member", _Prediction(np.asarray(own, np.float64), fitted=used), best)

    def _gains(self, figures: Mapping[FigureName, Figure | None]) -> Iterable[Gain]:
        """Of what is delivered over the best member and the mean member, and of the weighted over the plain average.

        Before any scaling by a temperature: single members are not scaled, and what scaling brings is told apart.
        """
        delivered = self.rules.delivered if figures[self.rules.delivered] is not None else "ensemble"
        pairs: list[tuple[FigureName, FigureName]] = [(delivered, "best_member"), (delivered, "members_mean")]
        if figures["weighted"] is not None:
            pairs.append(("weighted", "ensemble"))
        metrics: tuple[Metric, ...] = ("rmse", "mae") if self.task is TaskKind.REGRESSION else ("accuracy", "nll")
        for of, over in pairs:
            better, worse = figures[of], figures[over]
            for metric in metrics:
                if better is None or worse is None:
                    continue
                ours, theirs = self.samples[of][metric], self.samples[over][metric]
                sign = 1.0 if METRICS[metric].greater_is_better else -1.0
                yield Gain(
                    of=of,
                    over=over,
                    metric=metric,
                    gain=_better_by(metric, getattr(better, metric), getattr(worse, metric)),
                    interval=_interval(sign * (ours - theirs)),
                )

    def _diversity(self, seen: MembersPass) -> DiversityFigures:
        found = seen.diversity.result()
        pairs = member_correlation(self.task, self.targets, (prediction for _, prediction in self._members()))
        above = pairs[np.triu_indices(len(pairs), 1)]
        above = above[np.isfinite(above)]
        alike: list[list[float]] = []
        if self.task is not TaskKind.REGRESSION:
            members = (prediction for _, prediction in self._members())
            alike = pairwise_disagreement(self.task, members, MOST_IN_PAIRS).tolist()
        return DiversityFigures(
            disagreement=found.disagreement,
            member_correlation=float(above.mean()) if above.size else None,
            predictive_entropy=found.predictive_entropy,
            mean_entropy=found.mean_entropy,
            mutual_information=found.mutual_information,
            spread=found.spread,
            pairs=tuple(map(tuple, alike)),
        )

    def _selective(self, delivered: _Prediction) -> tuple[CoveragePoint, ...]:
        if self.task is TaskKind.REGRESSION:
            return ()
        points = selective_prediction(self.task, self.targets, delivered.values, COVERAGES)
        return tuple(CoveragePoint(coverage=coverage, accuracy=accuracy) for coverage, accuracy in points)

    def _by_class(self, delivered: _Prediction) -> dict[str, Any]:
        single = self.task in (TaskKind.MULTICLASS, TaskKind.BINARY)
        if not single or delivered.values.shape[1] > MOST_CLASSES:
            return {}
        recall = per_class_recall(self.task, self.targets, delivered.values)
        return {
            "confusion": tuple(map(tuple, confusion_matrix(self.task, self.targets, delivered.values).tolist())),
            "recall": tuple(None if np.isnan(value) else float(value) for value in recall),
        }

    def _rows(self, *too: str) -> str:
        """Which rows, and what else they were used for."""
        before = self.rules.used_for if self.name == "validation" else ()
        uses = list(dict.fromkeys([*before, *too]))
        also = f"also used for {', '.join(uses)}" if uses else "used for nothing else"
        crossed = " (cross-fitted)" if set(too) & {"weights", "stacking", "temperature"} else ""
        rows = "1 row" if len(self.targets) == 1 else f"{len(self.targets)} rows"
        return f"{self.name} ({rows}; {also}{crossed})"


def _curve(seen: MembersPass) -> tuple[CurvePoint, ...]:
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


def _metrics(scores: Scores) -> dict[str, float]:
    """The metrics that there are and that JSON can say: r2 of a constant target has no number."""
    told = {name: value for name, value in vars(scores).items() if name != "n" and value is not None}
    return {name: float(value) for name, value in told.items() if np.isfinite(value)}


def _calibration_metrics(scores: Scores) -> Metrics:
    return Metrics(accuracy=scores.accuracy, nll=scores.nll, brier=scores.brier, ece=scores.ece)


def _bins(task: TaskKind, targets: Array, values: Float64) -> tuple[ReliabilityBin, ...]:
    found = reliability(task, targets, values)
    rows = zip(found.count, found.confidence, found.accuracy, strict=True)
    return tuple(ReliabilityBin(count=int(n), confidence=float(c), accuracy=float(a)) for n, c, a in rows if n)


def _intervals(samples: Samples) -> dict[str, Interval]:
    return {name: _interval(values) for name, values in samples.items() if np.isfinite(values).all()}


def _interval(values: Float64) -> Interval:
    low, high = interval(values)
    return Interval(low=low, high=high)


def _better_by(metric: str, value: float, than: float) -> float:
    """How much better a value is than another, whichever way the metric points."""
    return value - than if METRICS[metric].greater_is_better else than - value
