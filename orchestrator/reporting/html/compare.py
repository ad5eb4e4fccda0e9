"""The page of a comparison: which run is better, by how much, and in what the runs differ."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING

from orchestrator.reporting.compare import SPLITS, Comparison, Differing, RunGain, delivered
from orchestrator.reporting.compare_text import (
    Judged,
    judge_pair,
    members_text,
    run_names,
    scored_on,
    short,
    why_unpaired,
)
from orchestrator.reporting.html.draw import COLORS, draw
from orchestrator.reporting.html.headline import SHOWN_METRICS, duration_text, figure_cell
from orchestrator.reporting.html.page import write_page
from orchestrator.reporting.html.parts import NONE, Cell, Chart, Key, Lines, Page, Part, Section, Table, table
from orchestrator.reporting.outputs import for_output, of_output
from orchestrator.reporting.result import Result
from orchestrator.reporting.scores import SplitName
from orchestrator.reporting.verdict import NAMES, Answer, Verdict, gain_text, headline_of, interval_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_SUREST: tuple[Answer, ...] = ("clearly", "probably", "cannot be told", "no")
"""Answers, the surest first."""


def render_comparison(comparison: Comparison, environ: Mapping[str, str] = os.environ) -> bytes:
    """The comparison as one HTML file; see `orchestrator.reporting.html.page.write_page`.

    Args:
        comparison: what to tell.
        environ: of this process, whose secrets are blotted out.
    """
    judged = [judge_pair(comparison, pair) for pair in comparison.pairs]
    sections = (_runs(comparison), _figures(comparison), _gains(comparison), _differences(comparison))
    page = Page(
        kind="Comparison of runs",
        heading=_heading(list(run_names(comparison.results).values())),
        question="Which run is better?",
        verdict=_verdict(comparison, judged),
        sections=tuple(section for section in sections if section is not None),
    )
    return write_page(page, environ)


def _heading(names: list[str]) -> str:
    return f"{names[0]} and {names[1]}" if len(names) == 2 else f"{names[0]} and {len(names) - 1} other runs"


def _verdict(comparison: Comparison, judged: list[Judged]) -> Verdict:
    by_certainty = sorted(judged, key=lambda each: _SUREST.index(each.answer))
    # `no` would say that something is bad, and there is nothing bad about runs that are equally good.
    answer = "cannot be told" if by_certainty[0].answer == "no" else by_certainty[0].answer
    if len(judged) == 1:
        return Verdict(answer, judged[0].title, judged[0].sentence, comparison.notes)
    first = next(iter(comparison.results))
    said = Counter(_short_answer(each, first) for each in by_certainty)
    counted = f"{len(judged)} comparisons" if len(comparison.outputs) > 1 else str(len(judged))
    title = f"Of {counted}, " + ", ".join(f"{count} {text}" for text, count in said.items())
    lines = tuple(f"{each.title} {each.sentence}" for each in judged)
    sentence = f"Each run is compared with {first} on the rows that both were scored on."
    return Verdict(answer, f"{title}.", sentence, (*lines, *comparison.notes))


def _short_answer(judged: Judged, first: str) -> str:
    if judged.answer == "no":
        return f"as good as {first}"
    if judged.ahead is None:
        return "cannot be told"
    return f"{judged.answer} {'worse' if judged.ahead == first else 'better'} than {first}"


def _runs(comparison: Comparison) -> Section:
    columns = ("run", "run id", "status", "members", "combined by", "total time")
    names = run_names(comparison.results)
    rows: list[list[str | Cell]] = [
        [
            name,
            names[name],
            result.status.replace("_", " "),
            members_text(result),
            result.combine + (", calibrated" if result.temperature is not None else ""),
            duration_text(result.timing["total_s"]) if "total_s" in result.timing else NONE,
        ]
        for name, result in comparison.results.items()
    ]
    intro = "Which run each letter stands for."
    return Section("runs", "Runs", intro, (table("The runs", columns, rows, text=columns),))


def _figures(comparison: Comparison) -> Section | None:
    made = (_figures_table(comparison.results, output, split) for output, split in _each(comparison))
    parts: list[Part] = [each for each in made if each is not None]
    if not parts:
        return None
    intro = (
        "What each run delivers. Below each figure is its own 95 % interval; that two of them overlap says little, the "
        "gains say more. Lower is better for all but accuracy, AUC and R²."
    )
    return Section("figures", "Figures", intro, (*parts, Lines(tuple(scored_on(comparison)))))


def _each(comparison: Comparison) -> Iterable[tuple[str, SplitName]]:
    return product(comparison.outputs, SPLITS)


def _figures_table(results: Mapping[str, Result], output: str, split: SplitName) -> Table | None:
    told = {name: delivered(result, split, output) for name, result in results.items()}
    figures = {name: figure for name, figure in told.items() if figure is not None}
    if not figures:
        return None
    metrics = [m for m in SHOWN_METRICS if any(getattr(figure, m) is not None for figure in figures.values())]
    rows: list[list[str | Cell]] = [
        [name, f"{figure.n:,}", *(figure_cell(figure, metric) for metric in metrics)]
        for name, figure in figures.items()
    ]
    columns = ("run", "rows", *(NAMES[metric] for metric in metrics))
    return table(f"On {split}{for_output(output)}", columns, rows, text=("run",))


def _gains(comparison: Comparison) -> Section:
    first = next(iter(comparison.results))
    parts: list[Part] = []
    for output, split in _each(comparison):
        pairs = [pair for pair in comparison.pairs if pair.output == output]
        found = {pair.name: [gain for gain in pair.gains if gain.split == split] for pair in pairs}
        if any(found.values()):
            rows = _Gained(output, split, first, found, comparison.outputs.index(output))
            parts += _gain_charts(rows, headline_of(of_output(comparison.results[first], output)))
            parts.append(_gains_table(rows))
    lines = [
        f"{pair.name}{for_output(pair.output)}: {line}" for pair in comparison.pairs for line in why_unpaired(pair)
    ]
    if lines:
        parts.append(Lines(tuple(lines)))
    intro = (
        f"How much better each run is than {first}. Both predictions are scored on the same resampled rows, so the "
        "interval is of the difference itself: where it lies beside 0, the difference is more than the luck of these "
        "rows. How much training anew would change is not in it."
    )
    return Section("gains", f"Gains over {first}", intro, tuple(parts))


@dataclass(frozen=True)
class _Gained:
    """Each run's gains over the first one, in an output on a split; `place` is the output's among all."""

    output: str
    split: SplitName
    first: str
    found: Mapping[str, list[RunGain]]
    place: int

    @property
    def rows(self) -> str:
        return f"{self.split}{for_output(self.output)}"


def _gains_table(gained: _Gained) -> Table:
    rows: list[list[str | Cell]] = [
        [
            f"{name} over {gained.first}",
            NAMES[gain.metric],
            gain_text(gain.metric, gain.gain),
            interval_text(gain.metric, gain.low, gain.high),
        ]
        for name, gains in gained.found.items()
        for gain in gains
    ]
    columns = ("gain", "metric", "better by", "95 % interval")
    caption = f"Gains on {gained.rows}: above 0 is better, whichever way the metric points"
    return table(caption, columns, rows, text=columns[:2])


def _gain_charts(gained: _Gained, headline: str) -> Iterator[Chart]:
    for metric in (headline, "mae" if headline == "rmse" else "nll"):
        gains = {name: gain for name, own in gained.found.items() for gain in own if gain.metric == metric}
        if gains:
            yield _gain_chart(gained, metric, gains)


def _gain_chart(gained: _Gained, metric: str, gains: Mapping[str, RunGain]) -> Chart:
    scale, unit = (100, " (percentage points)") if metric == "accuracy" else (1, "")
    places = range(len(gains))

    def paint(axes: Axes) -> None:
        axes.axvline(0, color=COLORS["muted"], dashes=(3, 2), linewidth=1)
        ends = [(scale * gain.low, scale * gain.high) for gain in gains.values()]
        axes.hlines(places, [low for low, _ in ends], [high for _, high in ends], color=COLORS["c1"], linewidth=3)
        axes.plot([scale * gain.gain for gain in gains.values()], places, "o", color=COLORS["c1"], markersize=7)
        axes.set_yticks(places, list(gains))
        axes.set_ylim(len(gains) - 0.4, -0.6)
        axes.grid(visible=False)
        axes.set_xlabel(f"better by{unit}")

    told = (f"{name} {gain_text(metric, gain.gain)}" for name, gain in gains.items())
    alt = f"gains in {NAMES[metric]} over {gained.first} on {gained.rows}: {', '.join(told)}"
    keys = (Key("gain and its 95 % interval", "c1"), Key(f"no better than {gained.first}", "muted", "dashed"))
    height = 0.9 + 0.32 * max(len(gains), 2)
    svg = draw(f"gain-{gained.place}-{gained.split}-{metric}", alt, paint, height=height)
    return Chart(svg, f"Gain in {NAMES[metric]} on {gained.rows}: right of 0 is better than {gained.first}.", keys)


def _differences(comparison: Comparison) -> Section:
    parts: list[Part] = []
    for caption, title, rows in (
        ("What was asked", "key of the job", comparison.spec),
        ("What it was made with", "made with", comparison.origins),
    ):
        if rows:
            parts.append(_differing_table(caption, title, comparison, rows))
    intro = "Only what is not the same in all of them."
    if not parts:
        intro = "Job, code, data and versions are the same in all of them, as far as they are known."
    return Section("differences", "Differences", intro, tuple(parts))


def _differing_table(caption: str, title: str, comparison: Comparison, rows: tuple[Differing, ...]) -> Table:
    columns = (title, *comparison.results)
    cells: list[list[str | Cell]] = [[row.key, *map(short, row.values)] for row in rows]
    return table(caption, columns, cells, text=columns)
