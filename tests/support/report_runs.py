"""A finished run on fakes, as it lies in a store: what `report` reads."""

from __future__ import annotations

import json
from typing import Any

from orchestrator.controller import Controller, RunRequest
from orchestrator.planning.placement import Crew
from orchestrator.planning.plan import make_plan
from orchestrator.planning.ports import Store
from orchestrator.reporting.progress import SilentProgress
from orchestrator.reporting.result import Result
from orchestrator.spec import parse_job
from orchestrator.storage.layout import RunLayout
from orchestrator.storage.log import Log
from orchestrator.testing import FakeClock, FakeCluster

LAYOUT = RunLayout("digits", "digits-run")
BUILDER = "jobs.digits:build_model"


def finished_run(store: Store, *, job: dict[str, Any] | None = None, **cluster: Any) -> tuple[Result, FakeCluster]:
    """Train three members on a fake cluster to the end.

    Args:
        store: where the run is kept, under `LAYOUT`.
        job: further keys of the job.
        cluster: what goes wrong, and all else, as `FakeCluster` takes it.
    """
    asked = {"name": "digits", "model": BUILDER, "data": "jobs.digits:load_data", "members": 3, **(job or {})}
    parsed, clock = parse_job(asked), FakeClock()
    plan = make_plan(parsed, {BUILDER: True})
    store.create(LAYOUT.spec, json.dumps({"run_id": "tuesday", "job": parsed.model_dump(mode="json")}).encode())
    log = Log.open(store, LAYOUT.coord_log)
    term = log.claim(at=clock.epoch())
    fake = FakeCluster(store, LAYOUT, plan, coord_term=term, clock=clock, **cluster)
    controller = Controller(
        RunRequest(parsed, plan, LAYOUT, run_id="tuesday", spec_digest="5" * 64, code_digest="c" * 64),
        store=store,
        log=log,
        cluster=fake,
        clock=clock,
        progress=SilentProgress(),
        crew=Crew(2),
    )
    return controller.run(), fake
