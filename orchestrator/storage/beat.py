"""The coordinator's beat: one small object, overwritten every few seconds. For liveness only, never for safety."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable
from typing import NamedTuple

from orchestrator.errors import MissingObject, OrchestratorError
from orchestrator.planning.ports import Store

logger = logging.getLogger("orchestrator")


class Beat:
    """Writes the beat from a thread of its own, so that a long step of the coordinator does not look like its death.

    A failed write is left out: the next one comes in a moment. A process that is frozen freezes its beat with it; when
    it thaws and finds the beat of a successor, it leaves it alone. The same thread looks for requests to stop.

    Args:
        store, key: where the beat is.
        control: prefix of the requests to stop.
        term: of the coordinator.
        every_s: seconds between two beats.
        epoch: UTC epoch seconds, written for people to see.
    """

    def __init__(
        self, store: Store, key: str, control: str, *, term: int, every_s: float, epoch: Callable[[], float]
    ) -> None:
        self._store = store
        self._control = control
        self._stops: tuple[str, ...] = ()
        self._key = key
        self._term = term
        self._every_s = every_s
        self._epoch = epoch
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="beat", daemon=True)

    def __enter__(self) -> Beat:
        self._thread.start()
        return self

    def join(self, timeout_s: float) -> None:
        """Wait for the thread's own end, which only a successor's beat brings about."""
        self._thread.join(timeout_s)

    def __exit__(self, *exc: object) -> None:
        self._stop.set()
        self._thread.join(timeout=self._every_s)  # a write in flight has a deadline of its own, and does no harm

    def stop_requests(self) -> tuple[str, ...]:
        """Keys of the requests to stop that there are, as last seen; waits for nothing."""
        return self._stops

    def _run(self) -> None:
        n = 0
        while True:
            try:
                if not self._write(n):
                    return
                self._stops = tuple(self._store.list(self._control))
            except OrchestratorError:  # the next one comes in a moment
                pass
            except Exception:  # a beat that ended in silence would have a healthy run taken over
                logger.exception("the beat could not be written")
            n += 1
            if self._stop.wait(self._every_s):
                return

    def _write(self, n: int) -> bool:
        """False: a successor's beat is there."""
        newest = read_beat(self._store, self._key)
        if newest is not None and newest.term > self._term:
            return False
        self._store.put(self._key, json.dumps({"term": self._term, "n": n, "at": round(self._epoch(), 3)}).encode())
        return True


class Pulse(NamedTuple):
    """One beat: the coordinator's term, how many it has made before, and its clock's UTC epoch seconds."""

    term: int
    n: int
    at: float


def read_beat(store: Store, key: str) -> Pulse | None:
    """The newest beat; None where there is none, or nothing that one could have written.

    Raises:
        StoreUnavailable, AccessDenied: it could not be read.
    """
    try:
        content = json.loads(store.get(key))
        return Pulse(int(content["term"]), int(content["n"]), float(content["at"]))
    except (MissingObject, ValueError, KeyError, TypeError):
        return None
