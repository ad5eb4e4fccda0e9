"""`orchestrator plan`: all that it tells, for people and as JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from orchestrator import api
from orchestrator.api.measuring import Measured
from orchestrator.cli.main import app
from orchestrator.cli.plans import plan_facts
from orchestrator.planning import events as ev
from orchestrator.planning.estimate import Estimate, PackTiming
from orchestrator.planning.packs import Pack
from orchestrator.planning.placement import Placement
from orchestrator.spec import parse_job

JOB = "name: a\nmodel: plan_code:f\ndata: plan_code:g\nmembers: 3\nensemble: {gate: {metric: accuracy, min: 0.9}}\n"
TIMING = PackTiming(
    pack=0,
    first_s=3.25,
    again_s=0.5,
    train_s=1.0,
    validation_s=0.25,
    first_prediction_s=0.75,
    prediction_s=0.125,
    steps=64,
)
MEASURED = Measured(
    Placement(2, 1, 0.0, "2 × 1 CPU (as many as fit)"),
    ray_s=1.5,
    start_s=9.0,
    told=ev.Measured(
        "measuring",
        "gpu",
        (Pack(0, (0, 1), "fused"), Pack(1, (2,), "fused")),
        "fused, up to 2 at a time: the job says so",
        {0: TIMING, 1: TIMING},
        import_s=5.0,
        preflight_s=1.0,
        packs_s=4.0,
        peak_bytes=3 * 2**29,
        peak_gpu_bytes=2**31,
        notes=("1 further kinds of models are taken to be as slow as the slowest of these",),
    ),
    estimate=Estimate(40.2, 250.0, "as was reckoned"),
)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "plan_code.py").write_text("def f(): ...\ndef g(): ...\n", encoding="utf-8")
    (tmp_path / "job.yaml").write_text(JOB, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def call(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


def told(folder: Path) -> dict[str, Any]:
    job = parse_job({"name": "a", "model": "plan_code:f", "data": "plan_code:g", "members": 3})
    planned = api.plan(job, root=str(folder))
    return planned.to_json() | {"resume": api.remaining(planned).to_json()}


def test_a_plan_tells_packs_time_memory_and_what_a_start_would_skip(folder: Path) -> None:
    done = call("plan", "job.yaml")

    assert done.exit_code == 0
    for line in (
        "packs               members 0–2 might share packs",
        "time                not measured: --measure",
        "memory              not measured: --measure",
        "a start would skip  nothing: the run has not begun",
    ):
        assert line in done.stdout
    assert not (folder / "runs").exists()


def test_json_has_what_people_are_told(folder: Path) -> None:
    found = json.loads(call("plan", "job.yaml", "--json").stdout)

    assert found["resume"]["state"] == "new"
    assert found["packs"]["may_share"] == [[0, 1, 2]]
    assert found["time"]["measured"] is found["memory"]["measured"] is False


def test_a_plan_names_the_labels_that_nodes_must_have(folder: Path) -> None:
    labels = "resources.labels={market: '!spot'}"

    there = call("plan", "job.yaml", "ray.address=10.0.0.1:6379", labels)
    here = call("plan", "job.yaml", "resources.labels={market: spot}")

    assert "decided at the start, on the cluster at 10.0.0.1:6379, on nodes with market=!spot" in there.stdout
    assert "a worker needs 1 CPU, on nodes with market=spot; there is" in here.stdout
    assert "(no market)" in here.stdout


def test_a_smoke_run_is_planned_as_it_would_run(folder: Path) -> None:
    found = json.loads(call("plan", "job.yaml", "--smoke", "--json").stdout)

    assert found["run_id"].startswith("a-smoke-")
    assert len(found["members"]) == 2
    assert found["max_rows"] == 512
    assert found["notes"][1] == "left out in a smoke run: ensemble.gate, which is not judged"
    text = call("plan", "job.yaml", "--smoke").stdout
    assert "at most 512 of each set" in text
    assert "not a result" in text


def test_a_smoke_run_takes_no_run_id_of_another(folder: Path) -> None:
    done = call("run", "job.yaml", "--smoke", "--run-id", "nightly")

    assert done.exit_code == 2
    assert "a smoke run has a run id of its own" in done.stderr


def test_there_must_be_a_cluster_to_connect_to(folder: Path) -> None:
    done = call("plan", "job.yaml", "--connect")

    assert done.exit_code == 2
    assert "name one with ray.address" in done.stderr


def test_what_was_measured_stands_where_it_was_missing(folder: Path) -> None:
    found = told(folder) | MEASURED.to_json()

    assert json.loads(json.dumps(found)) == found
    assert found["packs"] == {
        "decided": True,
        "packs": [{"members": [0, 1], "engine": "fused"}, {"members": [2], "engine": "fused"}],
        "reason": "fused, up to 2 at a time: the job says so",
    }
    assert found["time"]["start"] == {"total_s": 9.0, "ray_s": 1.5, "import_s": 5.0, "preflight_s": 1.0}
    assert found["time"]["packs"] == [
        {
            "pack": 0,
            "compile_s": 3.25,
            "compile_again_s": 0.5,
            "epoch_s": 1.25,
            "validation_s": 0.25,
            "prediction_s": 0.125,
            "steps_timed": 64,
        }
    ]
    assert found["memory"] == {
        "measured": True,
        "device": "gpu",
        "worker_peak_bytes": 3 * 2**29,
        "gpu_peak_bytes": 2**31,
        "num_workers": 2,
    }


def test_people_are_told_it_in_a_line_each(folder: Path) -> None:
    facts = plan_facts(told(folder) | MEASURED.to_json())

    assert facts["packs"] == "0–1 fused; 2 fused"
    assert facts["engine"] == "fused, up to 2 at a time: the job says so"
    assert facts["time"] == (
        "41 s to 4.2 min: as was reckoned. Measured: pack 0: 3.2 s until its first step, 1.25 s an epoch (of which "
        "0.25 s are not steps), 0.12 s to predict; 1 further kinds of models are taken to be as slow as the slowest of "
        "these"
    )
    assert facts["memory"] == "a worker had up to 1.5 GiB, and 2.0 GiB of its GPU; there would be 2"
