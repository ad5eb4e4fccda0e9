"""Blobs: immutable bytes under a key of their own. They mean nothing until a record names them.

Every read is checked against the size and sha256 in the record that names the blob; what is larger than recorded is
refused before it is read. A mismatch is read again three times, because it may have happened in transit; after that the
stored bytes are damaged. While the store is out of reach, reads and writes go on trying within one deadline.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from orchestrator.errors import DamagedStore, MissingObject
from orchestrator.planning.ports import Store
from orchestrator.storage.layout import RunLayout, new_nonce
from orchestrator.storage.records import BlobRef
from orchestrator.storage.retry import REREADS, Patience

_CHUNK_BYTES = 2**20
_HINT = "restore the object from a backup, or start a new run with --fresh"
_PATIENCE = Patience()


def put_blob(
    store: Store,
    layout: RunLayout,
    body: bytes,
    *,
    nonce: Callable[[], str] = new_nonce,
    patience: Patience = _PATIENCE,
) -> BlobRef:
    """Store `body` under a fresh key; each try takes another one, so that a late earlier try harms nothing.

    Args:
        store, layout: where to.
        body: the bytes.
        nonce: tells keys of the same bytes apart.
        patience: how long to go on trying while the store is out of reach.

    Returns:
        The reference to put into a record; only that record publishes the blob.

    Raises:
        StoreUnavailable: out of reach until the end of the patience; orphans at most are left, which nothing names.
    """
    sha256 = hashlib.sha256(body).hexdigest()

    def attempt() -> BlobRef:
        ref = BlobRef(layout.blob(sha256, nonce()), sha256, len(body))
        store.put(ref.key, body)
        return ref

    return patience.retry(attempt)


def put_blob_file(
    store: Store,
    layout: RunLayout,
    path: str,
    *,
    nonce: Callable[[], str] = new_nonce,
    patience: Patience = _PATIENCE,
) -> BlobRef:
    """Like `put_blob`, from a local file that nobody writes any more. The sha256 is that of the local file."""
    sha256, size = _digest(Path(path))

    def attempt() -> BlobRef:
        ref = BlobRef(layout.blob(sha256, nonce()), sha256, size)
        store.put_file(ref.key, path)
        return ref

    return patience.retry(attempt)


def get_blob(store: Store, ref: BlobRef, *, patience: Patience = _PATIENCE) -> bytes:
    """The bytes that `ref` names, verified.

    Raises:
        DamagedStore: it is gone, larger than recorded, or its bytes were others than those recorded in four reads.
        StoreUnavailable: out of reach until the end of the patience.
    """

    def attempt() -> bytes:
        for _ in range(1 + REREADS):
            body = store.get(ref.key, max_bytes=ref.size)
            found = hashlib.sha256(body).hexdigest(), len(body)
            if found == (ref.sha256, ref.size):
                return body
        raise _mismatch(ref, *found)

    with _missing_is_damage(ref):
        return patience.retry(attempt)


def get_blob_file(store: Store, ref: BlobRef, path: str, *, patience: Patience = _PATIENCE) -> None:
    """Download the blob that `ref` names; `path` appears only when its bytes are verified. Raises like `get_blob`."""
    unverified = Path(f"{path}.unverified")

    def attempt() -> None:
        for _ in range(1 + REREADS):
            store.get_file(ref.key, str(unverified), max_bytes=ref.size)
            found = _digest(unverified)
            if found == (ref.sha256, ref.size):
                unverified.replace(path)
                return
        raise _mismatch(ref, *found)

    try:
        with _missing_is_damage(ref):
            patience.retry(attempt)
    finally:
        unverified.unlink(missing_ok=True)


@contextmanager
def _missing_is_damage(ref: BlobRef) -> Iterator[None]:
    """What a record names must be there."""
    try:
        yield
    except MissingObject as error:
        raise DamagedStore("an object that a record names is gone", where=ref.key, hint=_HINT) from error


def _digest(path: Path) -> tuple[str, int]:
    """sha256 and size in bytes of a local file, read in chunks."""
    digest, size = hashlib.sha256(), 0
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
            size += len(chunk)
    return digest.hexdigest(), size


def _mismatch(ref: BlobRef, sha256: str, size: int) -> DamagedStore:
    return DamagedStore(
        f"the stored bytes are damaged: {size} bytes with sha256 {sha256[:12]}…, "
        f"recorded were {ref.size} bytes with sha256 {ref.sha256[:12]}…",
        where=ref.key,
        hint=_HINT,
    )
