"""The wiring: real clock, store and cluster around the controller. The command line and notebooks use this alone."""

from orchestrator.api.clock import SystemClock
from orchestrator.api.doctor import doctor
from orchestrator.api.launched import validate_cluster
from orchestrator.api.measuring import Measured, look_at_cluster, measure
from orchestrator.api.members import load_member
from orchestrator.api.planned import RunPlan, plan, validate
from orchestrator.api.resuming import remaining
from orchestrator.api.running import run
from orchestrator.api.stored import (
    compare,
    evaluate,
    list_runs,
    logs,
    prune,
    report,
    status,
    stop,
    sync,
)
from orchestrator.api.submitted import submit

__all__ = [
    "Measured",
    "RunPlan",
    "SystemClock",
    "compare",
    "doctor",
    "evaluate",
    "list_runs",
    "load_member",
    "logs",
    "look_at_cluster",
    "measure",
    "plan",
    "prune",
    "remaining",
    "report",
    "run",
    "status",
    "stop",
    "submit",
    "sync",
    "validate",
    "validate_cluster",
]
