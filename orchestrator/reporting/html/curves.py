"""Charts over epochs and over the size of the ensemble."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from orchestrator.planning.outputs import ONLY, owner_of
from orchestrator.planning.stages import NO_METRICS
from orchestrator.reporting.html.draw import COLORS, SERIES, draw
from orchestrator.reporting.html.parts import Chart, Key
from orchestrator.reporting.result import MemberResult
from orchestrator.reporting.scores import CurvePoint
from orchestrator.reporting.verdict import NAMES

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Float64 = npt.NDArray[np.float64]

MOST_LINES = 40
"""Members that are drawn line by line; more become a band."""

MOST_COLORS = len(SERIES)
"""Members that can be told apart by colour; of more, colours tell training from validation."""


@dataclass(frozen=True)
class History:
    """What a member left of its training: `epochs` [E], and values [E] of each metric (NaN where it has none)."""

    member: MemberResult
    epochs: npt.NDArray[np.int64]
    values: Mapping[str, Float64]


def history_of(member: MemberResult, rows: Sequence[Mapping[str, float]]) -> History:
    """A member's stored history in columns."""
    names = dict.fromkeys(name for row in rows for name in row if name not in NO_METRICS)
    values = {name: np.array([row.get(name, np.nan) for row in rows], np.float64) for name in names}
    return History(member, np.array([int(row["epoch"]) for row in rows], np.int64), values)


def learning_charts(histories: Sequence[History], outputs: Sequence[str] = (ONLY,)) -> list[Chart]:
    """Loss over epochs, and the metric of each output that tells most: its own loss where it has no other. Training and
    validation, best and last epoch marked."""
    names = {name for history in histories for name in history.values}
    shown = {"learning-loss": "loss"}
    for place, output in enumerate(outputs):
        chart = f"learning-metric-{place}" if output else "learning-metric"
        own = {name for name in names if not output or owner_of(name, outputs) == output}
        shown[chart] = _metric(own) or (f"{output}_loss" if output else "")
    return [_learning_chart(histories, name, chart) for chart, name in shown.items() if name in names]


def _metric(names: set[str]) -> str:
    """The first metric that is no loss, an accuracy where there is one."""
    metrics = sorted(n for n in names if not n.startswith("val_") and not n.endswith("loss") and n != "learning_rate")
    return next((n for n in metrics if n.endswith(("accuracy", "acc"))), metrics[0] if metrics else "")


def _learning_chart(histories: Sequence[History], name: str, chart: str) -> Chart:
    """`name` is what Keras reported, which a user may have named; `chart` is ours."""
    single = len(histories) <= MOST_COLORS
    drawn = [histories[n] for n in _spread_evenly(len(histories), MOST_LINES)]
    validated = any(f"val_{name}" in history.values for history in histories)

    def paint(axes: Axes) -> None:
        for n, history in enumerate(drawn):
            color = COLORS[SERIES[n]] if single else None
            _paint_member(axes, history, name, color, dense=not single, alone=not validated)
        if len(histories) > MOST_LINES:
            for column, color in ((name, "c1"), (f"val_{name}", "c2")):
                _paint_band(axes, histories, column, COLORS[color])
        _whole_numbers(axes)
        _without_outliers(axes, histories, (name, f"val_{name}"))
        axes.set_title(name)
        axes.set_xlabel("epoch")

    if single:
        keys = [Key(f"member {history.member.index}", SERIES[n]) for n, history in enumerate(histories)]
        keys += [Key("training", "muted", "dashed"), Key("validation", "muted")] if validated else []
    else:
        keys = [Key("training", "c1", "dashed"), *([Key("validation", "c2")] if validated else [])]
    keys.append(Key("best epoch", "muted", "dot"))
    if any(history.member.stopped_epoch for history in drawn):
        keys.append(Key("stopped early", "muted", "bar"))
    band = ""
    if len(histories) > MOST_LINES:
        band = f"; {len(drawn)} of {len(histories)} members are drawn, the band holds 90 % of all of them"
        keys.append(Key("90 % of the members", "muted", "band"))
    alt = f"{name} over epochs of {len(histories)} members, training and validation"
    return Chart(draw(chart, alt, paint), f"The members' {name} over epochs{band}.", tuple(keys))


