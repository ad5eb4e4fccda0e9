"""Where runs stand, read from what is stored; from any machine, whether or not anybody works on them.

Ages compare a time that another machine wrote with this machine's clock. They are for people: no decision rests on
them.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

from orchestrator.errors import AccessDenied, DamagedStore, InvalidJob, MissingObject, OrchestratorError, TryAgain
from orchestrator.planning.collection import ENDED
from orchestrator.planning.ports import Store
from orchestrator.planning.recovery import RunMemory, read_member, read_run
from orchestrator.reporting.facts import unneeded_status
from orchestrator.reporting.kept import trained_of
from orchestrator.reporting.result import Result, from_json
from orchestrator.reporting.selection import COUNTED
from orchestrator.storage.beat import read_beat
from orchestrator.storage.blobs import get_blob
from orchestrator.storage.layout import RunLayout, run_key
from orchestrator.storage.log import Log
from orchestrator.storage.records import BlobRef, Record

READERS = 8
"""Logs that are read at the same time: reading is waiting for the store."""

_OF_THE_STORE = (AccessDenied, TryAgain)
"""Errors that are no fault of the run that was being read: the next run would meet them too."""


@dataclass(frozen=True)
class MemberStatus:
    """One member of a run as the logs show it.

    Attributes:
        index: which.
        status: once the ensemble is fixed, as in the result; before, `not_started`, `started`, `trained`, `late`
            (published at the deadline), `diverged`, `failed` or `stopped` (there are enough members without it).
        attempts: claims of its log by workers that were to train it.
        preemptions: attempts that ended because a node was taken or lost.
        checkpoint_epoch, checkpoint_at, checkpoint_age_s: of the newest checkpoint; None where there is none.
        epochs: trained in all, once it is published.
        best_epoch: of the published model, else of the newest checkpoint.
        last_cause, last_message: why the last attempt that ended in an error did.
    """

    index: int
    status: str
    attempts: int
    preemptions: int
    checkpoint_epoch: int | None
    checkpoint_at: float | None
    checkpoint_age_s: float | None
    epochs: int | None
    best_epoch: int | None
    last_cause: str | None
    last_message: str | None


@dataclass(frozen=True)
class RunStatus:
    """A run as its logs show it. Times are UTC epoch seconds by the writer's clock, ages seconds by this machine's.

    Attributes:
        job, run_id, run_key: which.
        status: that of the result (`succeeded`, `partial`, `gate_failed`), or how the last start ended (`failed`,
            `stopped`); without either `live` where the last sign of life is recent, else `unfinished`; `damaged` where
            a listing met something stored that cannot be read, which the message names.
        exit_code, message: as recorded, where the run has ended.
        terms: how many starts have coordinated it.
        started_at, age_s: its first start.
        sign_term, sign_at, sign_age_s: the last sign of life of a coordinator, and of which; None where there is none.
        num_members: how many were asked for.
        num_done: how many are in the ensemble, once that is fixed.
        members: each, of a search all trials so far; empty in a listing.
    """

    job: str
    run_id: str
    run_key: str
    status: str
    exit_code: int | None = None
    message: str | None = None
    terms: int = 0
    started_at: float | None = None
    age_s: float | None = None
    sign_term: int | None = None
    sign_at: float | None = None
    sign_age_s: float | None = None
    num_members: int | None = None
    num_done: int | None = None
    members: tuple[MemberStatus, ...] = ()


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
    layouts, unreadable = find_layouts(store), list[str]()
    found = [layout for layout in layouts if run in (layout.run_key, layout.root)]
    found = found or [layout for layout in layouts if layout.run_key == run_key(layout.job, run)]
    for layout in layouts if not found else ():
        try:
            found += [layout] if stored_spec(store, layout).run_id == run else []
        except _OF_THE_STORE:
            raise
        except OrchestratorError:
            unreadable.append(layout.root)
    if len(found) == 1:
        return found[0]
    if found:
        names = ", ".join(layout.root for layout in found)
        raise InvalidJob("several runs have this id", where=f"run {run}", hint=f"name one of {names}")
    known = ", ".join(layout.run_key for layout in layouts[-5:]) or "none"
    damaged = f"; the spec.json of {', '.join(unreadable)} cannot be read" if unreadable else ""
    raise InvalidJob("there is no such run", where=f"{storage}: run {run}", hint=f"there are: {known}{damaged}")


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
    try:
        return _status(store, layout, now, with_members)
    except (ValueError, TypeError, KeyError) as error:
        raise _not_ours("its records are none that this version writes", layout.root, error) from error


def _status(store: Store, layout: RunLayout, now: float, with_members: bool) -> RunStatus:
    spec = stored_spec(store, layout)
    log = Log.open(store, layout.coord_log)
    records = log.records()
    memory = read_run(records)
    sign_term, sign_at = _last_sign(store, layout)
    sign_age_s = _age(sign_at, now)
    result = None if memory.done is None else _result(store, layout, memory.done)
    is_recent = sign_age_s is not None and sign_age_s < spec.takeover_s and sign_term == log.term
    status, code, message = _state(result, log.last, is_recent=is_recent)
    num_trained = sum(len(each["params"]) for each in memory.generations) or spec.num_members
    done = None
    if memory.selection is not None:
        done = sum(member["status"] in COUNTED for member in memory.selection["members"])
    return RunStatus(
        job=layout.job,
        run_id=spec.run_id,
        run_key=layout.run_key,
        status=status,
        exit_code=code,
        message=message,
        terms=log.term,
        started_at=memory.first_claim_at,
        age_s=_age(memory.first_claim_at, now),
        sign_term=sign_term,
        sign_at=sign_at,
        sign_age_s=sign_age_s,
        num_members=spec.num_members,
        num_done=done,
        members=_members(store, layout, range(num_trained), records, memory, now) if with_members else (),
    )


@dataclass(frozen=True)
class StoredSpec:
    """What is needed of a run's `spec.json`."""

    run_id: str
    num_members: int
    takeover_s: float


