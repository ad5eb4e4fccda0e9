"""A run as its logs show it, read again and again.

Ages compare a time that another machine wrote with this machine's clock. They are for people: no decision rests on
them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

from orchestrator.planning.collection import ENDED
from orchestrator.planning.packs import packs_from_json
from orchestrator.planning.ports import Store
from orchestrator.planning.recovery import RunMemory, read_run
from orchestrator.reporting.facts import unneeded_status
from orchestrator.reporting.kept import trained_of
from orchestrator.reporting.member_status import MemberStatus, age, epoch_at, member_status, written_at
from orchestrator.reporting.outputs import deciding
from orchestrator.reporting.progress import time_left
from orchestrator.reporting.result import Result, from_json
from orchestrator.reporting.run_spec import RunSpec, not_ours, read_spec
from orchestrator.reporting.selection import COUNTED
from orchestrator.storage.beat import read_beat
from orchestrator.storage.blobs import get_blob
from orchestrator.storage.layout import RunLayout
from orchestrator.storage.log import Log
from orchestrator.storage.records import BlobRef, Record

READERS = 8
"""Logs that are read at the same time: reading is waiting for the store."""


@dataclass(frozen=True)
class Score:
    """What an ensemble of so many members scores, on which rows."""

    metric: str
    value: float
    scored_on: str
    num_members: int


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
        score: of the ensemble, once there is one: of the result, or of `ensemble.stop_when` as it decided.
        left_s: at most about how many seconds of training are left, at the pace of this start; None: that is not known,
            or nobody works on the run.
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
    score: Score | None = None
    left_s: float | None = None
    members: tuple[MemberStatus, ...] = ()


class RunReader:
    """Reads a run's logs again and again; what was read stays read. Nothing is written.

    A look at members costs one listing of all their keys, and the records that are new since the look before.

    Args:
        store, layout: the run.
        deadline_s: how long to go on trying while the store is out of reach.
    """

    def __init__(self, store: Store, layout: RunLayout, *, deadline_s: float = 120.0) -> None:
        self._store, self._layout, self._deadline_s = store, layout, deadline_s
        self._spec: RunSpec | None = None
        self._log: Log | None = None
        self._result: Result | None = None
        self._logs: dict[int, Log] = {}

    def look(self, now: float, *, with_members: bool = True) -> RunStatus:
        """Where the run stands. Arguments and errors as `status_of`."""
        try:
            return self._look(now, with_members)
        except (ValueError, TypeError, KeyError) as error:
            raise not_ours("its records are none that this version writes", self._layout.root, error) from error

    def _look(self, now: float, with_members: bool) -> RunStatus:
        spec = self._spec = self._spec or read_spec(self._store, self._layout)
        log = self._coordinator()
        records = log.records()
        memory = read_run(records)
        sign_term, sign_at = _last_sign(self._store, self._layout)
        sign_age_s = age(sign_at, now)
        if memory.done is not None and self._result is None:
            self._result = _result(self._store, self._layout, memory.done)
        is_recent = sign_age_s is not None and sign_age_s < spec.takeover_s and sign_term == log.term
        status, code, message = _state(self._result, log.last, is_recent=is_recent)
        done = None
        if memory.selection is not None:
            done = sum(member["status"] in COUNTED for member in memory.selection["members"])
        run = RunStatus(
            job=self._layout.job,
            run_id=spec.run_id,
            run_key=self._layout.run_key,
            status=status,
            exit_code=code,
            message=message,
            terms=log.term,
            started_at=memory.first_claim_at,
            age_s=age(memory.first_claim_at, now),
            sign_term=sign_term,
            sign_at=sign_at,
            sign_age_s=sign_age_s,
            num_members=spec.num_members,
            num_done=done,
            score=_score(self._result, memory, spec),
        )
        return self._with_members(run, spec, records, memory, now) if with_members else run

    def _coordinator(self) -> Log:
        if self._log is None:
            self._log = self._open(self._layout.coord_log)
        else:
            self._log.refresh()
        return self._log

    def _open(self, prefix: str) -> Log:
        return Log.open(self._store, prefix, deadline_s=self._deadline_s)

    def _with_members(
        self, run: RunStatus, spec: RunSpec, records: Sequence[Record], memory: RunMemory, now: float
    ) -> RunStatus:
        epochs = spec.max_epochs(memory.generations)
        logs = self._read_members(range(len(epochs)))
        ended = {record.body["member"]: record.body for record in records if record.kind == "ended"}
        selected = {} if memory.selection is None else {m["index"]: m["status"] for m in trained_of(memory.selection)}
        packs = () if memory.packed is None else packs_from_json(memory.packed["packs"])
        engines = {index: pack.engine for pack in packs for index in pack.members}

        def status(index: int) -> MemberStatus:
            told = member_status(
                index,
                logs.get(index, ()),
                ended=ended.get(index, {}),
                preemptions=memory.preemptions.get(index, 0),
                max_epochs=epochs[index],
                engine=engines.get(index),
                now=now,
            )
            status = told.status
            if memory.enough is not None and index >= memory.enough and status not in ("diverged", "failed"):
                status = unneeded_status(told.attempts)
            elif status == "started" and run.status in ENDED:
                status = "stopped"
            left_s = told.left_s if run.status == "live" else None
            return replace(told, status=selected.get(index, status), left_s=left_s)

        members = tuple(status(index) for index in range(len(epochs)))
        left_s = None
        began = [written_at(record) for record in records if record.kind == "claim"]
        if began and began[-1] is not None and run.status == "live":
            left_s = _time_left(members, logs, began[-1], now)
        return replace(run, members=members, left_s=left_s)

    def _read_members(self, indices: Iterable[int]) -> dict[int, list[Record]]:
        """The records of each member that has any."""
        ends: dict[int, int] = {}
        for record in map(self._layout.member_record, self._store.list(self._layout.members)):
            if record is not None:
                index, seq = record
                ends[index] = max(ends.get(index, 0), seq + 1)

        def read(index: int) -> list[Record]:
            log = self._logs.get(index)
            if log is None:
                log = self._logs[index] = self._open(self._layout.member_log(index))
            elif ends[index] > log.num_records:
                log.refresh()
            return log.records()

        there = [index for index in indices if index in ends]
        with ThreadPoolExecutor(READERS) as pool:
            return dict(zip(there, pool.map(read, there), strict=True))


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


def _score(result: Result | None, memory: RunMemory, spec: RunSpec) -> Score | None:
    if result is None:
        scores = [score for score in memory.scores if score is not None]
        if memory.enough is None or spec.stop_metric is None or not scores:
            return None
        return Score(spec.stop_metric, scores[-1], "validation", memory.enough)
    own = deciding(result)
    for name in ("validation", "out_of_fold", "test"):
        split = getattr(own, name)
        figure = split and getattr(split, own.delivered)
        for metric in ("accuracy", "rmse") if figure else ():
            if (value := getattr(figure, metric)) is not None:
                return Score(metric, value, name, len(result.members) - len(result.missing))
    return None


def _time_left(
    members: Sequence[MemberStatus], logs: Mapping[int, Sequence[Record]], began: float, now: float
) -> float | None:
    """At the pace at which epochs came since the newest start."""
    longest = max((member.max_epochs or 0 for member in members), default=0)
    gained = sum(member.epoch - epoch_at(logs[member.index], began) for member in members if member.index in logs)
    to_come = sum(
        max((member.max_epochs or longest) - member.epoch, 0)
        for member in members
        if member.status in ("not_started", "started")
    )
    return time_left(gained, gained + to_come, max(now - began, 0.0))
