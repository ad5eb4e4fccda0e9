"""Which rows a member learns from and which it is held out from: stratified, grouped, repeated folds. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from orchestrator.errors import InvalidData
from orchestrator.planning.seeds import fold_seed, inner_seed
from orchestrator.spec import FoldsSpec

OUT_OF_FOLD = "out_of_fold"
"""The split of the training rows, each predicted by members that did not learn from it."""

Array = npt.NDArray[Any]
Indices = npt.NDArray[np.intp]
Labels = Array | Mapping[str, Array]


@dataclass(frozen=True)
class FoldPlan:
    """The fold that a member is held out from.

    Attributes:
        configuration: which hyperparameters it has: members of one configuration differ in rows and seed alone.
        repeat: which of the assignments of rows to folds, from 0 on.
        fold: the fold whose rows it never sees, from 0 on.
        num_folds: how many there are.
        seed: of the assignment, the same for all members of a repeat.
        stratified: each class is spread evenly over folds, where labels are classes.
        inner_validation: share of the other rows on which the member's callbacks watch it; 0: on the held-out rows.
        inner_seed: of the draw of that share.
    """

    configuration: int
    repeat: int
    fold: int
    num_folds: int
    seed: int
    stratified: bool = True
    inner_validation: float = 0.0
    inner_seed: int = 0


def fold_plan(asked: FoldsSpec, index: int, seed: int) -> FoldPlan:
    """The fold of member `index` of a job that asks for folds.

    Args:
        asked: `members.folds`.
        index: of the member.
        seed: the job's root seed.
    """
    configuration, within = divmod(index, asked.count * asked.repeats)
    repeat, fold = divmod(within, asked.count)
    return FoldPlan(
        configuration=configuration,
        repeat=repeat,
        fold=fold,
        num_folds=asked.count,
        seed=fold_seed(seed, repeat),
        stratified=asked.stratified,
        inner_validation=asked.inner_validation,
        inner_seed=inner_seed(seed, repeat, fold),
    )


def deal_rows(
    num_rows: int, num_folds: int, seed: int, *, classes: Indices | None = None, groups: Indices | None = None
) -> Indices:
    """The fold of each row: [N] of 0 … F − 1; every row has one, and every fold has rows.

    Rows are shuffled and dealt like cards, class after class, so the sizes of folds differ by one at most, in all and
    within each class. Groups are dealt whole, the largest first, each to the fold that has least of its classes, then
    fewest rows (Graham 1969, "Bounds on multiprocessing timing anomalies", for the order).

    Args:
        num_rows: N.
        num_folds: F, at least 2.
        seed: of the shuffle.
        classes: the class of each row, whole numbers [N], to spread evenly; None: rows count alike.
        groups: the group of each row, [N] of 0 … G − 1; rows of a group share a fold. None: each row is for itself.

    Raises:
        InvalidData: fewer rows than folds, fewer rows of a class, or fewer groups.
    """
    if num_rows < num_folds:
        raise InvalidData(f"{num_rows} rows cannot be dealt into {num_folds} folds", where="members.folds")
    rng = np.random.default_rng(seed)
    names, places = (None, None) if classes is None else np.unique(classes, return_inverse=True)
    if groups is not None:
        return _deal_groups(rng, num_folds, groups, np.zeros_like(groups) if places is None else places)
    shuffled = rng.permutation(num_rows)
    if names is not None and places is not None:
        _check_classes(names, np.bincount(places), num_folds)
        shuffled = shuffled[np.argsort(places[shuffled], kind="stable")]
    folds = np.empty(num_rows, dtype=np.intp)
    folds[shuffled] = np.arange(num_rows) % num_folds
    return folds


def draw_share(
    num_rows: int, share: float, seed: int, *, classes: Array | None = None, groups: Indices | None = None
) -> npt.NDArray[np.bool_]:
    """Which rows are drawn, as a mask [N]: about `share` of all, of each class, or of the rows in whole groups.

    Args:
        num_rows: N.
        share: between 0 and 1.
        seed: of the draw.
        classes: tells the classes apart, [N].
        groups: as for `deal_rows`; with them, classes are not looked at.
    """
    rng = np.random.default_rng(seed)
    chosen = np.zeros(num_rows, dtype=bool)
    if groups is not None:
        sizes = np.bincount(groups)
        order = rng.permutation(len(sizes))
        nearest = int(np.abs(np.cumsum(sizes[order]) - share * num_rows).argmin()) + 1
        return np.isin(groups, order[: min(nearest, len(order) - 1)])
    order = rng.permutation(num_rows)
    strata = np.zeros(num_rows, dtype=np.intp) if classes is None else classes
    for stratum in np.unique(strata):
        rows = order[strata[order] == stratum]
        chosen[rows[: round(share * len(rows))]] = True
    return chosen


ALWAYS_KEPT = 2
"""Rows of each class that `draw_rows` takes first: of a single one, one of two folds would lack the class."""


def draw_rows(num_rows: int, most: int, seed: int | Sequence[int], *, classes: Array | None = None) -> Indices:
    """Numbers of at most so many rows, ascending: of each class in proportion, and of rare ones a few all the same.

    Args:
        num_rows: N.
        most: how many rows are wanted; all, where there are no more.
        seed: of the draw.
        classes: tells the classes apart, [N]; None: rows count alike.
    """
    if num_rows <= most:
        return np.arange(num_rows)
    order = np.random.default_rng(seed).permutation(num_rows)
    strata = np.zeros(num_rows, dtype=np.intp) if classes is None else np.unique(classes, return_inverse=True)[1]
    strata = strata.reshape(-1)[order]
    by_class = np.argsort(strata, kind="stable")
    counts = np.bincount(strata)
    rank = np.arange(num_rows) - np.repeat(np.cumsum(counts) - counts, counts)  # within its class, in drawn order
    place = np.where(rank < ALWAYS_KEPT, rank - ALWAYS_KEPT, (rank + 0.5) / np.repeat(counts, counts))
    first = np.argsort(place, kind="stable")[:most]
    return np.sort(order[by_class[first]])


def classes_of(labels: Labels, num_folds: int) -> Indices | None:
    """The class of each row, whole numbers [N]; None where the labels are no classes.

    One-hot rows are classes; so are whole numbers of which each comes, on average, at least twice in each fold: others
    are numbers to predict. Of several outputs the first that tells classes counts.

    Args:
        labels: [N], [N, 1] or [N, C]; or a dictionary of those by output.
        num_folds: F.
    """
    if isinstance(labels, Mapping):
        found = (classes_of(each, num_folds) for each in labels.values())
        return next((classes for classes in found if classes is not None), None)
    if labels.ndim == 2 and labels.shape[1] > 1:
        one_hot = bool(np.isin(labels, (0, 1)).all() and (labels.sum(axis=1) == 1).all())
        return np.asarray(labels.argmax(axis=1), dtype=np.intp) if one_hot else None
    flat = labels.reshape(len(labels), -1)
    if flat.shape[1] != 1 or not (labels.dtype.kind in "biu" or bool(np.all(flat == np.round(flat)))):
        return None
    are_classes = len(np.unique(flat[:, 0])) <= max(2.0, len(flat) / (2 * num_folds))
    return flat[:, 0].astype(np.intp) if are_classes else None


def _deal_groups(rng: np.random.Generator, num_folds: int, groups: Indices, classes: Indices) -> Indices:
    num_groups = int(groups.max(initial=-1)) + 1
    if num_groups < num_folds:
        raise InvalidData(
            f"{num_groups} groups cannot be dealt into {num_folds} folds, for no group is split",
            where="members.folds",
            hint=f"ask for at most {num_groups} folds, or give finer groups",
        )
    counts = np.zeros((num_groups, int(classes.max()) + 1))
    np.add.at(counts, (groups, classes), 1)
    order = rng.permutation(num_groups)
    order = order[np.argsort(-counts.sum(axis=1)[order], kind="stable")]
    weights = 1 / np.maximum(counts.sum(axis=0), 1) ** 2  # so that a rare class counts as much as a frequent one
    dealt = np.zeros((num_folds, counts.shape[1]))
    fold_of_group = np.empty(num_groups, dtype=np.intp)
    for group in order:
        overlap = dealt @ (counts[group] * weights)
        fold = np.lexsort((dealt.sum(axis=1), overlap))[0]
        dealt[fold] += counts[group]
        fold_of_group[group] = fold
    return fold_of_group[groups]


def _check_classes(names: Indices, counts: Indices, num_folds: int) -> None:
    rare = int(counts.argmin())
    count = int(counts[rare])
    if count < num_folds:
        raise InvalidData(
            f"class {names[rare]} has {count} row{'s' * (count != 1)}, fewer than the {num_folds} folds: it cannot be "
            "in each",
            where="members.folds",
            hint=f"ask for at most {max(count, 2)} folds, give more rows of that class, or set "
            "members.folds.stratified: false",
        )
