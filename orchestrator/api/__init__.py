"""The wiring: real clock, store and cluster around the controller. The command line and notebooks use this alone."""

from orchestrator.api.awaited import SubmittedRun, Waiting
from orchestrator.api.clock import SystemClock
from orchestrator.api.doctor import doctor
from orchestrator.api.jobs import stop_submitted, submitted_log, submitted_status, wait_submitted
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
    watch,
)
from orchestrator.api.submitted import submit
from orchestrator.api.waiting import follow_logs, wait

__all__ = [
    "Measured",
    "RunPlan",
    "SubmittedRun",
    "SystemClock",
    "Waiting",
    "compare",
    "doctor",
    "evaluate",
    "follow_logs",
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
    "stop_submitted",
    "submit",
    "submitted_log",
    "submitted_status",
    "sync",
    "validate",
    "validate_cluster",
    "wait",
    "wait_submitted",
    "watch",
]
