"""The ports: what the decisions need from the world. Adapters live in `storage/`, `cluster/` and `testing.py`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from orchestrator.planning.commands import WorkerCommand
    from orchestrator.planning.events import Event
    from orchestrator.planning.placement import ClusterShape
    from orchestrator.planning.search import Params


class Store(Protocol):
    """Objects under keys. A key is a relative path of `/`-joined names; it never starts or ends with `/`.

    Every call has a deadline of its own and ends in one of the errors named here: nothing blocks for ever.
    `AccessDenied` may come from any of them.
    """

    @property
    def url(self) -> str:
        """Where this store is, without secrets, for messages and results."""

    def create(self, key: str, body: bytes) -> bool:
        """Write `body` only if `key` does not exist yet, atomically, in one try.

        Returns:
            True when this call created the object. False when it existed: perhaps because something on the way to the
            store repeated this very call, so who must know compares a nonce in the body.

        Raises:
            StoreUnavailable: the outcome is unknown (timeout, reset, 5xx, 409): read the key to find out.
        """

    def put(self, key: str, body: bytes) -> None:
        """Write `body`, replacing what is there; retried. Never visible half-written. Raises StoreUnavailable."""

    def put_file(self, key: str, path: str) -> None:
        """Like `put`, from a local file, without reading all of it into memory. Raises StoreUnavailable."""

    def get(self, key: str, *, max_bytes: int | None = None) -> bytes:
        """The whole object.

        Args:
            max_bytes: the most that it may have: a larger one is refused before it fills the memory.

        Raises:
            MissingObject, StoreUnavailable.
            DamagedStore: it is larger than `max_bytes`, or its bytes are not those of the store's own checksum.
        """

    def get_file(self, key: str, path: str, *, max_bytes: int | None = None) -> None:
        """Download to a local file. Arguments and errors as `get`; StoreUnavailable too when the local disk is full."""

    def list(self, prefix: str) -> list[str]:
        """All keys below the folder `prefix` (any depth), sorted; empty when there are none. Never from a cache."""

    def sizes(self, prefix: str) -> dict[str, int]:
        """What `list` gives, each key with its size in bytes."""

    def delete(self, key: str) -> None:
        """Remove the object; no error when it does not exist."""


class Clock(Protocol):
    """Time, for those who carry decisions out. Decisions get `now` with each event."""

    def monotonic(self) -> float:
        """Seconds that never go back; for deadlines within this process."""

    def epoch(self) -> float:
        """UTC epoch seconds; for showing and recording, never for safety."""


class Cluster(Protocol):
    """Workers on some machines. Workers are named by the schedule; events come back through `poll`."""

    def shape(self) -> ClusterShape:
        """The nodes alive now with their CPUs and GPUs."""

    def send(self, commands: Iterable[WorkerCommand]) -> None:
        """Carry out commands for workers; returns at once, outcomes come as events."""

    def poll(self, timeout_s: float) -> Sequence[Event]:
        """Events since the last call; waits at most `timeout_s` for the first."""

    def close(self) -> None:
        """End the workers that this cluster started, and Ray if this cluster started it."""


class Sampler(Protocol):
    """What a search tries next, to make a loss small. The same calls in the same order always give the same trials."""

    def ask(self, count: int) -> Sequence[Params]:
        """The values of the next trials, by the names of `search.space`; all that were asked for before are told."""

    def tell(self, losses: Sequence[float | None]) -> None:
        """The losses of the trials that were asked for last, in their order; None for a trial that has none."""
