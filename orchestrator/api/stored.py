"""Runs that are stored, whether or not anybody works on them: looked at, stopped, evaluated again, compared."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from orchestrator.api.clock import SystemClock
from orchestrator.errors import InvalidJob
from orchestrator.planning.collection import ENDED
from orchestrator.planning.ports import Store
from orchestrator.reporting.again import evaluate_again
from orchestrator.reporting.attempts import Attempt, find_attempts, read_log
from orchestrator.reporting.compare import Comparison, compare_runs
from orchestrator.reporting.prune import PrunedRun, prune_runs
from orchestrator.reporting.publish import report_again
from orchestrator.reporting.result import Result
from orchestrator.reporting.run_status import RunReader, RunStatus
from orchestrator.reporting.status import (
    find_layouts,
    find_run,
    find_run_if_there,
    list_statuses,
    names_of,
    status_of,
)
from orchestrator.reporting.sync import Synced, sync_files
from orchestrator.reporting.watching import watch_run
from orchestrator.spec.urls import endpoint_problem, storage_problem
from orchestrator.storage.layout import new_nonce
from orchestrator.storage.log import Log
from orchestrator.storage.open import open_store

WATCH_S = 10.0
"""How long a look of `watch` goes on trying while storage is out of reach; the next one comes soon."""


def status(run: str, *, storage: str = "runs", endpoint_url: str | None = None, region: str | None = None) -> RunStatus:
    """Where a run stands.

    Args:
        run: its run id or run key.
        storage: where runs are kept.
        endpoint_url, region: of an S3 server that is not AWS.

    Raises:
        InvalidJob: there is no such run, or several jobs have one of that name; or the location cannot be one.
    """
    store = open_at(storage, endpoint_url, region)
    return status_of(store, find_run(store, run, storage), now=time.time())


def watch(
    run: str,
    *,
    every_s: float = 5.0,
    timeout_s: float | None = None,
    note: Callable[[str], None] = lambda text: None,
    storage: str = "runs",
    endpoint_url: str | None = None,
    region: str | None = None,
) -> Iterator[RunStatus]:
    """Where a run stands, again and again until it has ended; from storage alone, so from any machine.

    A run that is not there yet, on which nobody works, or whose storage is out of reach is waited for: ten minutes.

    Args:
        run: its run id or run key.
        every_s: seconds between two looks.
        timeout_s: give up after that many seconds; None: not while the run lives.
        note: is told what a status does not say, such as that storage is out of reach for the moment.
        storage, endpoint_url, region: as for `status`.

    Raises:
        TimedOut: nothing was heard of the run, or `timeout_s` is over.
        StoreUnavailable: storage stayed out of reach.
        InvalidInput: several jobs have a run of that name, or what is stored is damaged or refused.
    """
    store = open_at(storage, endpoint_url, region)

    def find() -> RunReader | None:
        layout = find_run_if_there(store, run)
        return None if layout is None else RunReader(store, layout, deadline_s=WATCH_S)

    clock = SystemClock()
    return watch_run(
        find,
        clock=clock,
        pause=time.sleep,
        note=note,
        every_s=every_s,
        timeout_s=timeout_s,
        others=lambda: names_of(find_layouts(store)),
    )


def list_runs(
    *, storage: str = "runs", endpoint_url: str | None = None, region: str | None = None
) -> tuple[RunStatus, ...]:
    """All runs in a storage location, by job and run key; without their members."""
    return list_statuses(open_at(storage, endpoint_url, region), now=time.time())


def evaluate(
    run: str,
    overrides: Sequence[str] = (),
    *,
    storage: str = "runs",
    endpoint_url: str | None = None,
    region: str | None = None,
) -> tuple[Result, tuple[str, ...] | None]:
    """A run's figures once more, from its kept predictions and labels: no GPU, no data and no model are needed.

    Args:
        run: its run id or run key.
        overrides: `ensemble.…=value` texts: the same members, combined and judged in another way; `search.keep=…`:
            other trials of a search as members. Nothing is written.
        storage, endpoint_url, region: as for `status`.

    Returns:
        The result, and where it differs from the stored one by more than rounding (dotted paths such as
        `test.ensemble.nll`; none: it is the same); None with overrides, or where there is none stored.

    Raises:
        InvalidJob: there is no such run, it has not come so far, or an override would need other members.
        DamagedStore: what is needed is gone.
    """
    store = open_at(storage, endpoint_url, region)
    return evaluate_again(store, find_run(store, run, storage), overrides)


def report(
    run: str,
    *,
    out: str | None = None,
    tensorboard: bool = False,
    mlflow: bool = False,
    storage: str = "runs",
    endpoint_url: str | None = None,
    region: str | None = None,
) -> str:
    """Draw the report of a finished run again: `report.html` beside its result, and a copy where the user wants one.

    Args:
        run: its run id or run key.
        out: a local file for the copy; None: there is none.
        tensorboard: write the event files for TensorBoard again, too.
        mlflow: log the run to MLflow, should it not be there.
        storage, endpoint_url, region: as for `status`.

    Returns:
        The key of `report.html` in the storage.

    Raises:
        InvalidJob: there is no such run, it has no result yet, the file cannot be written, or MLflow is not installed.
        StoreUnavailable: storage, or MLflow, is out of reach.
    """
    store = open_at(storage, endpoint_url, region)
    layout = find_run(store, run, storage)
    body = report_again(store, layout, tensorboard=tensorboard, mlflow=mlflow)
    if out is not None:
        _write(out, body)
    return layout.report


def compare(
    runs: Sequence[str],
    *,
    out: str | None = None,
    storage: str = "runs",
    endpoint_url: str | None = None,
    region: str | None = None,
) -> Comparison:
    """Compare finished runs with the first of them: what differs, what they score, and which is better on equal rows.

    Nothing is written to the storage; no GPU, no data and no model are needed.

    Args:
        runs: their run ids or run keys, 2 to 26.
        out: a local file for the comparison as one HTML page; None: there is none.
        storage, endpoint_url, region: as for `status`.

    Raises:
        InvalidJob: too few or too many runs, one that is not there, is named twice or has no result yet, or the file
            cannot be written.
        DamagedStore: a run's log or result is damaged.
    """
    store = open_at(storage, endpoint_url, region)
    found = compare_runs(store, [find_run(store, run, storage) for run in runs])
    if out is not None:
        from orchestrator.reporting.html.compare import render_comparison  # only who draws pays for it

        _write(out, render_comparison(found))
    return found


def _write(out: str, body: bytes) -> None:
    try:
        Path(out).write_bytes(body)
    except OSError as error:
        raise InvalidJob(f"cannot write {out}: {error.strerror}", where="--out") from error


def stop(run: str, *, storage: str = "runs", endpoint_url: str | None = None, region: str | None = None) -> str:
    """Ask a run's coordinator, wherever it is, to end; it looks every few seconds. Returns the request's key.

    Raises:
        InvalidJob: there is no such run, or it has ended.
    """
    store = open_at(storage, endpoint_url, region)
    layout = find_run(store, run, storage)
    last = Log.open(store, layout.coord_log).last
    if last is not None and last.kind in ENDED:
        ended = "is finished" if last.kind == "done" else f"has ended ({last.kind})"
        raise InvalidJob(f"the run {ended}", where=f"run {run}", hint="there is nothing to stop")
    key = layout.stop_request(new_nonce())
    store.create(key, b"{}")
    return key


def prune(
    run: str | None = None,
    *,
    delete: bool = False,
    storage: str = "runs",
    endpoint_url: str | None = None,
    region: str | None = None,
) -> tuple[PrunedRun, ...]:
    """Find stored objects that no record names and what probes left behind; delete them if `delete`.

    What a record names, logs, specs, readable copies and what attempts left are never touched; a run on which somebody
    may be working is left alone. Runs that did not end in order are watched for 15 seconds first.

    Args:
        run: only this run; default all.
        delete: False only looks.
        storage, endpoint_url, region: as for `status`.
    """
    store = open_at(storage, endpoint_url, region)
    layouts = find_layouts(store) if run is None else [find_run(store, run, storage)]
    return prune_runs(store, layouts, delete=delete)


def logs(
    run: str,
    *,
    member: int | None = None,
    attempt: int | None = None,
    storage: str = "runs",
    endpoint_url: str | None = None,
    region: str | None = None,
) -> Iterator[tuple[Attempt, Iterator[str]]]:
    """What attempts at members left in storage: each attempt with the text of its log, made safe to show.

    Args:
        run: its run id or run key.
        member: only this one's; default all members'.
        attempt: its number (the term in the member's log); default each member's newest.
        storage, endpoint_url, region: as for `status`.

    Raises:
        InvalidJob: there is no such run, member or attempt.
    """
    store = open_at(storage, endpoint_url, region)
    found = find_attempts(store, find_run(store, run, storage), member=member, term=attempt)
    return ((each, read_log(store, each)) for each in found)


def sync(
    run: str, folder: str, *, storage: str = "runs", endpoint_url: str | None = None, region: str | None = None
) -> Synced:
    """Bring a run's event files for TensorBoard, and the files of its members' callbacks, to a local folder.

    Only what is not there yet, or has another size, is brought. The run may be live or finished.

    Args:
        run: its run id or run key.
        folder: made if it is not there.
        storage, endpoint_url, region: as for `status`.

    Raises:
        InvalidJob: there is no such run, or the folder cannot be one.
        StoreUnavailable: storage is out of reach, or the local disk is full.
    """
    store = open_at(storage, endpoint_url, region)
    return sync_files(store, find_run(store, run, storage), Path(folder))


def open_at(storage: str, endpoint_url: str | None, region: str | None) -> Store:
    """The store that a user names outside a job; what a job may not name is refused here too, before any contact."""
    problems = {"storage": storage_problem(storage), "endpoint_url": endpoint_url and endpoint_problem(endpoint_url)}
    for where, problem in problems.items():
        if problem:
            raise InvalidJob(problem, where=where)
    return open_store(storage, endpoint_url=endpoint_url, region=region)
