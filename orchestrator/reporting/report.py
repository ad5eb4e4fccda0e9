"""Collects from storage what the report tells, and keeps `report.html` beside the result."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from orchestrator.errors import DamagedStore, MissingObject
from orchestrator.planning.ports import Store
from orchestrator.planning.recovery import RecordLike, read_run
from orchestrator.reporting.cases import Cases, read_cases
from orchestrator.reporting.kept import trained_of
from orchestrator.reporting.outputs import OutputResult, by_output
from orchestrator.reporting.result import Result
from orchestrator.reporting.selection import in_ensemble
from orchestrator.reporting.timeline import Timeline, read_timeline
from orchestrator.spec import ReportSpec
from orchestrator.storage.blobs import get_blob
from orchestrator.storage.layout import RunLayout
from orchestrator.storage.log import Log
from orchestrator.storage.parallel import in_order
from orchestrator.storage.records import BlobRef
from orchestrator.storage.retry import Patience
from orchestrator.storage.tables import history_from_parquet

T = TypeVar("T")
Rows = Sequence[Mapping[str, float]]

logger = logging.getLogger("orchestrator")


@dataclass(frozen=True)
class ReportData:
    """All that a report tells.

    Attributes:
        result: the run's result.
        spec: `spec.json` as it was read; empty where it cannot be.
        histories: of each member that left one, what Keras reported of its epochs.
        timeline: who worked when, where that is known.
        cases: single rows, by output, where there is something to show.
        packs: bodies of the packs as they were recorded: `members` and `engine` of each.
        packed_because: why they are these.
        class_names: of the labels, by output, where the job names them.
    """

    result: Result
    spec: Mapping[str, Any]
    histories: Mapping[int, Rows]
    timeline: Timeline | None = None
    cases: Mapping[str, Cases] = field(default_factory=dict)
    packs: tuple[Mapping[str, Any], ...] = ()
    packed_because: str = ""
    class_names: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def outputs(self) -> tuple[OutputData, ...]:
        """What is told of each output by itself, the one that decides first."""
        several = len(self.result.outputs) > 1
        return tuple(
            OutputData(
                own,
                self.timeline,
                self.cases.get(output),
                self.class_names.get(output, ()),
                place if several else None,
            )
            for place, (output, own) in enumerate(by_output(self.result).items())
        )


@dataclass(frozen=True)
class OutputData:
    """What a report tells of one output by itself.

    Attributes:
        result: the run's result as this output tells it.
        timeline, cases, class_names: as in `ReportData`, of this output.
        place: of the output among several; None where there is no other.
    """

    result: OutputResult
    timeline: Timeline | None = None
    cases: Cases | None = None
    class_names: tuple[str, ...] = ()
    place: int | None = None

    @property
    def counted(self) -> str:
        """What the ensemble is an average of: members, or with folds configurations."""
        return "configuration" if self.result.configurations else "member"

    def id(self, name: str) -> str:
        """`name` where there is no other output, else one that tells the page's elements of several outputs apart."""
        return name if self.place is None else f"{name}-{self.place}"


@dataclass(frozen=True)
class _Told:
    """A record as the timeline reads it, where another one says the same."""

    kind: str
    body: Mapping[str, Any]


def write_report(store: Store, layout: RunLayout, result: Result, top: int | None = None) -> bytes:
    """Draw the report of a finished run, keep it as the run's `report.html`, and return it.

    Args:
        store, layout: where the run lives.
        result: the run's result.
        top: how many of the most uncertain and of the most disputed examples are shown; by default as the run was
            asked for at its first start.

    Raises:
        DamagedStore: the run's log cannot be read.
        StoreUnavailable: out of reach.
    """
    from orchestrator.reporting.html.page import render  # only who draws pays for it

    body = render(collect(store, layout, result, top))
    Patience().retry(lambda: store.put(layout.report, body))
    return body


