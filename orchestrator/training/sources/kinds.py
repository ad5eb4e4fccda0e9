"""What the columns of files hold: told by the schema of Parquet files, and by the texts of CSV files and of folders."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from orchestrator.errors import InvalidData
from orchestrator.training.sources.columns import Kind, What, missing_column
from orchestrator.training.sources.files import DataFile
from orchestrator.training.sources.tables import (
    Piece,
    csv_header,
    csv_spans,
    parquet_pieces,
    parquet_schema,
    read_piece,
)

_FEW = 100
_ORDER = ("flag", "whole", "float")
"""Numbers of the kinds before are numbers of those behind."""


def names_of(file: DataFile) -> tuple[str, ...]:
    """Names of a file's columns, then of those that its folders name."""
    own = csv_header(file)[0] if file.kind == "csv" else tuple(parquet_schema(file).names)
    return (*own, *(name for name, _ in file.partitions if name not in own))


class Seen:
    """What the files show of the columns, one file after another."""

    def __init__(self) -> None:
        self._kinds: dict[str, tuple[Kind, DataFile, bool]] = {}

    def look_at(self, file: DataFile, wanted: Sequence[str]) -> tuple[Piece, ...]:
        """The pieces of a file; the kinds of the columns that are wanted of it are taken in."""
        available = names_of(file)
        for column in wanted:
            if column not in available:
                raise missing_column(column, available, file.name)
        folders = dict(file.partitions)
        own = [column for column in wanted if column in self._own(file)]
        for column in wanted:
            if column not in own:
                self._take(column, _kind_of_partition(folders[column]), file, typed=False)
        return self._parquet(file, own) if file.kind == "parquet" else self._csv(file, own)

    def kind(self, column: str) -> Kind:
        """What the files that were looked at show of a column."""
        return self._kinds[column][0]

    def _own(self, file: DataFile) -> Sequence[str]:
        return csv_header(file)[0] if file.kind == "csv" else parquet_schema(file).names

    def _parquet(self, file: DataFile, columns: Sequence[str]) -> tuple[Piece, ...]:
        schema = parquet_schema(file)
        for column in columns:
            if schema.names.count(column) > 1:
                raise InvalidData(
                    f"names the column {column!r} twice", where=file.name, hint="give each a name of its own"
                )
            kind = _kind_of_type(schema.field(column).type, f"{file.name}: column {column!r}")
            self._take(column, kind, file, typed=True)
        return parquet_pieces(file)

    def _csv(self, file: DataFile, columns: Sequence[str]) -> tuple[Piece, ...]:
        header, start = csv_header(file)
        pieces: list[Piece] = []
        with_rows = list(csv_spans(file, start))
        first = 0
        for span in with_rows:
            piece = Piece(file, first, 0, span=span, columns=header)
            table = read_piece(piece, columns or header[:1])
            for column in columns:
                self._take(column, _kind_of_texts(table.column(column), piece, column), file, typed=False)
            if table.num_rows:
                pieces.append(Piece(file, first, table.num_rows, span=span, columns=header))
            first += table.num_rows
        if not pieces:
            raise InvalidData("has no rows", where=file.name, hint="fill it, or take it away")
        return tuple(pieces)

    def _take(self, column: str, kind: Kind, file: DataFile, *, typed: bool) -> None:
        """Take in what a file shows of a column; `typed` where the file says it, and it is not told from texts."""
        before, where, was_typed = self._kinds.get(column, (kind, file, typed))
        if not (typed or was_typed):
            kind = _of_both(before, kind)
        elif "text" in (before.what, kind.what) and before.what != kind.what:
            raise InvalidData(
                f"the column {column!r} holds {_words(kind)}, and {_words(before)} in {where.name}",
                where=file.name,
                hint="write all files with one schema",
            )
        else:
            kind = max(before, kind, key=lambda each: _ORDER.index(each.what)) if kind.what != "text" else before
        self._kinds[column] = kind, where, typed


def _of_both(before: Kind, kind: Kind) -> Kind:
    """What all texts of two pieces are. It must be what one piece with all of them would show."""
    if "text" in (before.what, kind.what):
        return before if before.what == "text" else kind
    if "flag" in (before.what, kind.what) and before.what != kind.what:
        flag, other = (before, kind) if before.what == "flag" else (kind, before)
        return flag if other.bits else Kind("text", "some values are true or false, and others are numbers")
    widest = max(before, kind, key=lambda each: _ORDER.index(each.what))
    return replace(widest, bits=before.bits and kind.bits)


def _kind_of_partition(text: str | None) -> Kind:
    if text is None:
        return Kind("whole", bits=True)  # says nothing of what others hold; that it is missing is told with its row
    return Kind("whole" if text.removeprefix("-").isdecimal() else "text", f"{text!r} in a folder's name")


def _kind_of_type(kind: Any, where: str) -> Kind:
    import pyarrow.types as pt

    if hasattr(kind, "storage_type"):
        kind = kind.storage_type
    while pt.is_list(kind) or pt.is_large_list(kind) or pt.is_fixed_size_list(kind):
        kind = kind.value_type
    if pt.is_dictionary(kind):
        kind = kind.value_type
    if pt.is_boolean(kind):
        return Kind("flag")
    if pt.is_integer(kind):
        return Kind("whole")
    if pt.is_floating(kind) or pt.is_decimal(kind) or pt.is_null(kind):
        return Kind("float")
    if pt.is_string(kind) or pt.is_large_string(kind):
        return Kind("text", "it is written as text")
    raise InvalidData(
        f"holds {kind}", where=where, hint="write it as numbers or texts, or leave it out of data.features"
    )


def _kind_of_texts(column: Any, piece: Piece, name: str) -> Kind:
    """What the texts of a CSV column are: flags, whole numbers and numbers, as far as all of them can be read so."""
    import pyarrow as pa

    head = column.slice(0, _FEW)  # arrow goes through all texts before it says that one of them is no number
    numbers: tuple[tuple[What, Any], ...] = (("whole", pa.int64()), ("float", pa.float64()), ("flag", pa.bool_()))
    for what, kind in numbers:
        try:
            head.cast(kind)
            column.cast(kind)
        except pa.ArrowInvalid:
            continue
        return Kind(what, bits=what == "whole" and _are_bits(head) and _are_bits(column))
    for row, text in enumerate(column.to_pylist()):
        if text is not None and not _is_number(text):
            return Kind("text", f"{piece.where(row, name)} holds {text!r}")
    return Kind("text")


def _are_bits(texts: Any) -> bool:
    import pyarrow as pa

    try:
        texts.cast(pa.bool_())
    except pa.ArrowInvalid:
        return False
    return True


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _words(kind: Kind) -> str:
    return "texts" if kind.what == "text" else "numbers"
