"""Single rows that a report shows: those that members are unsure of or dispute, and true beside predicted values.

The members' predictions are read once, one member at a time; of a very large ensemble a part of the members tells.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from orchestrator.ensemble.combine import Accumulator
from orchestrator.ensemble.diversity import Diversity, DiversityAccumulator
from orchestrator.ensemble.tasks import TaskKind
from orchestrator.planning.folds import OUT_OF_FOLD
from orchestrator.planning.outputs import part, split_of
from orchestrator.reporting.examples import choose_examples
from orchestrator.reporting.predictions import Predictions, Read, by_configuration
from orchestrator.reporting.selection import labels_of, tasks_of
from orchestrator.storage.examples import Examples, read_examples
from orchestrator.storage.records import BlobRef

Float64 = npt.NDArray[np.float64]

MOST_MEMBERS = 100
"""Members whose predictions are read for this: a report must not take as long as the evaluation did."""

MOST_POINTS = 500
"""Rows of a regression that are drawn."""


@dataclass(frozen=True, eq=False)
class Case:
    """One row.

    Attributes:
        row: its place in the split.
        truth: its label: int64 [] of classes, int64 [C] of several labels, float64 [D] of a regression.
        mean: [C] the members' mean prediction.
        votes: [C] how many members decided for each class (binary: [2]; several labels: for each label); None for a
            regression.
        spread: standard deviation over the members, of a regression.
        image: uint8 [H, W] or [H, W, 3], where the input is one.
        values: the input's values [D] by name, where it is a table.
    """

    row: int
    truth: npt.NDArray[Any]
    mean: Float64
    votes: npt.NDArray[np.int64] | None = None
    spread: float | None = None
    image: npt.NDArray[np.uint8] | None = None
    values: Mapping[str, float] | None = None


@dataclass(frozen=True, eq=False)
class Points:
    """A regression's rows: true and mean predicted values of the first target, and the members' spread; [K] each."""

    truth: Float64
    predicted: Float64
    spread: Float64


@dataclass(frozen=True)
class Cases:
    """What single rows of a split tell; `num_members` is how many members were asked."""

    split: str
    task: TaskKind
    num_members: int
    uncertain: tuple[Case, ...] = ()
    disputed: tuple[Case, ...] = ()
    points: Points | None = None


def read_cases(
    selection: Mapping[str, Any], members: Sequence[Mapping[str, Any]], read: Read, top: int
) -> dict[str, Cases]:
    """The cases of each output on the test rows, else on those that decide; without those that cannot be told of.

    Args:
        selection: body of the `selection` record.
        members: its entries of the members that make the ensemble.
        read: gives the verified bytes of a blob; called from several threads.
        top: how many examples of each kind.

    Raises:
        DamagedStore: what the selection names is gone or damaged.
    """
    scored = set(map(split_of, selection["labels"]))
    split = next((name for name in ("test", OUT_OF_FOLD, "validation") if name in scored), None)
    if split is None or not members:
        return {}
    stored = selection.get("examples", {}).get(split)
    examples = None if stored is None else read_examples(read(BlobRef.from_json(stored, where=f"examples of {split}")))
    whole = list(by_configuration(members).values())
    spread = np.linspace(0, len(whole) - 1, min(len(whole), MOST_MEMBERS)).round().astype(int)
    asked = [member for n in np.unique(spread) for member in whole[n]]
    found = {}
    for output, task in tasks_of(selection).items():
        if examples is None and task is not TaskKind.REGRESSION:
            continue
        rows = part(split, output)
        targets, predictions = labels_of(selection, rows, read), Predictions(asked, rows, read)
        found[output] = _cases(split, task, targets, predictions, examples, top)
    return found


def _cases(
    split: str,
    task: TaskKind,
    targets: npt.NDArray[Any],
    predictions: Predictions,
    examples: Examples | None,
    top: int,
) -> Cases:
    rows = np.empty(0, np.int64) if examples is None else examples.rows
    seen = _ask(task, predictions, rows)
    points = _points(targets, seen) if task is TaskKind.REGRESSION else None
    if examples is None:
        return Cases(split, task, len(predictions), points=points)
    chosen = choose_examples(seen.diversity.rows, examples.rows, top)
    made = [tuple(_case(row, targets, seen, examples) for row in kind) for kind in (chosen.uncertain, chosen.disputed)]
    return Cases(split, task, len(predictions), made[0], made[1], points)


@dataclass(frozen=True, eq=False)
class _Seen:
    """What the members say: of all rows their mean [N, C], and of the rows that can be shown their votes [K, C]."""

    mean: Float64
    diversity: Diversity
    votes: npt.NDArray[np.int64] | None


def _ask(task: TaskKind, predictions: Predictions, rows: npt.NDArray[np.int64]) -> _Seen:
    mean, diversity, votes = Accumulator(task), DiversityAccumulator(task), None
    for prediction in predictions:
        mean.add(prediction)
        diversity.add(prediction)
        if task is not TaskKind.REGRESSION:
            own = _votes(task, prediction[rows])
            votes = own if votes is None else votes + own
    return _Seen(mean.average(), diversity.result(), votes)


def _votes(task: TaskKind, probabilities: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    """One member's votes [K, C]; of two classes [K, 2]."""
    if task is TaskKind.MULTICLASS:
        decided = probabilities.argmax(axis=1)[:, None] == np.arange(probabilities.shape[1])
    else:
        decided = probabilities > 0.5
    votes: npt.NDArray[np.int64] = decided.astype(np.int64)
    return np.hstack([1 - votes, votes]) if task is TaskKind.BINARY else votes


def _case(row: np.int64, targets: npt.NDArray[Any], seen: _Seen, examples: Examples) -> Case:
    place = int(np.searchsorted(examples.rows, row))
    spread = seen.diversity.rows.spread
    values = examples.values
    return Case(
        row=int(row),
        truth=targets[row],
        mean=seen.mean[row],
        votes=None if seen.votes is None else seen.votes[place],
        spread=None if spread is None else float(spread[row]),
        image=None if examples.images is None else examples.images[place],
        values=None if values is None else dict(zip(examples.names, map(float, values[place]), strict=True)),
    )


def _points(targets: npt.NDArray[Any], seen: _Seen) -> Points:
    """The rows that are drawn, evenly spread over the split."""
    spread = seen.diversity.rows.spread
    rows = np.unique(np.linspace(0, len(targets) - 1, min(len(targets), MOST_POINTS)).round().astype(int))
    told = np.zeros(len(targets)) if spread is None else spread
    return Points(targets[rows, 0], seen.mean[rows, 0], told[rows])
