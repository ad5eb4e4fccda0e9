"""The rows that the ensemble is least sure of, and those that its members dispute, with their pictures."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from orchestrator.ensemble.tasks import TaskKind
from orchestrator.reporting.cases import Case, Cases
from orchestrator.reporting.html.parts import Gallery, Part, Picture, Section
from orchestrator.reporting.html.png import png_uri
from orchestrator.reporting.html.quality import class_name
from orchestrator.reporting.report import OutputData

MOST_VALUES = 6
"""Columns of a table that are shown of one example."""

MOST_VOTES = 3


def examples_section(data: OutputData) -> Section | None:
    """Both kinds of examples; a run that kept none of its inputs has no such section."""
    cases = data.cases
    if cases is None:
        return None
    told = "the spread of the members is widest" if cases.task is TaskKind.REGRESSION else "the ensemble is least sure"
    kinds = (
        ("Most uncertain", f"Where {told}.", cases.uncertain),
        ("Most disputed", f"Where the most pairs of {data.counted}s decide differently.", cases.disputed),
    )
    parts: list[Part] = [
        Gallery(title, caption, tuple(_picture(data, cases, case) for case in found))
        for title, caption, found in kinds
        if found
    ]
    if not parts:
        return None
    intro = (
        f"From the {cases.split} rows whose inputs the run has kept. Shares are of the plain average of "
        f"{cases.num_members} {data.counted}s, votes are theirs."
    )
    return Section("examples", "Examples", intro, tuple(parts))


def _picture(data: OutputData, cases: Cases, case: Case) -> Picture:
    lines = [f"row {case.row}", *_told(data, cases, case)]
    if case.values is not None:
        shown = list(case.values.items())[:MOST_VALUES]
        lines.append(", ".join(f"{name} {value:.4g}" for name, value in shown))
    uri = None if case.image is None else png_uri(case.image)
    return Picture(tuple(lines), uri, alt=f"input of row {case.row}, {lines[1]}")


def _told(data: OutputData, cases: Cases, case: Case) -> Iterator[str]:
    """What is true, and what is predicted."""
    if cases.task is TaskKind.REGRESSION:
        yield f"true {_numbers(case.truth)}"
        yield f"predicted {_numbers(case.mean)}"
        if case.spread is not None:
            yield f"± {case.spread:.3g}"
    elif cases.task is TaskKind.MULTILABEL:
        yield f"true {_labels(data, case.truth.astype(bool))}"
        yield f"predicted {_labels(data, case.mean > 0.5)}"
    else:
        probabilities = case.mean if cases.task is TaskKind.MULTICLASS else np.array([1 - case.mean[0], case.mean[0]])
        told = int(np.argmax(probabilities))
        mark = "✓" if told == int(case.truth) else "✗"
        yield f"true {class_name(data, int(case.truth))}"
        yield f"predicted {class_name(data, told)}, {100 * probabilities[told]:.0f} % {mark}"
        if case.votes is not None:
            yield f"votes: {_votes(data, case.votes)}"


def _votes(data: OutputData, votes: npt.NDArray[np.int64]) -> str:
    order = sorted(np.flatnonzero(votes), key=lambda c: (-votes[c], c))
    told = [f"{votes[c]} for {class_name(data, int(c))}" for c in order[:MOST_VOTES]]
    return ", ".join([*told, "…"] if len(order) > MOST_VOTES else told)


def _labels(data: OutputData, holds: npt.NDArray[np.bool_]) -> str:
    return ", ".join(class_name(data, int(c)) for c in np.flatnonzero(holds)) or "none"


def _numbers(values: npt.NDArray[np.float64]) -> str:
    return ", ".join(f"{value:.4g}" for value in np.atleast_1d(values)[:3])
