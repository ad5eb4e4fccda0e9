"""Figures from predictions: what the ensemble is worth on a split. What is fitted for them is in `reporting.fitted`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from orchestrator.ensemble.diversity import (
    COVERAGES,
    aurc,
    member_correlation,
    pairwise_disagreement,
    selective_prediction,
)
from orchestrator.ensemble.fitting import Fitter
from orchestrator.ensemble.intervals import Resamples, metric_samples
from orchestrator.ensemble.metrics import METRICS, Scores, confusion_matrix, headline, per_class_recall, score
from orchestrator.ensemble.tasks import TaskKind
from orchestrator.errors import InvalidJob, OrchestratorError
from orchestrator.reporting.figures import (
    Samples,
    better_by,
    calibration_metrics,
    curve_points,
    reliability_bins,
    told_interval,
    told_intervals,
    told_metrics,
)
from orchestrator.reporting.fitted import Chosen, Prediction, Rows, Rules, combined, scaled
from orchestrator.reporting.members_pass import MembersPass, mean_scores
from orchestrator.reporting.scores import (
    Calibration,
    CoveragePoint,
    DiversityFigures,
    Figure,
    FigureName,
    Gain,
    Metric,
    SplitName,
    SplitScores,
)

Array = npt.NDArray[Any]
Float64 = npt.NDArray[np.float64]

MOST_IN_PAIRS = 16
"""Members whose disagreement is told for each two of them."""

MOST_CLASSES = 100
"""A confusion matrix of more classes than these is left out of the result."""


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
    library: Iterable[Array] | None = None,
    groups: npt.NDArray[np.int64] | None = None,
) -> Evaluated:
    """Score every member, their mean, their average and their weighted average on one split.

    On the rows that decide the best member, the temperature and the stacking are found; others only use them. With
    folds, what is said of members here is said of configurations.

    Args:
        name: of the split.
        task: what the models tell.
        targets: as `orchestrator.ensemble.tasks.to_targets` gives them.
        predictions: [N, C] for each member, in the order of `indices`; gone through up to three times, one at a time.
        indices: the members' indices.
        rules: how to combine; by default the plain mean.
        chosen: what the validation rows decided, for other rows.
        library: of members that were chosen by their weights among more: see `Rows`.
        groups: which rows belong together, [N]: cross-fitting and resampling leave groups whole.

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
    return _Evaluation(Rows(name, task, targets, predictions, tuple(indices), rules, library, groups), chosen).run()


def choose_best(task: TaskKind, indices: Sequence[int], scores: Sequence[Scores]) -> int:
    """Index of the member with the best headline metric; ties go to the lower nll, then to the lower index."""

    def rank(each: Scores) -> tuple[float, float]:
        value = float(getattr(each, headline(task)))
        return (-value if METRICS[headline(task)].greater_is_better else value, each.nll or 0.0)

    return min((rank(each), index) for each, index in zip(scores, indices, strict=True))[1]


