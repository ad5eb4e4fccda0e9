"""Where chaos takes hold of a writer: a store that asks before each operation, and a log that keeps what it was told.

Both are used by processes (`chaos_actor`) and by the model of the run protocol, which asks threads instead of pipes.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Literal, TypeVar

from orchestrator.errors import StoreUnavailable
from orchestrator.planning.ports import Store
from orchestrator.storage.log import Log
from orchestrator.storage.records import JSON, Record

T = TypeVar("T")

Verdict = Literal["go", "unsent", "lost"]
"""What becomes of an operation: it happens, it is never sent, or it happens and its answer is lost."""

Ask = Callable[[str], Verdict]
"""Called with `METHOD KEY`, and the kind of the record that a create would make; returns when the writer may go on."""


class GatedStore:
    """A store that asks before each operation, and once more after each create that succeeded (`created KEY KIND`)."""

    def __init__(self, inner: Store, ask: Ask) -> None:
        self._inner = inner
        self._ask = ask

    @property
    def url(self) -> str:
        return self._inner.url

    def create(self, key: str, body: bytes) -> bool:
        what = f"{key} {_kind(key, body)}".rstrip()
        created = self._pass(f"create {what}", lambda: self._inner.create(key, body))
        if created:
            self._ask(f"created {what}")
        return created

    def put(self, key: str, body: bytes) -> None:
        self._pass(f"put {key}", lambda: self._inner.put(key, body))

    def put_file(self, key: str, path: str) -> None:
        self._pass(f"put {key}", lambda: self._inner.put_file(key, path))

    def get(self, key: str, *, max_bytes: int | None = None) -> bytes:
        return self._pass(f"get {key}", lambda: self._inner.get(key, max_bytes=max_bytes))

    def get_file(self, key: str, path: str, *, max_bytes: int | None = None) -> None:
        self._pass(f"get {key}", lambda: self._inner.get_file(key, path, max_bytes=max_bytes))

    def list(self, prefix: str) -> list[str]:
        return self._pass(f"list {prefix}", lambda: self._inner.list(prefix))

    def delete(self, key: str) -> None:
        self._pass(f"delete {key}", lambda: self._inner.delete(key))

    def _pass(self, what: str, operation: Callable[[], T]) -> T:
        verdict = self._ask(what)
        if verdict == "unsent":
            raise StoreUnavailable("injected: never sent", where=what)
        answer = operation()
        if verdict == "lost":
            raise StoreUnavailable("injected: the answer is lost", where=what)
        return answer


class OverwritingStore:
    """The negative control: takes every create, as servers do that ignore `If-None-Match`."""

    def __init__(self, inner: Store) -> None:
        self._inner = inner

    def create(self, key: str, body: bytes) -> bool:
        self._inner.put(key, body)
        return True

    def __getattr__(self, name: str) -> object:
        return getattr(self._inner, name)


class JournaledLog(Log):
    """A log that tells of each record whose append or claim was acknowledged, before its writer goes on."""

    acknowledged: Callable[[Record], object]

    def append(self, kind: str, /, **body: JSON) -> Record:
        record = super().append(kind, **body)
        self.acknowledged(record)
        return record

    def claim_if_unchanged(self, /, **body: JSON) -> int | None:
        term = super().claim_if_unchanged(**body)
        if term is not None and self.last is not None:
            self.acknowledged(self.last)
        return term


def open_journaled(
    store: Store, prefix: str, acknowledged: Callable[[Record], object], *, sleep: Callable[[float], object]
) -> JournaledLog:
    """`Log.open` of a `JournaledLog`."""
    log = JournaledLog.open(store, prefix, sleep=sleep)
    if not isinstance(log, JournaledLog):
        raise TypeError("Log.open no longer makes an object of its own class")
    log.acknowledged = acknowledged
    return log


def _kind(key: str, body: bytes) -> str:
    return str(json.loads(body)["kind"]) if Path(key).parent.name == "log" else ""


class InTurn:
    """Instead of a pool of threads: each task is done when it is handed in, so that a seed says what comes next."""

    def __init__(self, *_: object, **__: object) -> None:
        pass

    def __enter__(self) -> InTurn:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def submit(self, do: Callable[..., T], *arguments: object) -> Future[T]:
        future: Future[T] = Future()
        try:
            future.set_result(do(*arguments))
        except Exception as error:
            future.set_exception(error)
        return future
