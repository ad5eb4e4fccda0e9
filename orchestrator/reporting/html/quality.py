"""What the ensemble is worth beyond one number: size, calibration, mistakes, diversity, when to trust it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from orchestrator.reporting.html.charts import (
    reliability_chart,
    residuals_chart,
    selective_chart,
    spread_chart,
    truth_chart,
)
from orchestrator.reporting.html.curves import size_chart
from orchestrator.reporting.html.headline import duration_text, splits_of
from orchestrator.reporting.html.parts import NONE, Cell, Facts, Lines, Part, Section, Table, table
from orchestrator.reporting.outputs import OutputResult
from orchestrator.reporting.report import OutputData
from orchestrator.reporting.scores import Calibration, CurvePoint, DiversityFigures, SplitScores
from orchestrator.reporting.verdict import NAMES, headline_of, score_text

MOST_CLASSES = 20
"""Classes whose confusion matrix is still read as a matrix; of more, the most frequent mistakes are listed."""

MOST_MISTAKES = 20
MOST_RECALLS = 100
_GREATER_IS_BETTER = ("accuracy", "auc", "top_k", "r2")
_POINT = 0.01


def size_section(data: OutputData) -> Section | None:
    """Score over the number of members, and what each improvement cost."""
    found = _first(data.result, lambda split: split.curve)
    if found is None:
        return None
    name, split = found
    by_metric: dict[str, list[CurvePoint]] = {}
    for point in split.curve:
        by_metric.setdefault(point.metric, []).append(point)
    drawn = [points for points in by_metric.values() if len(points) > 1]
    parts: list[Part] = [size_chart(points, name, data.id("size"), data.counted) for points in drawn]
    headline = headline_of(data.result)
    timeline = data.timeline
    points = by_metric.get(headline, [])
    search = data.result.search
    trained = sum(1 for each in (data.result.members if search is None else search.trials) if each.epochs)
    if len(points) > 1 and timeline is not None and trained and timeline.busy_s > 0:
        counted = len(data.result.configurations) or len(data.result.members)
        each = len(data.result.members) / counted  # a configuration costs as much as all of its members
        parts.append(_cost_table(points, headline, timeline.busy_s / trained * each, data.counted))
        what = "members" if search is None else "trials"
        told = f"{duration_text(timeline.busy_s)} of worker time for {trained} trained {what}"
        parts.append(
            Lines((f"{told}, {duration_text(timeline.busy_s / trained)} each; time of lost attempts is in it.",))
        )
    intro = (
        f"How the plain average does with fewer {data.counted}s. Where the curve is flat, further {data.counted}s cost "
        f"time and bring nothing; the band is the spread over random orders of the {data.counted}s."
    )
    if data.result.configurations:
        intro += " What is counted here are configurations, each with the members of all of its folds."
    return Section("size", "Size of the ensemble", intro, tuple(parts)) if parts else None


def _cost_table(points: Sequence[CurvePoint], metric: str, each_s: float, counted: str) -> Table:
    """What 0.01 of the headline metric cost in worker-seconds, step by step."""
    sign = 1 if metric in _GREATER_IS_BETTER else -1
    rows: list[list[str | Cell]] = []
    for before, point in zip([None, *points], points, strict=False):
        cost = NONE
        if before is not None:
            gained = sign * (point.mean - before.mean)
            spent = (point.members - before.members) * each_s
            cost = _seconds(spent * _POINT / gained) if gained > 1e-9 else "no gain"
        spread = f"{score_text(metric, point.low)} – {score_text(metric, point.high)}"
        rows.append([str(point.members), score_text(metric, point.mean), spread, cost])
    columns = (f"{counted}s", NAMES[metric], "over orders", f"worker-seconds per {_POINT} gained")
    return table(f"What each step of {NAMES[metric]} cost", columns, rows)


def _seconds(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def calibration_section(data: OutputData) -> Section | None:
    """Whether probabilities mean what they say, before and after temperature scaling."""
    found = _first(data.result, lambda split: split.calibration)
    if found is None or found[1].calibration is None:
        return None
    name, calibration = found[0], found[1].calibration
    parts: list[Part] = (
        [reliability_chart(calibration, data.id("reliability"))] if calibration.reliability_before else []
    )
    parts.append(_calibration_table(calibration))
    temperature = calibration.temperature
    meaning = "less sure" if temperature > 1 else "surer"
    used = (
        "what is delivered is scaled by it"
        if data.result.temperature is not None
        else "what is delivered is not scaled"
    )
    fitted_on = "out-of-fold" if data.result.configurations else "validation"
    intro = (
        f"On {name} rows. A temperature of {temperature:.3g} makes predictions {meaning}; {used}. It is fitted on "
        f"{fitted_on} rows, and on these each row is scaled by a temperature that other rows gave."
    )
    return Section("calibration", "Calibration", intro, tuple(parts))


def _calibration_table(calibration: Calibration) -> Table:
    metrics = [m for m in ("ece", "nll", "brier") if getattr(calibration.before, m) is not None]
    rows: list[list[str | Cell]] = [
        [NAMES[m], score_text(m, getattr(calibration.before, m)), score_text(m, getattr(calibration.after, m))]
        for m in metrics
    ]
    return table(
        "Before and after temperature scaling", ("metric", "before", "after"), rows, text=("metric",), half=True
    )


def confusion_section(data: OutputData) -> Section | None:
    """Which classes are taken for which, and how many of each class are found."""
    found = _first(data.result, lambda split: split.confusion or split.recall)
    if found is None:
        return None
    name, split = found
    parts: list[Part] = []
    matrix = split.confusion
    if matrix is not None and len(matrix) <= MOST_CLASSES:
        parts.append(_matrix_table(data, matrix, split.recall))
    else:
        parts += [_mistakes_table(data, matrix)] if matrix is not None else []
        parts += [_recall_table(data, split)] if split.recall is not None else []
    intro = (
        f"On {name} rows, of what is delivered. Rows of the matrix are the true classes, columns the predicted ones."
    )
    return Section("confusion", "Mistakes by class", intro, tuple(parts))


def class_name(data: OutputData, index: int) -> str:
    """The name that the job gives a class, or its number."""
    return data.class_names[index] if index < len(data.class_names) else str(index)


def _matrix_table(data: OutputData, matrix: Sequence[Sequence[int]], recall: Sequence[float | None] | None) -> Table:
    names = [class_name(data, index) for index in range(len(matrix))]
    rows: list[list[str | Cell]] = []
    for true, (name, counts) in enumerate(zip(names, matrix, strict=True)):
        total = sum(counts) or 1
        cells = [Cell(str(count), heat=round(count / total, 2)) for count in counts]
        rows.append([name, *cells, *([_share(recall[true])] if recall else [])])
    columns = ("true", *names, *(("recall",) if recall else ()))
    return table("Confusion matrix: true class by row, predicted class by column", columns, rows, text=("true",))


def _mistakes_table(data: OutputData, matrix: Sequence[Sequence[int]]) -> Table:
    mistakes = [
        (count, true, told)
        for true, counts in enumerate(matrix)
        for told, count in enumerate(counts)
        if count and true != told
    ]
    mistakes.sort(key=lambda mistake: (-mistake[0], *mistake[1:]))
    rows: list[list[str | Cell]] = [
        [class_name(data, true), class_name(data, told), str(count), f"{100 * count / sum(matrix[true]):.1f} %"]
        for count, true, told in mistakes[:MOST_MISTAKES]
    ]
    columns = ("true", "predicted", "rows", "of the class")
    return table("The most frequent mistakes", columns, rows, text=("true", "predicted"), sortable=True)


def _recall_table(data: OutputData, split: SplitScores) -> Table:
    recall, matrix = split.recall or (), split.confusion
    order = sorted(range(len(recall)), key=lambda c: (recall[c] is None, recall[c] or 0.0, c))[:MOST_RECALLS]
    rows: list[list[str | Cell]] = []
    for c in order:
        rows.append([class_name(data, c), _share(recall[c]), *([f"{sum(matrix[c]):,}"] if matrix else [])])
    columns = ("class", "recall", *(("rows",) if matrix else ()))
    return table("Recall by class, lowest first", columns, rows, text=("class",), sortable=True, half=True)


def _share(value: float | None) -> str:
    return NONE if value is None else f"{100 * value:.1f} %"


def regression_section(data: OutputData) -> Section | None:
    """Predicted against true values, residuals, and whether the members' spread tells of errors."""
    points = data.cases.points if data.cases is not None else None
    if data.cases is None or points is None or len(points.truth) < 2:
        return None
    residuals = points.predicted - points.truth
    charts: list[Part] = [
        truth_chart(points.truth, points.predicted, data.id("truth")),
        residuals_chart(residuals, data.id("residuals")),
    ]
    if data.cases.num_members > 1 and float(np.ptp(points.spread)) > 0:
        charts.append(spread_chart(points.spread, np.abs(residuals), data.id("spread")))
    intro = (
        f"The plain average of {data.cases.num_members} members on {len(residuals):,} {data.cases.split} rows, "
        f"first target."
    )
    return Section("errors", "Errors", intro, tuple(charts))


