"""The saved models that members start from, brought into the run's own storage before anything trains.

A run's identity names where a base comes from; its bytes are the run's own from its first start on. So a run that goes
on later, or elsewhere, starts its members from the same bytes, whatever has become of the file.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from orchestrator.errors import InvalidJob, MissingObject
from orchestrator.planning.ports import Store
from orchestrator.planning.recovery import read_run
from orchestrator.reporting.publish import finished_result
from orchestrator.reporting.result import Result
from orchestrator.reporting.selection import COUNTED
from orchestrator.reporting.status import find_run
from orchestrator.spec import BaseSpec, Job, StorageSpec
from orchestrator.storage.blobs import get_blob_file, put_blob_file
from orchestrator.storage.layout import RunLayout
from orchestrator.storage.log import Log
from orchestrator.storage.open import open_store, open_store_of
from orchestrator.storage.records import BlobRef
from orchestrator.storage.retry import Patience


def keep_bases(job: Job, store: Store, layout: RunLayout, log: Log, root: str) -> dict[str, BlobRef]:
    """The bases that a job names, by source: those that the run has, and copies of those that it has not yet.

    Args:
        job: the job, whose storage's server holds `s3://` files.
        store, layout: where the run lives.
        log: the coordinator's, claimed; a copy counts once a `base` record names it.
        root: folder that relative paths start from.

    Raises:
        InvalidJob: there is no such file, run or member.
        StoreUnavailable, AccessDenied: the store is out of reach, or refuses.
    """
    asked = _asked(job)
    kept = {
        source: BlobRef.from_json(model, where=f"{layout.coord_log}, base")
        for source, model in read_run(log.records()).bases.items()
    }
    for source in sorted(asked.keys() - kept.keys()):
        kept[source] = _copy(asked[source], job, store, root, store, layout)
        log.append("base", source=source, model=kept[source].to_json())
    return {source: kept[source] for source in asked}


def copy_bases(job: Job, into: Store, layout: RunLayout, root: str) -> dict[str, BlobRef]:
    """Copies in another store of the bases that a job names, by source; nothing records them. Errors as `keep_bases`.

    Args:
        job: the job, in whose storage earlier runs are.
        into, layout: where they go.
        root: folder that relative paths start from.
    """
    return {source: _copy(base, job, open_store_of(job), root, into, layout) for source, base in _asked(job).items()}


def _asked(job: Job) -> dict[str, BaseSpec]:
    models = [job.model, *(each.model for each in job.members.overrides.values() if each.model is not None)]
    return {model.base.source: model.base for model in models if model.base is not None}


def _copy(base: BaseSpec, job: Job, store: Store, root: str, into: Store, layout: RunLayout) -> BlobRef:
    with tempfile.TemporaryDirectory(prefix="orchestrator-base-") as folder:
        path = str(Path(folder, "base.keras"))
        _fetch(base, path, store, job.storage, root)
        return put_blob_file(into, layout, path)


def _fetch(base: BaseSpec, path: str, store: Store, storage: StorageSpec, root: str) -> None:
    if base.run is not None:
        _fetch_member(base, base.run, path, store, storage)
    elif base.file is not None and base.file.startswith("s3://"):
        folder, _, name = base.file.rpartition("/")
        there = open_store(folder, endpoint_url=storage.endpoint_url, region=storage.region)
        try:
            Patience().retry(lambda: there.get_file(name, path))
        except MissingObject as error:
            raise _missing(base, "model.base.file") from error
    else:
        file = Path(root, str(base.file).removeprefix("file://")).expanduser()
        if not file.is_file():
            raise _missing(base, str(file))
        shutil.copyfile(file, path)


def _missing(base: BaseSpec, where: str) -> InvalidJob:
    return InvalidJob(
        f"there is no base {base.source}", where=where, hint="train and save it first, or correct model.base"
    )


def _fetch_member(base: BaseSpec, run: str, path: str, store: Store, storage: StorageSpec) -> None:
    layout = find_run(store, run, storage.url)
    memory = read_run(Log.open(store, layout.coord_log).records())
    if memory.done is None or memory.selection is None:
        raise InvalidJob(
            "the run has no result yet, so no member to start from", where=f"model.base.run: {run}", hint="finish it"
        )
    selected: Mapping[int, Any] = {
        member["index"]: member["final"] for member in memory.selection["members"] if member["status"] in COUNTED
    }
    index = _best_of(finished_result(store, layout, memory), run) if base.member == "best" else base.member
    if index not in selected:
        raise InvalidJob(
            f"the run has no model of member {index}",
            where="model.base.member",
            hint=f"it has those of the members {', '.join(map(str, selected))}",
        )
    get_blob_file(store, BlobRef.from_json(selected[index]["model"], where=f"run {run}, member {index}"), path)


def _best_of(result: Result, run: str) -> int:
    """The member that was best on validation, as the result names it."""
    deciding = next(iter(result.scores("validation").values()), None)
    figure = None if deciding is None else deciding.best_member
    if figure is None or figure.member is None:
        raise InvalidJob(
            "no member of the run was chosen as the best: it had no validation rows",
            where=f"model.base.run: {run}",
            hint="name one by its index: model.base.member",
        )
    return figure.member
