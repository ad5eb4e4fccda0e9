"""Jobs and plans for the tests of this folder."""

from __future__ import annotations

from typing import Any

from orchestrator.planning.plan import Plan, make_plan
from orchestrator.spec import Job, parse_job

BUILDER = "jobs.digits:build_model"


def job(**changes: Any) -> Job:
    return parse_job({"name": "digits", "model": BUILDER, "data": "jobs.digits:load_data", **changes})


def plan(num_members: int) -> Plan:
    return make_plan(job(members=num_members, train={"epochs": 10_000}), {BUILDER: True})  # scripts say fewer