def _paint_member(axes: Axes, history: History, name: str, color: str | None, *, dense: bool, alone: bool) -> None:
    """A member's two lines; its marks stand on the line of validation, where there is one."""
    style: dict[str, Any] = {"linewidth": 0.8, "alpha": 0.45} if dense else {}
    marked = name if alone else f"val_{name}"
    for column, own, dashes in ((name, "c1", (3, 2)), (f"val_{name}", "c2", ())):
        if column in history.values:
            line = color or COLORS[own]
            axes.plot(history.epochs, history.values[column], color=line, dashes=dashes, **style)
    if marked not in history.values:
        return
    line, member = color or COLORS["c1" if alone else "c2"], history.member
    for epoch, marker, size in ((member.best_epoch, "o", 4.5), (member.stopped_epoch, "|", 9)):
        at = history.epochs == epoch
        if at.any():
            axes.plot(
                history.epochs[at],
                history.values[marked][at],
                marker,
                color=line,
                markersize=size * (0.7 if dense else 1),
            )


def _paint_band(axes: Axes, histories: Sequence[History], column: str, color: str) -> None:
    """Between the 5th and the 95th of a hundred members, epoch by epoch, as long as ten members go on."""
    columns = [(h.epochs, h.values[column]) for h in histories if column in h.values]
    last = max((int(epochs[-1]) for epochs, _ in columns if len(epochs)), default=0)
    table = np.full((len(columns), last), np.nan)
    for row, (epochs, values) in enumerate(columns):
        table[row, epochs - 1] = values
    epochs = np.flatnonzero(np.isfinite(table).sum(axis=0) >= min(10, len(columns))) + 1
    if len(epochs):
        low, high = np.nanpercentile(table[:, epochs - 1], (5, 95), axis=0)
        axes.fill_between(epochs, low, high, color=color, alpha=0.18, linewidth=0)


def _without_outliers(axes: Axes, histories: Sequence[History], columns: Sequence[str]) -> None:
    """A member that diverged would press all others into a line: what lies far above nearly everything is cut off."""
    found = [history.values[column] for history in histories for column in columns if column in history.values]
    values = np.concatenate(found) if found else np.empty(0)
    values = values[np.isfinite(values)]
    if len(values) and values.max() > 4 * (top := float(np.percentile(values, 97))) > 0:
        axes.set_ylim(top=1.5 * top)


def size_chart(points: Sequence[CurvePoint], split: str, name: str = "size", counted: str = "member") -> Chart:
    """The score of the plain average over the number of its members (`counted`), with the spread over orders.

    `name`, as of all charts, tells its ids from those of others on the page.
    """
    metric = points[0].metric
    sizes = [point.members for point in points]

    def paint(axes: Axes) -> None:
        axes.fill_between(
            sizes, [p.low for p in points], [p.high for p in points], color=COLORS["c1"], alpha=0.18, linewidth=0
        )
        axes.plot(sizes, [p.mean for p in points], "o-", color=COLORS["c1"], markersize=3.5)
        axes.plot(sizes, [p.in_order for p in points], color=COLORS["c2"], dashes=(3, 2))
        if sizes[-1] > 30:
            axes.set_xscale("log", base=2)
            axes.set_xticks(sizes[:: max(1, len(sizes) // 6)], [str(n) for n in sizes[:: max(1, len(sizes) // 6)]])
            axes.minorticks_off()
        else:
            _whole_numbers(axes)
        axes.set_title(NAMES[metric])
        axes.set_xlabel(f"{counted}s")

    keys = (
        Key("mean over orders", "c1"),
        Key("lowest to highest", "c1", "band"),
        Key("by index", "c2", "dashed"),
    )
    span = f"from {points[0].mean:.4g} to {points[-1].mean:.4g}"
    alt = f"{NAMES[metric]} on {split} over the number of {counted}s, {span}"
    caption = f"Of the plain average on {split} rows, by how many {counted}s it has."
    return Chart(draw(f"{name}-{metric}", alt, paint), caption, keys)


def _whole_numbers(axes: Axes) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True, min_n_ticks=1))
    axes.yaxis.set_major_locator(MaxNLocator(nbins=5))


def _spread_evenly(count: int, most: int) -> list[int]:
    """At most `most` of `count` places, the first and the last among them."""
    return sorted({round(n) for n in np.linspace(0, count - 1, min(count, most))}) if count else []
