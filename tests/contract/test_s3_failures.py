"""What a real S3 server says to wrong credentials and names, and what no server says. `tests/fault` has the rest."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

from orchestrator.errors import AccessDenied, StoreUnavailable, UnsupportedStore
from orchestrator.planning.ports import Store
from orchestrator.storage.s3 import S3Store

if TYPE_CHECKING:
    from conftest import S3Bucket

CALLS: dict[str, Callable[[Store], object]] = {
    "create": lambda store: store.create("k", b"v"),
    "put": lambda store: store.put("k", b"v"),
    "get": lambda store: store.get("k"),
    "list": lambda store: store.list("folder"),
    "delete": lambda store: store.delete("k"),
}


@pytest.fixture
def dead_endpoint() -> str:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return f"http://127.0.0.1:{server.getsockname()[1]}"


@pytest.mark.parametrize("call", CALLS)
def test_wrong_credentials_are_access_denied_and_never_shown(
    s3_bucket: S3Bucket, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "wrong-key-id")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong-and-secret")
    with pytest.raises(AccessDenied) as denied:
        CALLS[call](S3Store(s3_bucket.url, endpoint_url=s3_bucket.endpoint_url))
    assert "AWS_ACCESS_KEY_ID" in str(denied.value)
    assert "wrong-and-secret" not in str(denied.value)
    assert "wrong-key-id" not in str(denied.value)


def test_a_wrong_secret_for_a_known_key_is_access_denied(s3_bucket: S3Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong-and-secret")
    with pytest.raises(AccessDenied, match="SignatureDoesNotMatch"):
        S3Store(s3_bucket.url, endpoint_url=s3_bucket.endpoint_url).create("k", b"v")


@pytest.mark.parametrize("call", CALLS)
def test_no_credentials_are_access_denied(s3_bucket: S3Bucket, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(AccessDenied, match="no usable credentials"):
        CALLS[call](S3Store(s3_bucket.url, endpoint_url=s3_bucket.endpoint_url))


@pytest.mark.parametrize("call", ["create", "put", "get", "list"])
def test_a_missing_bucket_is_refused_with_the_command_that_makes_it(s3_bucket: S3Bucket, call: str) -> None:
    with pytest.raises(UnsupportedStore, match="does not exist") as refusal:
        CALLS[call](S3Store("s3://no-such-bucket", endpoint_url=s3_bucket.endpoint_url))
    assert "aws s3 mb s3://no-such-bucket" in str(refusal.value)


@pytest.mark.parametrize("call", CALLS)
def test_a_server_that_is_down_is_unavailable(s3_credentials: None, dead_endpoint: str, call: str) -> None:
    with pytest.raises(StoreUnavailable, match="out of reach"):
        CALLS[call](S3Store("s3://bucket", endpoint_url=dead_endpoint, timeout_s=2.0))


def test_credentials_in_the_endpoint_are_refused_unseen() -> None:
    with pytest.raises(UnsupportedStore) as refusal:
        S3Store("s3://bucket", endpoint_url="http://user:hunter2@host:9000")
    assert "hunter2" not in str(refusal.value)
