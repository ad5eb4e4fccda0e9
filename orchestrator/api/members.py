"""Members of a finished run as models in this process."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from orchestrator.api.stored import open_at
from orchestrator.errors import InvalidJob
from orchestrator.planning.members import MemberPlan
from orchestrator.planning.recovery import read_run
from orchestrator.reporting.again import stored_job, stored_spec
from orchestrator.reporting.result import Result
from orchestrator.reporting.selection import COUNTED
from orchestrator.reporting.status import find_run
from orchestrator.spec import Job, MemberOverride, code_digest, parse_job
from orchestrator.spec.varied import train_with
from orchestrator.storage.layout import RunLayout
from orchestrator.storage.log import Log
from orchestrator.storage.records import BlobRef


def load_member(
    run: str | Result,
    index: int,
    *,
    root: str = ".",
    storage: str = "runs",
    endpoint_url: str | None = None,
    region: str | None = None,
) -> Any:
    """A member's best model, a `keras.Model`: compiled, preprocessing included, as it was published and scored.

    The job's own code builds it, custom layers, losses and metrics of that included; only numbers are taken from the
    storage, and checked against their sha256: no stored code is run. It computes with the backend that Keras has in
    this process.

    Args:
        run: a result, or a run id or run key.
        index: of the member, from 0.
        root: folder from which the job's own modules are imported; one that has changed since the run is warned of.
        storage, endpoint_url, region: as for `status`.

    Raises:
        InvalidJob: there is no such run or member, or it has no model.
        InvalidModel: the job's code no longer builds it.
        DamagedStore: its file is gone or damaged, or is not of the model that the job's code builds now.
    """
    store = open_at(storage, endpoint_url, region)
    layout = find_run(store, run.run_key if isinstance(run, Result) else run, storage)
    selection = read_run(Log.open(store, layout.coord_log).records()).selection
    entries = {} if selection is None else {entry["index"]: entry for entry in selection["members"]}
    entry = entries.get(index)
    if entry is None or entry["status"] not in COUNTED:
        state = "not been evaluated yet" if not entries else "no such member" if entry is None else entry["status"]
        raise InvalidJob(
            f"there is no model: {state}",
            where=f"run {layout.run_key}, member {index}",
            hint="`orchestrator status` tells where the run and its members stand",
        )
    job = parse_job(stored_job(store, layout), filename="spec.json")
    _prepare_imports(job, root, stored_spec(store, layout).get("identity", {}).get("code"))
    from orchestrator.training.bases import placed_bases
    from orchestrator.training.published import open_published  # imports Keras

    train = train_with(job.train, entry["train"])
    override = job.members.overrides.get(index, MemberOverride())
    member = MemberPlan(
        index,
        entry["seed"],
        entry["builder"],
        entry["kwargs"],
        train,
        entry["train"],
        base=(override.model or job.model).base,
    )
    with placed_bases(store, _bases_of(selection or {}, layout)):
        return open_published(store, entry["final"], member, job)


def _bases_of(selection: Mapping[str, Any], layout: RunLayout) -> dict[str, BlobRef]:
    """The run's copies of the models that its members started from, by source."""
    found = selection.get("bases", {})
    return {source: BlobRef.from_json(ref, where=f"{layout.coord_log}, selection") for source, ref in found.items()}


def _prepare_imports(job: Job, root: str, code: str | None) -> None:
    folder = str(Path(root).resolve())
    if folder not in sys.path:
        sys.path.insert(0, folder)
    if code is not None and code != code_digest(job, folder).digest:
        warnings.warn(
            f"the job's code in {folder} is not what the run was made with: its members may be built differently",
            stacklevel=3,
        )
