"""The job's data: what the data function returned, checked once, split once, fingerprinted once. No Keras here."""

from __future__ import annotations

import hashlib
import inspect
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from orchestrator.errors import InvalidData
from orchestrator.models.user_code import in_user_code
from orchestrator.planning.events import DataLoaded
from orchestrator.planning.folds import OUT_OF_FOLD, draw_share
from orchestrator.planning.outputs import ONLY
from orchestrator.training.sources.batches import is_batched, take_over

Array = npt.NDArray[Any]
Inputs = Array | dict[str, Array]
Labels = Array | dict[str, Array]

Take = Literal["stratified", "last"]

_SPLITS = ("train", "validation", "test")
_GROUPS = "groups"
_WEIGHTS = "sample weights"
_BY_NAME = "several inputs or outputs are a dictionary of arrays by name, not a list"


@dataclass(frozen=True)
class Split:
    """Rows of one split.

    Attributes:
        x: one array, first axis N, or a dictionary of such arrays by input name.
        y: labels, first axis N; a dictionary of such arrays by output name where there are several outputs.
        w: sample weights [N], for all outputs or by output name, or None.
    """

    x: Inputs
    y: Labels
    w: Labels | None = None

    @property
    def labels(self) -> Mapping[str, Array]:
        """Labels by output name (`planning.outputs`), in the order in which they were given."""
        return self.y if isinstance(self.y, dict) else {ONLY: self.y}

    @property
    def num_rows(self) -> int:
        return len(next(iter(self.labels.values())))

    def take(self, rows: npt.NDArray[np.integer[Any]] | slice) -> Split:
        """The split of these rows, in this order."""
        return Split(_take(self.x, rows), _take(self.y, rows), None if self.w is None else _take(self.w, rows))

    def arrays(self) -> Iterator[tuple[str, Array]]:
        """All arrays with a name for messages and the fingerprint, in a fixed order."""
        yield from _named("x", self.x)
        yield from _named("y", self.y)
        if self.w is not None:
            yield from _named(_WEIGHTS, self.w)


def _take(arrays: Array | dict[str, Array], rows: npt.NDArray[np.integer[Any]] | slice) -> Any:
    return {name: array[rows] for name, array in arrays.items()} if isinstance(arrays, dict) else arrays[rows]


def _named(name: str, arrays: Array | dict[str, Array]) -> Iterator[tuple[str, Array]]:
    if isinstance(arrays, dict):
        yield from ((f"{name}[{key!r}]", arrays[key]) for key in sorted(arrays))
    else:
        yield name, arrays


@dataclass(frozen=True)
class Dataset:
    """All rows of a run; `validation` and `test` are None where there are none.

    Attributes:
        train, validation, test: the rows of each split.
        fingerprint: of all of it.
        groups: the group of each training row, int64 [N] of 0 … G − 1: rows that are never split over folds; None: each
            is for itself.
        validation_groups: the same of validation rows that were drawn from the training rows.
        class_names: of each output whose labels were texts, in the order of their codes; the name `""` is the only one.
        codes: of each column of a file whose texts became codes, the texts in the order of these.
    """

    train: Split
    validation: Split | None
    test: Split | None
    fingerprint: str
    groups: npt.NDArray[np.int64] | None = None
    class_names: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    validation_groups: npt.NDArray[np.int64] | None = None
    codes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def groups_of(self, split: str) -> npt.NDArray[np.int64] | None:
        """Which of the rows of a scored split belong together; None: each is for itself, as where all are of one."""
        groups = {OUT_OF_FOLD: self.groups, "validation": self.validation_groups}.get(split)
        return None if groups is None or groups.max() == 0 else groups

    def splits(self) -> Iterator[tuple[str, Split]]:
        """The splits that exist, by name, training first."""
        for name in _SPLITS:
            split = getattr(self, name)
            if split is not None:
                yield name, split

    def loaded(self, *, held_out: bool = False) -> DataLoaded:
        """What is told of the data; arguments as for `row_digests`."""
        rows = {name: split.num_rows for name, split in self.splits()}
        return DataLoaded(self.fingerprint, rows, self.row_digests(held_out=held_out), self.class_names)

    def row_digests(self, *, held_out: bool = False) -> dict[str, str]:
        """The sha256 of the rows of each split that is scored: equal for equal rows, whatever the split's name.

        Unlike the fingerprint of all data, it stays where another seed, or another share, gives other training rows.

        Args:
            held_out: training rows are scored, too: each by members that did not learn from it.
        """
        return {name: _fingerprint({"rows": split}) for name, split in self.scored(held_out=held_out).items()}

    def scored(self, *, held_out: bool = False) -> dict[str, Split]:
        """The splits on which members are scored, by name; arguments as for `row_digests`."""
        found = {name: split for name, split in self.splits() if name != "train"}
        return {OUT_OF_FOLD: self.train, **found} if held_out else found


