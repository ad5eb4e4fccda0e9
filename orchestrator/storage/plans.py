"""The plan as a worker knows it: of trials that a search added since the worker began, the coordinator's log tells."""

from __future__ import annotations

import threading
from collections.abc import Callable

from orchestrator.planning.members import MemberPlan
from orchestrator.planning.plan import Plan
from orchestrator.planning.recovery import read_run
from orchestrator.planning.search import read_generations
from orchestrator.storage.log import Log


class KnownPlan:
    """Members by index; for several threads.

    A trial is recorded before anybody is told to work on it, so whoever is told finds it there.

    Args:
        plan: what the worker was given when it began.
        open_log: opens the coordinator's log; called once, when a member is asked for that the plan does not have.
    """

    def __init__(self, plan: Plan, open_log: Callable[[], Log]) -> None:
        self._plan = plan
        self._open_log = open_log
        self._log: Log | None = None
        self._lock = threading.Lock()

    def __getitem__(self, index: int) -> MemberPlan:
        with self._lock:
            if index >= len(self._plan.members):
                self._read()
            return self._plan.members[index]

    def refresh(self) -> None:
        """Look up how far trials are to be trained, which changes while they wait, where the search prunes them."""
        search = None if self._plan.job is None else self._plan.job.search
        if search is not None and search.pruning is not None:
            with self._lock:
                self._read()

    def _read(self) -> None:
        if self._log is None:
            self._log = self._open_log()
        self._log.refresh()
        bodies = read_run(self._log.records()).generations
        self._plan = self._plan.with_generations(read_generations(bodies))
