"""Fewer rows than there are: what `data.max_rows` leaves of each set. No Keras here."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import numpy as np

from orchestrator.planning.folds import draw_rows
from orchestrator.training.data import Dataset, Split, numbered, strata_of
from orchestrator.training.sources.stream import StreamedSplit


def limit_rows(dataset: Dataset, max_rows: int | None, seed: int) -> Dataset:
    """The data with at most so many rows in each set, in the order in which they were; as it is where there are fewer.

    Rows are drawn by class in proportion where labels are classes, and at least two of each where that is possible. Of
    streamed rows each piece of the files gives its share, whatever its labels are: no set of them is ever in memory.

    Args:
        dataset: all rows.
        max_rows: of each set; None: all.
        seed: of the draw.
    """
    if max_rows is None or all(split.num_rows <= max_rows for _, split in dataset.splits()):
        return dataset
    kept = {
        name: _drawn(split, max_rows, [seed, place])
        for place, (name, split) in enumerate(dataset.splits())
        if not isinstance(split, StreamedSplit)
    }
    sets = {name: split.take(kept[name]) for name, split in dataset.splits() if name in kept}
    if isinstance(dataset.train, StreamedSplit):
        stream = replace(dataset.train.stream, max_rows=max_rows)
        sets["train"] = StreamedSplit(Split(dataset.train.x, dataset.train.y, dataset.train.w), stream)
    groups, of_validation = dataset.groups, dataset.validation_groups
    return replace(
        dataset,
        train=sets["train"],
        validation=sets.get("validation"),
        test=sets.get("test"),
        fingerprint=hashlib.sha256(f"{dataset.fingerprint}, {max_rows} rows by {seed}".encode()).hexdigest(),
        groups=None if groups is None else numbered(groups[kept["train"]]),
        validation_groups=None if of_validation is None else numbered(of_validation[kept["validation"]]),
    )


def _drawn(split: Split, max_rows: int, seed: list[int]) -> np.ndarray[tuple[int], np.dtype[np.intp]]:
    classes = strata_of(split, min(1.0, max_rows / split.num_rows))
    return draw_rows(split.num_rows, max_rows, seed, classes=classes)