def stored_spec(store: Store, layout: RunLayout) -> StoredSpec:
    """Read a run's `spec.json`. Raises InvalidJob: there is none; DamagedStore: it is none of this version's."""
    try:
        spec = json.loads(store.get(layout.spec))
        job = spec["job"]
        folds = job["members"].get("folds") or {"count": 1, "repeats": 1}
        num_members = int(job["members"]["count"]) * int(folds["count"]) * int(folds["repeats"])
        return StoredSpec(str(spec["run_id"]), num_members, float(job["faults"]["takeover_s"]))
    except MissingObject:
        raise InvalidJob("the run has no spec.json", where=layout.root) from None
    except (ValueError, TypeError, KeyError) as error:
        raise _not_ours("it is no job as this version writes it", layout.spec, error) from None


def _not_ours(what: str, where: str, error: Exception) -> DamagedStore:
    hint = "restore it from a backup, or look with the version that wrote it"
    return DamagedStore(f"{what} ({type(error).__name__}: {error})", where=where, hint=hint)


def _result(store: Store, layout: RunLayout, done: Mapping[str, Any]) -> Result:
    return from_json(get_blob(store, BlobRef.from_json(done["result"], where=f"{layout.coord_log}, done")))


def _state(result: Result | None, last: Record | None, *, is_recent: bool) -> tuple[str, int | None, str | None]:
    """Status, exit code and message of a run."""
    if result is not None:
        return result.status, result.exit_code, None
    if last is not None and last.kind in ENDED:
        return last.kind, int(str(last.body["exit_code"])), str(last.body["message"])
    return "live" if is_recent else "unfinished", None, None


def _last_sign(store: Store, layout: RunLayout) -> tuple[int | None, float | None]:
    """Term and time of the newest beat."""
    beat = read_beat(store, layout.beat)
    return (beat.term, beat.at) if beat is not None and math.isfinite(beat.at) else (None, None)


def _age(at: float | None, now: float) -> float | None:
    """Seconds since then. Clocks differ: what lies in this machine's future is shown as just now."""
    return None if at is None else round(max(0.0, now - at), 3)


def _members(
    store: Store, layout: RunLayout, indices: Iterable[int], run: Sequence[Record], memory: RunMemory, now: float
) -> tuple[MemberStatus, ...]:
    ended = {record.body["member"]: record.body for record in run if record.kind == "ended"}
    selected = {} if memory.selection is None else {m["index"]: m["status"] for m in trained_of(memory.selection)}

    def look(index: int) -> MemberStatus:
        records = Log.open(store, layout.member_log(index)).records()
        told = _member_status(index, records, ended.get(index, {}), memory.preemptions.get(index, 0), now)
        status = told.status
        if memory.enough is not None and index >= memory.enough and status not in ("diverged", "failed"):
            status = unneeded_status(told.attempts)
        return replace(told, status=selected.get(index, status))

    with ThreadPoolExecutor(READERS) as pool:
        return tuple(pool.map(look, indices))


def _member_status(
    index: int, records: Sequence[Record], ended: Mapping[str, Any], preemptions: int, now: float
) -> MemberStatus:
    memory = read_member(records)
    final = memory.final or {}
    checkpoint: Mapping[str, Any] = memory.checkpoints[0] if memory.checkpoints else {}
    if memory.final is not None:
        status = "late" if final.get("late") else "trained"
    elif memory.diverged is not None:
        status = "diverged"
    else:
        has_failed = bool(records) and records[-1].kind == "failed"
        status = "failed" if has_failed else "started" if memory.attempts else "not_started"
    return MemberStatus(
        index=index,
        status=status,
        attempts=memory.attempts,
        preemptions=preemptions,
        checkpoint_epoch=checkpoint.get("epoch"),
        checkpoint_at=checkpoint.get("at"),
        checkpoint_age_s=_age(checkpoint.get("at"), now),
        epochs=final.get("epochs"),
        best_epoch=final.get("best_epoch", checkpoint.get("best_epoch")),
        last_cause=ended.get("cause"),
        last_message=ended.get("message"),
    )