def load_dataset(
    function: Callable[..., Any], where: str, *, validation_split: float, seed: int, take: Take = "stratified"
) -> Dataset:
    """Call the data function and make a checked `Dataset` of what it returns.

    Args:
        function: takes nothing, or `seed`; returns `(x, y)`, `(x, y, w)`, or a dictionary of such tuples under
            `train`, and if there are any `validation` and `test`. x is an array, or a dictionary by input name; y an
            array, or a dictionary by output name; w may be one, too, where y is. In the place of a tuple a
            `tf.data.Dataset` or `PyDataset` may stand, which is taken over into arrays (`sources.batches`). Under
            `groups` the dictionary may name the group of each training row: numbers or texts [N], of which none is
            split over folds.
        where: the reference of the function, for messages.
        validation_split: share of the training rows that becomes the validation set when there is none; 0 leaves the
            run without a validation set.
        seed: of the split, and handed to the function if it asks for one.
        take: which rows these are: `stratified` by class (of several outputs: by that of the first which tells
            classes) and drawn with `seed`, or the `last`.

    Raises:
        InvalidData: the function raises, or its arrays cannot be used.
    """
    arguments = {"seed": seed} if "seed" in inspect.signature(function).parameters else {}
    try:
        returned = function(**arguments)
    except InvalidData:
        raise
    except (Exception, SystemExit) as error:
        what = f"the data function raised {type(error).__name__}: {error}"
        raise InvalidData(what, where=in_user_code(error, where)) from error
    return make_dataset(returned, where, validation_split=validation_split, seed=seed, take=take)


def make_dataset(
    returned: Any, where: str, *, validation_split: float, seed: int, take: Take = "stratified"
) -> Dataset:
    """A checked `Dataset` of what a data function returned, or of the same read from files.

    Args and errors as of `load_dataset`; `where` names the source in messages.
    """
    splits = _splits_of(returned, where)
    for name, split in splits.items():
        _check(split, f"{where} {name}")
    train, validation = splits["train"], splits.get("validation")
    groups, validation_groups = _groups_of(returned, train.num_rows, where), None
    if validation is None and validation_split > 0:
        drawn = draw_validation(train, validation_split, seed, where, take, groups)
        train, validation = train.take(np.flatnonzero(~drawn)), train.take(np.flatnonzero(drawn))
        if groups is not None:
            groups, validation_groups = numbered(groups[~drawn]), numbered(groups[drawn])
    for other in (validation, splits.get("test")):
        if other is not None:
            _check_alike(train, other, where)
    fingerprint = _fingerprint({"train": train, "validation": validation, "test": splits.get("test")}, groups)
    return Dataset(train, validation, splits.get("test"), fingerprint, groups, validation_groups=validation_groups)


def numbered(groups: Array) -> npt.NDArray[np.int64]:
    """Groups [N] of any names as numbers 0 … G − 1, in the order of their names."""
    return np.unique(groups, return_inverse=True)[1].reshape(-1).astype(np.int64)


