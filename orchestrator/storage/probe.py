"""The check at the start of a run that a store keeps the one promise everything rests on: create-only writes.

"S3-compatible" servers exist that accept the precondition and ignore it (Ceph RGW does so in versioned buckets), and
local file systems without hard links cannot keep it. Both are refused here, before any work is done.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

from orchestrator.errors import AccessDenied, MissingObject, OrchestratorError, StoreUnavailable, UnsupportedStore
from orchestrator.planning.ports import Store
from orchestrator.storage.layout import new_nonce
from orchestrator.storage.retry import Patience

_CREATE_HINT = (
    "use a store with conditional writes (AWS S3, MinIO, SeaweedFS, Ceph RGW with versioning off, a local folder); "
    "on Ceph RGW switch the bucket's versioning off"
)
_RACERS = 2
_PATIENCE = Patience(deadline_s=10.0)  # people wait for it: an address that is wrong should not take a minute


def probe(
    store: Store, layout_prefix: str, *, nonce: Callable[[], str] = new_nonce, patience: Patience = _PATIENCE
) -> None:
    """Refuse a store that cannot keep the promises of the protocol. Writes a few bytes and removes them again.

    Args:
        store: the store to test.
        layout_prefix: the folder to do it in, for instance `RunLayout.probe`; several probes may use it at once.
        nonce: makes the names of this probe unique.
        patience: how long to start over while the store is out of reach.

    Raises:
        UnsupportedStore: it broke a promise; the message says which, and the remedy.
        AccessDenied: a permission is missing.
        StoreUnavailable: out of reach.
    """
    patience.retry(lambda: _probe(store, layout_prefix, f"{layout_prefix}/{nonce()}"))


def _probe(store: Store, layout_prefix: str, stem: str) -> None:
    """All checks once, on keys that start with `stem`."""
    once, race, missing = f"{stem}-once", f"{stem}-race", f"{stem}-missing"
    try:
        _check_missing(store, missing)
        _check_create_once(store, once)
        _check_race(store, race)
        _check_listing(store, layout_prefix, once)
    finally:
        for key in (once, race):
            with suppress(OrchestratorError):  # a leftover of some bytes must not hide what the probe found
                store.delete(key)


def _check_missing(store: Store, key: str) -> None:
    try:
        store.get(key)
    except MissingObject:
        return
    except AccessDenied as error:
        # AWS says 403 for a missing key to those who may not list: an ambiguous write could then never be resolved.
        raise AccessDenied(
            "a missing object cannot be told from a forbidden one",
            where=f"{store.url}: {key}",
            hint="grant s3:ListBucket on the bucket besides s3:GetObject, s3:PutObject and s3:DeleteObject",
        ) from error
    raise _refusal(store, key, "an object that was never written can be read", "do not put a caching proxy before it")


def _check_create_once(store: Store, key: str) -> None:
    store.create(key, b"first")  # a refusal here can only be its own success, repeated on the way: the key is fresh
    if store.create(key, b"second"):
        raise _refusal(store, key, "one key could be created twice", _CREATE_HINT)
    if store.get(key) != b"first":
        raise _refusal(store, key, "what was read is not what was written", _CREATE_HINT)


def _check_race(store: Store, key: str) -> None:
    start = threading.Barrier(_RACERS)

    def run(body: bytes) -> bool | None:
        start.wait(timeout=10)
        try:
            return store.create(key, body)
        except StoreUnavailable:
            return None  # AWS may answer 409 to a racer: unknown, so the object itself decides

    bodies = [b"racer %d" % number for number in range(_RACERS)]
    with ThreadPoolExecutor(_RACERS) as pool:
        outcomes = list(pool.map(run, bodies))
    winners = [body for body, created in zip(bodies, outcomes, strict=True) if created]
    if len(winners) > 1:
        raise _refusal(store, key, "two racing writers were both told that they created one key", _CREATE_HINT)
    try:
        holder = store.get(key)
    except MissingObject:
        if None in outcomes:
            raise StoreUnavailable("two writes ended unknown", where=f"{store.url}: {key}", hint="try later") from None
        raise _refusal(store, key, "racing writers left no object", _CREATE_HINT) from None
    if holder not in (winners or bodies):
        raise _refusal(store, key, "the loser of a race overwrote the winner", _CREATE_HINT)


def _check_listing(store: Store, prefix: str, key: str) -> None:
    if key not in store.list(prefix):
        raise _refusal(store, key, "an object that was written is not listed", "use a store with consistent listings")


def _refusal(store: Store, key: str, what: str, hint: str) -> UnsupportedStore:
    return UnsupportedStore(f"this store cannot be used: {what}", where=f"{store.url}: {key}", hint=hint)
