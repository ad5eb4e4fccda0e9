"""Fixtures that several layers of tests share."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import pytest
from hypothesis import settings
from xdist.scheduler import LoadGroupScheduling

from orchestrator.spec import TrainSpec
from orchestrator.training.device import Device, prepare_backend, start_backend
from tests.support.processes import RAY_OF_TESTS
from tests.support.s3_server import ACCESS_KEY, REGION, SECRET_KEY, S3Server, client, start_s3_server

os.environ.update(RAY_OF_TESTS)

settings.register_profile("repeatable", derandomize=True)
settings.load_profile("repeatable")
"""The same examples in every run of the suite; `--hypothesis-profile=default` looks for others."""

OPT_IN = ("lowest", "bench", "soak", "ceph", "aws", "schedulers")
MAX_WORKERS = 4
"""Each may have an S3 server, a Ray and trained models of its own: up to 5 GB."""


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """How many processes run the tests, as `-n auto` in pyproject.toml asks: one more than cores, or this one alone.

    One more, for the longest tests wait most of their time: for processes of Ray to start, for faults to be noticed.

    Who names files looks at them: they begin a second sooner here, their fixtures are made once, and a debugger works.
    Opt-in tests measure, or take the whole machine. What `-s` is to show is not shown by other processes.
    """
    names_files = all(argument.partition("::")[0].endswith(".py") for argument in config.args)
    opts_in = any(name in config.option.markexpr for name in OPT_IN)
    if names_files or opts_in or config.option.capture == "no":
        return 0
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores + 1, MAX_WORKERS) if cores > 1 else 0


class ByFileOrGroup(LoadGroupScheduling):  # type: ignore[misc]  # xdist ships no types
    """A file's tests run in one process, in which its fixtures are made once; files of one `xdist_group` too."""

    def _split_scope(self, nodeid: str) -> str:
        group = str(super()._split_scope(nodeid))
        return nodeid.partition("::")[0] if group == nodeid else group


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> ByFileOrGroup | None:
    """How `--dist loadgroup` of pyproject.toml shares the tests out; any other way stays xdist's."""
    return ByFileOrGroup(config, log) if config.getoption("dist") == "loadgroup" else None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what is opt-in unless `-m` names it; in `addopts` another `-m` would bring it back."""
    asked = str(config.getoption("-m"))
    left_out = [item for item in items if any(item.get_closest_marker(name) and name not in asked for name in OPT_IN)]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]


def pytest_collection_finish(session: pytest.Session) -> None:
    """Set TensorFlow up before the first test, where one needs it as a worker has it: once any test has computed
    something, its threads cannot be set any more."""
    if session.config.option.collectonly:
        return
    if any("tensorflow_device" in getattr(item, "fixturenames", ()) for item in session.items):
        _start_tensorflow()


@dataclass(frozen=True)
class S3Bucket:
    """A fresh bucket on the test server."""

    name: str
    endpoint_url: str

    @property
    def url(self) -> str:
        return f"s3://{self.name}"


@pytest.fixture(scope="session")
def s3_description() -> Iterator[None]:
    """The client library reads S3's description once, not anew for each store of each test: 0.1 to 0.3 s of a core."""
    import botocore.session

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(botocore.session, "create_loader", cache(botocore.session.create_loader))
        yield


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory, s3_description: None) -> Iterator[S3Server]:
    """A real S3 server (SeaweedFS) for the session; its process ends with the session."""
    server = start_s3_server(tmp_path_factory.mktemp("s3"))
    yield server
    server.stop()


@pytest.fixture
def s3_credentials(monkeypatch: pytest.MonkeyPatch, s3_description: None) -> None:
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


@pytest.fixture(scope="module")
def ray_session() -> Iterator[None]:
    """A Ray for all tests of a module: `orchestrator.api.run` uses it and leaves it up.

    No longer than that: whatever address a job in this process names, the session that is there would be used.
    """
    import ray

    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


@pytest.fixture(scope="session")
def tensorflow_device() -> Device:
    """TensorFlow in this process, set up as in a worker with one CPU and `train.deterministic` by default."""
    return _start_tensorflow()


@pytest.fixture(scope="session")
def device(tensorflow_device: Device) -> Device:
    """A worker's device; tests of another backend, in a process of their own, put theirs in its place."""
    return tensorflow_device


@cache
def _start_tensorflow() -> Device:
    """The environment is put back: processes that tests start must not inherit a worker's view of the GPUs."""
    before = dict(os.environ)
    train = TrainSpec()
    prepare_backend(train, num_cpus=1, num_gpus=0)
    started = start_backend(train, num_cpus=1)
    os.environ.clear()
    os.environ.update(before)
    return started
