"""`orchestrator submit` from a user's folder to a real head with its job server, and back with the true exit code."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from orchestrator import api
from orchestrator.reporting.result import from_json
from tests.support.cli_job import orchestrator, write_tiny_job
from tests.support.ray_head import RayHead

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("head")]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    folder = tmp_path / "project"
    folder.mkdir()
    return folder


def submit(cluster_head: RayHead, job: Path, *overrides: str) -> subprocess.CompletedProcess[str]:
    arguments = (*overrides, "--address", cluster_head.address, "--wait", "--json")
    return orchestrator(job, "submit", *arguments, environ=cluster_head.environ)


def only_result(storage: Path) -> dict[str, Any]:
    (path,) = storage.glob("tiny/*/result.json")
    result: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return result


def test_a_submitted_job_runs_from_its_shipped_code_and_again_gives_the_recorded_result_without_a_job(
    cluster_head: RayHead, project: Path, tmp_path: Path
) -> None:
    """It misses its gate: that comes back as the driver's own 3, every time."""
    diary = tmp_path / "diary"
    gate = {"metric": "accuracy", "of": "ensemble", "on": "validation", "min": 1.0}
    job = write_tiny_job(project, {"url": str(tmp_path / "store")}, diary=diary, ensemble={"gate": gate})
    files = ("--result-file", str(tmp_path / "result.json"), "--output-dir", str(tmp_path / "values"))
    first = submit(cluster_head, job, *files)
    assert first.returncode == 3, first.stderr
    answer = json.loads(first.stdout.splitlines()[-1])
    result = only_result(tmp_path / "store")
    assert (result["status"], len(result["members"])) == ("gate_failed", 2)
    assert answer == {
        "run_id": result["run_id"],
        "run_key": result["run_key"],
        "address": cluster_head.address,
        "submission_id": f"{result['run_key']}-1",
        "state": "submitted",
        "exit_code": 3,
        "reason": "the driver exited 3",
        "status": "gate_failed",
        "result": result,
        "error": None,
    }
    assert json.loads((tmp_path / "result.json").read_text(encoding="utf-8")) == result
    assert (tmp_path / "values" / "exit_code").read_text(encoding="utf-8") == "3"
    folders = set(diary.read_text(encoding="utf-8").splitlines())
    assert len(folders) == 1
    assert not Path(folders.pop()).is_relative_to(tmp_path)
    assert "[member 1] epoch 2/2" in first.stderr
    assert '"schema"' not in first.stderr

    second = submit(cluster_head, job)
    assert second.returncode == 3, second.stderr
    assert "is finished: this is its recorded result" in second.stderr
    nothing_new = {"state": "recorded", "submission_id": None, "reason": None}
    assert json.loads(second.stdout) == {**answer, **nothing_new}

    shown = api.submitted_status(result["run_id"], address=cluster_head.address, headers=[bearer(cluster_head)])
    assert [(each.submission_id, each.exit_code) for each in shown.jobs] == [(answer["submission_id"], 3)]
    assert shown.run is not None
    assert (shown.run.status, shown.run.exit_code) == ("gate_failed", 3)
    waited = api.wait_submitted(result["run_id"], address=cluster_head.address, headers=[bearer(cluster_head)])
    assert (waited.exit_code, waited.state, waited.result) == (3, "ended", from_json(json.dumps(result).encode()))


def bearer(head: RayHead) -> str:
    return f"Authorization=Bearer {head.token}"


def test_a_demand_that_the_cluster_cannot_meet_comes_back_as_75(
    cluster_head: RayHead, project: Path, tmp_path: Path
) -> None:
    job = write_tiny_job(project, {"url": str(tmp_path / "store")})
    ended = submit(cluster_head, job, "resources.num_gpus=8", "faults.node_wait_s=1")
    assert ended.returncode == 75, ended.stderr
    assert "no node has what `resources` asks for" in ended.stderr
    assert json.loads(ended.stdout)["exit_code"] == 75


def test_a_relative_storage_folder_is_refused_before_anything_is_sent(project: Path) -> None:
    job = write_tiny_job(project, {"url": "runs"})
    ended = orchestrator(job, "submit", "--address", "http://127.0.0.1:1", "--wait", "--json")
    assert ended.returncode == 2, ended.stderr
    assert "storage.url" in ended.stderr
    assert "absolute path" in ended.stderr
