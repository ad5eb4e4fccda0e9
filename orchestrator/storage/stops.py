"""Requests to stop a run, which anybody may write to its storage."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from orchestrator.errors import Interrupted, StoreUnavailable
from orchestrator.planning.ports import Clock, Store
from orchestrator.storage.layout import RunLayout
from orchestrator.storage.log import Log

CONTROL_EVERY_S = 5.0


class StopRequests:
    """Those that are meant for one coordinator: all that came after it began.

    Args:
        store, layout: where the run lives.
        log: the coordinator's log, claimed.
        clock: the time.
        listed: keys of all requests; None: listed here, which a store out of reach holds up.
        tell: takes what people should know.
    """

    def __init__(
        self,
        store: Store,
        layout: RunLayout,
        log: Log,
        clock: Clock,
        listed: Callable[[], Iterable[str]] | None,
        tell: Callable[[str], None],
    ) -> None:
        self._list: Callable[[], Iterable[str]] = lambda: store.list(layout.control)
        self._listed = listed or self._list
        self._log = log
        self._clock = clock
        self._tell = tell
        self._known: set[str] = set()
        self._next = 0.0

    def begin(self) -> None:
        """Requests that the coordinator's claim names are not meant for it; one that came while Ray was starting is."""
        ours = next((r for r in self._log.records() if r.kind == "claim" and r.term == self._log.term), None)
        told: Any = self._list() if ours is None or "stops" not in ours.body else ours.body["stops"]
        self._known = {str(key) for key in told}

    def look(self) -> Interrupted | None:
        """A request that is new, looked for every few seconds; each is told once.

        A store that is out of reach for a while stops nobody: members go on, and whoever must write there says so.
        """
        now = self._clock.monotonic()
        if now < self._next:
            return None
        self._next = now + CONTROL_EVERY_S
        try:
            new = set(self._listed()) - self._known
        except StoreUnavailable as error:
            self._tell(f"cannot look for requests to stop: {error.what}")
            return None
        self._known |= new
        return Interrupted("stopped on request", where=sorted(new)[0], hint="start again to resume") if new else None