@dataclass
class _Evaluation:
    rows: Rows
    chosen: Chosen
    samples: dict[FigureName, Samples] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.name, self.task = self.rows.name, self.rows.task
        self.targets, self.rules = self.rows.targets, self.rows.rules
        self.resamples = Resamples(len(self.targets), self.rules.seed, groups=self.rows.groups)

    def run(self) -> Evaluated:
        seen, fitter = self._see()
        plain = Prediction(seen.plain.average(), variance=seen.variance())
        fitted, self.chosen = combined(self.rows, seen, fitter, self.chosen)
        delivered = fitted if fitted is not None and self.rules.delivered == "weighted" else plain
        in_scale, self.chosen = scaled(self.rows, delivered, self.chosen)
        calibration = None if in_scale is None else self._calibration(delivered, in_scale)
        ensemble = self._figure("ensemble", plain)
        weighted = None if fitted is None else self._figure("weighted", fitted)
        unscaled: dict[FigureName, Figure | None] = {"ensemble": ensemble, "weighted": weighted}
        if self.rules.calibrate and in_scale is not None:
            if delivered is plain:
                ensemble = self._figure(None, in_scale)
            else:
                weighted = self._figure(None, in_scale)
            delivered = in_scale
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
            curve=curve_points(seen),
            selective=self._selective(delivered),
            aurc=None if regression else aurc(self.task, self.targets, delivered.values),
            **self._by_class(delivered),
        )
        return Evaluated(split, tuple(seen.scores), self.chosen, delivered.values)

    def _see(self) -> tuple[MembersPass, Fitter | None]:
        """One pass over the members for all that needs no more than one."""
        seen = MembersPass(
            self.task,
            self.targets,
            num_members=len(self.rows.indices),
            combine="logits" if self.rules.combine == "logits" else "mean",
            weights=self.rules.weights,
            resamples=self.resamples,
            seed=self.rules.seed,
        )
        fitter = self.rows.fitter()
        for index, prediction in self.rows.members():
            seen.add(prediction, name=f"{self.name}: member {index}")
            if fitter is not None and self.rows.library is None:
                fitter.see(prediction)
        if fitter is not None:
            for prediction in self.rows.library or ():
                fitter.see(prediction)
        return seen, fitter

    def _calibration(self, before: Prediction, after: Prediction) -> Calibration | None:
        """What scaling by a temperature does."""
        if self.chosen.temperature is None:
            return None
        return Calibration(
            temperature=self.chosen.temperature,
            before=calibration_metrics(score(self.task, self.targets, before.values)),
            after=calibration_metrics(score(self.task, self.targets, after.values)),
            reliability_before=reliability_bins(self.task, self.targets, before.values),
            reliability_after=reliability_bins(self.task, self.targets, after.values),
        )

    # -- figures -----------------------------------------------------------------------------------------------------

    def _figure(self, name: FigureName | None, of: Prediction, member: int | None = None) -> Figure:
        """A figure; with a name, its samples are kept for the gains."""
        scores = score(self.task, self.targets, of.values, spread=of.variance)
        samples = metric_samples(self.resamples, self.task, self.targets, of.values)
        if name is not None:
            self.samples[name] = samples
        naive: dict[str, float] = {}
        if of.naive is not None:
            naive = told_metrics(score(self.task, self.targets, of.naive))
        told = told_metrics(scores)
        return Figure(
            **told,
            n=scores.n,
            scored_on=self._rows(*of.fitted),
            member=member,
            intervals=told_intervals(samples),
            naive=naive,
            optimism={
                metric: better_by(metric, value, told[metric]) for metric, value in naive.items() if metric in told
            },
        )

    def _members_mean(self, seen: MembersPass) -> Figure:
        scores = mean_scores(seen.scores)
        self.samples["members_mean"] = seen.mean_samples()
        intervals = told_intervals(self.samples["members_mean"])
        return Figure(**told_metrics(scores), n=scores.n, scored_on=self._rows(), intervals=intervals)

    def _best_member(self, seen: MembersPass) -> Figure | None:
        """Chosen on validation rows alone and only named elsewhere: on other rows, and for a model's other outputs."""
        used: tuple[str, ...] = ()
        if self.name == self.rules.decides:
            used = (f"choice of the best {self.rules.averaged}",)
            if self.chosen.best_member is None:
                found = choose_best(self.task, self.rows.indices, seen.scores)
                self.chosen = replace(self.chosen, best_member=found)
        best = self.chosen.best_member
        if best is None:
            return None
        own = next(prediction for index, prediction in self.rows.members() if index == best)
        return self._figure("best_member", Prediction(np.asarray(own, np.float64), fitted=used), best)

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
                    gain=better_by(metric, getattr(better, metric), getattr(worse, metric)),
                    interval=told_interval(sign * (ours - theirs)),
                )

    def _diversity(self, seen: MembersPass) -> DiversityFigures:
        found = seen.diversity.result()
        pairs = member_correlation(self.task, self.targets, (prediction for _, prediction in self.rows.members()))
        above = pairs[np.triu_indices(len(pairs), 1)]
        above = above[np.isfinite(above)]
        alike: list[list[float]] = []
        if self.task is not TaskKind.REGRESSION:
            members = (prediction for _, prediction in self.rows.members())
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

    def _selective(self, delivered: Prediction) -> tuple[CoveragePoint, ...]:
        if self.task is TaskKind.REGRESSION:
            return ()
        points = selective_prediction(self.task, self.targets, delivered.values, COVERAGES)
        return tuple(CoveragePoint(coverage=coverage, accuracy=accuracy) for coverage, accuracy in points)

    def _by_class(self, delivered: Prediction) -> dict[str, Any]:
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
        before = self.rules.used_for.get(self.name, ())
        uses = list(dict.fromkeys([*before, *too]))
        also = f"also used for {', '.join(uses)}" if uses else "used for nothing else"
        crossed = " (cross-fitted)" if set(too) & {"weights", "stacking", "temperature"} else ""
        rows = "1 row" if len(self.targets) == 1 else f"{len(self.targets)} rows"
        return f"{self.name.replace('_', '-')} ({rows}; {also}{crossed})"
