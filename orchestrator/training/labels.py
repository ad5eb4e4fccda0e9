"""Labels as the job asks for them: class numbers as one-hot rows. No Keras here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from orchestrator.errors import InvalidData, InvalidJob
from orchestrator.planning.outputs import ONLY
from orchestrator.training.data import Array, Dataset, Split


def one_hot_labels(dataset: Dataset, asked: bool | Sequence[str]) -> Dataset:
    """The same rows with one-hot labels: float32 [N, C] where there were classes 0 to C − 1, as [N] or [N, 1].

    C is one more than the largest label of any set, so that a class which no training row has is no error here.

    Args:
        dataset: the rows.
        asked: `data.one_hot_labels`: true for all outputs, or the names of those that tell classes.

    Raises:
        InvalidJob: there is no such output.
        InvalidData: labels are no classes, or are one-hot already.
    """
    names = dataset.train.labels
    wanted = list(names) if asked is True else list(asked or ())
    unknown = [name for name in wanted if name not in names]
    if unknown:
        raise InvalidJob(
            f"there are no labels of an output {unknown[0]}",
            where="data.one_hot_labels",
            hint=f"there are: {', '.join(names)}" if ONLY not in names else "say true: there is one output",
        )
    if not wanted:
        return dataset
    widths = {name: _num_classes([split.labels[name] for _, split in dataset.splits()], name) for name in wanted}
    validation, test = (split and _converted(split, widths) for split in (dataset.validation, dataset.test))
    return replace(dataset, train=_converted(dataset.train, widths), validation=validation, test=test)


def _num_classes(labels: Sequence[Array], output: str) -> int:
    where = f"data.one_hot_labels{f': {output}' if output else ''}"
    for y in labels:
        if y.size != len(y):
            raise InvalidData(
                f"labels have shape {y.shape}, not one class for each row",
                where=where,
                hint="leave out data.one_hot_labels where labels are one-hot already",
            )
        if y.min() < 0 or not np.array_equal(y, np.round(y)):
            raise InvalidData("labels are not classes that are numbered from 0", where=where, hint="number them from 0")
    return int(max(y.max() for y in labels)) + 1


def _converted(split: Split, widths: Mapping[str, int]) -> Split:
    def convert(name: str, y: Array) -> Array:
        return np.eye(widths[name], dtype=np.float32)[y.reshape(-1).astype(np.intp)] if name in widths else y

    if isinstance(split.y, dict):
        return replace(split, y={name: convert(name, y) for name, y in split.y.items()})
    return replace(split, y=convert(ONLY, split.y))
