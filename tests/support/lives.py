"""Members that die and go on: what is read back of them, and what must be equal, exactly, to one that never died."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from orchestrator.training.checkpoint import Snapshot, read_best, read_checkpoint, write_best, write_checkpoint
from orchestrator.training.publish import weights_digest
from orchestrator.training.trained import Trained


class Killed(BaseException):
    """Stands for the death of the process: nothing may catch it."""


def through_files(snapshot: Snapshot, folder: Path) -> Snapshot:
    """The snapshot as another process reads it."""
    write_checkpoint([snapshot], folder / "state")
    best = None
    if snapshot.best is not None:
        write_best(snapshot.best, folder / "best")
        best = read_best(folder / "best")
    (read,) = read_checkpoint(folder / "state", {0: best})
    return read


def facts(trained: Trained) -> Any:
    """All that must be equal, exactly; of the published file too, the optimizer in it included."""
    return (
        weights_digest(trained.model),
        published_arrays(trained.path),
        [list(row.items()) for row in trained.history],
        trained.best_epoch,
        trained.stopped_epoch,
    )


def published_arrays(path: Path) -> Mapping[str, bytes]:
    """Every array in a `.keras` file, or in a `.weights.h5` file of weights alone, by its name."""
    arrays: dict[str, bytes] = {}

    def take(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset):
            arrays[name] = np.asarray(item).tobytes()

    with h5py.File(io.BytesIO(_weights_in(path)) if path.suffix == ".keras" else path) as file:
        file.visititems(take)
    assert any(name.startswith("optimizer/") for name in arrays)
    return arrays


def _weights_in(path: Path) -> bytes:
    with zipfile.ZipFile(path) as archive:
        return archive.read("model.weights.h5")
