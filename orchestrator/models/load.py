"""Published weights into a model that the job's own code built. A stored model is never opened by `load_model`.

A published file is untrusted, even where its sha256 matches the record: whoever can write to the bucket can write both.
So only numbers are taken from it. Its `config.json`, which could name code, is not read; the archive and the HDF5 file
in it are checked first to be no more than Keras itself writes: no links to other files, nothing that grows when it is
read.
"""

from __future__ import annotations

import io
import math
import warnings
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.errors import DamagedStore
from orchestrator.storage.layout import check_key

if TYPE_CHECKING:
    import keras

WEIGHTS_FILE = "model.weights.h5"
BYTES_PER_WEIGHT = 32
"""In an archive at most: float64 with three slots of the optimizer. The usual float32 with Adam's two takes 12."""
SLACK_BYTES = 64 * 2**20
"""For what grows with other things than weights: configuration, vocabularies, the layers' names."""


def load_published(model: keras.Model, path: str, where: str) -> None:
    """Load the weights of a `.keras` or `.weights.h5` file, whose sha256 the caller has verified, into `model`.

    Args:
        model: built by the job's build function for that member.
        path: the local, verified file.
        where: the storage key, for the message.

    Raises:
        DamagedStore: the file is not one that Keras writes, or its weights do not fit the model: the job's code no
            longer builds what was published.
    """
    try:
        check = check_archive if path.endswith(".keras") else check_weights
        check(path, max_bytes=BYTES_PER_WEIGHT * _num_weights(model) + SLACK_BYTES)
    except Exception as error:  # zipfile and h5py raise many kinds on bytes that were made to break them
        raise DamagedStore(
            f"the published file is no model that Keras has saved: {error}",
            where=where,
            hint="something else was written in its place: find out who can write there, and train the member again",
        ) from error
    try:
        with warnings.catch_warnings():  # the optimizer of a model that is not trained has nothing to take yet
            warnings.filterwarnings("ignore", message="Skipping variable loading for optimizer")
            model.load_weights(path)
    except MemoryError:  # of this worker, not of the file
        raise
    except Exception as error:
        raise DamagedStore(
            f"the published weights do not fit the model that the job's code builds now: {error}", where=where
        ) from error


def check_archive(path: str, *, max_bytes: int) -> None:
    """Refuse a `.keras` file that holds anything but what Keras saves, before any of it is unpacked.

    Args:
        path: a local file.
        max_bytes: the most that its members may have when unpacked, all together.

    Raises:
        ValueError: a name that climbs or stands twice, too many bytes, links, or data that grow when they are read.
        OSError, KeyError, RuntimeError, zipfile.BadZipFile: it is no archive, or holds no weights that can be read.
    """
    import h5py

    with zipfile.ZipFile(path) as archive:
        names = [check_key(name.rstrip("/")) for name in archive.namelist()]
        if len(set(names)) != len(names):
            raise ValueError("a name stands twice in it")
        size = sum(info.file_size for info in archive.infolist())
        if size > max_bytes:
            raise ValueError(f"it unpacks to {size} bytes, where at most {max_bytes} can be right for this model")
        # From memory: h5py jumps about in a file, and each jump back in an archive reads it from its start.
        with h5py.File(io.BytesIO(archive.read(WEIGHTS_FILE)), "r") as weights:
            _check_weights(weights)


def check_weights(path: str, *, max_bytes: int) -> None:
    """Refuse a `.weights.h5` file that holds anything but arrays. Arguments and what is raised as `check_archive`."""
    import h5py

    size = Path(path).stat().st_size
    if size > max_bytes:
        raise ValueError(f"it has {size} bytes, where at most {max_bytes} can be right for this model")
    with h5py.File(path, "r") as weights:
        _check_weights(weights)


def _check_weights(weights: Any) -> None:
    """Refuse an HDF5 file that is not a plain tree of plain arrays, each as large in the file as in memory."""
    import h5py

    waiting, seen = [weights], {h5py.h5o.get_info(weights.id).addr}
    while waiting:
        group = waiting.pop()
        for name in group:
            place = f"{group.name.rstrip('/')}/{name}"
            if group.get(name, getclass=True, getlink=True) is not h5py.HardLink:
                raise ValueError(f"{place} is a link to somewhere else")
            item = group[name]
            address = h5py.h5o.get_info(item.id).addr
            if address in seen:
                raise ValueError(f"{place} stands twice in it")
            seen.add(address)
            if isinstance(item, h5py.Group):
                waiting.append(item)
            elif not isinstance(item, h5py.Dataset) or item.shape is None or item.dtype.hasobject:
                raise ValueError(f"{place} is no array of numbers")
            elif item.external or item.is_virtual:
                raise ValueError(f"{place} takes its data from another file")
            elif item.chunks is not None:
                raise ValueError(f"{place} is stored in chunks, which may grow when they are read")
            elif item.id.get_storage_size() != math.prod(item.shape) * item.dtype.itemsize:
                raise ValueError(f"{place} has shape {item.shape}, but the file does not hold that many numbers")


def _num_weights(model: keras.Model) -> int:
    return sum(math.prod(weight.shape) for weight in model.weights)
