"""Exact checkpoints: all that is needed to continue training after an epoch, as one file of arrays and JSON.

The file is a zip of `.npy` arrays and one `state.json`, uncompressed and without dates: equal snapshots give equal
bytes. Reading trusts nothing: what writing cannot have written is damage. There is no pickle anywhere.
"""

from __future__ import annotations

import io
import json
import math
import os
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from orchestrator.errors import DamagedStore

Array: TypeAlias = npt.NDArray[Any]

FORMAT = 1
_NO_DATE = (1980, 1, 1, 0, 0, 0)
_STATE = "state.json"
_MAX_STATE_BYTES = 64 * 2**20


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
    """Write members at one epoch into one file, without their best models; it appears under its name when complete."""
    arrays: list[Array] = []

    def put(array: Array) -> int:
        arrays.append(array)
        return len(arrays) - 1

    members = [
        {
            "member": snapshot.member,
            "seed": snapshot.seed,
            "epoch": snapshot.epoch,
            "stage": snapshot.stage,
            "stopped": snapshot.stopped,
            "history": [dict(row) for row in snapshot.history],
            "logs": dict(snapshot.logs),
            "variables": [put(array) for array in snapshot.variables],
            "optimizer": [put(array) for array in snapshot.optimizer],
            "callbacks": [
                {
                    "name": callback.name,
                    "values": dict(callback.values),
                    "arrays": {name: put(array) for name, array in callback.arrays.items()},
                }
                for callback in snapshot.callbacks
            ],
        }
        for snapshot in snapshots
    ]
    _write(path, {"format": FORMAT, "members": members}, arrays)


def read_checkpoint(path: Path, bests: Mapping[int, Best | None]) -> tuple[Snapshot, ...]:
    """What `write_checkpoint` wrote; `bests` gives the best models, by member, that were kept beside it.

    Raises:
        DamagedStore: anything that writing cannot have written.
    """
    state, arrays = _read(path)
    try:
        return tuple(_snapshot(stored, arrays, bests) for stored in state["members"])
    except (KeyError, TypeError, IndexError, ValueError, AttributeError) as error:
        raise _damaged(path, f"{type(error).__name__}: {error}") from error


def _snapshot(stored: Mapping[str, Any], arrays: Sequence[Array], bests: Mapping[int, Best | None]) -> Snapshot:
    return Snapshot(
        member=int(stored["member"]),
        seed=int(stored["seed"]),
        epoch=int(stored["epoch"]),
        stage=int(stored["stage"]),
        stopped=bool(stored["stopped"]),
        history=tuple(dict(row) for row in stored["history"]),
        logs=dict(stored["logs"]),
        variables=tuple(arrays[number] for number in stored["variables"]),
        optimizer=tuple(arrays[number] for number in stored["optimizer"]),
        callbacks=tuple(
            CallbackState(
                callback["name"],
                dict(callback["values"]),
                {name: arrays[number] for name, number in callback["arrays"].items()},
            )
            for callback in stored["callbacks"]
        ),
        best=bests.get(int(stored["member"])),
    )


def write_best(best: Best, path: Path) -> None:
    """Write a best model's arrays; the file appears under its name when it is complete."""
    _write(
        path, {"format": FORMAT, "epoch": best.epoch, "weights": len(best.weights)}, [*best.weights, *best.optimizer]
    )


def read_best(path: Path) -> Best:
    """What `write_best` wrote.

    Raises:
        DamagedStore: anything that writing cannot have written.
    """
    state, arrays = _read(path)
    try:
        count = int(state["weights"])
        if not 0 <= count <= len(arrays):
            raise ValueError(f"{count} weights among {len(arrays)} arrays")
        return Best(int(state["epoch"]), tuple(arrays[:count]), tuple(arrays[count:]))
    except (KeyError, TypeError, ValueError) as error:
        raise _damaged(path, f"{type(error).__name__}: {error}") from error


def _write(path: Path, state: Mapping[str, Any], arrays: Sequence[Array]) -> None:
    unfinished = path.with_name(f"{path.name}.unfinished")
    with unfinished.open("wb") as file:
        with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
            text = json.dumps({**state, "arrays": len(arrays)}, sort_keys=True)  # repr of a float is exact
            archive.writestr(zipfile.ZipInfo(_STATE, _NO_DATE), text)
            for number, array in enumerate(arrays):
                with archive.open(zipfile.ZipInfo(_name(number), _NO_DATE), "w", force_zip64=True) as member:
                    np.lib.format.write_array(member, np.asarray(array), allow_pickle=False)
        file.flush()
        os.fsync(file.fileno())
    unfinished.replace(path)


def _read(path: Path) -> tuple[Mapping[str, Any], list[Array]]:
    size = path.stat().st_size
    try:
        with zipfile.ZipFile(path) as archive:
            infos = archive.infolist()
            if (
                any(info.compress_type != zipfile.ZIP_STORED for info in infos)
                or sum(i.file_size for i in infos) > size
            ):
                raise ValueError("it claims more bytes than it has")
            if archive.getinfo(_STATE).file_size > _MAX_STATE_BYTES:
                raise ValueError("its state is too long")
            state = json.loads(archive.read(_STATE))
            if state["format"] != FORMAT:
                raise ValueError(f"format {state['format']!r} is unknown")
            if len(infos) != state["arrays"] + 1:
                raise ValueError(f"{len(infos) - 1} arrays instead of {state['arrays']}")
            return state, [_array(archive.read(_name(number))) for number in range(state["arrays"])]
    except (zipfile.BadZipFile, KeyError, TypeError, ValueError, EOFError) as error:
        raise _damaged(path, f"{type(error).__name__}: {error}") from error


def _array(body: bytes) -> Array:
    """An array as `write_array` wrote it. What its header claims is compared with the bytes that are there."""
    file = io.BytesIO(body)
    version = np.lib.format.read_magic(file)
    read_header = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}[version]
    shape, fortran_order, dtype = read_header(file, max_header_size=10_000)
    data = body[file.tell() :]
    if dtype.hasobject or math.prod(shape) * dtype.itemsize != len(data):
        raise ValueError(f"an array of shape {shape} and type {dtype} in {len(data)} bytes")
    return np.frombuffer(data, dtype).reshape(shape, order="F" if fortran_order else "C")


def _name(number: int) -> str:
    return f"{number:06d}.npy"


def _damaged(path: Path, what: str) -> DamagedStore:
    return DamagedStore(f"this is no checkpoint: {what}", where=path.name, hint="an older checkpoint is used")
