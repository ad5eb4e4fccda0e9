"""Fakes of what the world keeps: a store in memory, a store with faults, a clock moved by hand."""

from __future__ import annotations

import random
import threading
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from orchestrator.errors import MissingObject, OrchestratorError, StoreUnavailable
from orchestrator.planning.ports import Store
from orchestrator.storage.layout import check_key
from orchestrator.storage.limits import check_size


class MemoryStore:
    """The `Store` port over a dictionary, safe for threads; other processes do not see it.

    Args:
        name: what stands in the URL.
    """

    def __init__(self, name: str = "fake") -> None:
        self._name = name
        self._objects: dict[str, bytes] = {}
        self._lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"memory://{self._name}"

    def create(self, key: str, body: bytes) -> bool:
        with self._lock:
            if check_key(key) in self._objects:
                return False
            self._objects[key] = bytes(body)
            return True

    def put(self, key: str, body: bytes) -> None:
        with self._lock:
            self._objects[check_key(key)] = bytes(body)

    def put_file(self, key: str, path: str) -> None:
        self.put(key, Path(path).read_bytes())

    def get(self, key: str, *, max_bytes: int | None = None) -> bytes:
        with self._lock:
            try:
                body = self._objects[check_key(key)]
            except KeyError:
                raise MissingObject("no such object", where=f"{self.url}/{key}") from None
        check_size(len(body), max_bytes, where=f"{self.url}/{key}")
        return body

    def get_file(self, key: str, path: str, *, max_bytes: int | None = None) -> None:
        Path(path).write_bytes(self.get(key, max_bytes=max_bytes))

    def list(self, prefix: str) -> list[str]:
        return [*self.sizes(prefix)]

    def sizes(self, prefix: str) -> dict[str, int]:
        folder = f"{check_key(prefix)}/" if prefix else ""
        with self._lock:
            return {key: len(body) for key, body in sorted(self._objects.items()) if key.startswith(folder)}

    def delete(self, key: str) -> None:
        with self._lock:
            self._objects.pop(check_key(key), None)


Method = Literal["create", "put", "put_file", "get", "get_file", "list", "delete"]


@dataclass(frozen=True)
class Fault:
    """A rule: which calls of a store go wrong, and how.

    Args:
        method: the method of the port.
        effect: `before` raises without doing anything; `after` does it, then raises (a lost response); `truncate` and
            `corrupt` return the first half, or one flipped bit, of what `get` or `get_file` read.
        key: only calls whose key contains this.
        nth: the first matching call that goes wrong, from 1.
        times: how many from there on; None is all of them.
        probability: chance of each of these calls to go wrong, by the store's seed.
        error: what `before` and `after` raise.
    """

    method: Method
    effect: Literal["before", "after", "truncate", "corrupt"]
    key: str = ""
    nth: int = 1
    times: int | None = 1
    probability: float = 1.0
    error: type[OrchestratorError] = StoreUnavailable


class FaultyStore:
    """Any store, with faults. `fired` counts how often each rule struck: a fault test asserts that its fault fired.

    Args:
        inner: the store that does the work.
        rules: what goes wrong; rules can also be added later with `inject`.
        seed: for rules with a probability, so that a failure replays.
    """

    def __init__(self, inner: Store, rules: Iterable[Fault] = (), *, seed: int = 0) -> None:
        self.fired: Counter[Fault] = Counter()
        self._inner = inner
        self._matched: dict[Fault, int] = {}
        self._random = random.Random(seed)
        self._lock = threading.Lock()
        for rule in rules:
            self.inject(rule)

    def inject(self, rule: Fault) -> None:
        """Add a rule; its `nth` counts from now."""
        with self._lock:
            self._matched[rule] = 0

    def heal(self) -> None:
        """Forget all rules; `fired` stays."""
        with self._lock:
            self._matched.clear()

    @property
    def url(self) -> str:
        return self._inner.url

    def create(self, key: str, body: bytes) -> bool:
        with _Effects(self, "create", key):
            return self._inner.create(key, body)

    def put(self, key: str, body: bytes) -> None:
        with _Effects(self, "put", key):
            self._inner.put(key, body)

    def put_file(self, key: str, path: str) -> None:
        with _Effects(self, "put_file", key):
            self._inner.put_file(key, path)

    def get(self, key: str, *, max_bytes: int | None = None) -> bytes:
        with _Effects(self, "get", key) as effects:
            return effects.spoil(self._inner.get(key, max_bytes=max_bytes))

    def get_file(self, key: str, path: str, *, max_bytes: int | None = None) -> None:
        with _Effects(self, "get_file", key) as effects:
            self._inner.get_file(key, path, max_bytes=max_bytes)
            file = Path(path)
            file.write_bytes(effects.spoil(file.read_bytes()))

    def list(self, prefix: str) -> list[str]:
        with _Effects(self, "list", prefix):
            return self._inner.list(prefix)

    def sizes(self, prefix: str) -> dict[str, int]:
        with _Effects(self, "list", prefix):
            return self._inner.sizes(prefix)

    def delete(self, key: str) -> None:
        with _Effects(self, "delete", key):
            self._inner.delete(key)

    def _strike(self, method: Method, key: str) -> tuple[Fault, ...]:
        """The rules that strike this call."""
        struck = []
        with self._lock:
            for rule, matched in self._matched.items():
                if rule.method != method or rule.key not in key:
                    continue
                self._matched[rule] = count = matched + 1
                due = count >= rule.nth and (rule.times is None or count < rule.nth + rule.times)
                if due and self._random.random() < rule.probability:
                    self.fired[rule] += 1
                    struck.append(rule)
        return tuple(struck)


class _Effects:
    """What the rules do to one call."""

    def __init__(self, store: FaultyStore, method: Method, key: str) -> None:
        self._rules = store._strike(method, key)
        self._what = f"{method} {key}"

    def __enter__(self) -> _Effects:
        self._raise("before")
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self._raise("after")

    def spoil(self, body: bytes) -> bytes:
        for rule in self._rules:
            if rule.effect == "truncate":
                body = body[: len(body) // 2]
            if rule.effect == "corrupt" and body:
                middle = len(body) // 2
                body = body[:middle] + bytes([body[middle] ^ 1]) + body[middle + 1 :]
        return body

    def _raise(self, effect: str) -> None:
        for rule in self._rules:
            if rule.effect == effect:
                raise rule.error(f"injected fault {effect} the effect", where=self._what)


class FakeClock:
    """The `Clock` port, moved by hand; `sleep` moves it too, so that nothing waits.

    Args:
        epoch: UTC epoch seconds at the start.
    """

    def __init__(self, epoch: float = 1_700_000_000.0) -> None:
        self._start = epoch
        self._elapsed = 0.0

    def monotonic(self) -> float:
        return self._elapsed

    def epoch(self) -> float:
        return self._start + self._elapsed

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        if seconds < 0:
            raise ValueError("time does not go back")
        self._elapsed += seconds

    def sleep(self, seconds: float) -> None:
        """Like `time.sleep`, without waiting."""
        self.advance(seconds)
