"""Locations of data, local or `s3://`, and the files below them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from orchestrator.errors import AccessDenied, InvalidData, StoreUnavailable
from orchestrator.spec.sources import FileKind, kind_of

NO_VALUE = "__HIVE_DEFAULT_PARTITION__"
"""What Hive names the folder of rows whose partition column has no value."""

_CONNECT_TIMEOUT_S = 5.0
_REQUEST_TIMEOUT_S = 30.0
_REFUSED = re.compile(
    r"ACCESS_DENIED|INVALID_ACCESS_KEY|SIGNATURE_DOES_NOT_MATCH|HTTP status 40[13]\b|EXPIRED_TOKEN", re.I
)
_MISSING = re.compile(r"NO_SUCH|NOT_FOUND|does not exist|HTTP status 404\b|No such file")
_CREDENTIALS = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, an AWS profile, or a role, where the workers run"


@dataclass(frozen=True)
class S3Settings:
    """How `s3://` is reached; credentials come from each process' own environment, profile or role.

    Attributes:
        endpoint_url: an S3-compatible server other than AWS.
        region: of the bucket, where the environment does not say it.
    """

    endpoint_url: str | None = None
    region: str | None = None


@dataclass(frozen=True)
class DataFile:
    """One file with rows.

    Attributes:
        name: as messages show it: a path, or an `s3://` URL.
        kind: `npz`, `csv` or `parquet`.
        s3: how it is reached; None: it is local.
        partitions: columns that its folders name (`year=2024/`), with their texts; None is no value.
    """

    name: str
    kind: FileKind
    s3: S3Settings | None = None
    partitions: tuple[tuple[str, str | None], ...] = ()

    def open(self) -> Any:
        """The file, open for reading anywhere in it (a pyarrow `NativeFile`).

        Raises:
            InvalidData: it is not there.
            AccessDenied, StoreUnavailable: it cannot be reached.
        """
        with told(self.name):
            return _filesystem(self.s3).open_input_file(self.name.removeprefix("s3://"))


def find_files(location: str, s3: S3Settings) -> tuple[DataFile, ...]:
    """The files of a location in the order of their names, all of one kind.

    Below a folder, names that begin with `_` or `.` are left out, as those of unfinished and accompanying files do.

    Args:
        location: a file or folder, as `data.source` names it; local ones absolute or relative to the working directory.
        s3: how `s3://` locations are reached.

    Raises:
        InvalidData: there is nothing, something that cannot be read, or files of several kinds.
        AccessDenied, StoreUnavailable: it cannot be reached.
    """
    import pyarrow.fs as pafs

    path, settings, prefix = _resolve(location, s3)
    with told(location):
        filesystem = _filesystem(settings)
        root = filesystem.get_file_info(path)
        if root.type == pafs.FileType.NotFound:
            raise InvalidData(
                "there is no such file or folder",
                where=location,
                hint="data.source is a path from the folder in which the job is started, or a URL; every node that "
                "may load the data needs it",
            )
        if root.type == pafs.FileType.File:
            kind = kind_of(location)
            if kind is None or kind == "folder":
                raise InvalidData("is a file without an ending", where=location, hint="name it .npz, .csv or .parquet")
            return (DataFile(prefix + path, kind, settings),)
        below = filesystem.get_file_info(pafs.FileSelector(path, recursive=True))
    names = sorted(info.path for info in below if info.type == pafs.FileType.File)
    relative = [(name, name[len(path.rstrip("/")) + 1 :]) for name in names]
    shown = [(name, rest) for name, rest in relative if not any(part[0] in "_." for part in rest.split("/"))]
    files = tuple(_in_folder(prefix + name, rest, settings) for name, rest in shown)
    if not files:
        raise InvalidData("the folder holds no files", where=location, hint="put .csv or .parquet files there")
    for file in files:
        if file.kind != files[0].kind:
            raise InvalidData(
                f"files of several kinds: {files[0].name} and {file.name}",
                where=location,
                hint="keep one kind in a folder",
            )
        if [key for key, _ in file.partitions] != [key for key, _ in files[0].partitions]:
            raise InvalidData(
                f"{files[0].name} and {file.name} lie below folders that name different columns",
                where=location,
                hint="name the same columns, in the same order, in the path of each file (`year=2024/month=1/`)",
            )
    return files


def _in_folder(name: str, relative: str, s3: S3Settings | None) -> DataFile:
    kind = kind_of(relative)
    if kind != "csv" and kind != "parquet":
        raise InvalidData(
            "is neither .csv nor .parquet",
            where=name,
            hint="move it out of the folder, or begin its name with `_` to have it left out",
        )
    named = [part.partition("=") for part in relative.split("/")[:-1]]
    partitions = tuple(
        (unquote(key), None if text == NO_VALUE else unquote(text)) for key, equals, text in named if equals
    )
    return DataFile(name, kind, s3, partitions)


def _resolve(location: str, s3: S3Settings) -> tuple[str, S3Settings | None, str]:
    """Path for the file system, how it is reached, and what stands before the path in names for people."""
    if location.startswith("s3://"):
        return location.removeprefix("s3://").rstrip("/"), s3, "s3://"
    if location.startswith("file://"):
        return unquote(urlsplit(location).path), None, ""
    return str(Path(location).expanduser().absolute()), None, ""


@cache
def _filesystem(s3: S3Settings | None) -> Any:
    """The file system of this process; its connections are kept."""
    import pyarrow.fs as pafs

    if s3 is None:
        return pafs.LocalFileSystem()
    options: dict[str, Any] = {"connect_timeout": _CONNECT_TIMEOUT_S, "request_timeout": _REQUEST_TIMEOUT_S}
    if s3.endpoint_url is not None:
        parts = urlsplit(s3.endpoint_url)
        options |= {"scheme": parts.scheme, "endpoint_override": parts.netloc}
    if s3.region is not None:
        options["region"] = s3.region
    return pafs.S3FileSystem(**options)


@contextmanager
def told(where: str) -> Iterator[None]:
    """What goes wrong with a file system, as an error of ours that says whether a retry can help."""
    import pyarrow as pa

    try:
        yield
    except pa.ArrowInvalid as error:  # such as an empty part between slashes
        raise InvalidData(str(error)[:300], where=where, hint="correct the location, or move the file") from None
    except OSError as error:
        raise _explained(error, where) from None  # what the client says may quote parts of a signed request


def _explained(error: OSError, where: str) -> Exception:
    text = str(error)
    if isinstance(error, FileNotFoundError) or (where.startswith("s3://") and _MISSING.search(text)):
        return InvalidData("there is no such file", where=where, hint="look for it where the workers run")
    if isinstance(error, PermissionError) or _REFUSED.search(text):
        return AccessDenied("reading is refused", where=where, hint=f"grant it; for s3:// {_CREDENTIALS}")
    if where.startswith("s3://"):
        return StoreUnavailable("S3 is out of reach", where=where, hint="check the endpoint and the network")
    return InvalidData(f"cannot be read: {text[:300]}", where=where, hint="check the file and its disk")
