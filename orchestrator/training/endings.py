"""How a member's training ends: the record of it in the member's log, the event, and the model that is at hand then."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

from orchestrator.planning import events as ev
from orchestrator.planning.ports import Store
from orchestrator.storage.log import Log
from orchestrator.training.checkpoint import Snapshot
from orchestrator.training.publish import OWN_ERRORS, cause_of, is_anothers_fault, publish_final
from orchestrator.training.setup import WorkerSetup

AT_HAND = 64
"""Models that are kept to be predicted with."""


class Endings:
    """Ends the training of members, one way or another, in a worker's process.

    Args:
        store: where results go.
        setup: what the worker knows of its run.
    """

    def __init__(self, store: Store, setup: WorkerSetup) -> None:
        self._store, self._setup = store, setup
        self._at_hand: OrderedDict[int, tuple[Mapping[str, Any], Any]] = OrderedDict()

    def take(self, member: int) -> tuple[Mapping[str, Any] | None, Any]:
        """Body of the member's `final` record and its built model, where this worker has just published it; once."""
        return self._at_hand.pop(member, (None, None))

    def prepared(
        self, index: int, log: Log, trained: Any, *, engine: str, began: float, resumed: Snapshot | None
    ) -> Callable[[], ev.Event]:
        """The publication of a member's end, for the saver's thread: a model, its divergence, or what went wrong.

        Args:
            index, log: the member, claimed.
            trained: a `Trained`, or the error that ended it.
            engine: that trained it.
            began: monotonic second at which the attempt began.
            resumed: what it went on from; None: the beginning.
        """
        from orchestrator.training.callbacks import Diverged

        name = self._setup.worker

        def ending() -> ev.Event:
            if isinstance(trained, Diverged):
                log.append("failed", status="diverged", message=str(trained), at=_now())
                return ev.MemberDiverged(name, index, str(trained))
            if isinstance(trained, BaseException):
                return self.failed(index, log, trained)
            trained_at = time.monotonic()
            try:
                final = self._publish(log, trained, engine=engine, began=began, resumed=resumed)
            except OWN_ERRORS as error:
                return self.failed(index, log, error)
            if not self._setup.prunes:  # a trial that has gone on elsewhere has another model by then
                self._at_hand[index] = final, trained.model
            while len(self._at_hand) > AT_HAND:  # whom another worker predicts is never taken
                self._at_hand.popitem(last=False)
            return ev.MemberTrained(name, index, upload_s=time.monotonic() - trained_at)

        return ending

    def late(self, index: int, log: Log, trained: Any, *, began: float, resumed: Snapshot) -> ev.Event:
        """Publish the best epoch so far of a member that will train no more."""
        self._publish(log, trained, began=began, resumed=resumed, late=True)
        return ev.MemberTrained(self._setup.worker, index, late=True)

    def failed(self, index: int, log: Log, error: BaseException) -> ev.Event:
        """Sort an error of training into the member's own fault (an attempt failed) or somebody else's (raised)."""
        if is_anothers_fault(error):
            raise error
        cause, message = cause_of(error)
        log.append("failed", status="failed", cause=cause.value, message=message[:2000], at=_now())
        return ev.AttemptFailed(self._setup.worker, index, cause, message)

    def _publish(self, log: Log, trained: Any, **how: Any) -> Mapping[str, Any]:
        return publish_final(self._store, self._setup.layout, log, trained, worker=self._setup.worker, **how)


def _now() -> float:
    """For people: UTC epoch seconds by this machine's clock."""
    return round(time.time(), 3)
