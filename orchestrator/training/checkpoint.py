"""Exact checkpoints: all that is needed to continue training after an epoch, as one file of arrays and JSON.

The file is a zip of `.npy` arrays and one `state.json`, uncompressed and without dates: equal snapshots give equal
bytes. Reading trusts nothing: what writing cannot have written is damage. There is no pickle anywhere.
"""

from __future__ import annotations

import io
import json
import math
import os
import tokenize
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import IO, Any, TypeAlias

import numpy as np
import numpy.typing as npt

from orchestrator.errors import DamagedStore

Array: TypeAlias = npt.NDArray[Any]

FORMAT = 1
STORABLE_KINDS = frozenset("biufcSU")
"""Kinds of NumPy's types that a checkpoint can hold: truth values, numbers, text."""

_UNREADABLE = (
    zipfile.BadZipFile,
    KeyError,
    TypeError,
    ValueError,
    OverflowError,
    EOFError,
    OSError,
    RuntimeError,
    SyntaxError,
    tokenize.TokenError,  # of NumPy's reading of headers, as the one before
)
_NO_DATE = (1980, 1, 1, 0, 0, 0)
_STATE = "state.json"
_MAX_STATE_BYTES = 64 * 2**20
_MAX_HEADER_CHARS = 10_000


@dataclass(frozen=True)
class Best:
    """What `ModelCheckpoint` kept last.

    Attributes:
        epoch: whose it is (1-based).
        weights: arrays in the order of `model.get_weights()`.
        optimizer: arrays in the order of `optimizer.variables`.
    """

    epoch: int
    weights: tuple[Array, ...]
    optimizer: tuple[Array, ...]


@dataclass(frozen=True)
class CallbackState:
    """State of one callback: the name of its class, plain values (JSON, NaN and infinities too) and arrays."""

    name: str
    values: Mapping[str, Any] = field(default_factory=dict)
    arrays: Mapping[str, Array] = field(default_factory=dict)


@dataclass(frozen=True)
class Snapshot:
    """Everything that is needed to continue a member after an epoch.

    Attributes:
        member, seed: whose.
        epoch: epochs that are finished.
        stage: of training in stages; 0 where there is one.
        variables: arrays in the order of `model.variables`.
        optimizer: arrays in the order of `optimizer.variables`.
        callbacks: state of the callbacks, in their order.
        history: one row per finished epoch.
        logs: what Keras reported for the last one.
        stopped: training has ended early: only what comes after the last epoch is left to do.
        best: what `ModelCheckpoint` kept, or None while it kept nothing.
    """

    member: int
    seed: int
    epoch: int
    variables: tuple[Array, ...]
    optimizer: tuple[Array, ...]
    callbacks: tuple[CallbackState, ...] = ()
    history: tuple[Mapping[str, float], ...] = ()
    logs: Mapping[str, float] = field(default_factory=dict)
    stopped: bool = False
    best: Best | None = None
    stage: int = 0


def write_checkpoint(snapshots: Sequence[Snapshot], path: Path) -> None:
    """Write members at one epoch into one file, without their best models; it appears under its name when complete.

    Raises:
        TypeError: an array of objects, or of another kind than `STORABLE_KINDS`; a value that JSON cannot say.
        OSError: the disk is full; nothing is left behind, and an older file of that name is untouched.
    """
    arrays: list[Array] = []
    members = []
    for snapshot in snapshots:
        arrays += snapshot.variables + snapshot.optimizer
        for callback in snapshot.callbacks:
            arrays += callback.arrays.values()
        members.append(_member(snapshot))
    _write(path, {"format": FORMAT, "members": members}, arrays)


