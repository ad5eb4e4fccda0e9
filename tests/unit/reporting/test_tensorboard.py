"""The event files of a finished run, read back by TensorBoard's own readers."""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import metadata as hparams_metadata

from orchestrator.errors import AccessDenied
from orchestrator.planning.recovery import read_run
from orchestrator.reporting.experiment import Experiment, Trace, read_experiment
from orchestrator.reporting.publish import finished_result, report_again
from orchestrator.reporting.report import Rows
from orchestrator.reporting.result import Result, to_json
from orchestrator.reporting.scores import Interval
from orchestrator.reporting.tensorboard import write_event_files
from orchestrator.storage.blobs import get_blob
from orchestrator.storage.log import Log
from orchestrator.storage.records import BlobRef
from orchestrator.storage.tables import history_from_parquet
from orchestrator.testing import Fault, FaultyStore, MemoryStore
from tests.support import report_cases
from tests.support.report_runs import LAYOUT, finished_run

BEGAN = report_cases.BEGAN


@pytest.fixture(autouse=True, scope="module")
def readers_without_tensorflow() -> Iterator[None]:
    """TensorBoard's readers import TensorFlow where they find it, which takes seconds, unless this module is there."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "tensorboard.compat.notf", ModuleType("notf"))
        yield


def traced(member: Any, history: Rows = ()) -> Trace:
    return Trace(member, history, BEGAN, BEGAN + 10.0)


def experiment(*members: Trace, result: Result | None = None) -> Experiment:
    result = result or report_cases.result(num_members=max(1, len(members)))
    return Experiment(result, LAYOUT.root, "5" * 64, members, BEGAN, BEGAN + 100.0)


def board(store: MemoryStore, folder: Path) -> dict[str, EventAccumulator]:
    """What TensorBoard makes of a run's files, by the names of its runs."""
    found = {}
    for key in store.list(LAYOUT.tensorboard):
        target = folder / key.removeprefix(f"{LAYOUT.tensorboard}/")
        target.parent.mkdir(parents=True)
        target.write_bytes(store.get(key))
        run = EventAccumulator(str(target.parent))
        run.Reload()
        found[target.parent.relative_to(folder).as_posix()] = run
    return found


def written(folder: Path, *members: Trace, result: Result | None = None) -> dict[str, EventAccumulator]:
    store = MemoryStore()
    write_event_files(store, LAYOUT, experiment(*members, result=result))
    return board(store, folder)


def scalars(run: EventAccumulator, tag: str) -> list[tuple[int, float]]:
    return [(event.step, event.value) for event in run.Scalars(tag)]


def hparams(run: EventAccumulator) -> dict[str, Any]:
    content = run.SummaryMetadata(hparams_metadata.SESSION_START_INFO_TAG).plugin_data.content
    started = hparams_metadata.parse_session_start_info_plugin_data(content)
    return {name: getattr(value, value.WhichOneof("kind")) for name, value in started.hparams.items()}


def test_a_job_that_asks_for_it_gets_a_folder_with_every_member_and_the_ensemble(tmp_path: Path) -> None:
    store = MemoryStore()
    result, _ = finished_run(store, job={"report": {"tensorboard": True}})
    runs = board(store, tmp_path)
    assert {"member-0", "member-1", "member-2", "ensemble", "members_mean"} <= set(runs)
    selection = read_run(Log.open(store, LAYOUT.coord_log).records()).selection
    assert selection is not None
    for index in range(3):
        ref = BlobRef.from_json(selection["members"][index]["final"]["history"], where="here")
        for row in history_from_parquet(get_blob(store, ref)):
            for name in set(row) - {"epoch"}:
                assert (row["epoch"], pytest.approx(row[name])) in scalars(runs[f"member-{index}"], name)
    assert result.validation is not None
    figure = result.validation.ensemble
    assert scalars(runs["ensemble"], "validation/accuracy") == [(0, pytest.approx(figure.accuracy))]


def test_a_job_that_does_not_ask_for_it_gets_none() -> None:
    store = MemoryStore()
    finished_run(store)
    assert store.list(LAYOUT.tensorboard) == []


