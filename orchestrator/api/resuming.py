"""What a start of a planned run would skip: read from storage, if it can be read from here."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from orchestrator.api.clock import SystemClock
from orchestrator.api.planned import RunPlan
from orchestrator.errors import MissingObject, OrchestratorError
from orchestrator.reporting.remainder import Remainder, not_begun, of_another_job, remainder_of, unreadable
from orchestrator.reporting.status import status_of
from orchestrator.spec import difference
from orchestrator.storage.open import open_store_of
from orchestrator.storage.parallel import in_background

if TYPE_CHECKING:
    from orchestrator.planning.ports import Store

LOOK_S = 5.0
"""How long storage may take to answer: a plan should be there at once, and credentials may be on the cluster alone."""


def remaining(planned: RunPlan, *, store: Store | None = None, within_s: float = LOOK_S) -> Remainder:
    """What a start of this run would find in storage, and skip. Nothing is written, nothing raised.

    Args:
        planned: from `plan`.
        store: where the run is; default the one that its job names.
        within_s: seconds in which storage has to answer.
    """
    try:
        there = store or open_store_of(planned.request.job)
        return in_background(lambda: _look(there, planned)).result(within_s)
    except TimeoutError:
        return unreadable(f"no answer within {within_s:g} s")
    except OrchestratorError as error:
        return unreadable(error.what)


def _look(store: Store, planned: RunPlan) -> Remainder:
    request = planned.request
    members = [member.index for member in request.plan.members]
    try:
        spec = store.get(request.layout.spec)
    except MissingObject:
        return not_begun(members)
    status = status_of(store, request.layout, now=SystemClock().epoch())  # which refuses a spec that is none
    stored = json.loads(spec)
    if stored.get("identity_digest") != request.spec_digest:
        known, asked = dict(stored.get("identity") or {}), json.loads(json.dumps(planned.identity))
        code_alone = {**known, "code": asked["code"]} == asked
        return of_another_job(status, difference(known, asked), code_alone=code_alone)
    search = request.job.search
    return remainder_of(status, members, num_trials=None if search is None else search.num_trials)
