"""Runs as they lie in a store, record by record, for the tests of this folder."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from result_examples import result

from orchestrator.ensemble.tasks import TaskKind
from orchestrator.planning.members import MemberPlan
from orchestrator.planning.outputs import ONLY
from orchestrator.planning.ports import Store
from orchestrator.reporting import publish
from orchestrator.reporting.result import to_json
from orchestrator.reporting.selection import MemberFacts, RunFacts, make_selection
from orchestrator.spec import ReportSpec, parse_job
from orchestrator.storage.blobs import get_blob, put_blob
from orchestrator.storage.layout import RunLayout
from orchestrator.storage.log import Log
from orchestrator.storage.tables import history_to_parquet, labels_to_parquet, predictions_to_parquet

LAYOUT = RunLayout("digits", "digits-run")
BEGAN = 1_700_000_000.0
RUN_ID = "nightly 2026-11-21"


def create_run(
    store: Store, layout: RunLayout = LAYOUT, members: int = 3, *, run_id: str = RUN_ID, **parts: Any
) -> Log:
    """A run's spec and its coordinator's log, claimed once. `parts` are more of the job's keys."""
    job = parse_job(_document(layout, members, parts))
    spec = {"run_id": run_id, "identity": {}, "identity_digest": "0" * 64, "job": job.model_dump(mode="json")}
    store.create(layout.spec, json.dumps(spec).encode())
    log = Log.open(store, layout.coord_log)
    log.claim(run_id=run_id, at=BEGAN)
    return log


def _document(layout: RunLayout, members: int, parts: Mapping[str, Any]) -> dict[str, Any]:
    named = {"name": layout.job, "model": "jobs.digits:build", "data": "jobs.digits:load", "members": members}
    return {**named, **parts}


def finished_run(
    store: Store,
    labels: Mapping[str, npt.NDArray[Any]],
    members: Sequence[Mapping[str, npt.NDArray[Any]]],
    layout: RunLayout = LAYOUT,
    *,
    task: TaskKind = TaskKind.MULTICLASS,
    run_id: str = RUN_ID,
    facts: Mapping[str, Any] | None = None,
    **parts: Any,
) -> None:
    """A run from its spec to its result, as a coordinator leaves it; without a report.

    Args:
        store, layout: where to.
        labels: of each split.
        members: of each member its predictions [N, C] by split; a member without any has failed.
        task: what they tell.
        run_id: as a user gave it.
        facts: fields of `RunFacts` that are to be other than here.
        parts: more of the job's keys.
    """
    log = create_run(store, layout, len(members), run_id=run_id, **parts)

    def blob(body: bytes) -> Any:
        return put_blob(store, layout, body).to_json()

    history = blob(history_to_parquet([{"epoch": 1, "loss": 0.5}]))
    final = {"model": blob(b"weights"), "history": history, "epochs": 1, "best_epoch": 1, "at_best": {"loss": 0.5}}
    told = [
        MemberFacts(
            plan=MemberPlan(index, index, "jobs.digits:build", {"dropout": 0.1}),
            status="succeeded" if predictions else "failed",
            attempts=1,
            preemptions=0,
            message=None,
            final=final if predictions else None,
            final_seq=1 if predictions else None,
            predictions={
                split: blob(predictions_to_parquet(values.astype(np.float32))) for split, values in predictions.items()
            },
        )
        for index, predictions in enumerate(members)
    ]
    fields: dict[str, Any] = {
        "run_id": run_id,
        "attempt": 1,
        "tasks": {ONLY: task},
        "labels": {split: blob(labels_to_parquet(values)) for split, values in labels.items()},
        "timing": {"total_s": 1.0},
        "spec_digest": "0" * 64,
        "code_digest": "1" * 64,
        "data_fingerprint": "2" * 64,
        "versions": {},
        "notes": (),
        "runs_before": {"runs": 2, "members": 7, "trials": 0},
    }
    job = parse_job(_document(layout, len(members), parts))
    run = RunFacts(**{**fields, **(facts or {})})
    selection = make_selection(job, run, told, lambda ref: get_blob(store, ref))
    publish.finish(store, layout, log, log.append("selection", **selection).body, ReportSpec(html=False))


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
