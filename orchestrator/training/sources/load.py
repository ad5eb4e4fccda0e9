"""The job's data as a `Dataset`, whatever its source."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from orchestrator.errors import InvalidData
from orchestrator.models.user_code import import_function
from orchestrator.planning.seeds import limit_seed, split_seed
from orchestrator.spec import Job
from orchestrator.spec.sources import FilesSpec, StreamSpec
from orchestrator.training.data import Dataset, load_dataset, make_dataset
from orchestrator.training.labels import one_hot_labels
from orchestrator.training.limit import limit_rows
from orchestrator.training.sources.columns import Layout, Rows
from orchestrator.training.sources.files import DataFile, S3Settings, find_files
from orchestrator.training.sources.memory import half_of_memory
from orchestrator.training.sources.npz import read_npz
from orchestrator.training.sources.opening import open_stream
from orchestrator.training.sources.scan import Scanned, scan
from orchestrator.training.sources.stream import StreamedSplit, read_rows_of
from orchestrator.training.sources.tables import Piece, forget_files


def load_job_data(job: Job) -> Dataset:
    """Call the data function, or read the files, that a job names; labels, and as many rows, as it asks for.

    The job's own modules must be importable, and its files readable, where this is called.

    Raises:
        InvalidData, InvalidJob: what is wrong with the data, where, and how to mend it.
        AccessDenied, StoreUnavailable: a location cannot be reached.
    """
    dataset = one_hot_labels(_load(job), job.data.one_hot_labels)
    return limit_rows(dataset, job.data.max_rows, limit_seed(job.seed))


def _load(job: Job) -> Dataset:
    data, split, seed = job.data, job.validation_split, split_seed(job.seed)
    if data.function is not None:
        function = import_function(data.function)
        return load_dataset(function, data.function, validation_split=split.share, take=split.take, seed=seed)
    forget_files()
    files = _files(job)
    where = next(iter(files.values()))[0].name
    try:
        if files["train"][0].kind == "npz":
            return make_dataset(_arrays(files), where, validation_split=split.share, take=split.take, seed=seed)
        scanned = scan(data, files)
        if data.streaming is not None:
            return _streamed(scanned, data.streaming, where, validation_split=split.share, seed=seed)
        tables = {name: read_rows(pieces, scanned.layout.of(name)) for name, pieces in scanned.pieces.items()}
    except MemoryError as error:
        raise InvalidData(
            "the rows do not fit into memory",
            where=where,
            hint="read them anew each epoch: data.stream: true",
        ) from error
    dataset = make_dataset(_returned(tables), where, validation_split=split.share, take=split.take, seed=seed)
    return replace(dataset, class_names=scanned.layout.class_names(), codes=scanned.layout.codes())


def _streamed(scanned: Scanned, asked: StreamSpec, where: str, *, validation_split: float, seed: int) -> Dataset:
    """Training rows that stay in their files; those of the other sets are in memory."""
    pieces, layout = scanned.pieces, scanned.layout
    tables = {name: read_rows(of_set, layout) for name, of_set in pieces.items() if name != "train"}
    share = 0.0 if "validation" in tables else validation_split
    window_bytes = int(asked.window_mb * 2**20)
    stream, sample, drawn = open_stream(pieces["train"], layout, window_bytes, share=share, seed=seed)
    if share and drawn is None:
        raise InvalidData(
            f"data.validation_split {share:g} of {stream.num_rows} rows leaves one part empty",
            where=where,
            hint="name a validation set in data.source, or change data.validation_split",
        )
    if drawn is not None:
        tables["validation"] = drawn
    returned = {"train": (sample.x, sample.y, *([] if sample.w is None else [sample.w])), **_returned(tables)}
    dataset = make_dataset(returned, where, validation_split=0, seed=seed)
    digest = hashlib.sha256(b"".join([*stream.digests, dataset.fingerprint.encode()]))
    return replace(
        dataset,
        train=StreamedSplit(dataset.train, stream),
        fingerprint=digest.hexdigest(),
        class_names=layout.class_names(),
        codes=layout.codes(),
    )


def _files(job: Job) -> dict[str, Sequence[DataFile]]:
    source, s3 = job.data.source, S3Settings(job.storage.endpoint_url, job.storage.region)
    locations = dict(source.locations()) if isinstance(source, FilesSpec) else {"train": source}
    return {name: find_files(location, s3) for name, location in locations.items()}


def _arrays(files: Mapping[str, Sequence[DataFile]]) -> dict[str, tuple[Any, ...]]:
    """The arrays of each set: all of one file, or of a file for each set."""
    if len(files) == 1:
        return read_npz(files["train"][0])
    sets = {}
    for name, (file, *_) in files.items():
        found = read_npz(file)
        if list(found) != ["train"]:
            raise InvalidData(
                f"holds the sets {', '.join(found)}, and is named for {name}",
                where=file.name,
                hint="name one file that holds them all as data.source, or save x and y in each",
            )
        sets[name] = found["train"]
    return sets


def read_rows(pieces: Sequence[Piece], layout: Layout, *, max_bytes: int | None = None) -> Rows:
    """All rows of these pieces, in their order, in arrays that are filled piece by piece.

    Args:
        pieces, layout: where the rows are, and what becomes of them.
        max_bytes: more than so many are refused, before they are read; default half of the machine's memory.

    Raises:
        InvalidData: as `read_rows_of`; or the rows are too many, or have different shapes.
    """
    total = sum(piece.num_rows for piece in pieces)
    filled: Rows | None = None
    start = 0
    for piece in pieces:
        rows = read_rows_of(piece, layout)
        if filled is None:
            row_bytes = sum(int(array[:1].nbytes) for array in rows.arrays())
            _check_size(total * row_bytes, half_of_memory() if max_bytes is None else max_bytes, piece)
            filled = rows.with_arrays([np.empty((total, *a.shape[1:]), a.dtype) for a in rows.arrays()])
        put_rows(rows, filled, slice(start, start + piece.num_rows), piece)
        start += piece.num_rows
    if filled is None:
        raise InvalidData("there are no rows", hint="name files with rows in data.source")
    return filled


def _check_size(num_bytes: int, max_bytes: int, piece: Piece) -> None:
    if num_bytes > max_bytes:
        raise InvalidData(
            f"the rows take {num_bytes / 2**20:,.1f} MiB as arrays, and {max_bytes / 2**20:,.1f} are there for them",
            where=piece.file.name,
            hint="read training rows anew each epoch: data.stream: true; or name fewer columns, or a narrower dtype",
        )


def put_rows(rows: Rows, into: Rows, where: Any, piece: Piece) -> None:
    """Copy the rows of a piece to their places. Raises InvalidData when they have another shape."""
    for array, place in zip(rows.arrays(), into.arrays(), strict=True):
        if array.shape[1:] != place.shape[1:]:
            raise InvalidData(
                f"rows from {piece.first_row} on have the shape {list(array.shape[1:])}, those before them "
                f"{list(place.shape[1:])}",
                where=piece.file.name,
                hint="pad lists to one length",
            )
        place[where] = array


def _returned(tables: Mapping[str, Rows]) -> dict[str, Any]:
    """What a data function would return."""
    sets = {name: (rows.x, rows.y) if rows.w is None else (rows.x, rows.y, rows.w) for name, rows in tables.items()}
    return {**sets, "groups": tables["train"].groups if "train" in tables else None}
