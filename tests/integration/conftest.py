"""Fixtures of tests that run real Keras or real Ray."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.job_server import FakeJobServer, fake_job_server
from tests.support.ray_head import RayHead, ray_head
from tests.support.tiny_jobs import TinyProject
from tests.support.workbench import Workbench


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TinyProject:
    """A tiny project in the test's own folder, on the import path."""
    monkeypatch.syspath_prepend(str(tmp_path))
    return TinyProject(tmp_path, f"tiny_{secrets.token_hex(4)}")


@pytest.fixture(scope="session")
def cluster_head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RayHead]:
    """The cluster of all tests that need a real one: a head that runs drivers alone, and two nodes of two CPUs.

    Files that use it carry `pytest.mark.xdist_group("head")`, so that there is one. Who kills a node adds another.
    """
    with ray_head(tmp_path_factory.mktemp("cluster"), num_cpus=0, num_nodes=2) as started:
        yield started


@pytest.fixture
def fake() -> Iterator[FakeJobServer]:
    """A job server that runs nothing."""
    with fake_job_server() as started:
        yield started


@pytest.fixture
def bench(tmp_path: Path, fake: FakeJobServer, monkeypatch: pytest.MonkeyPatch) -> Workbench:
    """A job and that server; nothing of this machine's own names another cluster."""
    monkeypatch.setenv("HOME", str(tmp_path))
    # Ray sets RAY_AUTH_MODE in a process in which it was started.
    for name in (
        "RAY_ADDRESS",
        "RAY_API_SERVER_ADDRESS",
        "RAY_JOB_HEADERS",
        "RAY_AUTH_MODE",
        "RAY_AUTH_TOKEN",
        "RAY_AUTH_TOKEN_PATH",
    ):
        monkeypatch.delenv(name, raising=False)
    return Workbench(tmp_path, fake)