def test_a_members_run_has_its_curves_and_the_scores_of_its_best_model(tmp_path: Path) -> None:
    history = [{"epoch": 1, "loss": 0.5, "val_loss": 0.75}, {"epoch": 2, "loss": 0.25, "val_loss": 0.5, "lr": 0.125}]
    member = report_cases.member(0, {"accuracy": 0.5}).model_copy(update={"best_epoch": 2})
    run = written(tmp_path, traced(member, history))["member-0"]
    assert scalars(run, "loss") == [(1, 0.5), (2, 0.25)]
    assert scalars(run, "val_loss") == [(1, 0.75), (2, 0.5)]
    assert scalars(run, "lr") == [(2, 0.125)]
    assert scalars(run, "validation/accuracy") == scalars(run, "test/accuracy") == [(2, 0.5)]
    assert [event.wall_time for event in run.Scalars("loss")] == [BEGAN + 5.0, BEGAN + 10.0]


def test_a_members_hyperparameters_are_those_of_the_hparams_plugin(tmp_path: Path) -> None:
    odd = {"units": 64, "deep": True, "name": "a", "layers": [8, {"b": 2, "a": 1}], "nothing": None}
    member = report_cases.member(3, {}).model_copy(update={"hyperparameters": odd, "dropout": 0.25})
    run = written(tmp_path, traced(member))["member-3"]
    assert hparams(run) == {
        "seed": "4000000003",
        "builder": "jobs.digits:build_model",
        "dropout": 0.25,
        "units": 64.0,
        "deep": True,
        "name": "a",
        "layers": '[8, {"a": 1, "b": 2}]',
    }


def test_a_members_seed_stands_in_its_text_and_hostile_values_stay_text(tmp_path: Path) -> None:
    hostile = {"name": "x\n\n<script>alert(1)</script> [a](javascript:b)"}
    member = report_cases.member(0, {}).model_copy(update={"hyperparameters": hostile})
    run = written(tmp_path, traced(member))["member-0"]
    [event] = run.Tensors("member")
    text = event.tensor_proto.string_val[0].decode()
    assert "4000000000" in text
    assert all(line.startswith("    ") for line in text.split("\n")), "all of it is a block of code"


@pytest.mark.parametrize(("value", "shown"), [(float("nan"), "nan"), (float("inf"), "inf"), (1e300, "inf")])
def test_a_diverged_members_losses_are_shown_as_they_are(value: float, shown: str, tmp_path: Path) -> None:
    run = written(tmp_path, traced(report_cases.member(0, {}), [{"epoch": 1, "loss": value}]))["member-0"]
    assert [str(loss) for _, loss in scalars(run, "loss")] == [shown]


def test_the_ensemble_has_its_scores_its_intervals_and_its_curve_over_size(tmp_path: Path) -> None:
    result = report_cases.result(num_members=5)
    runs = written(tmp_path, traced(result.members[0]), result=result)
    assert result.validation is not None
    assert result.validation.weighted is not None
    assert scalars(runs["weighted"], "validation/nll") == [(0, pytest.approx(result.validation.weighted.nll))]
    interval: Interval = result.validation.ensemble.intervals["nll"]
    assert scalars(runs["ensemble"], "validation/nll_low") == [(0, pytest.approx(interval.low))]
    assert scalars(runs["ensemble"], "validation/nll_high") == [(0, pytest.approx(interval.high))]
    points = [point for point in result.validation.curve if point.metric == "accuracy"]
    assert scalars(runs["ensemble"], "validation_by_size/accuracy") == [
        (point.members, pytest.approx(point.mean)) for point in points
    ]
    assert [size for size, _ in scalars(runs["ensemble"], "test_by_size/nll_high")] == [p.members for p in points]
    assert "validation_by_size/accuracy" not in runs["weighted"].Tags()["scalars"]


def test_a_run_without_validation_or_weights_has_what_there_is(tmp_path: Path) -> None:
    result = report_cases.result(num_members=2)
    assert result.test is not None
    alone = result.model_copy(
        update={"validation": None, "test": result.test.model_copy(update={"weighted": None, "best_member": None})}
    )
    runs = written(tmp_path, *(traced(member) for member in alone.members), result=alone)
    assert set(runs) == {"member-0", "member-1", "ensemble", "members_mean"}
    assert [tag for tag in runs["ensemble"].Tags()["scalars"] if tag.startswith("validation")] == []


