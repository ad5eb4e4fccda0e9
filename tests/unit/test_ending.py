"""How commands end: what they leave for schedulers, in which order, and with which code."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from orchestrator.cli.ending import sigterm_is_an_error, with_exit_code
from orchestrator.cli.output import leave_result, result_values
from orchestrator.errors import ClusterUnavailable, OrchestratorError, TryAgain
from orchestrator.reporting.result import Result, to_json
from orchestrator.testing import MemoryStore
from tests.support.report_runs import finished_run


@pytest.fixture
def sigterm() -> Iterator[None]:
    before = signal.getsignal(signal.SIGTERM)
    sigterm_is_an_error()
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.fixture(scope="module")
def result() -> Result:
    return finished_run(MemoryStore())[0]


def command(action: Callable[[], Any]) -> Callable[..., None]:
    @with_exit_code
    def run(as_json: bool = False, result_file: Path | None = None, output_dir: Path | None = None) -> None:
        action()

    return run


def failing() -> None:
    raise ClusterUnavailable("no node", where="ray.address auto", hint="wait")


def raise_signal(number: int) -> Callable[[], None]:
    return lambda: signal.raise_signal(number)


def test_an_error_leaves_its_files_and_then_its_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(typer.Exit) as ended:
        command(failing)(as_json=True, result_file=tmp_path / "result.json", output_dir=tmp_path)
    assert ended.value.exit_code == 75
    out = capsys.readouterr().out
    assert json.loads(out)["what"] == "no node"
    assert (tmp_path / "result.json").read_text() == out
    values = {path.name: path.read_text() for path in tmp_path.iterdir() if path.name != "result.json"}
    assert values == {
        "error": "ClusterUnavailable",
        "what": "no node",
        "where": "ray.address auto",
        "hint": "wait",
        "exit_code": "75",
        "retryable": "True",
    }


def test_of_two_starts_the_folder_of_values_tells_the_newer_one_alone(tmp_path: Path, result: Result) -> None:
    leave_result(result, None, tmp_path)
    (tmp_path / "notes.txt").write_text("somebody else's")
    assert (
        float((tmp_path / "validation_ensemble_accuracy").read_text())
        == result_values(result)["validation_ensemble_accuracy"]
    )
    with pytest.raises(typer.Exit):
        command(failing)(output_dir=tmp_path)
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {"error", "what", "where", "hint", "exit_code", "retryable", "result.json", "notes.txt"}
    leave_result(result, None, tmp_path)
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {*result_values(result), "result.json", "notes.txt"}
    assert (tmp_path / "result.json").read_bytes() == to_json(result)


def test_values_are_those_of_the_metrics_that_there_are(result: Result) -> None:
    values = result_values(result)
    assert values["status"] == "succeeded"
    assert {"validation_ensemble_nll", "test_best_member_accuracy", "test_weighted_brier"} <= set(values)
    assert "test_ensemble_rmse" not in values
    assert None not in values.values()


def test_a_result_that_cannot_be_left_is_worth_another_start_for_it_is_stored(tmp_path: Path, result: Result) -> None:
    (tmp_path / "values").write_text("a file in the place of the folder")
    with pytest.raises(TryAgain, match="has its result") as caught:
        leave_result(result, tmp_path / "result.json", tmp_path / "values")
    assert "recorded result" in str(caught.value)
    assert (tmp_path / "result.json").read_bytes() == to_json(result)


def test_an_error_that_cannot_be_left_is_told_and_keeps_its_code(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(typer.Exit) as ended:
        command(failing)(as_json=True, result_file=tmp_path / "nowhere" / "result.json")
    assert ended.value.exit_code == 75
    told = capsys.readouterr()
    assert "could not write" in told.err
    assert json.loads(told.out)["error"] == "ClusterUnavailable"


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_that_nobody_waits_for_ends_a_command_with_its_json_and_its_code(
    number: int, code: int, sigterm: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(typer.Exit) as ended:
        command(raise_signal(number))(as_json=True, result_file=tmp_path / "result.json")
    assert ended.value.exit_code == code
    told = capsys.readouterr()
    answer = json.loads(told.out)
    assert (answer["exit_code"], answer["retryable"]) == (code, True)  # a later start resumes
    assert (tmp_path / "result.json").read_text() == told.out
    assert "Traceback" not in told.err


def test_a_bug_shows_where_it_is_and_ends_with_one(capsys: pytest.CaptureFixture[str]) -> None:
    def bug() -> None:
        raise ZeroDivisionError("division by zero")

    with pytest.raises(typer.Exit) as ended:
        command(bug)(as_json=True)
    assert ended.value.exit_code == OrchestratorError.exit_code == 1
    told = capsys.readouterr()
    assert "Traceback" in told.err
    assert json.loads(told.out)["error"] == "OrchestratorError"