def draw_validation(
    split: Split,
    share: float,
    seed: int,
    where: str,
    take: Take = "stratified",
    groups: npt.NDArray[np.int64] | None = None,
) -> npt.NDArray[np.bool_]:
    """Which rows validate, as a mask [N]: of each class in proportion (stratified), whole groups, or the last rows.

    Of several outputs the first counts that tells classes. Labels that are no classes are split without strata: numbers
    that are not whole, and whole ones that are too many to give every part its share of each. The last rows are as many
    as `fit` takes with Keras' own `validation_split`.

    Raises:
        InvalidData: one of the two parts would be empty.
    """
    if take == "last":
        chosen = np.arange(split.num_rows) >= math.floor(split.num_rows * (1.0 - share))
    else:
        chosen = draw_share(split.num_rows, share, seed, classes=strata_of(split, share), groups=groups)
    if groups is not None and set(groups[chosen]) & set(groups[~chosen]):
        raise InvalidData(
            "the last rows begin within a group, and no group is split",
            where="data.validation_split.take",
            hint="say `take: stratified`, with which whole groups are drawn, or return a validation set",
        )
    if not chosen.any() or chosen.all():
        raise InvalidData(
            f"data.validation_split {share:g} of {split.num_rows} rows leaves one part empty",
            where=where,
            hint="return a validation set from the data function, or change data.validation_split",
        )
    return chosen


def strata_of(split: Split, share: float) -> Array:
    """A number for each row: its class, or 0 for all where no output tells classes.

    Whole numbers count as classes where `share` of the rows has some of each.
    """
    told = (_classes(y, share) for y in split.labels.values())
    return next((classes for classes in told if classes is not None), np.zeros(split.num_rows, dtype=np.int8))


def _classes(y: Array, share: float) -> Array | None:
    flat = y.reshape(len(y), -1)
    if flat.shape[1] > 1:  # one-hot, or several labels at once
        return np.asarray(flat.argmax(axis=1)) if bool(np.isin(flat, (0, 1)).all()) else None
    are_whole = y.dtype.kind in "biu" or bool(np.all(flat == np.round(flat)))
    are_classes = are_whole and share * len(y) >= len(np.unique(flat)) / 2  # half a row is rounded to one
    return flat[:, 0] if are_classes else None


def _splits_of(returned: Any, where: str) -> dict[str, Split]:
    by_name = dict(returned) if isinstance(returned, Mapping) else {"train": returned}
    by_name.pop(_GROUPS, None)
    unknown = sorted(set(by_name) - set(_SPLITS))
    if unknown or "train" not in by_name:
        raise InvalidData(
            f"the data function returned a dictionary with {sorted(by_name)}",
            where=where,
            hint='its keys are "train" and, where there are any, "validation", "test" and "groups"',
        )
    splits = {}
    for name, part in by_name.items():
        if part is None and name != "train":
            continue
        if is_batched(part):
            part = take_over(part, f"{where} {name}")
        if not isinstance(part, tuple | list) or len(part) not in (2, 3):
            raise InvalidData(
                f"{name} is {_describe(part)}, not (x, y) or (x, y, sample weights)",
                where=where,
                hint="x is an array or a dictionary of arrays by input name, y one by output name",
            )
        splits[name] = _split_of(part, f"{where} {name}")
    return splits


def _groups_of(returned: Any, num_rows: int, where: str) -> npt.NDArray[np.int64] | None:
    named = returned.get(_GROUPS) if isinstance(returned, Mapping) else None
    if named is None:
        return None
    groups = _array(named, _GROUPS, where)
    if groups.shape != (num_rows,) or groups.dtype.kind not in "biuSU":
        raise InvalidData(
            f"groups have shape {groups.shape} and type {groups.dtype}",
            where=where,
            hint=f"name the group of each of the {num_rows} training rows by a whole number or a text",
        )
    return numbered(groups)


