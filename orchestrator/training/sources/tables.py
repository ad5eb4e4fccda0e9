"""Pieces of tables that are read together: row groups of Parquet files, runs of lines of CSV files.

Columns of a CSV file come as texts: what they mean is decided when all of them have been seen.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from orchestrator.errors import InvalidData
from orchestrator.training.sources.files import DataFile, told

CSV_PIECE_BYTES = 8 * 2**20
MAX_LINE_BYTES = 64 * 2**20
_HEADER_BYTES = 4096
_OPEN_FILES = 16


@dataclass(frozen=True)
class Piece:
    """Rows of a file that follow one another.

    Attributes:
        file: which one.
        first_row: number of the first row in the file, from 0; a header is no row.
        num_rows: how many rows.
        group: row group of a Parquet file.
        span: first byte of a CSV file's lines, and the one behind the last.
        columns: names of the file's own columns.
    """

    file: DataFile
    first_row: int
    num_rows: int
    group: int = 0
    span: tuple[int, int] = (0, 0)
    columns: tuple[str, ...] = ()

    def where(self, row: int, column: str) -> str:
        """A place in words: `row` is counted within the piece."""
        return f"{self.file.name}: row {self.first_row + row} (from 0), column {column!r}"


def parquet_schema(file: DataFile) -> Any:
    """The Arrow schema of a Parquet file. Raises InvalidData when it is none."""
    return _opened(file).schema_arrow


def parquet_pieces(file: DataFile) -> tuple[Piece, ...]:
    """The row groups of a Parquet file that have rows. Raises InvalidData when there are none."""
    metadata, columns = _opened(file).metadata, tuple(parquet_schema(file).names)
    pieces, first = [], 0
    for group in range(metadata.num_row_groups):
        num_rows = metadata.row_group(group).num_rows
        if num_rows:
            pieces.append(Piece(file, first, num_rows, group=group, columns=columns))
        first += num_rows
    if not pieces:
        raise _empty(file)
    return tuple(pieces)


def csv_header(file: DataFile) -> tuple[tuple[str, ...], int]:
    """Names of a CSV file's columns, and where its first row begins, in bytes.

    Raises:
        InvalidData: it is empty, not UTF-8, or a name stands there twice.
    """
    with file.open() as opened, told(file.name):
        start = _whole_lines(file, opened, 0, _HEADER_BYTES, _first_end)
    if not start.strip():
        raise InvalidData("is empty", where=file.name, hint="the first line names the columns; or take the file away")
    try:
        [names] = csv.reader(io.StringIO(start.decode("utf-8-sig"), newline=""))
    except (ValueError, csv.Error) as error:
        raise InvalidData(f"has no header: {error}", where=file.name, hint="save it as UTF-8 with commas") from error
    names = [name.strip() for name in names]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise InvalidData(f"names the column {twice[0]!r} twice", where=file.name, hint="give each a name of its own")
    return tuple(names), len(start)


def csv_spans(file: DataFile, start: int) -> Iterator[tuple[int, int]]:
    """Where runs of whole lines begin and end, in bytes; a line break within quotes ends no line."""
    with file.open() as opened, told(file.name):
        size = opened.size()
        while start < size:
            length = len(_whole_lines(file, opened, start, CSV_PIECE_BYTES, _last_end))
            yield start, start + length
            start += length


def read_piece(piece: Piece, columns: Sequence[str]) -> Any:
    """These columns of a piece, and no others, as a pyarrow table.

    Raises:
        InvalidData: the bytes are no such table (any more).
        AccessDenied, StoreUnavailable: the file cannot be reached.
    """
    if piece.file.kind == "parquet":
        return _read_group(piece, columns)
    with piece.file.open() as opened, told(piece.file.name):
        body = opened.read_at(piece.span[1] - piece.span[0], piece.span[0])
    return read_csv(piece.file, body, piece.columns, columns, first_row=piece.first_row)


def read_csv(file: DataFile, body: bytes, header: Sequence[str], columns: Sequence[str], *, first_row: int) -> Any:
    """Lines of a CSV file as a table of texts, without blanks around them; what is empty, `NA`, `NaN` or `null` is
    missing.

    Raises:
        InvalidData: a row has another number of fields than the header, or the text is not UTF-8.
    """
    import pyarrow as pa
    from pyarrow import csv as pacsv

    bad: list[Any] = []

    def refuse(row: Any) -> str:
        bad.append(row)
        return "error"

    convert = pacsv.ConvertOptions(
        include_columns=list(columns), column_types={name: pa.string() for name in columns}, strings_can_be_null=True
    )
    try:
        table = pacsv.read_csv(
            io.BytesIO(body),
            pacsv.ReadOptions(column_names=list(header), block_size=len(body) + 1, use_threads=False),
            pacsv.ParseOptions(newlines_in_values=True, invalid_row_handler=refuse),
            convert,
        )
    except pa.ArrowInvalid as error:
        if not bad:
            raise InvalidData(f"cannot be read as CSV: {error}", where=file.name, hint="save it as UTF-8") from error
        row = bad[0]
        number = "" if row.number is None else f"row {first_row + row.number - 1} (from 0) "
        raise InvalidData(
            f"{number}has {row.actual_columns} fields instead of {row.expected_columns}: {row.text[:80]!r}",
            where=file.name,
            hint="quote fields that hold commas, and give every row the columns of the header",
        ) from None
    missing = pa.array(convert.null_values)
    if not columns:  # then all are there, of any type, to be counted
        return table
    return pa.table([_trimmed(column, missing) for column in table.columns], names=table.column_names)


def _trimmed(column: Any, missing: Any) -> Any:
    """Texts without blanks around them; some are seen to be missing only then."""
    import pyarrow as pa
    import pyarrow.compute as pc

    texts = pc.utf8_trim_whitespace(column)
    return pc.if_else(pc.is_in(texts, value_set=missing), pa.scalar(None, pa.string()), texts)


def _read_group(piece: Piece, columns: Sequence[str]) -> Any:
    import pyarrow as pa

    with told(piece.file.name):
        try:
            table = _opened(piece.file).read_row_group(piece.group, columns=list(columns), use_threads=False)
        except (pa.ArrowException, ValueError) as error:
            raise InvalidData(f"row group {piece.group} cannot be read: {error}", where=piece.file.name) from error
    if table.num_rows != piece.num_rows:
        raise InvalidData(
            f"row group {piece.group} has {table.num_rows} rows, and had {piece.num_rows}",
            where=piece.file.name,
            hint="data must not change while a run reads them",
        )
    return table.select(list(columns))


def forget_files() -> None:
    """Look at each file anew, even if this process has read it before."""
    _opened.cache_clear()


@lru_cache(maxsize=_OPEN_FILES)
def _opened(file: DataFile) -> Any:
    """A Parquet file with its metadata, which are read once."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    with told(file.name):
        try:
            return pq.ParquetFile(file.open())
        except (pa.ArrowException, ValueError) as error:
            what = "is empty" if "size is 0 bytes" in str(error) else f"is no Parquet file: {error}"
            raise InvalidData(what, where=file.name, hint="write it again, or take it away") from error


