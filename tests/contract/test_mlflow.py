"""A finished run in a real tracking store of MLflow's: a SQLite file, which is MLflow's own default."""

from __future__ import annotations

import importlib.util
import json
import logging
import os
import shutil
from collections import Counter
from collections.abc import Callable
from functools import partialmethod
from pathlib import Path
from typing import Any

import pytest
from mlflow.entities import ViewType
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient
from typer.testing import CliRunner

from orchestrator import api
from orchestrator.cli.main import app
from orchestrator.errors import InvalidJob, StoreUnavailable
from orchestrator.reporting import mlflow as exporter
from orchestrator.reporting.experiment import Experiment, Trace
from orchestrator.reporting.mlflow import log_to_mlflow
from orchestrator.reporting.result import Result, to_json
from orchestrator.spec import Job, parse_job
from orchestrator.storage.local import LocalStore
from orchestrator.testing import MemoryStore
from tests.support import report_cases
from tests.support.ports import free_ports
from tests.support.report_runs import LAYOUT, finished_run

ASKED = {"report": {"mlflow": True}}
BEGAN = report_cases.BEGAN
EPOCHS = 3


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tracking store without runs: MLflow takes seconds to make one, so it is made once and copied."""
    path = tmp_path_factory.mktemp("mlflow") / "empty.db"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
        patch.chdir(path.parent)
        MlflowClient(f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture
def client(empty: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MlflowClient:
    """A client of the test's own tracking store, which the environment names."""
    folder = tmp_path / "tracking"
    folder.mkdir()
    shutil.copy(empty, folder / "mlflow.db")
    monkeypatch.chdir(folder)
    for name in [name for name in os.environ if name.startswith("MLFLOW_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder / 'mlflow.db'}")
    return MlflowClient()


def runs(client: MlflowClient, experiment: str = "digits", view: int = ViewType.ACTIVE_ONLY) -> list[Any]:
    home = client.get_experiment_by_name(experiment)
    return [] if home is None else list(client.search_runs([home.experiment_id], run_view_type=view, max_results=5000))


def parent_of(client: MlflowClient, experiment: str = "digits") -> Any:
    [parent] = [run for run in runs(client, experiment) if "mlflow.parentRunId" not in run.data.tags]
    return parent


def members_of(client: MlflowClient, experiment: str = "digits") -> dict[int, Any]:
    parent = parent_of(client, experiment).info.run_id
    nested = [run for run in runs(client, experiment) if run.data.tags.get("mlflow.parentRunId") == parent]
    found = {int(run.data.tags["orchestrator.member"]): run for run in nested}
    assert len(found) == len(nested), "no member is there twice"
    return found


def history(client: MlflowClient, run: Any, metric: str) -> list[tuple[int, float]]:
    return [(point.step, point.value) for point in client.get_metric_history(run.info.run_id, metric)]


def made_up(members: int = 3, epochs: int = EPOCHS, result: Result | None = None) -> Experiment:
    """A run with something of everything."""
    result = result or report_cases.result(num_members=members)
    rows = [{"epoch": epoch, "loss": 1.0 / epoch, "val_loss": 2.0 / epoch} for epoch in range(1, epochs + 1)]
    traces = tuple(Trace(member, rows, BEGAN + 1.0, BEGAN + 10.0) for member in result.members)
    return Experiment(result, LAYOUT.root, "5" * 64, traces, BEGAN, BEGAN + 100.0)


class Failing:
    """Lets the nth call of a method of MLflow's client fail, as a server does that goes away."""

    def __init__(self, patch: pytest.MonkeyPatch, method: str, nth: int) -> None:
        self.calls = 0
        real: Callable[..., Any] = getattr(MlflowClient, method)

        def fail_once(*args: Any, **kwargs: Any) -> Any:
            self.calls += 1
            if self.calls == nth:
                raise MlflowException("the server went away")
            return real(*args, **kwargs)

        patch.setattr(MlflowClient, method, fail_once)


def test_a_job_that_asks_for_it_is_logged_with_a_nested_run_for_each_member(client: MlflowClient) -> None:
    store = MemoryStore()
    result, _ = finished_run(store, job=ASKED)
    parent, members = parent_of(client), members_of(client)
    assert (parent.info.status, parent.info.run_name) == ("FINISHED", result.run_id)
    assert parent.data.tags["orchestrator.run"] == LAYOUT.root
    assert sorted(members) == [0, 1, 2]
    assert result.validation is not None
    figure = result.validation.ensemble
    assert parent.data.metrics["ensemble/validation/accuracy"] == pytest.approx(figure.accuracy)
    assert parent.data.metrics["ensemble/validation/accuracy_low"] == pytest.approx(figure.intervals["accuracy"].low)
    assert parent.data.params["data_fingerprint"] == result.data_fingerprint
    for index, run in members.items():
        told = result.members[index]
        assert (run.info.status, run.info.run_name) == ("FINISHED", f"member-{index}")
        assert run.data.params["seed"] == str(told.seed)
        assert float(run.data.params["dropout"]) == told.dropout
        assert [step for step, _ in history(client, run, "loss")] == list(range(1, (told.epochs or 0) + 1))
        assert told.validation is not None
        assert run.data.metrics["validation/accuracy"] == pytest.approx(told.validation.accuracy)
    files = {Path(file.path).name for file in client.list_artifacts(parent.info.run_id)}
    assert files == {"result.json", "report.html"}
    local = client.download_artifacts(parent.info.run_id, "result.json")
    assert Path(local).read_bytes() == to_json(result)


def test_figures_of_several_outputs_stand_under_their_names(client: MlflowClient) -> None:
    one, other = report_cases.result(num_members=2), report_cases.result("regression", num_members=2)
    splits = ("validation", "test")
    members = tuple(
        a.model_copy(update={split: {"species": getattr(a, split), "mass": getattr(b, split)} for split in splits})
        for a, b in zip(one.members, other.members, strict=True)
    )
    told = {split: {"species": getattr(one, split), "mass": getattr(other, split)} for split in splits}
    both = one.model_copy(update={**told, "members": members, "outputs": ("species", "mass")})
    log_to_mlflow(made_up(result=both), "digits", {"result.json": b"{}"})
    parent = parent_of(client)
    for output, metric, value in (("species", "accuracy", 0.93), ("mass", "rmse", 0.93)):
        assert f"ensemble/validation/{output}/{metric}" in parent.data.metrics
        assert [step for step, _ in history(client, parent, f"test/{output}_by_size/{metric}")] == [1, 2]
        for run in members_of(client).values():
            assert run.data.metrics[f"test/{output}/{metric}"] == pytest.approx(value, abs=0.02)
    assert not [name for name in parent.data.metrics if name.count("/") == 2 and name.startswith("ensemble")]


def test_a_job_that_does_not_ask_for_it_logs_nothing(client: MlflowClient) -> None:
    finished_run(MemoryStore())
    assert runs(client) == []


def test_curves_have_their_steps_and_times(client: MlflowClient) -> None:
    log_to_mlflow(made_up(), "digits", {})
    run = members_of(client)[1]
    assert history(client, run, "val_loss") == [(1, 2.0), (2, 1.0), (3, pytest.approx(2 / 3))]
    times = [point.timestamp for point in client.get_metric_history(run.info.run_id, "loss")]
    assert times == [int((BEGAN + second) * 1000) for second in (4, 7, 10)]
    assert (run.info.start_time, run.info.end_time) == (int((BEGAN + 1) * 1000), int((BEGAN + 10) * 1000))
    by_size = history(client, parent_of(client), "validation_by_size/accuracy")
    assert [step for step, _ in by_size] == [1, 2, 3]


def test_logging_twice_changes_nothing(client: MlflowClient) -> None:
    first = log_to_mlflow(made_up(), "digits", {"result.json": b"{}"})
    before = [(run.info.run_id, dict(run.data.metrics), run.info.end_time) for run in runs(client)]
    assert log_to_mlflow(made_up(), "digits", {"result.json": b"{}"}) == first
    assert [(run.info.run_id, dict(run.data.metrics), run.info.end_time) for run in runs(client)] == before


def test_another_result_of_a_run_of_that_name_is_a_run_of_its_own(client: MlflowClient) -> None:
    other = made_up(2)
    first = log_to_mlflow(other, "digits", {})
    second = log_to_mlflow(Experiment(**{**vars(other), "result_sha256": "6" * 64}), "digits", {})
    assert first != second
    nested = Counter(run.data.tags.get("mlflow.parentRunId") for run in runs(client))
    assert nested == {None: 2, first: 2, second: 2}


@pytest.mark.parametrize(
    ("method", "nth"),
    [("create_run", 2), ("log_batch", 2), ("set_terminated", 2), ("log_batch", 4), ("log_artifact", 1)],
)
def test_what_a_server_that_went_away_left_unfinished_is_finished_and_nothing_is_there_twice(
    method: str, nth: int, client: MlflowClient
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        failing = Failing(patch, method, nth)
        with pytest.raises(StoreUnavailable, match="the server went away"):
            log_to_mlflow(made_up(), "digits", {"result.json": b"{}"})
        assert failing.calls == nth
        assert parent_of(client).info.status == "RUNNING"
    log_to_mlflow(made_up(), "digits", {"result.json": b"{}"})
    parent, members = parent_of(client), members_of(client)
    assert parent.info.status == "FINISHED"
    assert sorted(members) == [0, 1, 2]
    for run in members.values():
        assert run.info.status == "FINISHED"
        assert [step for step, _ in history(client, run, "loss")] == [1, 2, 3]
    for metric in parent.data.metrics:
        steps = [step for step, _ in history(client, parent, metric)]
        assert len(steps) == len(set(steps)), metric


def test_logging_gives_up_in_time_and_goes_on_later(client: MlflowClient) -> None:
    with pytest.raises(StoreUnavailable, match="0 of 3 members are there"):
        log_to_mlflow(made_up(), "digits", {}, limit_s=-1.0)
    log_to_mlflow(made_up(), "digits", {}, limit_s=600.0)
    assert sorted(members_of(client)) == [0, 1, 2]


@pytest.mark.parametrize(
    ("status", "shown"),
    [
        ("succeeded", "FINISHED"),
        ("late", "FINISHED"),
        ("diverged", "FAILED"),
        ("failed", "FAILED"),
        ("stopped", "KILLED"),
        ("not_started", "KILLED"),
    ],
)
def test_a_member_that_did_not_end_well_says_so(status: str, shown: str, client: MlflowClient) -> None:
    result = report_cases.result(num_members=1)
    [member] = result.members
    changed = result.model_copy(update={"members": (member.model_copy(update={"status": status}),)})
    log_to_mlflow(made_up(result=changed), "digits", {})
    run = members_of(client)[0]
    assert (run.info.status, run.data.tags["orchestrator.status"]) == (shown, status)


def test_odd_names_and_values_and_long_curves_are_logged(client: MlflowClient) -> None:
    odd = {"text": "x" * 7000, "layers": [8, 16], **{f"k{number}": number for number in range(150)}}
    result = report_cases.result(num_members=1)
    [member] = result.members
    changed = result.model_copy(update={"members": (member.model_copy(update={"hyperparameters": odd}),)})
    rows = [{"epoch": epoch, "f1@0.5": float("nan"), "loss": float(epoch)} for epoch in range(1, 1001)]
    log_to_mlflow(
        Experiment(changed, LAYOUT.root, "5" * 64, (Trace(changed.members[0], rows, BEGAN, BEGAN),), BEGAN, BEGAN),
        "digits",
        {},
    )
    run = members_of(client)[0]
    assert run.data.params["layers"] == "[8, 16]"
    assert run.data.params["k149"] == "149"
    assert run.data.params["text"] == "x" * 6000
    assert history(client, run, "loss") == [(epoch, float(epoch)) for epoch in range(1, 1001)]
    assert len(history(client, run, "f1_0.5")) == 1000


def test_mlflows_own_environment_names_the_experiment(client: MlflowClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "ours")
    log_to_mlflow(made_up(1), "digits", {})
    assert parent_of(client, "ours").info.status == "FINISHED"
    monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", client.create_experiment("by id"))
    log_to_mlflow(made_up(1), "digits", {})
    assert parent_of(client, "by id").info.status == "FINISHED"
    assert runs(client) == []


def test_members_are_found_again_on_whatever_page_they_stand(
    client: MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = MlflowClient.search_runs
    monkeypatch.setattr(MlflowClient, "search_runs", partialmethod(real, max_results=2))
    with pytest.MonkeyPatch.context() as patch:
        Failing(patch, "log_artifact", 1)
        with pytest.raises(StoreUnavailable):
            log_to_mlflow(made_up(5), "digits", {"result.json": b"{}"})
    log_to_mlflow(made_up(5), "digits", {"result.json": b"{}"})
    monkeypatch.setattr(MlflowClient, "search_runs", real)
    assert sorted(members_of(client)) == [0, 1, 2, 3, 4]


def test_the_report_command_writes_both_for_a_run_that_did_not_ask_and_logs_it_once(
    client: MlflowClient, tmp_path: Path
) -> None:
    store = LocalStore(tmp_path / "runs")
    finished_run(store)
    assert store.list(LAYOUT.tensorboard) == runs(client) == []
    for _ in range(2):
        command = ["report", LAYOUT.run_key, "--mlflow", "--tensorboard", "--json", "--storage", str(tmp_path / "runs")]
        ended = CliRunner().invoke(app, command)
        assert ended.exit_code == 0, ended.output
        assert json.loads(ended.stdout)["report"] == LAYOUT.report
    assert sorted(members_of(client)) == [0, 1, 2]
    assert LAYOUT.event_file("ensemble") in store.list(LAYOUT.tensorboard)


def test_a_server_that_is_away_is_a_warning_without_the_password_and_the_result_stands(
    client: MlflowClient, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    [port] = free_ports(1)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://user:hidden-word@127.0.0.1:{port}")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    store = MemoryStore()
    with caplog.at_level(logging.WARNING, logger="orchestrator"):
        result, _ = finished_run(store, job=ASKED)
    [warning] = [record.getMessage() for record in caplog.records if record.name == "orchestrator"]
    assert "the runs in MLflow could not be written (StoreUnavailable" in warning
    assert "orchestrator report digits-run --mlflow" in warning
    assert "hidden-word" not in warning
    assert store.get(LAYOUT.result) == to_json(result)


def test_what_the_environment_says_is_left_as_it_was(client: MlflowClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "7")
    before = dict(os.environ)
    seen: dict[str, str] = {}
    real = exporter._home
    monkeypatch.setattr(exporter, "_home", lambda *args: (seen.update(os.environ), real(*args))[1])
    log_to_mlflow(made_up(1), "digits", {})
    assert dict(os.environ) == before
    assert (seen["MLFLOW_HTTP_REQUEST_TIMEOUT"], seen["MLFLOW_HTTP_REQUEST_MAX_RETRIES"]) == ("7", "2")


@pytest.fixture
def without_mlflow(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """MLflow is not there; gives the names that were asked for."""
    asked: list[str] = []
    real = importlib.util.find_spec

    def find(name: str) -> Any:
        asked.append(name)
        return None if name == "mlflow" else real(name)

    monkeypatch.setattr(exporter, "find_spec", find)
    return asked


def write_job(folder: Path) -> Job:
    (folder / "light_job.py").write_text("def build(dropout): ...\n\n\ndef load(): ...\n")
    names = {"model": "light_job:build", "data": "light_job:load"}
    return parse_job({"name": "digits", "members": 3, **names, **ASKED})


def test_a_job_that_wants_it_where_it_is_not_installed_is_refused_before_anything_trains(
    without_mlflow: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orchestrator.api.running._run_on_ray", lambda *args: pytest.fail("the run went on"))
    with pytest.raises(InvalidJob, match="MLflow is not installed") as refused:
        api.run(write_job(tmp_path), root=str(tmp_path), run_id="tuesday")
    assert refused.value.exit_code == 2
    assert "the extra `mlflow`" in str(refused.value)
    assert without_mlflow == ["mlflow"]
    stored = LocalStore(tmp_path / "runs").list("")
    assert [key for key in stored if "/log/" in key or "/members/" in key] == []


def test_a_result_that_is_there_needs_no_mlflow(without_mlflow: list[str], tmp_path: Path) -> None:
    job = write_job(tmp_path)
    request = api.plan(job, root=str(tmp_path), run_id="tuesday").request
    store, finished = LocalStore(tmp_path / "runs"), MemoryStore()
    result, _ = finished_run(finished)
    for key in finished.list(LAYOUT.root):
        store.put(key, finished.get(key))  # records name blobs by their old keys
        store.put(key.replace(LAYOUT.root, request.layout.root), finished.get(key))
    spec = {"run_id": "tuesday", "identity_digest": request.spec_digest, "identity": {}}
    store.put(request.layout.spec, json.dumps(spec).encode())
    assert api.run(job, root=str(tmp_path), run_id="tuesday") == result
    assert without_mlflow == []
