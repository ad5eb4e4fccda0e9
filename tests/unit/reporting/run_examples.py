"""Runs as they lie in a store, record by record, for the tests of this folder."""

from __future__ import annotations

import json
from typing import Any

from result_examples import result

from orchestrator.planning.ports import Store
from orchestrator.reporting.result import to_json
from orchestrator.spec import parse_job
from orchestrator.storage.blobs import put_blob
from orchestrator.storage.layout import RunLayout
from orchestrator.storage.log import Log

LAYOUT = RunLayout("digits", "digits-run")
BEGAN = 1_700_000_000.0
RUN_ID = "nightly 2026-11-21"


def create_run(store: Store, layout: RunLayout = LAYOUT, members: int = 3) -> Log:
    """A run's spec and its coordinator's log, claimed once."""
    job = parse_job({"name": layout.job, "model": "jobs.digits:build", "data": "jobs.digits:load", "members": members})
    spec = {"run_id": RUN_ID, "identity": {}, "identity_digest": "0" * 64, "job": job.model_dump(mode="json")}
    store.create(layout.spec, json.dumps(spec).encode())
    log = Log.open(store, layout.coord_log)
    log.claim(run_id=RUN_ID, at=BEGAN)
    return log


def beat(store: Store, term: int, at: float, layout: RunLayout = LAYOUT) -> None:
    store.put(layout.beat, json.dumps({"term": term, "n": 3, "at": at}).encode())


def claim_member(store: Store, index: int, layout: RunLayout = LAYOUT, **body: Any) -> Log:
    """A member's log, claimed by a worker, unless `body` says otherwise."""
    log = Log.open(store, layout.member_log(index))
    log.claim(coord_term=1, **(body or {"worker": "w0"}))
    return log


def checkpoint(log: Log, epoch: int, at: float, best_epoch: int) -> None:
    log.append("checkpoint", epoch=epoch, state={}, best={}, best_epoch=best_epoch, stopped=False, scores={}, at=at)


def finish(store: Store, log: Log, layout: RunLayout = LAYOUT, **changes: Any) -> None:
    """Selection and result of a run, of which the first two members are in the ensemble."""
    members = [{"index": i, "status": status} for i, status in enumerate(("succeeded", "late", "diverged"))]
    log.append("selection", members=members)
    body = to_json(result(**changes))
    log.append("done", result=put_blob(store, layout, body).to_json(), exit_code=changes.get("exit_code", 0))
