"""Members' logs: a published model is not claimed away, only a `void` record takes it back."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from orchestrator.planning.events import Cause
from orchestrator.planning.ports import Clock, Store
from orchestrator.planning.recovery import MemberMemory, read_member
from orchestrator.storage.layout import RunLayout
from orchestrator.storage.log import Log
from orchestrator.storage.parallel import in_order
from orchestrator.storage.records import JSON

MAX_MESSAGE_CHARS = 2000


def claim_unpublished(log: Log, /, **body: JSON) -> MemberMemory:
    """Claim a member's log unless its model is published; of what happens meanwhile, nothing is overlooked.

    Args:
        log: the member's log, open.
        body: what the claim says, as for `Log.claim`.

    Returns:
        What the log says: with `final`, nothing was claimed; else the caller is its writer, and this was said before
        its claim.

    Raises:
        Fenced, DamagedStore, StoreUnavailable: as `Log.claim`.
    """
    while True:
        memory = read_member(log.records())
        if memory.final is not None or log.claim_if_unchanged(**body) is not None:
            return memory


class MemberLogs:
    """The logs of a run's members, as its coordinator reads them and takes them from workers.

    Args:
        store, layout: where the run lives.
        coord_term, run_id: of the coordinator; its claims carry them.
        clock: for people's sake, what time a record is of.
    """

    def __init__(self, store: Store, layout: RunLayout, *, coord_term: int, run_id: str, clock: Clock) -> None:
        self._store, self._layout, self._clock = store, layout, clock
        self._claim: dict[str, JSON] = {"coord_term": coord_term, "run_id": run_id}

    def read(self, index: int) -> MemberMemory:
        """What a member's log says."""
        return read_member(self._open(index).records())

    def read_all(self, indices: Iterable[int]) -> dict[int, MemberMemory]:
        """What the logs of these members say; only of those that ever had one."""
        below = f"{self._layout.members}/"
        started = {key.removeprefix(below).split("/")[0] for key in self._store.list(self._layout.members)}
        wanted = [index for index in indices if str(index) in started]
        return dict(zip(wanted, in_order(self.read, wanted), strict=True))

    def void(self, index: int, reason: str, *, trains_on: int | None = None) -> None:
        """Claim a member's log and take its published model back, perhaps to train it on to so many epochs."""
        log = self._open(index)
        log.claim(**self._claim)
        on: dict[str, JSON] = {} if trains_on is None else {"trains_on": trains_on}
        log.append("void", reason=reason[:MAX_MESSAGE_CHARS], **on, at=self._clock.epoch())

    def record_failed(self, index: int, cause: Cause, message: str) -> None:
        """Take the log from a lost worker, which finds itself fenced should it wake up, and record the end.

        What it has published meanwhile stands; a later start will find it.
        """
        log = self._open(index)
        if claim_unpublished(log, **self._claim).final is None:
            told = message[:MAX_MESSAGE_CHARS]
            log.append("failed", status="failed", cause=cause.value, message=told, at=self._clock.epoch())

    def _open(self, index: int) -> Log:
        return Log.open(self._store, self._layout.member_log(index))


def model_file(final: Mapping[str, Any]) -> str:
    """What the file of a member's model is called, from the body of its `final` record."""
    return "best.weights.h5" if final.get("weights_only") else "best.keras"


def copies_of(final: Mapping[str, Any]) -> dict[str, str]:
    """The readable copies of a member's files: part of its `final` record → name of the file."""
    return {"model": model_file(final), "history": "history.parquet"}
