"""The figures as a table for people, as Markdown for the README, and as JSON."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tests.bench.harness import Figure

HEAD = ("row", "what", "against", "figure", "rounds", "bar", "verdict")


def cells(figure: Figure, *, quick: bool) -> tuple[str, ...]:
    """A figure's line: the median, and with several rounds the smallest and largest."""
    value, spread = "–", ""
    if figure.value is not None:
        value = f"{_number(figure.value)} {figure.unit}".strip()
        if len(figure.values) > 1:
            spread = f"{len(figure.values)}: {_number(min(figure.values))}–{_number(max(figure.values))}"
    bar = "" if figure.bar is None else f"{figure.bar} {figure.unit}".strip()
    problem = "" if figure.problem is None else f" ({figure.problem[:160]})"
    verdict = figure.verdict(quick=quick)
    return figure.row, figure.what, figure.rival, value, spread, bar, f"{verdict}{problem if not figure.values else ''}"


def _number(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def markdown(machine: Mapping[str, str], figures: Iterable[Figure], *, quick: bool) -> str:
    """The table in Markdown, with the machine above it."""
    about = "; ".join(f"{name}: {value}" for name, value in machine.items())
    lines = [f"Measured on {about}.", "", _markdown_line(HEAD), _markdown_line(["---"] * len(HEAD))]
    lines += [_markdown_line(cells(figure, quick=quick)) for figure in figures]
    return "\n".join(lines) + "\n"


def _markdown_line(words: Sequence[str]) -> str:
    return "| " + " | ".join(word.replace("|", "/").replace("\n", " ") for word in words) + " |"


def text(machine: Mapping[str, str], figures: Iterable[Figure], *, quick: bool) -> str:
    """The table for a terminal."""
    lines = [HEAD, *(cells(figure, quick=quick) for figure in figures)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(HEAD))]
    about = [f"{name + ':':10}{value}" for name, value in machine.items()]
    table = ["  ".join(word.ljust(width) for word, width in zip(line, widths, strict=True)).rstrip() for line in lines]
    return "\n".join([*about, "", table[0], "-" * len(table[0]), *table[1:]]) + "\n"


def to_json(machine: Mapping[str, str], figures: Iterable[Figure], *, quick: bool) -> dict[str, Any]:
    """Everything that was measured, round by round."""
    return {
        "schema": 1,
        "quick": quick,
        "machine": dict(machine),
        "figures": [
            {
                "row": figure.row,
                "what": figure.what,
                "rival": figure.rival,
                "value": figure.value,
                "values": list(figure.values),
                "unit": figure.unit,
                "bar": None if figure.bar is None else str(figure.bar),
                "verdict": figure.verdict(quick=quick),
                "problem": figure.problem,
                "facts": dict(figure.facts),
            }
            for figure in figures
        ],
    }
