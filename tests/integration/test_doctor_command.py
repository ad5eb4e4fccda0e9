"""`orchestrator doctor` on this machine, as a user types it: what it finds, and its exit code."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import S3Bucket
from tests.support.cli_job import orchestrator, write_tiny_job
from tests.support.s3_server import REGION


def findings(ended: subprocess.CompletedProcess[str]) -> dict[str, list[dict[str, Any]]]:
    """By check; the exit code has to fit them."""
    answer = json.loads(ended.stdout)
    assert answer["exit_code"] == ended.returncode, ended.stderr
    by_check: dict[str, list[dict[str, Any]]] = {}
    for finding in answer["findings"]:
        by_check.setdefault(finding["check"], []).append(finding)
    return by_check


def test_without_a_job_this_machine_is_checked(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "orchestrator", "doctor", "--json"]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    found = findings(ended)
    assert {*found} == {"versions", "gpus", "disk"}
    (versions,) = found["versions"]
    assert (versions["level"], versions["where"]) == ("ok", "this machine")
    assert all(name in versions["what"] for name in ("python", "orchestrator", "ray", "keras", "tensorflow", "numpy"))
    assert list(tmp_path.iterdir()) == []


def test_a_job_adds_its_storage_and_its_modules(s3_bucket: S3Bucket, tmp_path: Path) -> None:
    place = {"url": f"{s3_bucket.url}/runs", "endpoint_url": s3_bucket.endpoint_url, "region": REGION}
    found = findings(orchestrator(write_tiny_job(tmp_path, place), "doctor", "--json"))
    (storage,) = found["storage"]
    assert storage["level"] == "ok"
    assert all(right in storage["what"] for right in ("create", "put", "get", "list", "delete"))
    assert [finding["what"] for finding in found["modules"]] == ["found: tiny"]
    (clock,) = found["clock"]
    assert (clock["level"], clock["where"]) == ("ok", place["url"])


def test_storage_that_cannot_be_written_is_a_problem_and_told_right_by_right(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder", encoding="utf-8")
    ended = orchestrator(write_tiny_job(tmp_path, {"url": "file/runs"}), "doctor", "--json")
    assert ended.returncode == 2, ended.stderr
    storage = findings(ended)["storage"]
    assert [finding["what"].partition(":")[0] for finding in storage][:2] == ["create", "put"]
    assert all(finding["level"] == "problem" and finding["hint"] for finding in storage)


def test_storage_out_of_reach_is_75_and_shown_as_a_table(s3_credentials: None, tmp_path: Path) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{unused.getsockname()[1]}"
        job = write_tiny_job(tmp_path, {"url": "s3://bucket/runs", "endpoint_url": endpoint, "region": REGION})
        ended = orchestrator(job, "doctor")
    assert ended.returncode == 75, ended.stderr
    assert "problem" in ended.stdout
    assert "S3 is out of reach" in ended.stdout


def test_a_relative_folder_cannot_be_looked_at_from_a_cluster(tmp_path: Path) -> None:
    job = write_tiny_job(tmp_path, {"url": "runs"})
    ended = orchestrator(job, "doctor", "--address", "http://127.0.0.1:1")
    assert ended.returncode == 2, ended.stderr
    assert "absolute path" in ended.stderr


@pytest.mark.parametrize(
    ("address", "code"),
    [("127.0.0.1:1", 75), ("ray://127.0.0.1:1", 75), ("http://127.0.0.1:1", 75), ("nonsense://x", 2)],
)
def test_a_cluster_that_does_not_answer_is_named(tmp_path: Path, address: str, code: int) -> None:
    job = write_tiny_job(tmp_path, {"url": str(tmp_path / "runs")})
    ended = orchestrator(job, "doctor", "--address", address, "--json")
    assert ended.returncode == code, ended.stderr
    if code == 75:
        (cluster,) = findings(ended)["cluster"]
        assert (cluster["level"], cluster["retryable"]) == ("problem", True)
        assert address in cluster["where"]
