"""Fixtures that several layers of tests share."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from orchestrator.spec import TrainSpec
from orchestrator.training.device import Device, prepare_backend, start_backend
from tests.support.s3_server import ACCESS_KEY, REGION, SECRET_KEY, S3Server, client, start_s3_server

OPT_IN = ("lowest", "bench", "soak", "ceph")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what is opt-in unless `-m` names it; in `addopts` another `-m` would bring it back."""
    asked = str(config.getoption("-m"))
    left_out = [item for item in items if any(item.get_closest_marker(name) and name not in asked for name in OPT_IN)]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]


@dataclass(frozen=True)
class S3Bucket:
    """A fresh bucket on the test server."""

    name: str
    endpoint_url: str

    @property
    def url(self) -> str:
        return f"s3://{self.name}"


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """A real S3 server (SeaweedFS) for the session; its process ends with the session."""
    server = start_s3_server(tmp_path_factory.mktemp("s3"))
    yield server
    server.stop()


@pytest.fixture
def s3_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment of a user of the test server: its credentials, and nothing of this machine's own."""
    for name in ("AWS_SESSION_TOKEN", "AWS_PROFILE", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {
        "AWS_ACCESS_KEY_ID": ACCESS_KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
        "AWS_DEFAULT_REGION": REGION,
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": "/nonexistent",
        "AWS_SHARED_CREDENTIALS_FILE": "/nonexistent",
        "NO_PROXY": "127.0.0.1,localhost",
    }.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def s3_bucket(s3_server: S3Server, s3_credentials: None) -> S3Bucket:
    """A fresh bucket, with the credentials for it in the environment."""
    bucket = S3Bucket(f"test-{secrets.token_hex(6)}", s3_server.endpoint_url)
    client(bucket.endpoint_url).mkdir(bucket.name)
    return bucket


@pytest.fixture(scope="session")
def ray_session() -> Iterator[None]:
    """One Ray for all tests that start none of their own: `orchestrator.api.run` uses it and leaves it up."""
    import ray

    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


@pytest.fixture(scope="session")
def device() -> Device:
    """TensorFlow in this process, set up as in a worker with one CPU and `train.deterministic` by default.

    The environment is put back: processes that later tests start must not inherit a worker's view of the GPUs.
    """
    before = dict(os.environ)
    train = TrainSpec()
    prepare_backend(train, num_cpus=1, num_gpus=0)
    started = start_backend(train, num_cpus=1)
    os.environ.clear()
    os.environ.update(before)
    return started