def diversity_section(data: OutputData) -> Section | None:
    """How much the members differ."""
    found = _first(data.result, lambda split: split.diversity)
    if found is None or found[1].diversity is None:
        return None
    items = tuple(_diversity_items(found[1].diversity, data.counted))
    intro = (
        f"On {found[0]} rows. An average gains only where its {data.counted}s err differently; entropies are in nats."
    )
    return Section("diversity", "Diversity", intro, (Facts(items),)) if items else None


def _diversity_items(diversity: DiversityFigures, counted: str) -> Iterator[tuple[str, str]]:
    if diversity.disagreement is not None:
        yield f"rows that two {counted}s decide differently", f"{100 * diversity.disagreement:.2f} %"
    if diversity.member_correlation is not None:
        yield f"correlation of the {counted}s' errors", f"{diversity.member_correlation:.3f}"
    for text, value in (
        ("total uncertainty (predictive entropy)", diversity.predictive_entropy),
        (f"of that in the data (the {counted}s' mean entropy)", diversity.mean_entropy),
        (f"of that between {counted}s (mutual information)", diversity.mutual_information),
        (f"spread of the {counted}s (standard deviation)", diversity.spread),
    ):
        if value is not None:
            yield text, f"{value:.4g}"


def selective_section(data: OutputData) -> Section | None:
    """Accuracy where only the surest rows are answered."""
    found = _first(data.result, lambda split: split.selective)
    if found is None:
        return None
    points = sorted(found[1].selective, key=lambda point: point.coverage)
    rows: list[list[str | Cell]] = [[f"{p.coverage:.0%}", score_text("accuracy", p.accuracy)] for p in points]
    parts: list[Part] = [selective_chart(points, data.id("selective"))] if len(points) > 1 else []
    parts.append(table("Accuracy at coverage", ("rows answered", "accuracy"), rows, half=True))
    intro = f"On {found[0]} rows: what can be had by leaving the least sure rows to a person."
    return Section("selective", "Selective prediction", intro, tuple(parts))


def _first(result: OutputResult, of: Callable[[SplitScores], object]) -> tuple[str, SplitScores] | None:
    """The first split that has something to tell."""
    return next(((name, split) for name, split in splits_of(result) if of(split)), None)
