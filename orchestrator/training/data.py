"""The job's data: what the data function returned, checked once, split once, fingerprinted once. No Keras here."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from orchestrator.errors import InvalidData
from orchestrator.models.build import in_user_code

Array = npt.NDArray[Any]
Inputs = Array | dict[str, Array]

_SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class Split:
    """Rows of one split.

    Attributes:
        x: one array, first axis N, or a dictionary of such arrays by input name.
        y: labels, first axis N.
        w: sample weights [N], or None.
    """

    x: Inputs
    y: Array
    w: Array | None = None

    @property
    def num_rows(self) -> int:
        return len(self.y)

    def take(self, rows: npt.NDArray[np.intp] | slice) -> Split:
        """The split of these rows, in this order."""
        x = {name: array[rows] for name, array in self.x.items()} if isinstance(self.x, dict) else self.x[rows]
        return Split(x, self.y[rows], None if self.w is None else self.w[rows])

    def arrays(self) -> Iterator[tuple[str, Array]]:
        """All arrays with a name for messages and the fingerprint, in a fixed order."""
        if isinstance(self.x, dict):
            yield from ((f"x[{name!r}]", self.x[name]) for name in sorted(self.x))
        else:
            yield "x", self.x
        yield "y", self.y
        if self.w is not None:
            yield "sample weights", self.w


@dataclass(frozen=True)
class Dataset:
    """All rows of a run; `validation` and `test` are None where there are none.

    Attributes:
        train, validation, test: the rows of each split.
        fingerprint: of all of it.
        groups: the group of each training row, int64 [N] of 0 … G − 1: rows that are never split over folds; None: each
            is for itself.
    """

    train: Split
    validation: Split | None
    test: Split | None
    fingerprint: str
    groups: npt.NDArray[np.int64] | None = None

    def splits(self) -> Iterator[tuple[str, Split]]:
        """The splits that exist, by name, training first."""
        for name in _SPLITS:
            split = getattr(self, name)
            if split is not None:
                yield name, split

    def row_digests(self) -> dict[str, str]:
        """The sha256 of the rows of each split but the training one: equal for equal rows, whatever the split's name.

        Unlike the fingerprint of all data, it stays where another seed, or another share, gives other training rows.
        """
        return {name: _fingerprint({"rows": split}) for name, split in self.splits() if name != "train"}


def load_dataset(function: Callable[..., Any], where: str, *, validation_split: float, seed: int) -> Dataset:
    """Call the data function and make a checked `Dataset` of what it returns.

    Args:
        function: takes nothing, or `seed`; returns `(x, y)`, `(x, y, w)`, or a dictionary of such tuples under
            `train`, and if there are any `validation` and `test`.
        where: the reference of the function, for messages.
        validation_split: share of the training rows that becomes the validation set when there is none; stratified
            by class, drawn with `seed`; 0 leaves the run without a validation set.
        seed: of the split, and handed to the function if it asks for one.

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
    splits = _splits_of(returned, where)
    for name, split in splits.items():
        _check(split, f"{where} {name}")
    train, validation = splits["train"], splits.get("validation")
    if validation is None and validation_split > 0:
        train, validation = split_rows(train, validation_split, seed, where)
    for other in (validation, splits.get("test")):
        if other is not None:
            _check_alike(train, other, where)
    fingerprint = _fingerprint({"train": train, "validation": validation, "test": splits.get("test")})
    return Dataset(train, validation, splits.get("test"), fingerprint)


def split_rows(split: Split, share: float, seed: int, where: str) -> tuple[Split, Split]:
    """Split rows into training and validation, each class in the same proportion (stratified).

    Row order within both parts is the original one. Labels that are no classes are split without strata: numbers that
    are not whole, and whole ones that are too many to give every part its share of each.

    Raises:
        InvalidData: one of the two parts would be empty.
    """
    rng = np.random.default_rng(seed)
    order = rng.permutation(split.num_rows)
    strata = _strata(split.y, share)
    chosen = np.zeros(split.num_rows, dtype=bool)
    for stratum in np.unique(strata):
        rows = order[strata[order] == stratum]
        chosen[rows[: round(share * len(rows))]] = True
    if not chosen.any() or chosen.all():
        raise InvalidData(
            f"data.validation_split {share:g} of {split.num_rows} rows leaves one part empty",
            where=where,
            hint="return a validation set from the data function, or change data.validation_split",
        )
    return split.take(np.flatnonzero(~chosen)), split.take(np.flatnonzero(chosen))