def _split_of(part: tuple[Any, ...] | list[Any], where: str) -> Split:
    x, y = _arrays(part[0], "x", where), _arrays(part[1], "y", where)
    w = _arrays(part[2], _WEIGHTS, where) if len(part) == 3 else None
    if isinstance(w, dict) and (not isinstance(y, dict) or set(w) != set(y)):
        raise InvalidData(
            f"the sample weights have the names {sorted(w)}, the labels {sorted(y) if isinstance(y, dict) else 'none'}",
            where=where,
            hint="give one array [N] for all outputs, or one for each name of y; a weight of 1 leaves a row as it is",
        )
    if isinstance(y, dict) and len(y) == 1:  # a name tells nothing where there is no other
        return Split(x, next(iter(y.values())), next(iter(w.values())) if isinstance(w, dict) else w)
    return Split(x, y, w)


def _arrays(value: Any, name: str, where: str) -> Any:
    """An array, or several by name."""
    if not isinstance(value, Mapping):
        return _array(value, name, where)
    if not value:
        raise InvalidData(f"{name} is an empty dictionary", where=where)
    return {str(key): _array(array, f"{name}[{key!r}]", where) for key, array in value.items()}


def _array(value: Any, name: str, where: str) -> Array:
    try:
        return np.ascontiguousarray(value) if np.ndim(value) else np.asarray(value)
    except Exception as error:  # rows of different lengths, or an object that refuses
        raise InvalidData(
            f"{name} cannot be made an array: {error}", where=where, hint=f"every row needs the same shape; {_BY_NAME}"
        ) from error


def _describe(part: Any) -> str:
    return f"a {type(part).__name__} of {len(part)}" if isinstance(part, tuple | list) else f"a {type(part).__name__}"


def _check(split: Split, where: str) -> None:
    lengths = {}
    for name, array in split.arrays():
        if array.ndim == 0 or array.dtype.kind not in "biuf":
            raise InvalidData(
                f"{name} has shape {array.shape} and type {array.dtype}",
                where=where,
                hint="arrays of numbers with one row per example are needed; encode text and categories first",
            )
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            row = int(np.flatnonzero(~np.isfinite(array.reshape(len(array), -1)).all(axis=1))[0])
            raise InvalidData(
                f"{name} holds NaN or infinity, first in row {row}",
                where=where,
                hint="drop or fill such rows in the data function",
            )
        lengths[name] = len(array)
    for name, weights in () if split.w is None else _named(_WEIGHTS, split.w):
        if weights.ndim != 1 or weights.min(initial=0) < 0:
            raise InvalidData(
                f"{name} have shape {weights.shape} and begin at {weights.min(initial=0):g}",
                where=where,
                hint="give one weight of 0 or more per row",
            )
    if len(set(lengths.values())) > 1:
        counts = ", ".join(f"{name} {length}" for name, length in lengths.items())
        raise InvalidData(
            f"the arrays have different numbers of rows: {counts}", where=where, hint=f"one row per example; {_BY_NAME}"
        )
    if split.num_rows == 0:
        raise InvalidData("there are no rows", where=where, hint="an empty set helps nobody: return None instead")


def _check_alike(train: Split, other: Split, where: str) -> None:
    """Validation and test rows must look like training rows, or the model cannot take them."""
    expected = {name: array.shape[1:] for name, array in train.arrays() if not name.startswith(_WEIGHTS)}
    found = {name: array.shape[1:] for name, array in other.arrays() if not name.startswith(_WEIGHTS)}
    if expected != found:
        raise InvalidData(f"rows of the training set have shapes {expected}, others {found}", where=where)


def _fingerprint(splits: Mapping[str, Split | None], groups: npt.NDArray[np.int64] | None = None) -> str:
    digest = hashlib.sha256()
    for split_name, split in splits.items():
        if split is None:
            continue
        for name, array in split.arrays():
            digest.update(f"{split_name}/{name}:{array.dtype.str}:{array.shape};".encode())
            digest.update(np.ascontiguousarray(array).view(np.uint8).data if array.size else b"")
    if groups is not None:
        digest.update(b"groups;" + groups.tobytes())
    return digest.hexdigest()
