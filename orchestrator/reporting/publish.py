"""From a selection to what users read: the `done` record, `result.json`, readable copies."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from typing import Any, NoReturn

from orchestrator.errors import DamagedStore, InvalidJob, MissingObject, OrchestratorError, StoreUnavailable
from orchestrator.planning.ports import Store
from orchestrator.planning.recovery import RunMemory, read_run
from orchestrator.reporting.conclude import result_of
from orchestrator.reporting.experiment import read_experiment
from orchestrator.reporting.mlflow import LIMIT_S, log_to_mlflow
from orchestrator.reporting.report import write_report
from orchestrator.reporting.result import Result, from_json, to_json
from orchestrator.reporting.selection import COUNTED, labels_ref
from orchestrator.reporting.tensorboard import write_event_files
from orchestrator.spec import ReportSpec
from orchestrator.storage.blobs import get_blob, put_blob
from orchestrator.storage.layout import RunLayout
from orchestrator.storage.log import Log
from orchestrator.storage.members import copies_of
from orchestrator.storage.parallel import in_order
from orchestrator.storage.records import BlobRef
from orchestrator.storage.retry import Patience

logger = logging.getLogger("orchestrator")


def finish(
    store: Store, layout: RunLayout, log: Log, selection: Mapping[str, Any], report: ReportSpec | None = None
) -> Result:
    """Carry a selection to its end; a successor that finds a selection calls this too.

    Args:
        store: where the run lives.
        layout: its keys.
        log: the coordinator's log, claimed by the caller.
        selection: body of the `selection` record.
        report: what is made of the result besides; None: nothing.

    Raises:
        Fenced: a successor finishes it.
    """
    result = result_of(selection, layout, lambda ref: get_blob(store, ref))
    body = to_json(result)
    _write_copies(store, layout, selection)
    log.append("done", result=put_blob(store, layout, body).to_json(), exit_code=result.exit_code)
    with suppress(StoreUnavailable):  # `done` is the truth; whoever reads it next creates the copy
        store.create(layout.result, body)
    if report is not None:
        _make_extras(store, layout, result, report)
    return result


def _make_extras(store: Store, layout: RunLayout, result: Result, wanted: ReportSpec) -> None:
    extras: tuple[tuple[bool, str, str, Callable[[], object]], ...] = (
        (wanted.html, "the report", "", lambda: write_report(store, layout, result, wanted.top)),
        (wanted.tensorboard, "the event files", " --tensorboard", lambda: _board(store, layout, result)),
        (wanted.mlflow, "the runs in MLflow", " --mlflow", lambda: _log(store, layout, result, limit_s=LIMIT_S)),
    )
    for asked, what, option, make in extras:
        if not asked:
            continue
        try:
            make()
        # Each is made with other packages' code, and can be made again; the result stands, whatever becomes of it.
        except Exception as error:
            hint = f"`orchestrator report {layout.run_key}{option}` tries again"
            logger.warning("%s could not be written (%s: %s); %s", what, type(error).__name__, error, hint)


def _board(store: Store, layout: RunLayout, result: Result) -> None:
    write_event_files(store, layout, read_experiment(store, layout, result))


def _log(store: Store, layout: RunLayout, result: Result, limit_s: float | None = None) -> None:
    files = {"result.json": to_json(result)}
    with suppress(MissingObject):
        files["report.html"] = Patience().retry(lambda: store.get(layout.report))
    log_to_mlflow(read_experiment(store, layout, result), layout.job, files, limit_s=limit_s)


def report_again(store: Store, layout: RunLayout, *, tensorboard: bool = False, mlflow: bool = False) -> bytes:
    """Draw the report of a finished run, keep it beside the result, and return it.

    Args:
        store, layout: where the run lives.
        tensorboard: write the event files again, too.
        mlflow: log the run to MLflow, should it not be there.

    Raises:
        InvalidJob: the run has no result yet, or MLflow is not installed.
        DamagedStore: its result is lost.
        StoreUnavailable: storage, or MLflow, is out of reach.
    """
    memory = read_run(Log.open(store, layout.coord_log).records())
    if memory.done is None:
        raise InvalidJob(
            "the run has no result yet, so there is nothing to report",
            where=f"run {layout.run_key}",
            hint="`orchestrator status` tells where it stands",
        )
    result = finished_result(store, layout, memory)
    report = write_report(store, layout, result)
    if tensorboard:
        _board(store, layout, result)
    if mlflow:
        _log(store, layout, result)
    return report


def finished_result(store: Store, layout: RunLayout, memory: RunMemory) -> Result:
    """The result that the `done` record names; `result.json`, its copy, is created should it be missing.

    Should the named bytes be lost, the copy has them, or the selection gives them again.

    Args:
        store, layout: where the run lives.
        memory: what the coordinator's log says; it has `done`.

    Raises:
        DamagedStore: the bytes are lost everywhere.
    """
    named: Any = (memory.done or {})["result"]
    ref = BlobRef.from_json(named, where=f"{layout.coord_log}, done")
    try:
        body = get_blob(store, ref)
    except DamagedStore as lost:
        body = _regained(store, layout, ref, memory.selection) or _raise(lost)
    with suppress(StoreUnavailable):
        store.create(layout.result, body)
    return from_json(body)


def _regained(store: Store, layout: RunLayout, ref: BlobRef, selection: Mapping[str, Any] | None) -> bytes | None:
    """The result's bytes from elsewhere; only those that the record names."""

    def copy() -> bytes:
        return Patience().retry(lambda: store.get(layout.result, max_bytes=ref.size))

    def anew() -> bytes:
        return b"" if selection is None else to_json(result_of(selection, layout, lambda blob: get_blob(store, blob)))

    for source in (copy, anew):
        with suppress(DamagedStore, MissingObject):
            body = source()
            if hashlib.sha256(body).hexdigest() == ref.sha256:
                return body
    return None


def _raise(error: OrchestratorError) -> NoReturn:
    raise error


def _write_copies(store: Store, layout: RunLayout, selection: Mapping[str, Any]) -> None:
    """Readable copies; one that cannot be made for want of its blob does not keep the result from its users."""

    def copy(file: tuple[BlobRef, str]) -> None:
        ref, key = file
        try:
            body = get_blob(store, ref)
        except DamagedStore as error:
            logger.warning("there is no readable copy %s: %s", key, error)
            return
        Patience().retry(lambda: store.put(key, body))

    for _ in in_order(copy, _copies(layout, selection), num_bytes=lambda file: file[0].size):
        pass


def _copies(layout: RunLayout, selection: Mapping[str, Any]) -> Iterator[tuple[BlobRef, str]]:
    """Each blob of which there is a readable copy, and the key of that: of labels, codes, and selected members."""
    for part in selection["labels"]:
        yield labels_ref(selection, part), layout.labels_copy(part)
    if selection.get("codes"):
        yield BlobRef.from_json(selection["codes"], where="selection, codes"), layout.codes
    for member in selection["members"]:
        if member["status"] not in COUNTED:
            continue
        for kind, name in copies_of(member["final"]).items():
            ref = BlobRef.from_json(member["final"][kind], where=f"member {member['index']}, {kind}")
            yield ref, layout.member_copy(member["index"], name)
        for part, stored in member["predictions"].items():
            ref = BlobRef.from_json(stored, where=f"member {member['index']}, predictions of {part}")
            yield ref, layout.member_copy(member["index"], f"{part}.parquet")
