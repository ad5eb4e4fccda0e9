"""Data in files: where they lie, and which of their columns are inputs, labels, weights and groups."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from orchestrator.spec.base import BY_SHAPE, IS_BOOL, IS_LIST, IS_MAPPING, IS_TEXT, Problem, Spec, refuse
from orchestrator.spec.urls import storage_problem

FileKind = Literal["npz", "csv", "parquet", "folder"]

Column = Annotated[str, Field(min_length=1)]
Columns = Annotated[tuple[Column, ...], Field(min_length=1, strict=False)]
Dtype = Literal[
    "float16",
    "float32",
    "float64",
    "bool",
    "int8",
    "int16",
    "int32",
    "int64",
    "uint8",
    "uint16",
    "uint32",
    "uint64",
]


class InputSpec(Spec):
    """One input of the model: its columns, and what becomes of them."""

    columns: Annotated[Annotated[Column, IS_TEXT] | Annotated[Columns, IS_LIST], BY_SHAPE] = Field(
        description="A column as it is, or a list of columns side by side. In a list a name may be a pattern such as "
        "`pixel*`."
    )
    dtype: Dtype | None = Field(
        default=None,
        description="Type of the input; by default float32, and int32 for the codes of texts. Numbers of which float32 "
        "tells less than half apart, such as times in seconds, are refused unless it is asked for here.",
    )
    shape: Annotated[tuple[Annotated[int, Field(ge=1)], ...], Field(min_length=1, strict=False)] | None = Field(
        default=None, description="Shape of one row, such as [28, 28]; by default as the columns have it."
    )


DEFAULT_WINDOW_MB = 128

Named = str | tuple[str, ...]
OneInput = Named | InputSpec
Input = Annotated[Annotated[Column, IS_TEXT] | Annotated[Columns, IS_LIST] | Annotated[InputSpec, IS_MAPPING], BY_SHAPE]
Features = Annotated[
    Annotated[Column, IS_TEXT]
    | Annotated[Columns, IS_LIST]
    | Annotated[dict[str, Input], Field(min_length=1), IS_MAPPING],
    BY_SHAPE,
]
Output = Annotated[Annotated[Column, IS_TEXT] | Annotated[Columns, IS_LIST], BY_SHAPE]
Label = Annotated[
    Annotated[Column, IS_TEXT]
    | Annotated[Columns, IS_LIST]
    | Annotated[dict[str, Output], Field(min_length=1), IS_MAPPING],
    BY_SHAPE,
]


def location_problem(location: str) -> str | None:
    """What is wrong with the location of data, as far as it can be told without looking there; None: nothing."""
    problem = storage_problem(location)
    if problem is not None:
        return problem.replace("s3://bucket/prefix", "s3://bucket/key")
    if kind_of(location) is None:
        ending = _last_part(location).rpartition(".")[2]
        return (
            f"ends with .{ending}, and only .npz, .csv and .parquet can be read: end the name of a folder that has a "
            "dot with `/`"
        )
    return None


def kind_of(location: str) -> FileKind | None:
    """What kind of data lies there by its name: no ending is a folder; None: an ending that is unknown."""
    name = _last_part(location)
    if "." not in name.lstrip("."):
        return "folder"
    match name.rpartition(".")[2].lower():
        case "npz":
            return "npz"
        case "csv":
            return "csv"
        case "parquet":
            return "parquet"
    return None


def _last_part(location: str) -> str:
    """The name after the last `/`; none where the location ends with it, and in a bucket's own name."""
    scheme, separator, path = location.rpartition("://")
    if scheme == "s3" and "/" not in path:
        return ""
    name = path.rpartition("/")[2] if separator else location.rpartition("/")[2]
    return "" if name in (".", "..") else name


def _checked_location(value: str) -> str:
    problem = location_problem(value)
    refuse([Problem((), problem)] if problem else [])
    return value


Location = Annotated[str, AfterValidator(_checked_location), Field(min_length=1)]


class FilesSpec(Spec):
    """A location for each set of rows."""

    train: Location = Field(description="Training rows: a file or folder, local or `s3://`.")
    validation: Location | None = Field(default=None, description="Validation rows.")
    test: Location | None = Field(default=None, description="Test rows.")

    def locations(self) -> Iterator[tuple[str, str]]:
        """The locations that are given, by the name of their set."""
        for name, location in (("train", self.train), ("validation", self.validation), ("test", self.test)):
            if location is not None:
                yield name, location


class StreamSpec(Spec):
    """How training rows that do not fit into memory are read."""

    window_mb: float = Field(
        default=DEFAULT_WINDOW_MB,
        gt=0,
        description="Rows are shuffled among so many MiB of them at a time; a worker has up to three times as much "
        "of them in memory.",
    )


Stream = Annotated[Annotated[bool, IS_BOOL] | Annotated[StreamSpec, IS_MAPPING], BY_SHAPE]


def inputs_of(
    features: str | tuple[str, ...] | Mapping[str, str | tuple[str, ...] | InputSpec],
) -> dict[str, InputSpec]:
    """The inputs by name; the name `""` is the only input, an array."""
    if isinstance(features, Mapping):
        return {name: _as_input(each) for name, each in features.items()}
    return {"": _as_input(features)}


def outputs_of(label: Named | Mapping[str, Named]) -> dict[str, Named]:
    """The columns of the labels by output; the name `""` is the only output."""
    return dict(label) if isinstance(label, Mapping) else {"": label}


def _as_input(value: OneInput) -> InputSpec:
    return value if isinstance(value, InputSpec) else InputSpec(columns=value)


def columns_of(value: Named) -> tuple[str, ...]:
    """One column or several, as several."""
    return (value,) if isinstance(value, str) else value


def matches(column: str, pattern: str) -> bool:
    """Whether a column is meant by a name, or by a pattern with `*`, `?` or `[…]`."""
    return column == pattern or fnmatchcase(column, pattern)


def column_problems(
    source: str | FilesSpec,
    *,
    is_function: bool,
    keys: Mapping[str, object],
) -> Iterator[Problem]:
    """What contradicts itself in the keys of data in files.

    Args:
        source: of the data.
        is_function: it is a function, not a location.
        keys: the values of `features`, `label`, `weight`, `groups` and `stream` by key, those that are set.
    """
    if is_function:
        for key in keys:
            yield Problem((key,), "is for data in files, and data.source is a function: let it return what is meant")
        return
    given = {"": source} if isinstance(source, str) else dict(source.locations())
    are_npz = {name: kind_of(location) == "npz" for name, location in given.items()}
    if any(are_npz.values()):
        if not all(are_npz.values()):
            yield Problem(("source",), "mixes .npz with tables: give one or the other for all sets")
        for key in keys:
            yield Problem((key,), "is for columns, and an .npz has arrays: x, y and, for sample weights, w")
        return
    if "stream" in keys and "groups" in keys:
        yield Problem(("groups",), "needs the training rows in memory: leave `stream` out")
    if "label" not in keys:
        yield Problem(("label",), "is missing: name the column that is to be predicted")
