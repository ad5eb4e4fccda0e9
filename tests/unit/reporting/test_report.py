"""The report of a run as it lies in storage: what is read, what is written when, and what may be missing."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from orchestrator.errors import InvalidJob, MissingObject
from orchestrator.planning.outputs import ONLY
from orchestrator.planning.recovery import read_member, read_run
from orchestrator.reporting import report as report_module
from orchestrator.reporting.cases import MOST_MEMBERS, read_cases
from orchestrator.reporting.publish import finish, finished_result, report_again
from orchestrator.reporting.report import collect
from orchestrator.reporting.result import to_json
from orchestrator.spec import ReportSpec
from orchestrator.storage.blobs import get_blob, put_blob
from orchestrator.storage.examples import Examples, write_examples
from orchestrator.storage.log import Log
from orchestrator.storage.records import BlobRef
from orchestrator.storage.tables import labels_to_parquet, predictions_to_parquet
from orchestrator.testing import MemoryStore
from tests.support.report_pages import parse
from tests.support.report_runs import LAYOUT, finished_run


def log_of(store: MemoryStore) -> Log:
    return Log.open(store, LAYOUT.coord_log)


def test_a_run_leaves_a_report_beside_its_result_and_the_result_names_it() -> None:
    store = MemoryStore()
    result, _ = finished_run(store)
    assert result.artifacts["report"] == LAYOUT.report
    page = parse(store.get(LAYOUT.report))
    assert {"figures", "curves", "members", "timeline", "provenance"} <= set(page.section_ids())
    [heading] = page.all("h1")
    assert heading.text == "tuesday"


def test_a_job_that_wants_no_report_gets_none() -> None:
    store = MemoryStore()
    result, _ = finished_run(store, job={"report": {"html": False}})
    assert "report" not in result.artifacts
    with pytest.raises(MissingObject):
        store.get(LAYOUT.report)


def test_a_report_that_cannot_be_drawn_is_a_warning_and_the_result_stands(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    fired: list[Any] = []

    def fail(*args: Any, **kwargs: Any) -> Any:
        fired.append(args)
        raise RuntimeError("matplotlib fell over")

    monkeypatch.setattr(report_module, "collect", fail)
    store = MemoryStore()
    with caplog.at_level(logging.WARNING, logger="orchestrator"):
        result, _ = finished_run(store)
    assert len(fired) == 1
    assert "the report could not be written (RuntimeError: matplotlib fell over)" in caplog.text
    assert "orchestrator report digits-run" in caplog.text
    assert store.get(LAYOUT.result) == to_json(result)
    assert log_of(store).last is not None
    assert [record.kind for record in log_of(store).records()][-1] == "done"


def test_reading_a_finished_result_draws_nothing() -> None:
    store = MemoryStore()
    finished_run(store)
    store.delete(LAYOUT.report)
    finished_result(store, LAYOUT, read_run(log_of(store).records()))
    with pytest.raises(MissingObject):
        store.get(LAYOUT.report)


def test_the_report_can_be_drawn_again_from_what_is_stored() -> None:
    store = MemoryStore()
    finished_run(store)
    first = store.get(LAYOUT.report)
    store.delete(LAYOUT.report)
    assert report_again(store, LAYOUT) == store.get(LAYOUT.report) == first


def test_a_run_without_a_result_has_nothing_to_report() -> None:
    store = MemoryStore()
    log_of(store).claim(at=1.0)
    with pytest.raises(InvalidJob, match="no result yet"):
        report_again(store, LAYOUT)


def test_whoever_finishes_a_selection_draws_the_report_as_the_job_says_now() -> None:
    store = MemoryStore()
    finished_run(store, job={"report": {"html": False}})
    selection = read_run(log_of(store).records()).selection
    assert selection is not None
    successor = log_of(store)
    successor.claim(at=2.0)
    finish(store, LAYOUT, successor, selection, ReportSpec(html=True))
    assert parse(store.get(LAYOUT.report)).section_ids()


def test_lost_workers_and_second_attempts_are_on_the_timeline() -> None:
    store = MemoryStore()
    result, fake = finished_run(store, faults={(1, 1): "preempted"}, fault_epochs={(1, 1): 2})
    assert (1, 1, "preempted") in fake.fired
    timeline = collect(store, LAYOUT, result).timeline
    assert timeline is not None
    told = [(span.member, span.attempt, span.outcome) for span in sorted(timeline.spans, key=lambda s: s.begin)]
    assert sorted(told) == [(0, 1, "published"), (1, 1, "preempted"), (1, 2, "published"), (2, 1, "published")]
    first, second = (span for span in timeline.spans if span.member == 1)
    first, second = sorted((first, second), key=lambda span: span.attempt)
    assert timeline.began <= first.since <= first.begin < first.end == second.since <= second.begin < second.end
    assert timeline.busy_s == pytest.approx(sum(span.end - span.begin for span in timeline.spans))


def test_a_member_published_at_its_first_attempt_needs_no_look_at_its_log() -> None:
    """A thousand logs take an object store minutes; the `final` record in the selection says the same."""
    store = MemoryStore()
    result, _ = finished_run(store)
    with_logs = collect(store, LAYOUT, result).timeline
    for member in range(3):
        assert read_member(Log.open(store, LAYOUT.member_log(member)).records()).final is not None
        for key in store.list(LAYOUT.member_log(member)):
            store.delete(key)
    without = collect(store, LAYOUT, result).timeline
    assert with_logs is not None
    assert without is not None
    assert [span.member for span in without.spans] == [span.member for span in with_logs.spans]
    assert without.spans == with_logs.spans


def test_a_lost_history_is_warned_of_and_the_rest_is_told(caplog: pytest.LogCaptureFixture) -> None:
    store = MemoryStore()
    result, _ = finished_run(store)
    selection = read_run(log_of(store).records()).selection
    assert selection is not None
    store.delete(selection["members"][1]["final"]["history"]["key"])
    with caplog.at_level(logging.WARNING, logger="orchestrator"):
        data = collect(store, LAYOUT, result)
    assert sorted(data.histories) == [0, 2]
    assert "the report is without the history of member 1" in caplog.text
    assert "curves" in parse(report_again(store, LAYOUT)).section_ids()


def test_a_spec_that_cannot_be_read_costs_the_job_alone(caplog: pytest.LogCaptureFixture) -> None:
    store = MemoryStore()
    result, _ = finished_run(store)
    store.put(LAYOUT.spec, b"{")
    with caplog.at_level(logging.WARNING, logger="orchestrator"):
        assert collect(store, LAYOUT, result).spec == {}
    assert "without the job" in caplog.text


def test_packs_seeds_and_class_names_come_from_the_records() -> None:
    store = MemoryStore()
    result, _ = finished_run(store)
    data = collect(store, LAYOUT, result)
    assert [pack["members"] for pack in data.packs] == [[0], [1], [2]]
    assert data.packed_because
    text = parse(report_again(store, LAYOUT)).section("provenance").text
    assert "solo (3 packs)" in text
    assert all(str(member.seed) in text for member in result.members)


def stored_selection(store: MemoryStore, task: str, num_members: int) -> tuple[dict[str, Any], list[Any]]:
    """Twenty test rows: member m is sure of class 0 everywhere, but on row 7 every second one says class 1."""
    labels = np.zeros(20, np.int64) if task == "multiclass" else np.linspace(0, 1, 20)[:, None]
    members = []
    for index in range(num_members):
        if task == "multiclass":
            p = np.tile(np.array([[0.9, 0.05, 0.05]], np.float32), (20, 1))
            p[7] = [0.1, 0.8, 0.1] if index % 2 else [0.8, 0.1, 0.1]
        else:
            p = (labels + (0.5 if index % 2 else -0.5) * labels).astype(np.float32)
        ref = put_blob(store, LAYOUT, predictions_to_parquet(p)).to_json()
        members.append({"index": len(members), "predictions": {"test": ref}})
    images = np.arange(5 * 4 * 4, dtype=np.uint8).reshape(5, 4, 4)
    examples = Examples(np.array([1, 3, 7, 9, 12]), ("image",), images=images)
    selection = {
        "task": task,
        "labels": {"test": put_blob(store, LAYOUT, labels_to_parquet(labels)).to_json()},
        "examples": {"test": put_blob(store, LAYOUT, write_examples(examples)).to_json()},
    }
    return selection, members


def read(store: MemoryStore) -> Any:
    def from_store(ref: BlobRef) -> bytes:
        return get_blob(store, ref)

    return from_store


def test_the_disputed_row_is_shown_first_with_its_picture_and_the_members_votes() -> None:
    store = MemoryStore()
    selection, members = stored_selection(store, "multiclass", 4)
    cases = read_cases(selection, members, read(store), top=2)[ONLY]
    assert cases is not None
    assert [case.row for case in cases.disputed] == [7]
    assert [case.row for case in cases.uncertain] == [7, 1]
    [case] = cases.disputed
    assert case.votes is not None
    assert case.image is not None
    assert case.votes.tolist() == [2, 2, 0]
    assert case.mean == pytest.approx([0.45, 0.45, 0.1])
    assert case.image.tolist() == np.arange(32, 48, dtype=np.uint8).reshape(4, 4).tolist()
    assert (cases.split, cases.num_members, int(case.truth)) == ("test", 4, 0)


def test_of_very_many_members_a_part_is_asked() -> None:
    store = MemoryStore()
    selection, members = stored_selection(store, "multiclass", 2)
    many = [{**member, "index": index} for index, member in enumerate(members * 150)]
    cases = read_cases(selection, many, read(store), top=2)[ONLY]
    assert cases is not None
    assert cases.num_members == MOST_MEMBERS
    assert cases.disputed[0].votes is not None
    assert sum(cases.disputed[0].votes) == MOST_MEMBERS


def test_a_regression_tells_predicted_beside_true_values_and_the_members_spread() -> None:
    store = MemoryStore()
    selection, members = stored_selection(store, "regression", 2)
    cases = read_cases(selection, members, read(store), top=1)[ONLY]
    assert cases is not None
    assert cases.points is not None
    assert cases.points.predicted == pytest.approx(cases.points.truth, abs=1e-6)
    assert cases.points.spread == pytest.approx(0.5 * cases.points.truth, abs=1e-6)
    assert [case.row for case in cases.uncertain] == [12]
    assert cases.disputed == ()


def test_without_kept_inputs_there_are_no_examples() -> None:
    store = MemoryStore()
    selection, members = stored_selection(store, "multiclass", 2)
    assert read_cases({**selection, "examples": {}}, members, read(store), top=2) == {}
    assert read_cases({**selection, "labels": {}}, members, read(store), top=2) == {}
    assert read_cases(selection, [], read(store), top=2) == {}


def test_the_copy_of_a_report_goes_where_the_user_says(tmp_path: Path) -> None:
    from orchestrator import api
    from orchestrator.storage.local import LocalStore

    store = LocalStore(tmp_path / "runs")
    finished_run(store)
    out = tmp_path / "mine.html"
    key = api.report("tuesday", out=str(out), storage=str(tmp_path / "runs"))
    assert (key, out.read_bytes()) == (LAYOUT.report, store.get(LAYOUT.report))
    with pytest.raises(InvalidJob, match="cannot write"):
        api.report("tuesday", out=str(tmp_path / "no" / "folder.html"), storage=str(tmp_path / "runs"))
    with pytest.raises(InvalidJob, match="no such run"):
        api.report("wednesday", storage=str(tmp_path / "runs"))