def test_a_second_time_replaces_the_files_of_the_first() -> None:
    store = MemoryStore()
    write_event_files(store, LAYOUT, experiment(traced(report_cases.member(0, {}), [{"epoch": 1, "loss": 1.0}])))
    before = store.list("")
    write_event_files(store, LAYOUT, experiment(traced(report_cases.member(0, {}), [{"epoch": 1, "loss": 2.0}])))
    assert store.list("") == before


def test_the_report_command_writes_them_for_a_run_that_did_not_ask() -> None:
    store = MemoryStore()
    finished_run(store)
    report_again(store, LAYOUT)
    assert store.list(LAYOUT.tensorboard) == []
    report_again(store, LAYOUT, tensorboard=True)
    assert LAYOUT.event_file("member-2") in store.list(LAYOUT.tensorboard)


def test_files_that_cannot_be_written_are_a_warning_and_the_result_stands(caplog: pytest.LogCaptureFixture) -> None:
    inner = MemoryStore()
    fault = Fault("put", "before", key="/tensorboard/", times=None, error=AccessDenied)
    store = FaultyStore(inner, [fault])
    with caplog.at_level(logging.WARNING, logger="orchestrator"):
        result, _ = finished_run(store, job={"report": {"tensorboard": True}})
    assert store.fired[fault] >= 1
    assert "the event files could not be written (AccessDenied" in caplog.text
    assert "orchestrator report digits-run --tensorboard" in caplog.text
    assert inner.get(LAYOUT.result) == to_json(result)
    assert inner.get(LAYOUT.report)


def test_a_member_whose_history_is_lost_has_its_scores_still(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = MemoryStore()
    finished_run(store)
    memory = read_run(Log.open(store, LAYOUT.coord_log).records())
    assert memory.selection is not None
    store.delete(memory.selection["members"][1]["final"]["history"]["key"])
    found = read_experiment(store, LAYOUT, finished_result(store, LAYOUT, memory))
    write_event_files(store, LAYOUT, found)
    tags = board(store, tmp_path)["member-1"].Tags()["scalars"]
    assert "loss" not in tags
    assert "validation/accuracy" in tags
    assert "history of member 1" in caplog.text


def test_times_are_those_of_the_run() -> None:
    store = MemoryStore()
    result, _ = finished_run(store)
    memory = read_run(Log.open(store, LAYOUT.coord_log).records())
    found = read_experiment(store, LAYOUT, result)
    assert memory.first_claim_at is not None
    assert memory.done is not None
    assert found.began_at == memory.first_claim_at
    assert found.result_sha256 == memory.done["result"]["sha256"]
    for trace in found.members:
        ends = [at for _, at, _ in trace.epochs()]
        assert ends == sorted(ends)
        assert trace.began_at <= ends[0] <= ends[-1] <= trace.ended_at + 1e-3
        assert found.began_at <= trace.began_at


def test_writing_them_imports_no_tensorflow() -> None:
    code = (
        "import sys\n"
        "from tests.support import report_cases\n"
        "from orchestrator.reporting.experiment import Experiment, Trace\n"
        "from orchestrator.reporting.tensorboard import write_event_files\n"
        "from orchestrator.storage.layout import RunLayout\n"
        "from orchestrator.testing import MemoryStore\n"
        "print('tensorboard' in sys.modules)\n"
        "result = report_cases.result(num_members=1)\n"
        "trace = Trace(result.members[0], [{'epoch': 1, 'loss': 1.0}], 0.0, 1.0)\n"
        "run = Experiment(result, 'a/b', '5' * 64, (trace,), 0.0, 1.0)\n"
        "write_event_files(MemoryStore(), RunLayout('a', 'b'), run)\n"
        "print('tensorboard' in sys.modules, *sorted({'tensorflow', 'keras', 'ray'} & set(sys.modules)))\n"
    )
    root = str(Path(__file__).parents[3])
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[:2] == ["False", "True"]