def _whole_lines(file: DataFile, opened: Any, start: int, length: int, end_of: Callable[[bytes], int]) -> bytes:
    """Bytes from `start` up to where `end_of` finds the end of a line, or to the end of the file."""
    left = opened.size() - start
    while True:
        body: bytes = opened.read_at(min(length, left), start)
        end = end_of(body)
        if length >= left:
            return body[:end] if end_of is _first_end and end else body
        if end:
            return body[:end]
        if length >= MAX_LINE_BYTES:
            raise InvalidData(
                f"has a line of more than {MAX_LINE_BYTES:,} bytes at byte {start}",
                where=file.name,
                hint="look for a quote that is not closed",
            )
        length *= 2


def _last_end(body: bytes) -> int:
    """Length up to the last line break outside of quotes; 0 where there is none."""
    end, quotes = len(body), body.count(b'"')
    while (found := body.rfind(b"\n", 0, end)) >= 0:
        quotes -= body.count(b'"', found, end)
        if quotes % 2 == 0:
            return found + 1
        end = found
    return 0


def _first_end(body: bytes) -> int:
    """Length up to the first line break outside of quotes; 0 where there is none."""
    end = quotes = 0
    while (found := body.find(b"\n", end)) >= 0:
        quotes += body.count(b'"', end, found)
        end = found + 1
        if quotes % 2 == 0:
            return end
    return 0


def _empty(file: DataFile) -> InvalidData:
    return InvalidData("has no rows", where=file.name, hint="fill it, or take it away")