def _member(snapshot: Snapshot) -> dict[str, Any]:
    """All but the arrays, which stand in the file in this order; mappings keep theirs: a table's columns go by it."""
    return {
        "member": snapshot.member,
        "seed": snapshot.seed,
        "epoch": snapshot.epoch,
        "stage": snapshot.stage,
        "stopped": snapshot.stopped,
        "history": [dict(row) for row in snapshot.history],
        "logs": dict(snapshot.logs),
        "variables": len(snapshot.variables),
        "optimizer": len(snapshot.optimizer),
        "callbacks": [
            {"name": callback.name, "values": dict(callback.values), "arrays": list(callback.arrays)}
            for callback in snapshot.callbacks
        ],
    }


def read_checkpoint(path: Path, bests: Mapping[int, Best | None]) -> tuple[Snapshot, ...]:
    """What `write_checkpoint` wrote; `bests` gives the best models, by member, that were kept beside it.

    Raises:
        DamagedStore: anything that writing cannot have written.
    """
    state, arrays = _read(path, {"format", "arrays", "members"})
    rest = iter(arrays)
    try:
        snapshots = tuple(_snapshot(stored, rest, bests) for stored in _list(state["members"]))
        if next(rest, None) is not None:
            raise ValueError("there are arrays that belong to nobody")
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise _damaged(path, error) from error
    return snapshots


def _snapshot(stored: Mapping[str, Any], arrays: Iterator[Array], bests: Mapping[int, Best | None]) -> Snapshot:
    if type(stored["stopped"]) is not bool:
        raise TypeError("`stopped` is neither true nor false")
    member = _count(stored["member"])
    return Snapshot(
        member=member,
        seed=_count(stored["seed"]),
        epoch=_count(stored["epoch"]),
        stage=_count(stored["stage"]),
        stopped=stored["stopped"],
        history=tuple(_numbers(row) for row in _list(stored["history"])),
        logs=_numbers(stored["logs"]),
        variables=_next(arrays, stored["variables"]),
        optimizer=_next(arrays, stored["optimizer"]),
        callbacks=tuple(_callback(callback, arrays) for callback in _list(stored["callbacks"])),
        best=bests.get(member),
    )


def _callback(stored: Mapping[str, Any], arrays: Iterator[Array]) -> CallbackState:
    names = [_text(name) for name in _list(stored["arrays"])]
    if len(set(names)) < len(names):
        raise ValueError("two arrays of a callback have one name")
    values = dict(stored["values"].items())
    return CallbackState(_text(stored["name"]), values, dict(zip(names, _next(arrays, len(names)), strict=True)))


def write_best(best: Best, path: Path) -> None:
    """Write a best model's arrays; the file appears under its name when complete. Raises as `write_checkpoint`."""
    state = {"format": FORMAT, "epoch": best.epoch, "weights": len(best.weights), "optimizer": len(best.optimizer)}
    _write(path, state, [*best.weights, *best.optimizer])


def read_best(path: Path) -> Best:
    """What `write_best` wrote.

    Raises:
        DamagedStore: anything that writing cannot have written.
    """
    state, arrays = _read(path, {"format", "arrays", "epoch", "weights", "optimizer"})
    rest = iter(arrays)
    try:
        best = Best(_count(state["epoch"]), _next(rest, state["weights"]), _next(rest, state["optimizer"]))
        if next(rest, None) is not None:
            raise ValueError("there are arrays that belong to nothing")
    except (TypeError, ValueError) as error:
        raise _damaged(path, error) from error
    return best


def _write(path: Path, state: Mapping[str, Any], arrays: Sequence[Array]) -> None:
    for array in arrays:
        if not _is_storable(array.dtype):
            raise TypeError(f"an array of type {array.dtype} cannot be stored")
    unfinished = path.with_name(f"{path.name}.unfinished")
    try:
        with unfinished.open("wb") as file:
            with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
                text = json.dumps({**state, "arrays": len(arrays)})  # a float as `repr` says it, which is exact
                archive.writestr(zipfile.ZipInfo(_STATE, _NO_DATE), text)
                for number, array in enumerate(arrays):
                    with archive.open(zipfile.ZipInfo(_name(number), _NO_DATE), "w", force_zip64=True) as member:
                        np.lib.format.write_array(member, np.asarray(array, order="C"), allow_pickle=False)
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise


def _is_storable(dtype: np.dtype[Any]) -> bool:
    """Whether a header can name the type. Some of `ml_dtypes` say that they are floats, with a name that is none."""
    try:
        return dtype.kind in STORABLE_KINDS and dtype.itemsize > 0 and np.dtype(dtype.str) == dtype
    except TypeError:
        return False


def _read(path: Path, keys: set[str]) -> tuple[Mapping[str, Any], list[Array]]:
    with path.open("rb") as file:
        try:
            return _parse(file, path.stat().st_size, keys)
        except _UNREADABLE as error:
            raise _damaged(path, error) from error


def _parse(file: IO[bytes], size: int, keys: set[str]) -> tuple[Mapping[str, Any], list[Array]]:
    """State and arrays. Sizes are compared with the bytes that are there before anything is taken in."""
    with zipfile.ZipFile(file) as archive:
        infos = archive.infolist()
        if [info.filename for info in infos] != [_STATE, *(_name(number) for number in range(len(infos) - 1))]:
            raise ValueError("its parts are not those of a checkpoint")
        if any(info.compress_type != zipfile.ZIP_STORED for info in infos) or sum(i.file_size for i in infos) > size:
            raise ValueError("it claims more bytes than it has")
        if infos[0].file_size > _MAX_STATE_BYTES:
            raise ValueError("its state is too long")
        text = archive.read(_STATE)
        state = json.loads(text)
        if not isinstance(state, dict) or set(state) != keys or state["format"] != FORMAT:
            raise ValueError("its state is of an unknown format")
        if json.dumps(state).encode() != text:
            raise ValueError("its state is written in another way")
        if _count(state["arrays"]) != len(infos) - 1:
            raise ValueError(f"{len(infos) - 1} arrays instead of {state['arrays']}")
        return state, [_array(archive.read(info)) for info in infos[1:]]


def _array(body: bytes) -> Array:
    """A writable array as `write_array` wrote it: the header says exactly what writing says of the bytes behind it."""
    file = io.BytesIO(body)
    np.lib.format.read_magic(file)
    shape, _, dtype = np.lib.format.read_array_header_1_0(file, max_header_size=_MAX_HEADER_CHARS)
    if not _is_storable(dtype) or any(length < 0 for length in shape):
        raise ValueError(f"an array of type {dtype} and shape {shape}")
    written = io.BytesIO()
    header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(written, header)
    data = memoryview(body)[file.tell() :]
    if written.getvalue() != body[: file.tell()] or math.prod(shape) * dtype.itemsize != len(data):
        raise ValueError(f"an array of shape {shape} and type {dtype} in {len(data)} bytes")
    return np.frombuffer(data, dtype).reshape(shape).copy()


def _name(number: int) -> str:
    return f"{number:06d}.npy"


def _next(arrays: Iterator[Array], stored_count: Any) -> tuple[Array, ...]:
    count = _count(stored_count)
    taken = tuple(islice(arrays, count))
    if len(taken) != count:
        raise ValueError(f"{len(taken)} arrays instead of {count}")
    return taken


def _count(stored: Any) -> int:
    if type(stored) is not int or stored < 0:
        raise ValueError(f"{stored!r} is no count")
    return stored


def _text(stored: Any) -> str:
    if not isinstance(stored, str):
        raise TypeError(f"{stored!r} is no text")
    return stored


def _list(stored: Any) -> list[Any]:
    if not isinstance(stored, list):
        raise TypeError(f"{stored!r} is no list")
    return stored


def _numbers(stored: Any) -> Mapping[str, float]:
    if not isinstance(stored, dict) or not all(type(value) in (int, float) for value in stored.values()):
        raise TypeError(f"{stored!r} is no mapping to numbers")
    return stored


def _damaged(path: Path, error: Exception) -> DamagedStore:
    what = f"this is no checkpoint: {type(error).__name__}: {str(error)[:200]}"
    return DamagedStore(what, where=path.name, hint="an older checkpoint is used")
