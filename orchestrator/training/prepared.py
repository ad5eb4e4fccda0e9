"""Preprocessing is fitted to the rows that a member learns from, and to no others. No Keras here."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from orchestrator.models.preprocess_fit import Preprocessing, check_numbered, fit
from orchestrator.planning.members import MemberPlan
from orchestrator.spec.preprocess import Preprocess
from orchestrator.training.data import Dataset
from orchestrator.training.rows import SplitRows
from orchestrator.training.sources.stream import InputInOrder, StreamedSplit, StreamReader


def prepare(member: MemberPlan, rows: SplitRows) -> Preprocessing | None:
    """What the member's preprocessing learns from the rows that it learns from; None: it has none.

    Raises:
        InvalidJob, InvalidData: as `preprocess_fit.fit`.
    """
    if isinstance(rows.split, StreamedSplit):
        return _fit_stream(member.preprocess, rows.split)
    return fit(member.preprocess, rows.split.x, rows.numbers)


def check_categories(steps: Preprocess, dataset: Dataset) -> None:
    """Refuse categories, of any rows that are predicted, which the models would take for others.

    Streamed rows are looked at when preprocessing is fitted to them.

    Raises:
        InvalidData: as `preprocess_fit.check_numbered`.
    """
    for name, split in dataset.splits():
        if not isinstance(split, StreamedSplit):
            check_numbered(steps, split.x, "training" if name == "train" else name)


_streamed: tuple[object, Preprocessing | None] = None, None
"""What was learnt last from a stream, behind what it was learnt from: members one after another share it."""


def _fit_stream(steps: Preprocess, split: StreamedSplit) -> Preprocessing | None:
    """As `fit`, from rows that are read from their files: once for each figure that a step needs of all of them."""
    global _streamed
    if not steps:
        return None
    key = steps, split.stream.digests, split.stream.share, split.stream.seed
    if _streamed[0] != key:
        reader = StreamReader(split.stream)
        try:
            names = list(split.x) if isinstance(split.x, dict) else [""]
            inputs: dict[str, Any] = {name: InputInOrder(reader, split.stream, split, name) for name in names}
            _streamed = key, fit(steps, inputs if isinstance(split.x, dict) else inputs[""])
        finally:
            reader.close()
    return _streamed[1]


def prepare_all(members: Sequence[MemberPlan], rows: Sequence[SplitRows]) -> list[Preprocessing | None]:
    """As `prepare`, for members of one job; each set of rows is gone through once."""
    found: list[Preprocessing | None] = []
    for member, own in zip(members, rows, strict=True):
        same = next((place for place, other in enumerate(rows[: len(found)]) if own.same_as(other)), None)
        found.append(prepare(member, own) if same is None else found[same])
    return found
