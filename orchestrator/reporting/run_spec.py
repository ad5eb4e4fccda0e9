"""What readers of a run need of its `spec.json`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from orchestrator.errors import DamagedStore, InvalidJob, MissingObject, OrchestratorError
from orchestrator.planning.plan import Plan, make_plan
from orchestrator.planning.ports import Store
from orchestrator.planning.search import read_generations
from orchestrator.spec import parse_job
from orchestrator.storage.layout import RunLayout


@dataclass(frozen=True)
class RunSpec:
    """A run's `spec.json`, as far as any version's can be read.

    Attributes:
        run_id: as a user gave it.
        num_members: how many were asked for.
        takeover_s: after so many seconds without a sign of life nobody works on the run.
        stop_metric: by which `ensemble.stop_when` decides; None: it does not.
        plan: None where the job is none that this version understands.
    """

    run_id: str
    num_members: int
    takeover_s: float
    stop_metric: str | None = None
    plan: Plan | None = field(default=None, repr=False)

    def max_epochs(self, generations: Sequence[Mapping[str, Any]]) -> tuple[int | None, ...]:
        """The most epochs that each member, of a search each trial so far, is trained for; None: that is not known.

        Args:
            generations: what the coordinator's log tells of a search, see `RunMemory`.
        """
        if self.plan is None:
            trials = sum(len(body.get("params", ())) for body in generations)
            return (None,) * (trials or self.num_members)
        members = self.plan.with_generations(read_generations(generations)).members
        return tuple(member.epochs for member in members)


def read_spec(store: Store, layout: RunLayout) -> RunSpec:
    """Read a run's `spec.json`.

    Raises:
        InvalidJob: there is none.
        DamagedStore: it is no such file.
    """
    try:
        spec = json.loads(store.get(layout.spec))
        job = spec["job"]
        members, stop_when = job["members"], (job.get("ensemble") or {}).get("stop_when") or {}
        plan = _plan(job)
        asked = int(members["count"]) if plan is None or plan.job is not None else len(plan.members)
        takeover_s = float(job["faults"]["takeover_s"])
        return RunSpec(str(spec["run_id"]), asked, takeover_s, stop_when.get("metric"), plan)
    except MissingObject:
        raise InvalidJob("the run has no spec.json", where=layout.root) from None
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise not_ours("it is no job as this version writes it", layout.spec, error) from None


def _plan(job: Mapping[str, Any]) -> Plan | None:
    """The members, but for whether their build functions take a dropout: that would need the job's own code."""
    try:
        return make_plan(parse_job(job, filename="spec.json"), {})
    except OrchestratorError:
        return None


def not_ours(what: str, where: str, error: Exception) -> DamagedStore:
    """The error of something stored that is not as this version writes it."""
    hint = "restore it from a backup, or look with the version that wrote it"
    return DamagedStore(f"{what} ({type(error).__name__}: {error})", where=where, hint=hint)