def collect(store: Store, layout: RunLayout, result: Result, top: int | None = None) -> ReportData:
    """What is stored of a finished run. Arguments and errors as for `write_report`.

    What is not there, such as a member's history whose blob is lost, is left out and warned of: a report of the rest
    is better than none.
    """
    run = Log.open(store, layout.coord_log).records()
    memory = read_run(run)
    selection = memory.selection
    if selection is None:
        raise DamagedStore("there is a result, and no selection that it follows from", where=layout.coord_log)

    def read(ref: BlobRef) -> bytes:
        return get_blob(store, ref)

    spec = _spec(store, layout)
    job = spec.get("job", {})
    most = job.get("report", {}).get("top", ReportSpec().top) if top is None else top
    packed = memory.packed or {}
    return ReportData(
        result=result,
        spec=spec,
        histories=read_histories(selection["members"], read),
        timeline=_or_none("the timeline", lambda: _timeline(store, layout, run, trained_of(selection))),
        cases=_or_none("examples", lambda: read_cases(selection, in_ensemble(selection), read, most)) or {},
        packs=tuple(packed.get("packs", ())),
        packed_because=str(packed.get("reason", "")),
        class_names=_class_names(result, job, memory.opened or {}),
    )


def _class_names(result: Result, job: Mapping[str, Any], opened: Mapping[str, Any]) -> dict[str, tuple[str, ...]]:
    """By output, as the job names them (a list for a single output, lists by name for several), else as the labels in
    its files do."""
    named = job.get("data", {}).get("class_names") or opened.get("class_names") or {}
    by_name = named if isinstance(named, Mapping) else {result.outputs[0]: named}
    return {output: tuple(map(str, names)) for output, names in by_name.items()}


def _or_none(what: str, make: Callable[[], T | None]) -> T | None:
    try:
        return make()
    except DamagedStore as error:
        logger.warning("the report is without %s: %s", what, error)
        return None


def _spec(store: Store, layout: RunLayout) -> Mapping[str, Any]:
    try:
        spec = json.loads(Patience().retry(lambda: store.get(layout.spec)))
    except (MissingObject, ValueError) as error:
        logger.warning("the report is without the job: %s cannot be read: %s", layout.spec, error)
        return {}
    return spec if isinstance(spec, dict) else {}


def read_histories(members: Iterable[Mapping[str, Any]], read: Callable[[BlobRef], bytes]) -> Mapping[int, Rows]:
    """What Keras reported of each epoch, of every member that left it; one whose blob is lost is warned of.

    Args:
        members: as the `selection` record has them.
        read: gives the verified bytes of a blob; called from several threads.
    """
    stored = [
        (int(member["index"]), BlobRef.from_json(member["final"]["history"], where=f"member {member['index']}"))
        for member in members
        if member["final"] is not None
    ]

    def read_one(entry: tuple[int, BlobRef]) -> Rows | None:
        index, ref = entry
        return _or_none(f"the history of member {index}", lambda: history_from_parquet(read(ref)))

    found = in_order(read_one, stored, num_bytes=lambda entry: entry[1].size)
    return {index: rows for (index, _), rows in zip(stored, found, strict=True) if rows is not None}


def _timeline(
    store: Store, layout: RunLayout, run: Sequence[RecordLike], members: Sequence[Mapping[str, Any]]
) -> Timeline | None:
    """A member that was published at its first attempt has its log's story in its `final` record: of a thousand members
    hardly any log is read."""

    def records(member: Mapping[str, Any]) -> Sequence[RecordLike]:
        final = member["final"]
        if final is None and member["attempts"] == 0:
            return ()
        at_once = member["attempts"] == 1 and (final or {}).get("resumed_from") is None
        if final is not None and at_once and "worker" in final:
            claim = {"worker": final["worker"], "at": final["at"] - final["train_s"]}
            return _Told("claim", claim), _Told("final", final)
        return Log.open(store, layout.member_log(member["index"])).records()

    found = in_order(records, members)
    return read_timeline(run, {int(m["index"]): told for m, told in zip(members, found, strict=True)})
