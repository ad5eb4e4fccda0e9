"""From the columns of a piece of a table to inputs, labels, weights and groups; what is wrong is told by its place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from orchestrator.errors import InvalidData
from orchestrator.training.sources.tables import Piece

Array = npt.NDArray[Any]
What = Literal["flag", "whole", "float", "text"]

EXACT_IN_FLOAT32 = 2.0**24
"""Up to here float32 holds every whole number."""

LOOKED_AT = 10_000
"""Numbers of a piece that are looked at: streamed ones are read in every epoch."""

_MISSING = "fill it, leave the row out, or leave the column out; in CSV an empty field, NA, NaN and null are missing"


@dataclass(frozen=True)
class Kind:
    """What a column holds.

    Attributes:
        what: flags (true or false), whole numbers, numbers, or texts.
        because: of a CSV file's texts, the first that is no number, with its place.
        bits: of a CSV file's whole numbers: they are all 0 or 1, and so may be flags.
    """

    what: What
    because: str = ""
    bits: bool = False


@dataclass(frozen=True)
class InputPlan:
    """One input: columns side by side, or one as it is.

    Attributes:
        name: of the input; empty for the only one.
        columns: in order; patterns are expanded.
        alone: the one column is taken as it is, [N] or [N, its list's length]; else [N, F].
        dtype: NumPy's name of the type.
        shape: of one row; None: as the columns have it.
        by_default: nobody has asked for this type.
    """

    name: str
    columns: tuple[str, ...]
    alone: bool
    dtype: str
    shape: tuple[int, ...] | None = None
    by_default: bool = False


@dataclass(frozen=True)
class OutputPlan:
    """The labels of one output (empty name: the only one): columns side by side, or one as it is."""

    name: str
    columns: tuple[str, ...]
    alone: bool


@dataclass(frozen=True)
class Layout:
    """What becomes of which column.

    Attributes:
        inputs, outputs: at least one of each.
        weight, groups: columns, or None.
        kinds: of all these columns.
        categories: of those that hold texts, in the order of their codes.
    """

    inputs: tuple[InputPlan, ...]
    outputs: tuple[OutputPlan, ...]
    weight: str | None = None
    groups: str | None = None
    kinds: Mapping[str, Kind] = field(default_factory=dict)
    categories: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def columns(self) -> tuple[str, ...]:
        """All columns that are read, each once."""
        lists = [plan.columns for plan in self.inputs] + [plan.columns for plan in self.outputs]
        named = [*(column for columns in lists for column in columns), self.weight, self.groups]
        return tuple(dict.fromkeys(column for column in named if column is not None))

    def of(self, name: str) -> Layout:
        """What becomes of the columns of one set of rows: groups are asked of training rows alone."""
        return self if name == "train" else replace(self, groups=None)

    def codes(self) -> dict[str, tuple[str, ...]]:
        """The texts of each column of features and labels that holds such, in the order of their codes."""
        return {column: tuple(texts) for column, texts in self.categories.items() if column != self.groups}

    def class_names(self) -> dict[str, tuple[str, ...]]:
        """The texts of each output's labels, in the order of their codes; outputs with numbers are left out.

        The name of an output without others tells nothing, and is left out.
        """
        texts = {plan.name: self.categories.get(plan.columns[0]) for plan in self.outputs}
        named = texts if len(texts) > 1 else {"": next(iter(texts.values()))}
        return {name: classes for name, classes in named.items() if classes is not None}


@dataclass(frozen=True)
class Rows:
    """Rows of a table as arrays, first axis N; x and y are dictionaries where inputs or outputs have names."""

    x: Any
    y: Any
    w: Array | None
    groups: Array | None

    def arrays(self) -> list[Array]:
        """All arrays in a fixed order."""
        parts = [part for each in (self.x, self.y) for part in (each.values() if isinstance(each, dict) else [each])]
        return [*parts, *(each for each in (self.w, self.groups) if each is not None)]

    def with_arrays(self, arrays: Sequence[Array]) -> Rows:
        """Rows of the same build with these arrays, in the order of `arrays()`."""
        left = iter(arrays)

        def put(part: Any) -> Any:
            return {name: next(left) for name in part} if isinstance(part, dict) else next(left)

        return Rows(put(self.x), put(self.y), *(None if each is None else next(left) for each in (self.w, self.groups)))

    def take(self, rows: Any) -> Rows:
        """These rows, in this order."""
        return self.with_arrays([array[rows] for array in self.arrays()])


def rows_of(table: Any, piece: Piece, layout: Layout) -> Rows:
    """The arrays of a piece.

    Args:
        table: the columns of the layout that the file has, as `read_piece` gives them.
        piece: where they are from.
        layout: what becomes of them.

    Raises:
        InvalidData: a value is missing, no number, not finite, not of the asked-for type, or of another shape than
            those before it.
    """
    reader = _Reader(table, piece, layout)
    x = {plan.name: reader.input(plan) for plan in layout.inputs}
    y = {plan.name: reader.labels(plan) for plan in layout.outputs}
    weight = None if layout.weight is None else reader.weights(layout.weight)
    groups = None if layout.groups is None else reader.whole(layout.groups)
    return Rows(x.get("", x), y.get("", y), weight, groups)


class _Reader:
    """The columns of one piece."""

    def __init__(self, table: Any, piece: Piece, layout: Layout) -> None:
        self._table, self._piece, self._layout = table, piece, layout

    def input(self, plan: InputPlan) -> Array:
        values = {name: self._values(name) for name in plan.columns}
        parts = [self._typed(column, name, np.dtype(plan.dtype)) for name, column in values.items()]
        if plan.by_default:
            for name, column in values.items():
                self._check_told_apart(column, name, np.dtype(plan.dtype))
        array = parts[0] if plan.alone else self._side_by_side(parts, plan.columns)
        if plan.shape is None:
            return array
        if int(np.prod(array.shape[1:])) != int(np.prod(plan.shape)):
            raise InvalidData(
                f"a row of {list(array.shape[1:])} numbers has not the shape {list(plan.shape)}",
                where=f"{self._piece.file.name}: columns {_some(plan.columns)}",
                hint=f"data.features.{plan.name}.shape must hold as many numbers as its columns",
            )
        return array.reshape(len(array), *plan.shape)

    def labels(self, plan: OutputPlan) -> Array:
        kinds = {self._layout.kinds[name].what for name in plan.columns}
        dtype = np.dtype(np.float32 if "float" in kinds else np.int64)
        parts = [self._typed(self._values(name), name, dtype) for name in plan.columns]
        return parts[0] if plan.alone else self._side_by_side(parts, plan.columns)

    def weights(self, name: str) -> Array:
        values = self._typed(self._values(name), name, np.dtype(np.float32))
        if values.ndim != 1 or values.min() < 0:
            row = int(np.argmin(values.reshape(len(values), -1).min(axis=1)))
            raise InvalidData("is no weight of 0 or more", where=self._piece.where(row, name), hint="mend data.weight")
        return values

    def whole(self, name: str) -> Array:
        return self._typed(self._values(name), name, np.dtype(np.int64))

    def _values(self, name: str) -> Array:
        """Numbers, or codes of texts, [N] or [N, …] where the column holds lists."""
        import pyarrow as pa

        if name not in self._table.column_names:
            return np.full(self._piece.num_rows, self._constant(name))
        array = self._table.column(name).combine_chunks()
        shape: list[int] = []
        self._check_missing(array, name, 1)
        if isinstance(array, pa.ExtensionArray):
            array = array.storage
        while pa.types.is_list(array.type) or pa.types.is_large_list(array.type) or _is_fixed(array.type):
            shape.append(self._list_length(array, name, int(np.prod(shape, dtype=int))))
            array = array.flatten()
            self._check_missing(array, name, int(np.prod(shape, dtype=int)))
        if pa.types.is_dictionary(array.type):
            array = array.dictionary_decode()
        values = self._codes(array, name) if self._layout.kinds[name].what == "text" else self._numbers(array, name)
        return values.reshape(-1, *shape) if shape else values

    def _constant(self, name: str) -> float | int:
        """The value of a column that the file's folders name."""
        text = dict(self._piece.file.partitions)[name]
        if text is None:
            raise self._missing(0, name)
        match self._layout.kinds[name].what:
            case "text":
                return self._layout.categories[name].index(text)
            case _:
                return int(text)

    def _check_missing(self, array: Any, name: str, per_row: int) -> None:
        if array.null_count:
            first = int(np.flatnonzero(array.is_null().to_numpy(zero_copy_only=False))[0])
            raise self._missing(first // max(per_row, 1), name)

    def _missing(self, row: int, name: str) -> InvalidData:
        return InvalidData("the value is missing", where=self._piece.where(row, name), hint=_MISSING)

    def _list_length(self, array: Any, name: str, per_row: int) -> int:
        if _is_fixed(array.type):
            return int(array.type.list_size)
        import pyarrow.compute as pc

        lengths = pc.list_value_length(array).to_numpy(zero_copy_only=False)
        other = np.flatnonzero(lengths != lengths[0])
        if len(other):
            raise InvalidData(
                f"is a list of {lengths[other[0]]}, and the first row's has {lengths[0]}",
                where=self._piece.where(int(other[0]) // per_row, name),
                hint="pad the lists to one length",
            )
        if not lengths[0]:
            raise InvalidData(
                "is an empty list", where=self._piece.where(0, name), hint="leave the column out of data.features"
            )
        return int(lengths[0])

    def _codes(self, array: Any, name: str) -> Array:
        """The place of each text among the categories."""
        import pyarrow as pa
        import pyarrow.compute as pc

        texts = array.cast(pa.string())
        known = pa.array(self._layout.categories[name], pa.string())
        found = pc.index_in(texts, value_set=known)
        if found.null_count:
            row = int(np.flatnonzero(found.is_null().to_numpy(zero_copy_only=False))[0])
            raise InvalidData(
                f"{texts[row].as_py()!r} is none of {_some(self._layout.categories[name])}",
                where=self._piece.where(row, name),
                hint="add it to data.class_names, or correct it",
            )
        return np.asarray(found.to_numpy(zero_copy_only=False))

    def _numbers(self, array: Any, name: str) -> Array:
        import pyarrow as pa

        kind = self._layout.kinds[name].what
        if pa.types.is_string(array.type):  # of CSV; that it can be cast has been seen
            wanted = {"flag": pa.bool_(), "whole": pa.int64(), "float": pa.float64()}[kind]
            array = array.cast(wanted)
        if pa.types.is_decimal(array.type):
            array = array.cast(pa.float64())
        return np.asarray(array.to_numpy(zero_copy_only=False))

    def _typed(self, values: Array, name: str, dtype: np.dtype[Any]) -> Array:
        """The values in the asked-for type. Raises InvalidData for the first that it cannot hold."""
        with np.errstate(over="ignore", invalid="ignore"):
            made = values.astype(dtype, copy=False)
        if dtype.kind == "f":
            bad = ~np.isfinite(made) if values.dtype.kind == "f" or dtype == np.float16 else np.zeros(0, bool)
        elif values.dtype == dtype:
            return made
        else:
            bad = made != values  # what comes back as another number was none of the type
        if bad.any():
            row = int(np.flatnonzero(bad.reshape(len(bad), -1).any(axis=1))[0])
            value = values.reshape(len(values), -1)[row][bad.reshape(len(bad), -1)[row]][0]
            hint = "ask for a wider dtype in data.features" if np.isfinite(value) else _MISSING
            finite = "finite " if dtype.kind == "f" else ""
            raise InvalidData(f"{value} is no {finite}{dtype}", where=self._piece.where(row, name), hint=hint)
        return made

    def _check_told_apart(self, values: Array, name: str, dtype: np.dtype[Any]) -> None:
        """Refuse numbers of which most, or all, lose what tells them apart, as times in seconds do in float32."""
        some = values.reshape(-1)[:LOOKED_AT]
        if dtype != np.float32 or max(float(some.max()), -float(some.min())) < EXACT_IN_FLOAT32:
            return
        different = np.unique(some)
        left = np.unique(different.astype(dtype))
        # Two codes that come again and again; of a few rows, or of numbers with rounding errors, that may be chance.
        all_lost = len(left) == 1 < len(different) < len(some) / 2 and some.dtype.kind in "iu"
        if all_lost or 2 * len(left) < len(different):
            raise InvalidData(
                f"holds {len(different):,} different numbers such as {different[0]}, of which {dtype} tells no more "
                f"than {len(left):,} apart",
                where=f"{self._piece.file.name}: column {name!r}",
                hint="count from a nearer zero or in a larger unit, such as days since the first, leave the column "
                "out, or say in data.features that it may be so: dtype: float32",
            )

    def _side_by_side(self, parts: Sequence[Array], columns: Sequence[str]) -> Array:
        """[N, F] of columns [N] and lists [N, F]."""
        for part, name in zip(parts, columns, strict=True):
            if part.ndim > 2:
                raise InvalidData(
                    f"rows of the column {name!r} have the shape {list(part.shape[1:])}, and stand side by side with "
                    "others",
                    where=self._piece.file.name,
                    hint="give it an input of its own in data.features",
                )
        return np.concatenate([part[:, None] if part.ndim == 1 else part for part in parts], axis=1)


def _is_fixed(kind: Any) -> bool:
    import pyarrow as pa

    return bool(pa.types.is_fixed_size_list(kind))


def _some(names: Sequence[str]) -> str:
    """Some of many names."""
    shown = ", ".join(names[:6])
    return shown if len(names) <= 6 else f"{shown}, … ({len(names)} in all)"


def missing_column(name: str, columns: Sequence[str], where: str) -> InvalidData:
    """The error for a column that a file does not have."""
    import difflib

    close = difflib.get_close_matches(name, columns, n=1, cutoff=0.6)
    hint = f"did you mean {close[0]}?" if close else f"there are: {_some(columns)}"
    return InvalidData(f"has no column {name!r}", where=where, hint=hint)
