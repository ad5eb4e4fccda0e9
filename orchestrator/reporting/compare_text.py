"""A comparison in words, as a table for a terminal, and as plain values."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from itertools import product
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from orchestrator.reporting.compare import SPLITS, Comparison, Differing, Pair, RunGain, delivered
from orchestrator.reporting.outputs import for_output, of_output
from orchestrator.reporting.result import Result
from orchestrator.reporting.scores import Figure, SplitName
from orchestrator.reporting.selection import COUNTED
from orchestrator.reporting.tables import plain_table, to_text
from orchestrator.reporting.verdict import (
    NAMES,
    Answer,
    compared,
    gain_text,
    headline_of,
    interval_text,
    judge,
    score_text,
)

SHOWN = ("accuracy", "nll", "rmse", "mae")
"""Metrics of the table in the terminal; a page and the plain values have them all."""

HEADLINES = ("accuracy", "rmse")
"""Those of the table where there are several outputs."""


@dataclass(frozen=True)
class Judged:
    """Which of two runs is better.

    Attributes:
        answer: how sure that is; `no`: there is no difference.
        ahead: letter of the better one; None where there is none, or where it cannot be told.
        title, sentence: the same in words; the sentence says what was compared, or why nothing can be.
    """

    answer: Answer
    ahead: str | None
    title: str
    sentence: str


def judge_pair(comparison: Comparison, pair: Pair) -> Judged:
    """Whether a run or the first one is better: test rows decide where they tell, else validation rows.

    The answer is that of the headline metric; where that cannot tell, does not lean the other way, and the
    probabilities of one are clearly better, it is `probably`. See `orchestrator.reporting.verdict.judge` for the words.
    """
    first = next(iter(comparison.results))
    split, gains = _decisive(pair)
    if split is None:
        reasons = "; ".join(f"on {splits} {reason}" for splits, reason in _reasons(pair))
        sentence = f"There is no interval of the difference between {pair.name} and {first}: {reasons}."
        return Judged("cannot be told", None, _title("cannot be told", pair.name, first, pair.output), sentence)
    metric = headline_of(of_output(comparison.results[first], pair.output))
    main, second = gains[metric], gains.get("nll")
    answer, is_better = _judge_both(main, second)
    ahead, behind = (pair.name, first) if is_better else (first, pair.name)
    sentence = f"{_scores(comparison, pair, split, metric, first)}: {pair.name} is {_compared(main)} {first}."
    if second is not None:
        its = "But its" if main.gain * second.gain < 0 else "Its"
        sentence += f" {its} {NAMES['nll']} is {_compared(second)} that of {first}."
    told = answer in ("clearly", "probably")
    names = (ahead, behind) if told else (pair.name, first)
    return Judged(answer, ahead if told else None, _title(answer, *names, pair.output), sentence)


def comparison_text(comparison: Comparison, width: int = 100, color: bool = False) -> str:
    """The comparison as text of at most `width` columns, with ANSI colours if `color`."""
    parts: list[RenderableType] = [_runs_table(comparison), ""]
    for title, rows in (("key of the job", comparison.spec), ("made with", comparison.origins)):
        if rows:
            parts += [_differing_table(title, comparison, rows), ""]
    if any(pair.gains for pair in comparison.pairs):
        parts += [_gains_table(comparison), ""]
    for pair in comparison.pairs:
        judged = judge_pair(comparison, pair)
        parts += [Text(judged.title, style="bold"), Text(judged.sentence), *map(Text, why_unpaired(pair)), ""]
    parts += map(Text, (*scored_on(comparison), *comparison.notes))
    return to_text(Group(*parts), width, color)


def comparison_json(comparison: Comparison) -> dict[str, Any]:
    """The comparison as plain values."""
    first = next(iter(comparison.results))
    return {
        "runs": [{"name": name, **_run_json(result)} for name, result in comparison.results.items()],
        "spec": [asdict(row) for row in comparison.spec],
        "origins": [asdict(row) for row in comparison.origins],
        "pairs": [{"over": first, **asdict(pair), **asdict(judge_pair(comparison, pair))} for pair in comparison.pairs],
        "notes": list(comparison.notes),
    }


def short(value: str) -> str:
    """A digest as people compare it: its first 12 digits; all else as it is."""
    return value[:12] if len(value) == 64 and set(value) <= set("0123456789abcdef") else value


def run_names(results: Mapping[str, Result]) -> dict[str, str]:
    """The run id behind each letter; where runs of several jobs share one, the folder of each run."""
    ids = [result.run_id for result in results.values()]
    return {
        name: result.run_id if ids.count(result.run_id) == 1 else result.artifacts["spec"].removesuffix("/spec.json")
        for name, result in results.items()
    }


def members_text(result: Result) -> str:
    """How many members are in the ensemble, and how many there are."""
    return f"{sum(member.status in COUNTED for member in result.members)} of {len(result.members)}"


def _decisive(pair: Pair) -> tuple[SplitName | None, dict[str, RunGain]]:
    for split in SPLITS:
        gains = {gain.metric: gain for gain in pair.gains if gain.split == split}
        if gains:
            return split, gains
    return None, {}


def _judge_both(main: RunGain, second: RunGain | None) -> tuple[Answer, bool]:
    """The answer of the headline metric, where it has one, else that of the other."""
    answer, is_better = _judge_either(main)
    if second is None or answer in ("clearly", "probably"):
        return answer, is_better
    other, is_better = _judge_either(second)
    if other == "clearly" and main.gain * second.gain >= 0:
        return "probably", is_better
    return ("no" if answer == other == "no" else "cannot be told"), is_better


def _judge_either(gain: RunGain) -> tuple[Answer, bool]:
    """How sure it is which one is better, and whether it is the run rather than the first."""
    if gain.gain == 0:
        return ("no" if gain.low == gain.high == 0 else "cannot be told"), False
    if gain.gain > 0:
        return judge(gain.gain, gain.low, gain.high), True
    return judge(-gain.gain, -gain.high, -gain.low), False


def _title(answer: Answer, one: str, other: str, output: str) -> str:
    match answer:
        case "clearly" | "probably":
            return f"{one} is {answer} better than {other}{for_output(output)}."
        case "no":
            return f"{one} and {other} are equally good{for_output(output)}."
        case _:
            return f"It cannot be told whether {one} or {other} is better{for_output(output)}."


def _compared(gain: RunGain) -> str:
    return compared(gain.metric, gain.gain, gain.low, gain.high)


def _scores(comparison: Comparison, pair: Pair, split: SplitName, metric: str, first: str) -> str:
    """`On test (361 rows), the accuracy of B is 97.20 % and that of A 95.50 %`."""
    names = (pair.name, first)
    figures = [delivered(comparison.results[name], split, pair.output) for name in names]
    told = [score_text(metric, None if figure is None else getattr(figure, metric)) for figure in figures]
    rows = "" if figures[0] is None else f" ({figures[0].n:,} row{'s' if figures[0].n > 1 else ''})"
    metric_text = f"{NAMES[metric]}{for_output(pair.output)}"
    return f"On {split}{rows}, the {metric_text} of {names[0]} is {told[0]} and that of {names[1]} {told[1]}"


def why_unpaired(pair: Pair) -> Iterator[str]:
    """Why there is no interval on a split, and what is uneven about those that there are.

    Where there is none at all, the sentence of `judge_pair` says it.
    """
    if pair.gains:
        yield from (f"On {splits} there is no such interval: {reason}." for splits, reason in _reasons(pair))
    yield from pair.notes


def _reasons(pair: Pair) -> Iterator[tuple[str, str]]:
    """`test and validation`, and why there is nothing of both."""
    splits: dict[str, list[str]] = {}
    for split, reason in pair.unpaired.items():
        splits.setdefault(reason, []).append(split)
    yield from ((" and ".join(names), reason) for reason, names in splits.items())


def scored_on(comparison: Comparison) -> Iterator[str]:
    """Which rows each run was scored on; runs of which the same is to be said share a line, and so do outputs."""
    names: dict[str, dict[str, list[str]]] = {}
    for split, output in product(SPLITS, comparison.outputs):
        for name, result in comparison.results.items():
            figure = delivered(result, split, output)
            if figure is not None:
                names.setdefault(figure.scored_on, {}).setdefault(output, []).append(name)
    for rows, by_output in names.items():
        alike: dict[str, list[str]] = {}
        for output, of in by_output.items():
            alike.setdefault(", ".join(of), []).append(output)
        for of_runs, outputs in alike.items():
            told = "" if set(outputs) == set(comparison.outputs) else for_output(", ".join(outputs))
            yield f"{of_runs}{told}: scored on {rows}"


def _runs_table(comparison: Comparison) -> RenderableType:
    results = comparison.results
    shown = SHOWN if len(comparison.outputs) == 1 else HEADLINES
    columns = [
        (output, split, metric)
        for output, split, metric in product(comparison.outputs, SPLITS, shown)
        if any(getattr(delivered(result, split, output), metric, None) is not None for result in results.values())
    ]
    table = plain_table()
    for heading in ("", "run", "status", "delivers"):
        table.add_column(heading, overflow="fold")
    table.add_column("members", justify="right")
    for output, split, metric in columns:
        heading = f"{output}\n{split}\n{metric}" if output else f"{split}\n{metric}"
        table.add_column(heading, justify="right", no_wrap=True)
    names = run_names(results)
    for name, result in results.items():
        figures: list[tuple[Figure | None, str]] = [
            (delivered(result, split, output), metric) for output, split, metric in columns
        ]
        told = [score_text(metric, None if figure is None else getattr(figure, metric)) for figure, metric in figures]
        texts = (name, names[name], result.status.replace("_", " "), result.combine, members_text(result), *told)
        table.add_row(*map(Text, texts))
    return table


def _differing_table(title: str, comparison: Comparison, rows: tuple[Differing, ...]) -> RenderableType:
    table = plain_table()
    for heading in (title, *comparison.results):
        table.add_column(heading, overflow="fold")
    for row in rows:
        table.add_row(*(Text(short(cell)) for cell in (row.key, *row.values)))
    return table


def _gains_table(comparison: Comparison) -> RenderableType:
    first = next(iter(comparison.results))
    table = plain_table()
    for heading in (f"compared with {first}", "on", "metric"):
        table.add_column(heading)
    for heading in ("better by", "95 % interval"):
        table.add_column(heading, justify="right", no_wrap=True)
    for pair in comparison.pairs:
        for gain in pair.gains:
            ends = interval_text(gain.metric, gain.low, gain.high)
            table.add_row(
                f"{pair.name}{for_output(pair.output)}",
                gain.split,
                NAMES[gain.metric],
                gain_text(gain.metric, gain.gain),
                ends,
            )
    return table


def _run_json(result: Result) -> dict[str, Any]:
    figures: dict[str, Any] = {}
    for split, output in product(SPLITS, result.outputs):
        figure = delivered(result, split, output)
        if figure is not None:
            told = figure.model_dump(mode="json")
            figures[split] = {**figures.get(split, {}), output: told} if output else told
    kept = {"run_id", "run_key", "status", "outputs", "task", "combine", "delivered", "missing", "late", "timing"}
    kept |= {"spec_digest", "code_digest", "data_fingerprint", "versions", "runs_before"}
    return {
        **result.model_dump(mode="json", include=kept),
        "num_members": len(result.members),
        **figures,
    }
