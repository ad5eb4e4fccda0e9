"""Train an ensemble of Keras models in parallel on Ray from one job file, and report numbers you can trust.

    from orchestrator import load_job, run

    result = run(load_job("jobs/digits.yaml"))
    result.validation.ensemble.accuracy

Everything is imported on first use: `import orchestrator` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from orchestrator.api import (
        compare,
        evaluate,
        list_runs,
        load_member,
        logs,
        plan,
        prune,
        report,
        run,
        status,
        stop,
        submit,
        validate,
    )
    from orchestrator.errors import OrchestratorError
    from orchestrator.reporting.result import Result
    from orchestrator.spec import Job, load_job, parse_job

__all__ = [
    "Job",
    "OrchestratorError",
    "Result",
    "compare",
    "evaluate",
    "list_runs",
    "load_job",
    "load_member",
    "logs",
    "parse_job",
    "plan",
    "prune",
    "report",
    "run",
    "status",
    "stop",
    "submit",
    "validate",
]

_HOME = {
    "Job": "orchestrator.spec",
    "load_job": "orchestrator.spec",
    "parse_job": "orchestrator.spec",
    "OrchestratorError": "orchestrator.errors",
    "Result": "orchestrator.reporting.result",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOME.get(name, "orchestrator.api")), name)


def __dir__() -> list[str]:
    return sorted(__all__)
