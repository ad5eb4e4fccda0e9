"""The first thing that a reader sees: the answer, the figures it rests on, and what flatters them."""

from __future__ import annotations

from collections.abc import Iterator

from orchestrator.reporting.html.parts import NONE, Cell, Facts, Lines, Part, Section, Table, table
from orchestrator.reporting.outputs import OutputResult, deciding, for_output
from orchestrator.reporting.report import OutputData
from orchestrator.reporting.result import Result
from orchestrator.reporting.scores import Figure, FigureName, Gain, SplitScores
from orchestrator.reporting.selection import COUNTED
from orchestrator.reporting.verdict import NAMES, gain_text, headline_of, score_text, spoken, was_it_worth_it

FIGURES: tuple[FigureName, ...] = ("ensemble", "weighted", "best_member", "members_mean")
SHOWN_METRICS = ("accuracy", "top_k", "nll", "brier", "ece", "auc", "rmse", "mae", "r2", "gaussian_nll")


def splits_of(result: OutputResult) -> Iterator[tuple[str, SplitScores]]:
    """The splits that were scored; test first, whose rows were used for nothing else."""
    found = (("test", result.test), ("out-of-fold", result.out_of_fold), ("validation", result.validation))
    for name, split in found:
        if split is not None:
            yield name, split


def figures_section(data: OutputData) -> Section | None:
    """All figures of each split, with intervals, gains and the rows that they are of."""
    parts: list[Part] = []
    for name, split in splits_of(data.result):
        parts.append(_figures_table(data.result, name, split))
        if split.gains:
            parts.append(_gains_table(data.result, name, split.gains))
        parts.append(Lines(tuple(_scored_on(data.result, split))))
    if not parts:
        return None
    intro = (
        "Below each figure stands its 95 % interval (paired bootstrap over the rows). Lower is better for all but "
        "accuracy, AUC and R²."
    )
    return Section("figures", "Figures", intro, tuple(parts))


def output_section(data: OutputData) -> Section:
    """Of one output among several: was the ensemble worth it there?"""
    verdict = was_it_worth_it(data.result)
    intro = f"Was the ensemble worth it? {verdict.title} {verdict.sentence}"
    items = tuple(_score_tiles(data.result, ""))
    return Section(data.id("output"), data.result.output, intro, (Facts(items),) if items else ())


def tiles(result: Result) -> Facts | None:
    """The few numbers to remember: of what is delivered, of the best member and of the mean member."""
    own = deciding(result)
    items = list(_score_tiles(own, for_output(own.output)))
    if not items:
        return None
    items.append(("members in the ensemble", f"{_num_counted(result)} of {len(result.members)}"))
    if "total_s" in result.timing:
        items.append(("from the first start to the result", duration_text(result.timing["total_s"])))
    return Facts(tuple(items))


def _score_tiles(result: OutputResult, of_what: str) -> Iterator[tuple[str, str]]:
    split = next((split for _, split in splits_of(result)), None)
    metric = headline_of(result)
    for name in dict.fromkeys((result.delivered, "best_member", "members_mean")):
        figure: Figure | None = getattr(split, name, None)
        if figure is not None:
            value = score_text(metric, getattr(figure, metric))
            yield f"{NAMES[metric]} of {_spoken(result, name, figure)}{of_what}", value


def duration_text(seconds: float) -> str:
    """`42 s`, `3 min 5 s`, `2 h 14 min`."""
    if seconds < 60:
        return f"{seconds:.3g} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def _num_counted(result: Result) -> int:
    return sum(member.status in COUNTED for member in result.members)


def _spoken(result: OutputResult, name: FigureName, figure: Figure) -> str:
    told = spoken(result, name)
    return told if figure.member is None else f"{told} ({figure.member})"


def _figures_table(result: OutputResult, name: str, split: SplitScores) -> Table:
    found: list[tuple[FigureName, Figure]] = [(n, f) for n in FIGURES if (f := getattr(split, n)) is not None]
    metrics = [metric for metric in SHOWN_METRICS if any(getattr(figure, metric) is not None for _, figure in found)]
    rows: list[list[str | Cell]] = []
    for figure_name, figure in found:
        is_delivered = " — delivered" if figure_name == result.delivered else ""
        cells = [figure_cell(figure, metric) for metric in metrics]
        rows.append([f"{_spoken(result, figure_name, figure)}{is_delivered}", *cells])
    rows_text = f"{found[0][1].n:,} row{'s' if found[0][1].n > 1 else ''}"
    return table(f"On {name} ({rows_text})", ("figure", *(NAMES[m] for m in metrics)), rows, text=("figure",))


def figure_cell(figure: Figure, metric: str) -> Cell:
    """A figure with its interval below it, where it has one."""
    value = score_text(metric, getattr(figure, metric))
    interval = figure.intervals.get(metric)
    if interval is None:
        return Cell(value)
    low, high = score_text(metric, interval.low), score_text(metric, interval.high)
    return Cell(value, note=f"{low.removesuffix(' %')} to {high.removesuffix(' %')}")


def _gains_table(result: OutputResult, name: str, gains: tuple[Gain, ...]) -> Table:
    rows: list[list[str | Cell]] = [
        [
            f"{spoken(result, gain.of)} over {spoken(result, gain.over)}",
            NAMES[gain.metric],
            gain_text(gain.metric, gain.gain),
            f"{gain_text(gain.metric, gain.interval.low)} to {gain_text(gain.metric, gain.interval.high)}",
        ]
        for gain in gains
    ]
    columns = ("gain", "metric", "better by", "95 % interval")
    return table(
        f"Gains on {name}: above 0 is better, whichever way the metric points", columns, rows, text=columns[:2]
    )


def _scored_on(result: OutputResult, split: SplitScores) -> Iterator[str]:
    """Which rows each figure is of, and what else they were used for; figures of equal rows share a line."""
    by_rows: dict[str, list[str]] = {}
    for name in FIGURES:
        figure: Figure | None = getattr(split, name)
        if figure is not None:
            by_rows.setdefault(figure.scored_on, []).append(spoken(result, name))
            for metric, optimism in figure.optimism.items():
                if metric == "accuracy" or metric == "rmse":
                    naive = score_text(metric, figure.naive.get(metric))
                    yield (
                        f"{spoken(result, name)}: {naive} {NAMES[metric]} on the rows that fitted it, "
                        f"{gain_text(metric, optimism)} of that is optimism"
                    )
    for rows, names in by_rows.items():
        yield f"{', '.join(names)}: scored on {rows or NONE}"
