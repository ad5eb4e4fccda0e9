"""All that a worker needs to know of its run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from orchestrator.planning.plan import Plan
from orchestrator.spec import Job
from orchestrator.storage.layout import RunLayout
from orchestrator.storage.records import BlobRef


@dataclass(frozen=True)
class WorkerSetup:
    """All that a worker needs to know of its run, sent once.

    Attributes:
        worker: its name in the schedule.
        job: the job.
        plan: the members.
        layout: where the run keeps what.
        coord_term: the term of the coordinator that started this worker; claims carry it.
        code_root: folder from which the job's own modules are imported, or None to use the working directory.
        num_cpus: thread budget.
        num_gpus: what it may use of the node's GPUs; 0 keeps TensorFlow off them.
        bases: the run's copies of the models that members start from, by source.
    """

    worker: str
    job: Job
    plan: Plan
    layout: RunLayout
    coord_term: int
    code_root: str | None
    num_cpus: int
    num_gpus: float
    bases: Mapping[str, BlobRef] = field(default_factory=dict)

    @property
    def prunes(self) -> bool:
        """Whether trials of a search are trained rung by rung."""
        return self.job.search is not None and self.job.search.pruning is not None
