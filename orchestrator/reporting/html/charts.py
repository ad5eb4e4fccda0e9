"""Charts of what the ensemble is worth, and of how the run went."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from orchestrator.reporting.html.draw import COLORS, WIDE, draw
from orchestrator.reporting.html.parts import Chart, Key
from orchestrator.reporting.result import WeightsResult
from orchestrator.reporting.scores import Calibration, CoveragePoint, ReliabilityBin
from orchestrator.reporting.timeline import Span, Timeline

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Float64 = npt.NDArray[np.float64]

MOST_BARS = 48
"""Weights that are drawn bar by bar; more are drawn as one outline."""

_OUTCOMES = {"published": "c1", "late": "c3", "preempted": "c4", "node_lost": "c4"}
"""Colours of attempts by how they ended; all other endings are failures."""

_FAILED = "c5"


def weights_chart(weights: WeightsResult, name: str = "weights", counted: str = "member") -> Chart:
    """The weight of each member (`counted`), beside the one that a plain average gives."""
    places, even = np.arange(len(weights.values)), 1 / len(weights.values)

    def paint(axes: Axes) -> None:
        if len(places) <= MOST_BARS:
            axes.bar(places, weights.values, color=COLORS["c1"], width=0.7)
            step = -(-len(places) // 12)
            axes.set_xticks(places[::step], [str(member) for member in weights.members[::step]])
        else:
            axes.stairs(sorted(weights.values, reverse=True), color=COLORS["c1"], fill=True)
        axes.axhline(even, color=COLORS["c2"], dashes=(3, 2))
        axes.set_title("weight")
        axes.set_xlabel(counted if len(places) <= MOST_BARS else f"{counted}s, from the heaviest on")

    keys = (Key("weight", "c1", "band"), Key("plain average", "c2", "dashed"))
    alt = f"weights of {len(places)} {counted}s, from {min(weights.values):.3g} to {max(weights.values):.3g}"
    return Chart(draw(name, alt, paint), f"The {counted}s' weights.", keys)


def reliability_chart(calibration: Calibration, name: str = "reliability") -> Chart:
    """How often predictions are right, by how sure they are, before and after temperature scaling."""

    def paint(axes: Axes) -> None:
        axes.plot([0, 1], [0, 1], color=COLORS["muted"], dashes=(1, 2), linewidth=1)
        _paint_bins(axes, calibration.reliability_before, COLORS["c2"], ())
        _paint_bins(axes, calibration.reliability_after, COLORS["c1"], (3, 2))
        axes.set_title("share that is right")
        axes.set_xlabel("confidence")
        axes.set_ylim(-0.02, 1.02)

    keys = (Key("before", "c2"), Key("after scaling", "c1", "dashed"), Key("perfect", "muted", "dashed"))
    before, after = calibration.before.ece, calibration.after.ece
    told = "" if before is None or after is None else f"; calibration error {before:.3f} before, {after:.3f} after"
    alt = f"reliability diagram{told}"
    caption = "Below the diagonal predictions are surer than right; the larger a dot, the more rows it stands for."
    return Chart(draw(name, alt, paint), caption, keys)


def _paint_bins(axes: Axes, bins: Sequence[ReliabilityBin], color: str, dashes: Sequence[int]) -> None:
    filled = [each for each in bins if each.count]
    if not filled:
        return
    confidence, accuracy = [each.confidence for each in filled], [each.accuracy for each in filled]
    most = max(each.count for each in filled)
    axes.plot(confidence, accuracy, color=color, dashes=dashes)
    axes.scatter(confidence, accuracy, [8 + 40 * each.count / most for each in filled], color=color, linewidths=0)


def selective_chart(points: Sequence[CoveragePoint], name: str = "selective") -> Chart:
    """Accuracy where only the surest part of the rows is answered."""

    def paint(axes: Axes) -> None:
        axes.plot([p.coverage for p in points], [p.accuracy for p in points], "o-", color=COLORS["c1"], markersize=4)
        axes.set_title("accuracy")
        axes.set_xlabel("share of the rows that is answered")

    alt = f"accuracy by coverage, from {points[0].accuracy:.3f} at {points[0].coverage:.0%} of the rows"
    return Chart(draw(name, alt, paint), "Accuracy on the rows of which the prediction is surest.")


def timeline_chart(timeline: Timeline) -> Chart:
    """Attempts in the colour of their end: a line for each, the waiting before it; of many, one for each worker."""
    spans, dense = timeline.spans, len(timeline.spans) > MOST_BARS
    rows = [timeline.workers.index(span.worker) if dense else row for row, span in enumerate(spans)]
    num_rows = max(rows) + 1
    height = min(1.0 + 0.17 * num_rows, 8.0)
    thick = max(0.8, min(9.0, 55 * (height - 0.85) / num_rows))

    def paint(axes: Axes) -> None:
        if not dense:
            since, begin = [s.since - timeline.began for s in spans], [s.begin - timeline.began for s in spans]
            axes.hlines(rows, since, begin, color=COLORS["muted"], alpha=0.4, linewidth=1.5)
        told = dict.fromkeys(sorted(map(_color, spans)))  # failures last, for they lie above what is published
        for color in told:
            chosen = [(row, span) for row, span in zip(rows, spans, strict=True) if _color(span) == color]
            begin, end = [s.begin - timeline.began for _, s in chosen], [s.end - timeline.began for _, s in chosen]
            places = [row for row, _ in chosen]
            axes.hlines(places, begin, end, color=COLORS[color], linewidth=thick, capstyle="butt")
        for start in timeline.starts[1:]:
            axes.axvline(start - timeline.began, color=COLORS["ink"], dashes=(2, 2), linewidth=1)
        names = timeline.workers if dense else _names(spans)
        step = -(-len(names) // MOST_BARS)
        axes.set_yticks(range(0, num_rows, step), names[::step])
        axes.set_ylim(num_rows - 0.4, -0.6)
        axes.grid(visible=False)
        axes.set_xlabel("seconds since the run began")

    keys = [] if dense else [Key("waiting", "muted", "band")]
    ends = {"c1": "published", "c3": "published late", "c4": "node taken or lost", "c5": "failed"}
    keys += [Key(ends[color], color, "band") for color in ends if any(_color(span) == color for span in spans)]
    if len(timeline.starts) > 1:
        keys.append(Key("another coordinator took over", "ink", "dashed"))
    alt = f"timeline of {len(spans)} attempts on {len(timeline.workers)} workers over {_span_s(timeline):.0f} seconds"
    line = "worker" if dense else "attempt at a member, sorted by worker; #n is member n"
    caption = f"Each line is one {line}. Times are by the writers' own clocks."
    return Chart(draw("timeline", alt, paint, width=WIDE, height=height, left=0.95), caption, tuple(keys), half=False)


def _names(spans: Sequence[Span]) -> list[str]:
    """The member of each attempt; at the first one of a worker, the worker too."""
    before = [None, *(span.worker for span in spans)]
    return [
        f"#{span.member}" if span.worker == last else f"{span.worker}  #{span.member}"
        for span, last in zip(spans, before, strict=False)
    ]


def _color(span: Span) -> str:
    return _OUTCOMES.get(span.outcome, _FAILED)


def _span_s(timeline: Timeline) -> float:
    return timeline.ended - timeline.began


def truth_chart(truth: Float64, predicted: Float64, name: str = "truth") -> Chart:
    """Regression: predicted against true values [K]."""

    def paint(axes: Axes) -> None:
        low, high = min(truth.min(), predicted.min()), max(truth.max(), predicted.max())
        axes.plot([low, high], [low, high], color=COLORS["muted"], dashes=(1, 2), linewidth=1)
        axes.plot(truth, predicted, "o", color=COLORS["c1"], markersize=3, alpha=0.5, markeredgewidth=0)
        axes.set_title("predicted")
        axes.set_xlabel("true")

    alt = f"predicted against true values of {len(truth)} rows"
    return Chart(draw(name, alt, paint), "Predicted against true values; on the dotted line they agree.")


def residuals_chart(residuals: Float64, name: str = "residuals") -> Chart:
    """Regression: how the errors [K] are spread."""

    def paint(axes: Axes) -> None:
        counts, edges = np.histogram(residuals, bins=min(30, max(5, len(residuals) // 8)))
        axes.stairs(counts, edges, color=COLORS["c1"], fill=True)
        axes.axvline(0, color=COLORS["muted"], dashes=(1, 2), linewidth=1)
        axes.set_title("rows")
        axes.set_xlabel("predicted − true")

    alt = f"histogram of residuals, mean {residuals.mean():.3g}, standard deviation {residuals.std():.3g}"
    caption = f"Residuals: mean {residuals.mean():.3g}, standard deviation {residuals.std():.3g}."
    return Chart(draw(name, alt, paint), caption)


def spread_chart(spread: Float64, errors: Float64, name: str = "spread") -> Chart:
    """Regression: whether members disagree where the ensemble errs; [K] standard deviations and absolute errors."""
    order = np.argsort(spread, kind="stable")
    groups = [group for group in np.array_split(order, min(10, len(order))) if len(group)]
    means = [(float(spread[group].mean()), float(errors[group].mean())) for group in groups]

    def paint(axes: Axes) -> None:
        axes.plot([x for x, _ in means], [y for _, y in means], "o-", color=COLORS["c1"], markersize=4)
        axes.set_title("mean absolute error")
        axes.set_xlabel("spread of the members (standard deviation)")

    told = f"{means[0][1]:.3g} at the smallest, {means[-1][1]:.3g} at the largest"
    alt = f"mean absolute error by the members' spread, {told}"
    caption = "A rising line: where members disagree, the ensemble errs more, so the spread tells how far to trust it."
    return Chart(draw(name, alt, paint), caption)
