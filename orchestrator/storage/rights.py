"""What a machine may do in storage, right by right: `probe` stops at the first that is missing, `doctor` names all."""

from __future__ import annotations

from collections.abc import Callable

from orchestrator.errors import MissingObject, OrchestratorError, StoreUnavailable, UnsupportedStore
from orchestrator.planning.checkup import CLEARING, Right
from orchestrator.planning.ports import Store
from orchestrator.storage.layout import new_nonce


def leave_mark(store: Store, folder: str, *, nonce: Callable[[], str] = new_nonce) -> str:
    """Write an object that other machines are to see (`check_rights`), and return its key. Raises as `Store.create`."""
    key = f"{folder}/{nonce()}-mark"
    store.create(key, b"seen")
    return key


def check_rights(
    store: Store, folder: str, mark: str | None, *, nonce: Callable[[], str] = new_nonce
) -> tuple[Right, ...]:
    """Try each right in turn on objects of this check's own, which are gone afterwards.

    Args:
        store: as this machine reaches it.
        folder: where to try, for instance `RunLayout.probe`.
        mark: key of what another machine wrote; None leaves that out.
        nonce: makes the names of this check unique.

    Returns:
        One for each right. Once storage is out of reach the rest is not tried: each would wait as long again.
    """
    key, other = (f"{folder}/{nonce()}-rights" for _ in range(2))
    done: list[str] = []
    steps: dict[str, Callable[[], None]] = {
        "create": lambda: _create(store, key),
        "put": lambda: store.put(other, b"second"),
        "get": lambda: _get(store, key, must_exist="create" in done),
        "list": lambda: _list(store, folder, key, must_exist="create" in done),
        CLEARING: lambda: _delete(store, key, other),
    }
    if mark is not None:
        steps["see what another machine wrote"] = lambda: _see(store, mark)
    rights = []
    for name, step in steps.items():
        try:
            step()
        except OrchestratorError as error:
            rights.append(Right(name, error))
            if isinstance(error, StoreUnavailable):
                break
        else:
            rights.append(Right(name))
            done.append(name)
    return tuple(rights)


def _create(store: Store, key: str) -> None:
    store.create(key, b"first")
    if store.create(key, b"second"):
        raise UnsupportedStore(
            "one key could be created twice", where=f"{store.url}: {key}", hint="use a store with conditional writes"
        )


def _get(store: Store, key: str, *, must_exist: bool) -> None:
    """Read what was written; where nothing could be, being told so is right enough."""
    try:
        found = store.get(key)
    except MissingObject:
        if must_exist:
            raise
        return
    if found != b"first":
        raise UnsupportedStore("what was read is not what was written", where=f"{store.url}: {key}")


def _list(store: Store, folder: str, key: str, *, must_exist: bool) -> None:
    if key not in store.list(folder) and must_exist:
        raise UnsupportedStore("an object that was written is not listed", where=f"{store.url}: {key}")


def _delete(store: Store, *keys: str) -> None:
    for key in keys:
        store.delete(key)


def _see(store: Store, mark: str) -> None:
    try:
        store.get(mark)
    except MissingObject:
        raise UnsupportedStore(
            "it is not there: this machine sees another folder of that name",
            where=f"{store.url}: {mark}",
            hint="storage must be shared by all nodes: s3://…, or a folder that all of them mount",
        ) from None
