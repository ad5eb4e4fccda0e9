"""A whole run against a real S3 server, through the command line: what a user with a bucket gets."""

from __future__ import annotations

import json
import secrets
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from orchestrator import load_job
from orchestrator.storage.open import open_store
from orchestrator.storage.tables import held_out_from_parquet, labels_from_parquet
from tests.conftest import S3Bucket
from tests.support.cli_job import orchestrator, write_tiny_job
from tests.support.in_process import run_in_process
from tests.support.processes import without_ray
from tests.support.s3_server import ACCESS_KEY, REGION, SECRET_KEY, S3Server, client

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
NO_RAY = "ray.address=127.0.0.1:1"
"""Nobody listens there: a start that asked for Ray would end with 75."""

PLANTED = {
    "RAY_AUTH_TOKEN": "made-up-token-of-ray-0001",
    "OPENAI_API_KEY": "made-up-key-of-another-service-0002",
    "MLFLOW_TRACKING_PASSWORD": "made-up-password-0003",
    "GIT_CREDENTIALS": "https://me:made-up-password-0004@host/repo",
}
"""Secrets of other kinds that stand in a user's environment; a run has no business with them."""

IN_A_NOTEBOOK = """
import os, sys
import ray
from orchestrator import load_job, run
from orchestrator.errors import OrchestratorError
late = {name: os.environ.pop(name) for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")}
ray.init(address="local", include_dashboard=False, log_to_driver=False, num_cpus=2)
os.environ.update(late)
try:
    run(load_job("job.yaml"))
except OrchestratorError as error:
    sys.exit(f"exit code {error.exit_code}: {error}")
"""


def storage(bucket: S3Bucket, **changes: str) -> dict[str, str]:
    return {"url": f"{bucket.url}/runs", "endpoint_url": bucket.endpoint_url, "region": REGION, **changes}


