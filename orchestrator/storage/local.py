"""A folder as a store: for laptops, tests, and shared file systems with hard links."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from orchestrator.errors import AccessDenied, MissingObject, OrchestratorError, StoreUnavailable, UnsupportedStore
from orchestrator.storage.layout import TEMPORARY_PREFIX, check_key, new_nonce
from orchestrator.storage.limits import check_size

_NO_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EXDEV, errno.EMLINK}
_DENIED = {errno.EACCES, errno.EPERM}
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_PASSING = {
    *(errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EAGAIN, errno.EBUSY, errno.EINTR, errno.ENXIO, errno.ENODEV),
    *(errno.EMFILE, errno.ENFILE, errno.ENOMEM),
}


class LocalStore:
    """Objects as files below `root`; implements the `Store` port.

    Files appear under their name only when they are complete and synced: a create is a hard link to the finished
    temporary file (the one call that is both atomic and create-only), a put is a rename over the old one. The folder is
    synced after either, so that what was acknowledged outlives a power cut.

    Args:
        root: the folder; made on the first write.
    """

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self._root = Path(os.path.abspath(root))  # noqa: PTH100 - Path.resolve would also follow links

    @property
    def url(self) -> str:
        return str(self._root)

    def create(self, key: str, body: bytes) -> bool:
        target = self._path(key)
        with explained(str(target)), self._finished_file(target, lambda file: _write(file, body)) as temporary:
            try:
                os.link(temporary, target)
            except FileExistsError:
                return False
            except OSError as error:
                if error.errno in _NO_LINKS:
                    raise UnsupportedStore(
                        "this file system has no hard links, so a file cannot be created safely",
                        where=str(target),
                        hint="store runs on a file system with hard links (ext4, xfs, apfs, NFS) or on s3://",
                    ) from error
                raise
            _sync_folder(target.parent)
            return True

    def put(self, key: str, body: bytes) -> None:
        self._replace(key, lambda file: _write(file, body))

    def put_file(self, key: str, path: str) -> None:
        with Path(path).open("rb") as source:
            self._replace(key, lambda file: shutil.copyfileobj(source, file, 2**20))

    def get(self, key: str, *, max_bytes: int | None = None) -> bytes:
        with self._reading(key, max_bytes) as file:
            return file.read()

    def get_file(self, key: str, path: str, *, max_bytes: int | None = None) -> None:
        with self._reading(key, max_bytes) as source, explained(path), Path(path).open("wb") as target:
            shutil.copyfileobj(source, target, 2**20)

    def list(self, prefix: str) -> list[str]:
        folder = self._path(prefix) if prefix else self._root
        with explained(str(folder)):
            return sorted(path.relative_to(self._root).as_posix() for path in _files(folder))

    def sizes(self, prefix: str) -> dict[str, int]:
        found: dict[str, int] = {}
        for key in self.list(prefix):
            path = self._root / key  # as it was found there: it may be no key that we would write
            with explained(str(path)), suppress(FileNotFoundError):
                found[key] = path.stat().st_size
        return found

    def delete(self, key: str) -> None:
        path = self._path(key)
        with explained(str(path)):
            try:
                path.unlink()
            except (FileNotFoundError, NotADirectoryError):
                return
            _sync_folder(path.parent)

    def _path(self, key: str) -> Path:
        return self._root / check_key(key)

    def _replace(self, key: str, write: Callable[[BinaryIO], object]) -> None:
        target = self._path(key)
        with explained(str(target)), self._finished_file(target, write) as temporary:
            temporary.replace(target)
            _sync_folder(target.parent)

    @contextmanager
    def _finished_file(self, target: Path, write: Callable[[BinaryIO], object]) -> Iterator[Path]:
        """A complete, synced temporary file next to `target`; gone afterwards, unless it was renamed."""
        _make_folder(target.parent)
        temporary = target.parent / f"{TEMPORARY_PREFIX}{new_nonce()}"
        try:
            with temporary.open("xb") as file:
                write(file)
                file.flush()
                os.fsync(file.fileno())
            yield temporary
        finally:
            temporary.unlink(missing_ok=True)

    def _can_be(self) -> bool:
        """Whether the root is a folder, or could be made one: no file is where it would have to be."""
        there = next(place for place in (self._root, *self._root.parents) if place.exists())
        return there.is_dir()

    @contextmanager
    def _reading(self, key: str, max_bytes: int | None) -> Iterator[BinaryIO]:
        """The open file of an object that is not too large."""
        path = self._path(key)
        with explained(str(path)):
            try:
                file = path.open("rb")
            except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
                if isinstance(error, NotADirectoryError) and not self._can_be():
                    raise
                raise MissingObject("no such object", where=str(path)) from error
            with file:
                check_size(os.fstat(file.fileno()).st_size, max_bytes, where=str(path))
                yield file


@contextmanager
def explained(where: str) -> Iterator[None]:
    """Turn the operating system's errors about the file or folder `where` into errors of this package."""
    try:
        yield
    except OSError as error:
        raise explain(error, where) from error


def explain(error: OSError, where: str) -> OrchestratorError:
    """The error of this package that an operating system's error on the store's folder means.

    Args:
        error: what the system said.
        where: the path it was about.
    """
    reason = os.strerror(error.errno) if error.errno else str(error)
    if error.errno in _FULL:
        return StoreUnavailable(f"the disk is full ({reason})", where=where, hint="free some space, then start again")
    if error.errno in _PASSING:
        return StoreUnavailable(f"the file system failed ({reason})", where=where, hint="check the disk or mount")
    if error.errno in _DENIED:
        return AccessDenied(
            f"the folder may not be used ({reason})", where=where, hint="change its owner or mode, or choose another"
        )
    return UnsupportedStore(f"the folder cannot be used ({reason})", where=where, hint="choose a writable folder")


def _write(file: BinaryIO, body: bytes) -> None:
    file.write(body)


def _files(folder: Path) -> Iterator[Path]:
    """All finished files below `folder`. What vanishes while we look was deleted, which is no error."""
    try:
        entries = list(os.scandir(folder))
    except (FileNotFoundError, NotADirectoryError):
        return
    for entry in entries:
        if entry.is_dir(follow_symlinks=False):
            yield from _files(Path(entry.path))
        elif not entry.name.startswith(TEMPORARY_PREFIX):
            yield Path(entry.path)


def _make_folder(folder: Path) -> None:
    """Make `folder` and its parents, and make their names last."""
    if folder.is_dir():
        return
    _make_folder(folder.parent)
    folder.mkdir(exist_ok=True)
    _sync_folder(folder.parent)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
