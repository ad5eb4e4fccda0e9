"""The look at all pieces before the first row is used: columns, kinds, categories, numbers of rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from orchestrator.errors import InvalidData, InvalidJob
from orchestrator.spec import DataSpec
from orchestrator.spec.sources import InputSpec, columns_of, inputs_of, matches, outputs_of
from orchestrator.training.sources.columns import InputPlan, Kind, Layout, OutputPlan
from orchestrator.training.sources.files import DataFile
from orchestrator.training.sources.kinds import Seen, names_of
from orchestrator.training.sources.tables import Piece, read_piece

MAX_CATEGORIES = 1_000_000
"""Different texts of one column: with more they are no categories, nor groups."""


@dataclass(frozen=True)
class Scanned:
    """What is known of tables before their rows are read.

    Attributes:
        pieces: of each set of rows, in the order of the files and of the rows in them.
        layout: what becomes of which column.
    """

    pieces: Mapping[str, tuple[Piece, ...]]
    layout: Layout


def scan(data: DataSpec, files: Mapping[str, Sequence[DataFile]]) -> Scanned:
    """Look at all files of a job's data.

    CSV files are read once for it, but no more than `CSV_PIECE_BYTES` at a time; of Parquet files only the metadata and
    the columns that hold texts.

    Args:
        data: the job's `data:`.
        files: of each set of rows.

    Raises:
        InvalidData: a column is missing, its kind is not the same in all files, or a file has no rows.
        InvalidJob: the columns that are asked for contradict themselves.
    """
    every = [file for of_set in files.values() for file in of_set]
    layout = _layout(data, names_of(every[0]))
    seen = Seen()
    pieces = {
        name: tuple(piece for file in of_set for piece in seen.look_at(file, layout.of(name).columns()))
        for name, of_set in files.items()
    }
    kinds = {column: seen.kind(column) for column in layout.columns()}
    _check_kinds(layout, kinds)
    texts = [column for column, kind in kinds.items() if kind.what == "text"]
    found = _categories(layout, texts, pieces)
    categories = found | _named_classes(data, layout, found)
    return Scanned(pieces, _resolved(layout, kinds, categories))


def _layout(data: DataSpec, available: Sequence[str]) -> Layout:
    """The plans of inputs and outputs, patterns expanded; types are not known yet."""
    if data.label is None:
        raise InvalidJob("is missing", where="data.label", hint="name the column to predict")
    outputs = tuple(
        OutputPlan(name, columns_of(each), isinstance(each, str)) for name, each in outputs_of(data.label).items()
    )
    taken = {column for plan in outputs for column in plan.columns}
    others = taken | {column for column in (data.weight, data.groups) if column is not None}
    if data.features is None:
        asked = {"": InputSpec(columns=tuple(column for column in available if column not in others) or ("*",))}
    else:
        asked = inputs_of(data.features)
    inputs = tuple(_input(name, each, available) for name, each in asked.items())
    for plan in inputs:
        for column in plan.columns:
            if column in taken:
                raise InvalidJob(
                    f"the column {column!r} is a label too: the model would be told the answer",
                    where="data.features",
                    hint="leave it out of data.features",
                )
    return Layout(inputs, outputs, data.weight, data.groups)


def _input(name: str, asked: InputSpec, available: Sequence[str]) -> InputPlan:
    alone = isinstance(asked.columns, str)
    columns: list[str] = []
    for pattern in columns_of(asked.columns):
        found = [pattern] if alone or pattern in available else [each for each in available if matches(each, pattern)]
        columns += found or [pattern]  # what is not there is told file by file
    return InputPlan(name, tuple(dict.fromkeys(columns)), alone, asked.dtype or "", asked.shape)


def _check_kinds(layout: Layout, kinds: Mapping[str, Kind]) -> None:
    """Refuse texts where only numbers make sense."""
    for plan in layout.inputs:
        of_texts = [column for column in plan.columns if kinds[column].what == "text"]
        if of_texts and len(of_texts) < len(plan.columns):
            raise InvalidData(
                f"the column {of_texts[0]!r} holds texts, and stands side by side with numbers: "
                f"{kinds[of_texts[0]].because}",
                where="data.features",
                hint="correct the values, leave the column out, or make it an input of its own for an Embedding: "
                f"features: {{numbers: […], {of_texts[0]}: {of_texts[0]}}}",
            )
    for output in layout.outputs:
        if not output.alone and any(kinds[column].what == "text" for column in output.columns):
            raise InvalidData(
                "a list of labels needs numbers, and one of the columns holds texts",
                where="data.label",
                hint="for several outputs map their names to columns: label: {a: a, b: b}",
            )
    if layout.weight is not None and kinds[layout.weight].what == "text":
        raise InvalidData(f"holds texts: {kinds[layout.weight].because}", where="data.weight", hint="name numbers")


def _categories(
    layout: Layout, texts: Sequence[str], pieces: Mapping[str, Sequence[Piece]]
) -> dict[str, tuple[str, ...]]:
    """The different texts of each column over all sets of rows, sorted."""
    found: dict[str, set[str]] = {column: set() for column in texts}
    for name, of_set in pieces.items():
        wanted = [column for column in texts if column in layout.of(name).columns()]
        for piece in of_set if wanted else ():
            _take_texts(piece, wanted, found)
    return {column: tuple(sorted(each)) for column, each in found.items()}


def _take_texts(piece: Piece, columns: Sequence[str], found: Mapping[str, set[str]]) -> None:
    """Add the texts of a piece to those that are known."""
    import pyarrow.compute as pc

    folders = dict(piece.file.partitions)
    own = [column for column in columns if column not in folders or column in piece.columns]
    table = read_piece(piece, own)
    for column in columns:
        texts = (
            pc.unique(_flat(table.column(column).combine_chunks())).to_pylist() if column in own else [folders[column]]
        )
        found[column].update(text for text in texts if text is not None)
        if len(found[column]) > MAX_CATEGORIES:
            raise InvalidData(
                f"the column {column!r} holds more than {MAX_CATEGORIES:,} different texts",
                where=piece.file.name,
                hint="texts become codes of categories: for running text store the numbers of its tokens",
            )


def _flat(values: Any) -> Any:
    """The texts in an array of texts, of codes of texts, or of lists of them."""
    import pyarrow.types as pt

    while not (pt.is_string(values.type) or pt.is_large_string(values.type)):
        if pt.is_dictionary(values.type):
            values = values.dictionary_decode()
        else:
            values = values.storage if hasattr(values, "storage") else values.flatten()
    return values


def _named_classes(data: DataSpec, layout: Layout, found: Mapping[str, Sequence[str]]) -> dict[str, tuple[str, ...]]:
    """The order that `data.class_names` gives to the texts of labels."""
    named = data.class_names
    by_output = named if isinstance(named, Mapping) else {"": named}
    given = {plan.columns[0]: by_output.get(plan.name) for plan in layout.outputs if plan.columns[0] in found}
    return {column: tuple(names) for column, names in given.items() if names}


def _resolved(layout: Layout, kinds: Mapping[str, Kind], categories: Mapping[str, tuple[str, ...]]) -> Layout:
    """The layout with the types of its inputs."""
    inputs = []
    for plan in layout.inputs:
        are_codes = all(kinds[column].what == "text" for column in plan.columns)
        dtype = plan.dtype or ("int32" if are_codes else "float32")
        inputs.append(InputPlan(plan.name, plan.columns, plan.alone, dtype, plan.shape, by_default=not plan.dtype))
    return Layout(tuple(inputs), layout.outputs, layout.weight, layout.groups, kinds, categories)
