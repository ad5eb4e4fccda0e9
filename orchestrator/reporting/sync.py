"""Brings what TensorBoard and other tools read of a run from any storage to a local folder, and what is new since then.

Keys come from storage, which others can write to: a name in them may point anywhere. What would lie outside the folder,
or behind a link, is left where it is.
"""

from __future__ import annotations

import errno
import shutil
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from orchestrator.errors import DamagedStore, InvalidJob, MissingObject
from orchestrator.planning.ports import Store
from orchestrator.reporting.attempts import is_chunk
from orchestrator.storage.layout import TEMPORARY_PREFIX, RunLayout, check_key, new_nonce
from orchestrator.storage.local import explained
from orchestrator.storage.parallel import in_order

_PIECE_BYTES = 2**20
_NO_SUCH_NAME = {errno.ENAMETOOLONG, errno.EINVAL, errno.EILSEQ}  # names that this file system does not have
_IN_THE_WAY = {errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENOTEMPTY}  # a file where a folder is to be


@dataclass(frozen=True)
class Synced:
    """What a call brought.

    Attributes:
        brought: files that are new or have grown, with their sizes in bytes, by path below the folder.
        unchanged: files that were there.
        skipped: keys that were left in storage, and why.
        boards: how many of all files TensorBoard reads.
    """

    brought: Mapping[str, int]
    unchanged: int
    skipped: Mapping[str, str]
    boards: int


@dataclass(frozen=True)
class _File:
    key: str
    name: str
    size: int


class _SkippedError(Exception):
    """The file stays in storage, for the reason given."""


def sync_files(store: Store, layout: RunLayout, folder: Path) -> Synced:
    """Bring the run's event files and the files that members' callbacks wrote, logs of attempts excepted.

    They lie in the folder as they lie in the run: `tensorboard/…`, `attempts/<member>-<term>/…`. A file of the same
    size is taken to be the same. One that has grown grows in place, for TensorBoard goes on reading a file it has open.

    Args:
        store, layout: where the run lives; it may be live or finished.
        folder: made if it is not there; a link there is followed, one below it is not.

    Raises:
        InvalidJob: the folder cannot be one.
        StoreUnavailable: storage is out of reach, or the local disk is full.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InvalidJob(f"cannot make the folder {folder}: {error.strerror}", where="--sync") from error
    files = list(_files(store, layout))

    def bring(file: _File) -> bool | str:
        try:
            return _bring(store, file, folder)
        except _SkippedError as reason:
            return str(reason)

    outcomes = list(zip(files, in_order(bring, files), strict=True))
    skipped = {file.key: outcome for file, outcome in outcomes if isinstance(outcome, str)}
    return Synced(
        brought={file.name: file.size for file, outcome in outcomes if outcome is True},
        unchanged=sum(outcome is False for _, outcome in outcomes),
        skipped=skipped,
        boards=sum("tfevents" in Path(file.name).name for file in files if file.key not in skipped),
    )


def _files(store: Store, layout: RunLayout) -> Iterator[_File]:
    for prefix in (layout.tensorboard, layout.attempts):
        for key, size in store.sizes(prefix).items():
            file = layout.attempt_file(key)
            if file is None or not is_chunk(file.name):
                yield _File(key, key.removeprefix(f"{layout.root}/"), size)


def _bring(store: Store, file: _File, folder: Path) -> bool:
    """Whether there was something to bring."""
    try:
        target = folder / check_key(file.name)
        if _size_at(folder, target) == file.size:
            return False
        with explained(str(target)):
            _download(store, file.key, folder, target)
    except (ValueError, MissingObject, DamagedStore) as error:
        raise _SkippedError(str(error)) from error
    return True


def _size_at(folder: Path, target: Path) -> int | None:
    """Size in bytes of the file that is there; None where there is none."""
    steps = [*reversed([parent for parent in target.parents if folder in parent.parents]), target]
    for path in steps:
        with _named_here():
            try:
                found = path.lstat()
            except FileNotFoundError:
                return None
        if stat.S_ISLNK(found.st_mode):
            raise _SkippedError(f"{path} is a link")
    if not stat.S_ISREG(found.st_mode):
        raise _SkippedError(f"{target} is there, and no file")
    return found.st_size


def _download(store: Store, key: str, folder: Path, target: Path) -> None:
    arriving = folder / f"{TEMPORARY_PREFIX}{new_nonce()}"
    try:
        with _named_here():
            target.parent.mkdir(parents=True, exist_ok=True)
        store.get_file(key, str(arriving))
        with _named_here():
            if not _continue(arriving, target):
                arriving.replace(target)
    finally:
        arriving.unlink(missing_ok=True)


def _continue(arrived: Path, target: Path) -> bool:
    """Append what is new, where the file that is there is the beginning of what arrived."""
    if not target.exists():
        return False
    with arrived.open("rb") as new, target.open("r+b") as old:
        while piece := old.read(_PIECE_BYTES):
            if new.read(len(piece)) != piece:
                return False
        shutil.copyfileobj(new, old)
    return True


@contextmanager
def _named_here() -> Iterator[None]:
    """Turn what the file system has against a name into the reason for which its file is skipped."""
    try:
        yield
    except OSError as error:
        if error.errno not in _NO_SUCH_NAME | _IN_THE_WAY:
            raise
        raise _SkippedError(f"it cannot lie here: {error.strerror}") from error
