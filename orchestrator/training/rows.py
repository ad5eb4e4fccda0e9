"""Whose rows are whose: the view of the run's rows that one member is trained, watched and scored on. No Keras here.

Without folds every member has all training rows. With folds a member never sees those of its own fold; its rows are
told by their numbers, so that no member has a copy of the data.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from orchestrator.errors import InvalidData
from orchestrator.planning.folds import FoldPlan, Indices, classes_of, deal_rows, draw_share
from orchestrator.planning.members import MemberPlan
from orchestrator.training.data import Dataset, Split


@dataclass(frozen=True)
class SplitRows:
    """Some rows of a split, or all; nothing is copied until rows are taken.

    Attributes:
        split: where they are.
        numbers: their numbers in it, ascending; None: all rows.
    """

    split: Split
    numbers: Indices | None = None

    @property
    def num_rows(self) -> int:
        return self.split.num_rows if self.numbers is None else len(self.numbers)

    def take(self, rows: npt.NDArray[np.integer[Any]] | slice) -> Split:
        """A copy of these of the rows, counted among them, in this order."""
        return self.split.take(rows if self.numbers is None else self.numbers[rows])

    def all(self) -> Split:
        """All of the rows: the split itself, or a copy of some of its rows."""
        return self.split if self.numbers is None else self.split.take(self.numbers)

    def same_as(self, other: SplitRows | None) -> bool:
        """Whether the other ones are the same rows of the same split."""
        if other is None or self.split is not other.split or (self.numbers is None) != (other.numbers is None):
            return False
        return self.numbers is other.numbers or np.array_equal(self.numbers, other.numbers)  # type: ignore[arg-type]  # both are arrays

    def in_split(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Numbers in the split of rows that are counted among these."""
        return rows if self.numbers is None else self.numbers[rows].astype(np.int64)


@dataclass(frozen=True)
class MemberRows:
    """The rows of one member.

    Attributes:
        train: what it learns from.
        validation: what Keras' `fit` gets as `validation_data`, which its callbacks watch; None: there are none.
        held_out: training rows of the run that this member never learns from, and predicts for the out-of-fold figures;
            None without folds.
    """

    train: SplitRows
    validation: SplitRows | None
    held_out: SplitRows | None = None


def member_rows(dataset: Dataset, member: MemberPlan) -> MemberRows:
    """The rows of one member: a function of the data and the plan alone.

    With folds, callbacks watch the member on its inner validation rows if the job asks for such, else on the run's
    validation set if there is one, else on the held-out fold.

    Raises:
        InvalidData: the rows cannot be dealt into so many folds, or there are too few for an inner validation.
    """
    validation = None if dataset.validation is None else SplitRows(dataset.validation)
    fold = member.fold
    if fold is None:
        return MemberRows(SplitRows(dataset.train), validation)
    classes = classes_of(dataset.train.y, fold.num_folds) if fold.stratified else None
    folds = deal_rows(dataset.train.num_rows, fold.num_folds, fold.seed, classes=classes, groups=dataset.groups)
    others = np.flatnonzero(folds != fold.fold)
    held_out = SplitRows(dataset.train, np.flatnonzero(folds == fold.fold))
    if fold.inner_validation > 0:
        others, inner = _inner(others, fold, classes, dataset.groups)
        validation = SplitRows(dataset.train, inner)
    return MemberRows(SplitRows(dataset.train, others), validation or held_out, held_out)


def _inner(rows: Indices, fold: FoldPlan, classes: Indices | None, groups: Indices | None) -> tuple[Indices, Indices]:
    """Split a member's rows into those that it learns from and those on which it is watched."""
    if groups is not None:
        groups = np.unique(groups[rows], return_inverse=True)[1].reshape(-1)
    drawn = draw_share(
        len(rows),
        fold.inner_validation,
        fold.inner_seed,
        classes=None if classes is None else classes[rows],
        groups=groups,
    )
    if not drawn.any() or drawn.all():
        raise InvalidData(
            f"members.folds.inner_validation {fold.inner_validation:g} of {len(rows)} rows leaves one part empty",
            where="members.folds.inner_validation",
            hint="change it, or leave it out: then the held-out fold is watched",
        )
    return rows[~drawn], rows[drawn]
