"""`orchestrator doctor` on this machine: what it finds, and its exit code."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from orchestrator import api
from orchestrator.cli.main import app
from orchestrator.errors import AccessDenied, InvalidJob
from orchestrator.planning.checkup import Finding, exit_code
from orchestrator.planning.placement import Autoscaler
from orchestrator.storage.local import LocalStore
from tests.conftest import S3Bucket
from tests.support.cli_job import write_tiny_job
from tests.support.s3_server import REGION


def of(check: str, findings: Iterable[Finding]) -> list[Finding]:
    return [finding for finding in findings if finding.check == check]


def test_without_a_job_this_machine_is_checked(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "orchestrator", "doctor", "--json"]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    answer = json.loads(ended.stdout)
    assert answer["exit_code"] == ended.returncode, ended.stderr
    findings = [Finding(**finding) for finding in answer["findings"]]
    assert {finding.check for finding in findings} == {"versions", "gpus", "disk"}
    (versions,) = of("versions", findings)
    assert (versions.level, versions.where) == ("ok", "this machine")
    assert all(name in versions.what for name in ("python", "orchestrator", "ray", "keras", "tensorflow", "numpy"))
    assert list(tmp_path.iterdir()) == []


def test_a_job_adds_its_storage_and_its_modules(s3_bucket: S3Bucket, tmp_path: Path) -> None:
    place = {"url": f"{s3_bucket.url}/runs", "endpoint_url": s3_bucket.endpoint_url, "region": REGION}
    findings = api.doctor(str(write_tiny_job(tmp_path, place)), root=str(tmp_path))
    (storage,) = of("storage", findings)
    assert storage.level == "ok"
    assert storage.what.endswith("create, put, get, list, delete, create-only in a race")
    assert [finding.what for finding in of("modules", findings)] == ["found: tiny"]
    (clock,) = of("clock", findings)
    assert (clock.level, clock.where) == ("ok", place["url"])


def test_modules_are_those_the_job_names_their_own_imports_and_what_is_asked_for(tmp_path: Path) -> None:
    job = write_tiny_job(tmp_path, {"url": str(tmp_path / "store")})
    (tmp_path / "helper.py").touch()
    tiny = tmp_path / "tiny.py"
    tiny.write_text(f"{tiny.read_text(encoding='utf-8')}\nimport helper\n", encoding="utf-8")
    (found,) = of("modules", api.doctor(str(job), root=str(tmp_path)))
    assert (found.level, found.what) == ("ok", "found: helper, tiny")
    (missing,) = of("modules", api.doctor(str(job), modules=["nowhere"], root=str(tmp_path)))
    assert missing.level == "problem"
    assert missing.what.endswith("no nowhere")


def test_a_gpu_that_the_driver_lists_is_looked_at_by_a_worker_whose_silence_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho 'GPU 0: made up (UUID: GPU-0)'\n", encoding="utf-8")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    (gpus,) = of("gpus", api.doctor(deadline_s=0.01))
    assert (gpus.level, gpus.where) == ("warning", "this machine")
    assert gpus.what.startswith("1 GPU, and nobody knows")
    assert "does not start within 0.01 s" in gpus.what


def test_storage_that_cannot_be_written_is_a_problem_and_told_right_by_right(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("no folder", encoding="utf-8")
    job = write_tiny_job(tmp_path, {"url": "file/runs"})
    monkeypatch.chdir(tmp_path)
    ended = CliRunner().invoke(app, ["doctor", str(job), "--json"])
    assert ended.exit_code == 2, ended.stderr
    problems = [each for each in json.loads(ended.stdout)["findings"] if each["level"] == "problem"]
    assert [each["what"].split(": ")[1] for each in problems] == ["create", "put", "get"]
    assert all(each["what"].startswith(str(tmp_path / "file" / "runs")) for each in problems)
    assert {each["hint"] for each in problems} == {"choose a writable folder"}
    assert "→ choose a writable folder" in CliRunner().invoke(app, ["doctor", str(job)]).stdout


def test_without_the_right_to_delete_all_else_is_looked_at_and_a_run_may_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forbid(*_: object) -> None:
        raise AccessDenied("it may not be deleted", hint="grant it")

    monkeypatch.setattr(LocalStore, "delete", forbid)
    findings = api.doctor(str(write_tiny_job(tmp_path, {"url": str(tmp_path / "store")})), root=str(tmp_path))
    (storage,) = of("storage", findings)
    assert (storage.level, storage.hint) == ("warning", "grant it")
    assert len(list((tmp_path / "store").rglob("*-mark"))) == 1, "other machines are asked whether they see it"
    assert exit_code(findings) == 0


def test_storage_out_of_reach_is_75(s3_credentials: None, tmp_path: Path) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{unused.getsockname()[1]}"
        job = write_tiny_job(tmp_path, {"url": "s3://bucket/runs", "endpoint_url": endpoint, "region": REGION})
        findings = api.doctor(str(job), root=str(tmp_path))
    (storage,) = of("storage", findings)
    assert "S3 is out of reach" in storage.what
    assert exit_code(findings) == 75


def test_a_relative_folder_cannot_be_looked_at_from_a_cluster(tmp_path: Path) -> None:
    job = write_tiny_job(tmp_path, {"url": "runs"})
    with pytest.raises(InvalidJob, match="absolute path"):
        api.doctor(str(job), address="http://127.0.0.1:1", root=str(tmp_path))


@pytest.mark.parametrize("address", ["127.0.0.1:1", "ray://127.0.0.1:1", "http://127.0.0.1:1"])
def test_a_cluster_that_does_not_answer_is_named_and_worth_a_retry(address: str) -> None:
    findings = api.doctor(address=address)
    (cluster,) = of("cluster", findings)
    assert (cluster.level, cluster.retryable) == ("problem", True)
    assert address in cluster.where
    assert exit_code(findings) == 75


@pytest.mark.parametrize("autoscaler", [None, Autoscaler()])
def test_that_nodes_may_still_come_is_told(monkeypatch: pytest.MonkeyPatch, autoscaler: Autoscaler | None) -> None:
    from orchestrator.cluster import doctor
    from orchestrator.cluster.session import Session

    monkeypatch.setattr(doctor, "_living_nodes", list)
    monkeypatch.setattr(doctor, "ask_for_autoscaler", lambda: autoscaler)
    session = Session(opened_here=True, can_grow=True, code_root=None)
    _, told = doctor.examine(session, doctor.Examination())
    assert [(each.check, each.level) for each in told] == ([] if autoscaler is None else [("nodes", "ok")])


def test_nodes_that_offer_nothing_train_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    from orchestrator.cluster import doctor

    offers: list[dict[str, float]] = [{"CPU": 0.0, "memory": 1e9}, {"CPU": 2.0}, {"GPU": 1.0}]
    nodes = [
        {"Alive": True, "NodeManagerAddress": f"10.0.0.{number}", "NodeID": str(number), "Resources": each}
        for number, each in enumerate(offers)
    ]
    monkeypatch.setattr(doctor.ray, "nodes", lambda: [*nodes, {**nodes[1], "Alive": False}])
    assert [(each.where, each.trains) for each in doctor._living_nodes()] == [
        ("node 10.0.0.0", False),
        ("node 10.0.0.1", True),
        ("node 10.0.0.2", True),
    ]


def test_a_node_that_goes_while_it_is_asked_is_told_in_words_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    from ray.exceptions import TaskUnschedulableError

    from orchestrator.cluster import doctor

    def gone(_reference: object) -> None:
        raise TaskUnschedulableError("NodeAffinitySchedulingStrategy soft=False lease_id=03 name=facts_here")

    monkeypatch.setattr(doctor.ray, "get", gone)
    trouble = doctor._taken(object(), doctor._Node("03", "node 10.0.0.3", 0.0, True), 0.0, 1.0).trouble
    assert trouble is not None
    assert (trouble.check, trouble.where, trouble.retryable) == ("nodes", "node 10.0.0.3", True)
    assert "left the cluster" in trouble.what
    assert "lease_id" not in trouble.what


def test_an_address_that_is_none_is_refused() -> None:
    with pytest.raises(InvalidJob, match="--address"):
        api.doctor(address="nonsense://x")
