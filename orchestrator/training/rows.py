"""Whose rows are whose: the view of the run's rows that one member is trained, watched and scored on. No Keras here.

Without folds every member has all training rows. With folds a member never sees those of its own fold; its rows are
told by their numbers, so that no member has a copy of the data.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from orchestrator.errors import InvalidData
from orchestrator.planning.folds import Array, FoldPlan, Indices, classes_of, deal_rows, draw_share
from orchestrator.planning.members import MemberPlan
from orchestrator.training.data import Dataset, Split, numbered


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

    def take(self, rows: Indices | slice) -> Split:
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


@dataclass(frozen=True)
class PackRows:
    """What the rows of members must have in common to be trained in one pack: how many they learn from, and where they
    are watched; `watched_on` is None on rows that all members of the run share."""

    num_rows: int
    watched_on: tuple[int, int] | None


def pack_rows(dataset: Dataset, members: Sequence[MemberPlan]) -> dict[int, PackRows]:
    """What decides of packs in the rows of each member that is held out from a fold; nothing without folds."""
    by_place: dict[tuple[int, int], PackRows] = {}
    found = {}
    for member in members:
        fold = member.fold
        if fold is not None:
            place = fold.repeat, fold.fold
            if place not in by_place:
                rows = member_rows(dataset, member)
                shared = rows.validation is not None and rows.validation.split is dataset.validation
                by_place[place] = PackRows(rows.train.num_rows, None if shared else place)
            found[member.index] = by_place[place]
    return found


def check_classes(dataset: Dataset, members: Sequence[MemberPlan], classes: Array, where: str) -> None:
    """Refuse folds without which there is nothing left of a class: their members could not learn it.

    Args:
        dataset: the run's rows.
        members: of the run; those of one configuration are looked at.
        classes: the class of each training row [N].
        where: names the labels in the message.

    Raises:
        InvalidData: a member's training rows lack a class; or as `member_rows`.
    """
    known = np.unique(classes)
    for member in members:
        fold = member.fold
        if fold is None or fold.configuration != members[0].configuration:
            return
        numbers = member_rows(dataset, member).train.numbers
        missing = np.setdiff1d(known, classes[numbers])
        if len(missing):
            raise InvalidData(
                f"class {missing[0]} is nowhere in the rows that member {member.index} learns from: all of it is in "
                f"fold {fold.fold}, or is drawn for inner validation",
                where=where,
                hint="set members.folds.stratified: true, ask for more folds, or give finer groups",
            )


def _inner(rows: Indices, fold: FoldPlan, classes: Indices | None, groups: Indices | None) -> tuple[Indices, Indices]:
    """Split a member's rows into those that it learns from and those on which it is watched."""
    drawn = draw_share(
        len(rows),
        fold.inner_validation,
        fold.inner_seed,
        classes=None if classes is None else classes[rows],
        groups=None if groups is None else numbered(groups[rows]),
    )
    if not drawn.any() or drawn.all():
        raise InvalidData(
            f"members.folds.inner_validation {fold.inner_validation:g} of {len(rows)} rows leaves one part empty",
            where="members.folds.inner_validation",
            hint="change it, or leave it out: then the held-out fold is watched",
        )
    return rows[~drawn], rows[drawn]
