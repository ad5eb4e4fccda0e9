"""Fixtures of tests that break things."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Iterator

import pytest

from orchestrator.storage.retry import Patience
from orchestrator.storage.s3 import S3Store
from tests.support.fault_proxy import FaultProxy
from tests.support.s3_server import S3Server, client


@pytest.fixture(scope="session")
def shared_bucket(s3_server: S3Server) -> str:
    """One bucket for many tests: the first object in a fresh one takes the server longer than most of them."""
    name = f"faults-{secrets.token_hex(6)}"
    client(s3_server.endpoint_url).mkdir(name)
    return name


@pytest.fixture
def s3_url(shared_bucket: str, s3_credentials: None) -> str:
    """A fresh folder on the test server, with the credentials for it in the environment."""
    return f"s3://{shared_bucket}/{secrets.token_hex(6)}"


@pytest.fixture
def fault_proxy(s3_server: S3Server, s3_credentials: None) -> Iterator[FaultProxy]:
    """A fault proxy before the test server. In the end every rule that was in force must have struck.

    ORCHESTRATOR_SEED replays a failure; the seed is in the table that a failing test shows.
    """
    with FaultProxy(s3_server.endpoint_url, seed=int(os.environ.get("ORCHESTRATOR_SEED", "0"))) as proxy:
        yield proxy
        print(proxy.ledger.table())
    proxy.check_fired()


@pytest.fixture
def connect(fault_proxy: FaultProxy, s3_url: str) -> Callable[..., S3Store]:
    """Makes stores behind the proxy, by their deadline: `connect(timeout_s=1.0)`."""

    def make(timeout_s: float = 5.0) -> S3Store:
        store = S3Store(s3_url, endpoint_url=fault_proxy.endpoint_url, timeout_s=timeout_s)
        # Making the two clients may take longer than the deadlines of these tests.
        Patience().retry(lambda: store.create("warm/1", b""))
        Patience().retry(lambda: store.delete("warm/1"))
        return store

    return make


@pytest.fixture
def direct(s3_server: S3Server, s3_url: str) -> S3Store:
    """The same place without the proxy, for arranging and looking from outside."""
    return S3Store(s3_url, endpoint_url=s3_server.endpoint_url)