def _strata(y: Array, share: float) -> Array:
    if y.ndim == 2 and y.shape[1] > 1:
        return np.asarray(y.argmax(axis=1))
    flat = y.reshape(len(y), -1)
    are_whole = flat.shape[1] == 1 and (y.dtype.kind in "biu" or bool(np.all(flat == np.round(flat))))
    are_classes = are_whole and share * len(y) >= len(np.unique(flat)) / 2  # half a row is rounded to one
    return flat[:, 0] if are_classes else np.zeros(len(y), dtype=np.int8)


def _splits_of(returned: Any, where: str) -> dict[str, Split]:
    by_name = returned if isinstance(returned, Mapping) else {"train": returned}
    unknown = sorted(set(by_name) - set(_SPLITS))
    if unknown or "train" not in by_name:
        raise InvalidData(
            f"the data function returned a dictionary with {sorted(by_name)}",
            where=where,
            hint='its keys are "train" and, where there are any, "validation" and "test"',
        )
    splits = {}
    for name, part in by_name.items():
        if part is None and name != "train":
            continue
        if not isinstance(part, tuple | list) or len(part) not in (2, 3):
            raise InvalidData(
                f"{name} is {_describe(part)}, not (x, y) or (x, y, sample weights)",
                where=where,
                hint="x is an array or a dictionary of arrays by input name",
            )
        place = f"{where} {name}"
        x: Inputs
        if isinstance(part[0], Mapping):
            x = {str(key): _array(value, f"x[{key!r}]", place) for key, value in part[0].items()}
        else:
            x = _array(part[0], "x", place)
        weights = _array(part[2], "sample weights", place) if len(part) == 3 else None
        splits[name] = Split(x, _array(part[1], "y", place), weights)
    return splits


def _array(value: Any, name: str, where: str) -> Array:
    try:
        return np.ascontiguousarray(value) if np.ndim(value) else np.asarray(value)
    except Exception as error:  # rows of different lengths, or an object that refuses
        raise InvalidData(
            f"{name} cannot be made an array: {error}", where=where, hint="every row needs the same shape"
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
    if split.w is not None and (split.w.ndim != 1 or split.w.min(initial=0) < 0):
        raise InvalidData(
            f"sample weights have shape {split.w.shape} and begin at {split.w.min(initial=0):g}",
            where=where,
            hint="give one weight of 0 or more per row",
        )
    if len(set(lengths.values())) > 1:
        counts = ", ".join(f"{name} {length}" for name, length in lengths.items())
        raise InvalidData(f"the arrays have different numbers of rows: {counts}", where=where)
    if split.num_rows == 0:
        raise InvalidData("there are no rows", where=where, hint="an empty set helps nobody: return None instead")


def _check_alike(train: Split, other: Split, where: str) -> None:
    """Validation and test rows must look like training rows, or the model cannot take them."""
    expected = {name: array.shape[1:] for name, array in train.arrays() if name != "sample weights"}
    found = {name: array.shape[1:] for name, array in other.arrays() if name != "sample weights"}
    if expected != found:
        raise InvalidData(f"rows of the training set have shapes {expected}, others {found}", where=where)


def _fingerprint(splits: Mapping[str, Split | None]) -> str:
    digest = hashlib.sha256()
    for split_name, split in splits.items():
        if split is None:
            continue
        for name, array in split.arrays():
            digest.update(f"{split_name}/{name}:{array.dtype.str}:{array.shape};".encode())
            digest.update(np.ascontiguousarray(array).view(np.uint8).data if array.size else b"")
    return digest.hexdigest()
