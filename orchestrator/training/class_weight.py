"""`train.class_weight`: classes of training rows that count more or less than others."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from orchestrator.ensemble.tasks import TaskKind
from orchestrator.errors import InvalidJob
from orchestrator.spec.train import ClassWeight
from orchestrator.training.data import Array, Split
from orchestrator.training.output_checks import Tells, describe
from orchestrator.training.rows import SplitRows
from orchestrator.training.sources.stream import StreamedSplit


def weights_of_classes(asked: ClassWeight | None, rows: SplitRows) -> Mapping[int, float] | None:
    """The weight of each class, 1 where none is given; None: no class is weighed.

    Args:
        asked: as in the job. `balanced` gives N / (classes · rows of the class), by which all classes weigh as much
            (King & Zeng 2001).
        rows: those that the member learns from, of an output whose labels are classes: with folds, others would tell it
            how often each class is held out.
    """
    if asked != "balanced":
        return asked
    labels = classes_of(_labels(rows.split))
    classes, counts = np.unique(labels if rows.numbers is None else labels[rows.numbers], return_counts=True)
    balanced = counts.sum() / (len(classes) * counts)
    return dict(zip(classes.tolist(), balanced.tolist(), strict=True))


def weigh_classes(split: Split, weights: Mapping[int, float] | None) -> Split:
    """Rows whose sample weights are multiplied by the weight of their class; the rows themselves where none is given.

    The same as `class_weight` of `fit`, which makes sample weights of it, too, and refuses rows that have some already.

    Args:
        split: rows of an output whose labels are classes: numbers [N] or [N, 1], or one-hot [N, C].
        weights: of `weights_of_classes`.
    """
    if weights is None:
        return split
    classes = classes_of(_labels(split))
    product = np.ones(len(classes), np.float32)
    for label, weight in weights.items():
        product[classes == label] = weight
    given = split.w.values() if isinstance(split.w, dict) else [] if split.w is None else [split.w]
    for own in given:
        product *= own
    return replace(split, w=product)


def classes_of(labels: Array) -> npt.NDArray[np.int64]:
    """The class [N] of labels [N], [N, 1] or, one-hot, [N, C]."""
    if labels.ndim == 2 and labels.shape[1] > 1:
        return np.asarray(labels.argmax(axis=1), np.int64)
    return np.round(labels.reshape(len(labels))).astype(np.int64)


def check_class_weight(class_weight: ClassWeight | None, tells: Tells, split: Split) -> None:
    """Refuse weights of classes that the models do not tell.

    Args:
        class_weight: as in the job.
        tells: what the models' outputs tell.
        split: the training rows.

    Raises:
        InvalidJob: there are several outputs, the labels are no classes, or there is no such class.
    """
    if class_weight is None:
        return
    told = next(iter(tells.values()))
    if len(tells) > 1 or told.task not in (TaskKind.MULTICLASS, TaskKind.BINARY):
        raise InvalidJob(
            f"classes can be weighed of a single output that tells classes: the models tell {describe(tells)}",
            where="train.class_weight",
            hint="give sample weights instead: the third part of (x, y, weights) from the data function",
        )
    if class_weight == "balanced" and isinstance(split, StreamedSplit):
        raise InvalidJob(
            "streamed rows are not counted by class",
            where="train.class_weight",
            hint="give the weight of each class instead of `balanced`",
        )
    wrong = [] if class_weight == "balanced" else [label for label in class_weight if label >= told.num_classes]
    if wrong:
        raise InvalidJob(
            f"there is no class {wrong[0]}: the models tell {told.num_classes}, numbered from 0",
            where="train.class_weight",
        )
    found = np.unique(classes_of(_labels(split)))
    if class_weight != "balanced" and not any(class_weight.get(label, 1.0) for label in found.tolist()):
        raise InvalidJob("no training row has a weight above 0", where="train.class_weight")


def _labels(split: Split) -> Array:
    """Of the only output."""
    return next(iter(split.labels.values()))
