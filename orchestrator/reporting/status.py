"""Where runs stand, read from what is stored; from any machine, whether or not anybody works on them."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from orchestrator.errors import AccessDenied, InvalidJob, OrchestratorError, TryAgain
from orchestrator.planning.ports import Store
from orchestrator.reporting.run_spec import read_spec
from orchestrator.reporting.run_status import READERS, RunReader, RunStatus
from orchestrator.storage.layout import RunLayout, run_key

_OF_THE_STORE = (AccessDenied, TryAgain)
"""Errors that are no fault of the run that was being read: the next run would meet them too."""


def find_layouts(store: Store) -> list[RunLayout]:
    """The runs in a store, by job and run key."""
    found = (RunLayout.of_spec(key) for key in store.list(""))
    return [layout for layout in found if layout is not None]


def find_run(store: Store, run: str, storage: str) -> RunLayout:
    """The run that a run key, `<job>/<run key>` or a given run id names; `storage` is for messages.

    Other runs' specs are read only where no key is made of this id, as in a run that was moved; damaged ones are passed
    over.

    Raises:
        InvalidJob: there is none, or there are several; runs that could not be read are named.
    """
    found, known, unreadable = _named(store, run)
    if found:
        return _only(found, run)
    names = names_of(known) or "none"
    damaged = f"; the spec.json of {', '.join(unreadable)} cannot be read" if unreadable else ""
    elsewhere = "; --storage names another place, `status --address` asks a cluster"
    hint = f"there are: {names}{damaged}{elsewhere}"
    raise InvalidJob("there is no such run", where=f"{storage}: run {run}", hint=hint)


def find_run_if_there(store: Store, run: str) -> RunLayout | None:
    """As `find_run`; None where there is none, or none yet."""
    found, _, _ = _named(store, run)
    return _only(found, run) if found else None


def names_of(layouts: Sequence[RunLayout]) -> str:
    """Some of the runs, for people who have mistaken a name; empty where there are none."""
    return ", ".join(layout.run_key for layout in layouts[-5:])


def _named(store: Store, run: str) -> tuple[list[RunLayout], list[RunLayout], list[str]]:
    """The runs of this name, all runs, and those whose spec was looked for and cannot be read."""
    layouts, unreadable = find_layouts(store), list[str]()
    found = [layout for layout in layouts if run in (layout.run_key, layout.root)]
    found = found or [layout for layout in layouts if layout.run_key == run_key(layout.job, run)]
    for layout in layouts if not found else ():
        try:
            found += [layout] if read_spec(store, layout).run_id == run else []
        except _OF_THE_STORE:
            raise
        except OrchestratorError:
            unreadable.append(layout.root)
    return found, layouts, unreadable


def _only(found: Sequence[RunLayout], run: str) -> RunLayout:
    if len(found) > 1:
        names = ", ".join(layout.root for layout in found)
        raise InvalidJob("several runs have this id", where=f"run {run}", hint=f"name one of {names}")
    return found[0]


def list_statuses(store: Store, *, now: float) -> tuple[RunStatus, ...]:
    """All runs, by job and run key, without their members: no member's log is read. Arguments as `status_of`.

    A run that cannot be read is listed as `damaged` and hides no other.

    Raises:
        AccessDenied, StoreUnavailable: the store refuses, or is out of reach.
    """

    def look(layout: RunLayout) -> RunStatus:
        try:
            return status_of(store, layout, now=now, with_members=False)
        except _OF_THE_STORE:
            raise
        except OrchestratorError as error:
            return RunStatus(layout.job, layout.run_key, layout.run_key, "damaged", message=str(error))

    with ThreadPoolExecutor(READERS) as pool:
        return tuple(pool.map(look, find_layouts(store)))


def status_of(store: Store, layout: RunLayout, *, now: float, with_members: bool = True) -> RunStatus:
    """Read a run's logs. Nothing is written.

    Args:
        store, layout: the run.
        now: UTC epoch seconds of this machine.
        with_members: False leaves the members' logs alone.

    Raises:
        InvalidJob: there is no such run.
        DamagedStore: what is stored contradicts itself, lacks something, or was written by another version.
    """
    return RunReader(store, layout).look(now, with_members=with_members)
