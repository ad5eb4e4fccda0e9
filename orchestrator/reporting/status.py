"""Where runs stand, read from what is stored; from any machine, whether or not anybody works on them."""

from __future__ import annotations

import json
from dataclasses import dataclass

from orchestrator.errors import InvalidJob, MissingObject
from orchestrator.planning.ports import Store
from orchestrator.planning.recovery import read_member, read_run
from orchestrator.reporting.publish import finished_result
from orchestrator.storage.layout import RunLayout
from orchestrator.storage.log import Log


@dataclass(frozen=True)
class MemberStatus:
    """One member of a run as its log shows it."""

    index: int
    status: str
    terms: int
    epochs: int | None
    best_epoch: int | None


@dataclass(frozen=True)
class RunStatus:
    """A run as its logs show it; `status` is `unfinished` until there is a result or a recorded end."""

    job: str
    run_id: str
    run_key: str
    status: str
    exit_code: int | None
    message: str | None
    terms: int
    members: tuple[MemberStatus, ...]


def find_layouts(store: Store) -> list[RunLayout]:
    """The runs in a store, by job and run key."""
    found = []
    for key in store.list(""):
        parts = key.split("/")
        if len(parts) == 3 and parts[2] == "spec.json":
            found.append(RunLayout(parts[0], parts[1]))
    return found


def find_run(store: Store, run: str, storage: str) -> RunLayout:
    """The run that a run key, `<job>/<run key>` or a given run id names; `storage` is for messages.

    Raises:
        InvalidJob: there is none, or there are several.
    """
    layouts = find_layouts(store)
    found = [layout for layout in layouts if run in (layout.run_key, layout.root)]
    found = found or [layout for layout in layouts if _run_id(store, layout) == run]
    if len(found) == 1:
        return found[0]
    if found:
        names = ", ".join(layout.root for layout in found)
        raise InvalidJob("several runs have this id", where=f"run {run}", hint=f"name one of {names}")
    known = ", ".join(layout.run_key for layout in layouts[-5:]) or "none"
    raise InvalidJob("there is no such run", where=f"{storage}: run {run}", hint=f"there are: {known}")


def _run_id(store: Store, layout: RunLayout) -> str:
    return str(json.loads(store.get(layout.spec))["run_id"])


def status_of(store: Store, layout: RunLayout, *, with_members: bool = True) -> RunStatus:
    """Read a run's logs; `with_members` False leaves the members' logs alone."""
    try:
        spec = json.loads(store.get(layout.spec))
    except MissingObject:
        raise InvalidJob("the run has no spec.json", where=layout.root) from None
    log = Log.open(store, layout.coord_log)
    records = log.records()
    done = read_run(records).done
    ends = [record for record in records if record.kind in ("failed", "stopped")]
    last = records[-1] if records else None
    state, code, message = "unfinished", None, None
    if done is not None:
        result = finished_result(store, layout, done)
        state, code = result.status, result.exit_code
    elif ends and last is ends[-1]:
        state, code, message = last.kind, int(str(last.body["exit_code"])), str(last.body["message"])
    members = range(spec["job"]["members"]["count"]) if with_members else ()
    return RunStatus(
        job=layout.job,
        run_id=spec["run_id"],
        run_key=layout.run_key,
        status=state,
        exit_code=code,
        message=message,
        terms=log.term,
        members=tuple(_member_status(store, layout, index) for index in members),
    )


def _member_status(store: Store, layout: RunLayout, index: int) -> MemberStatus:
    log = Log.open(store, layout.member_log(index))
    records = log.records()
    memory = read_member(records)
    final = memory.final or {}
    if memory.final is not None:
        state = "trained"
    elif memory.diverged is not None:
        state = "diverged"
    else:
        state = "failed" if records and records[-1].kind == "failed" else "started" if records else "not_started"
    return MemberStatus(index, state, log.term, final.get("epochs"), final.get("best_epoch"))