@pytest.fixture(scope="module")
def finished(s3_server: S3Server, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A finished run: its job file, its result as printed, and the bucket it is in."""
    name = f"test-{secrets.token_hex(6)}"
    files = client(s3_server.endpoint_url)
    files.mkdir(name)
    bucket = S3Bucket(name, s3_server.endpoint_url)
    job = write_tiny_job(tmp_path_factory.mktemp("s3"), storage(bucket))
    environ = {name: value for name, value in without_ray().items() if not name.startswith("AWS_")}
    environ |= {"AWS_ACCESS_KEY_ID": ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": SECRET_KEY, "NO_PROXY": "127.0.0.1"}
    environ |= PLANTED
    ended = orchestrator(job, "run", "--json", environ=environ)
    assert ended.returncode == 0, ended.stderr
    result = json.loads(ended.stdout)
    told = {"printed": ended.stdout, "progress": ended.stderr}
    return {"job": job, **told, "result": result, "bucket": bucket, "files": files}


def body(finished: dict[str, Any], key: str) -> bytes:
    content: bytes = finished["files"].cat_file(f"{finished['bucket'].name}/runs/{key}")
    return content


def test_the_printed_result_is_the_one_in_the_bucket(finished: dict[str, Any]) -> None:
    result = finished["result"]
    assert result["status"] == "succeeded"
    assert body(finished, f"tiny/{result['run_key']}/result.json").decode() == finished["printed"]


def test_each_members_best_model_and_history_lie_in_the_bucket_as_the_result_says(finished: dict[str, Any]) -> None:
    from hashlib import sha256

    members = finished["result"]["members"]
    assert len(members) == 2
    for member in members:
        for part, name in (("model", "best.keras"), ("history", "history.parquet")):
            stored = member[part]
            assert stored["key"].endswith(f"/members/{member['index']}/{name}")
            content = body(finished, stored["key"])
            assert (sha256(content).hexdigest(), len(content)) == (stored["sha256"], stored["size"])


@pytest.mark.parametrize("name", ["AWS_SECRET_ACCESS_KEY", *PLANTED])
def test_no_secret_of_the_environment_is_stored_or_printed(finished: dict[str, Any], name: str) -> None:
    secret = {"AWS_SECRET_ACCESS_KEY": SECRET_KEY, **PLANTED}[name]
    files = finished["files"]
    keys = files.find(finished["bucket"].name)
    assert len(keys) > 10
    assert [key for key in keys if secret.encode() in files.cat_file(key)] == []
    assert secret not in finished["printed"] + finished["progress"]


def test_a_second_start_returns_the_recorded_result_without_asking_for_ray(
    finished: dict[str, Any], s3_credentials: None
) -> None:
    ended = orchestrator(finished["job"], "run", NO_RAY, "--json")
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout == finished["printed"]
    assert "is finished" in ended.stderr


def test_folds_of_a_model_of_two_outputs_live_in_a_bucket(s3_bucket: S3Bucket, device: object) -> None:
    """Each row is predicted once for each output, by the member that was held out from it."""
    where = [f"storage.{key}={value}" for key, value in storage(s3_bucket).items()]
    folds = ["members={count: 1, folds: 2}", "train.epochs=3"]
    result = run_in_process(load_job(ROOT / "jobs" / "penguins.yaml", [*where, *folds]), ROOT)
    store = open_store(f"{s3_bucket.url}/runs", endpoint_url=s3_bucket.endpoint_url, region=REGION)
    root = result.artifacts["members"].removesuffix("/members")
    told = result.scores("out_of_fold")
    assert list(told) == ["species", "mass"]
    for output, split in told.items():
        labels = labels_from_parquet(store.get(f"{root}/labels/out_of_fold/{output}.parquet"))
        files = [store.get(f"{root}/members/{m.index}/out_of_fold/{output}.parquet") for m in result.members]
        rows, values = (np.concatenate(part) for part in zip(*map(held_out_from_parquet, files), strict=True))
        assert sorted(rows) == list(range(len(labels)))
        assert split.ensemble.n == len(labels)
        if output == "species":
            assert split.ensemble.accuracy == pytest.approx(np.mean(values.argmax(axis=1) == labels[rows]))
        else:
            assert split.ensemble.mae == pytest.approx(np.abs(values - labels[rows].reshape(-1, 1)).mean(), rel=1e-6)


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("AWS_SECRET_ACCESS_KEY", "wrong", "S3 refuses the credentials (HTTP 403 SignatureDoesNotMatch)"),
        ("AWS_ACCESS_KEY_ID", "unknown", "S3 refuses the credentials (HTTP 403 InvalidAccessKeyId)"),
        ("AWS_ACCESS_KEY_ID", None, "no usable credentials for S3"),
    ],
)
def test_wrong_or_missing_credentials_are_refused_before_ray_is_asked(
    s3_bucket: S3Bucket,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    value: str | None,
    said: str,
) -> None:
    if value is None:
        monkeypatch.delenv("AWS_ACCESS_KEY_ID")
        monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    else:
        monkeypatch.setenv(name, value)
    ended = orchestrator(write_tiny_job(tmp_path, storage(s3_bucket)), "run", NO_RAY)
    assert ended.returncode == 2, ended.stderr
    assert said in ended.stderr
    assert "AWS_ACCESS_KEY_ID" in ended.stderr  # the remedy
    assert SECRET_KEY not in ended.stderr


def test_a_bucket_that_does_not_exist_is_refused_before_ray_is_asked(s3_bucket: S3Bucket, tmp_path: Path) -> None:
    job = write_tiny_job(tmp_path, storage(s3_bucket, url="s3://no-such-bucket/runs"))
    ended = orchestrator(job, "run", NO_RAY)
    assert ended.returncode == 2, ended.stderr
    assert "the bucket 'no-such-bucket' does not exist" in ended.stderr


def test_a_server_that_is_down_is_worth_a_retry_and_told_soon(s3_credentials: None, tmp_path: Path) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{unused.getsockname()[1]}"
        job = write_tiny_job(tmp_path, {"url": "s3://bucket/runs", "endpoint_url": endpoint, "region": REGION})
        began = time.monotonic()
        ended = orchestrator(job, "run", NO_RAY)
    assert ended.returncode == 75, ended.stderr
    assert "S3 is out of reach" in ended.stderr
    assert time.monotonic() - began < 45  # one call's deadline, and Python's start


def test_a_ray_that_was_started_without_the_credentials_is_named_as_the_cause(
    s3_bucket: S3Bucket, tmp_path: Path
) -> None:
    write_tiny_job(tmp_path, storage(s3_bucket))
    environ = without_ray()
    command = [sys.executable, "-c", IN_A_NOTEBOOK]
    ended = subprocess.run(command, cwd=tmp_path, env=environ, capture_output=True, text=True, timeout=300, check=False)
    assert "exit code 2: " in ended.stderr
    assert "no usable credentials for S3" in ended.stderr
    assert "workers have the environment in which Ray was started" in ended.stderr
