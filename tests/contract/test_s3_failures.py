"""What S3 can answer, or not answer, and the error it becomes. On the real server where it can, else on a stub."""

from __future__ import annotations

import multiprocessing
import socket
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import pytest

from orchestrator.errors import AccessDenied, OrchestratorError, StoreUnavailable, UnsupportedStore
from orchestrator.planning.ports import Store
from orchestrator.storage.probe import probe
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


class Stub:
    """An HTTP server that gives one answer to everything, and counts."""

    def __init__(self, status: int, code: str) -> None:
        stub = self
        self.requests = 0

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"  # S3 clients ask before they send a body (Expect: 100-continue)

            def answer(self) -> None:
                stub.requests += 1
                self.rfile.read(int(self.headers.get("Content-Length", 0)))
                body = f"<Error><Code>{code}</Code><Message>key SECRET-IN-MESSAGE</Message></Error>".encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = answer  # noqa: N815 - the base class calls these names

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.endpoint_url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def stub(request: pytest.FixtureRequest, s3_credentials: None) -> Iterator[Stub]:
    server = Stub(*request.param)
    yield server
    server.close()


@pytest.fixture
def silent_endpoint() -> Iterator[str]:
    """Takes connections and never says anything."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


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
def test_a_server_that_is_down_is_unavailable_within_the_deadline(
    s3_credentials: None, dead_endpoint: str, call: str
) -> None:
    started = time.monotonic()
    with pytest.raises(StoreUnavailable, match="out of reach"):
        CALLS[call](S3Store("s3://bucket", endpoint_url=dead_endpoint, timeout_s=2.0))
    assert time.monotonic() - started < 6


@pytest.mark.parametrize("call", ["create", "get"])
def test_a_server_that_hangs_is_unavailable_within_the_deadline(
    s3_credentials: None, silent_endpoint: str, call: str
) -> None:
    started = time.monotonic()
    with pytest.raises(StoreUnavailable, match="out of reach"):
        CALLS[call](S3Store("s3://bucket", endpoint_url=silent_endpoint, timeout_s=1.0))
    assert time.monotonic() - started < 10


@pytest.mark.parametrize(
    ("stub", "expected", "text"),
    [
        ((409, "ConditionalRequestConflict"), StoreUnavailable, "409"),
        ((503, "SlowDown"), StoreUnavailable, "503"),
        ((500, "InternalError"), StoreUnavailable, "500"),
        ((400, "RequestTimeout"), StoreUnavailable, "RequestTimeout"),
        ((403, "AccessDenied"), AccessDenied, "s3:PutObject"),
        ((403, "RequestTimeTooSkewed"), AccessDenied, "clock"),
        ((400, "ExpiredToken"), AccessDenied, "ExpiredToken"),
        ((401, "Unauthorized"), AccessDenied, "401"),
        ((501, "NotImplemented"), UnsupportedStore, "conditional writes"),
        ((400, "InvalidBucketName"), UnsupportedStore, "InvalidBucketName"),
    ],
    indirect=["stub"],
)
def test_each_answer_to_a_create_has_its_error(stub: Stub, expected: type[OrchestratorError], text: str) -> None:
    with pytest.raises(expected) as raised:
        S3Store("s3://bucket", endpoint_url=stub.endpoint_url).create("k", b"v")
    assert text in str(raised.value)
    assert "SECRET-IN-MESSAGE" not in str(raised.value)
    assert stub.requests == 1  # a create is never repeated by a library


@pytest.mark.parametrize("stub", [(412, "PreconditionFailed")], indirect=True)
def test_a_failed_precondition_is_a_lost_create_even_when_the_server_does_not_name_the_condition(stub: Stub) -> None:
    assert S3Store("s3://bucket", endpoint_url=stub.endpoint_url).create("k", b"v") is False
    assert stub.requests == 1


@pytest.mark.parametrize("stub", [(503, "SlowDown")], indirect=True)
def test_everything_but_a_create_is_repeated(stub: Stub) -> None:
    with pytest.raises(StoreUnavailable):
        S3Store("s3://bucket", endpoint_url=stub.endpoint_url, timeout_s=4.0).put("k", b"v")
    assert stub.requests > 1


@pytest.mark.parametrize("stub", [(403, "AccessDenied")], indirect=True)
def test_the_probe_names_the_permission_that_tells_missing_from_forbidden(stub: Stub) -> None:
    with pytest.raises(AccessDenied, match="s3:ListBucket"):
        probe(S3Store("s3://bucket", endpoint_url=stub.endpoint_url), "job/run/probe")


def test_credentials_in_the_endpoint_are_refused_unseen() -> None:
    with pytest.raises(UnsupportedStore) as refusal:
        S3Store("s3://bucket", endpoint_url="http://user:hunter2@host:9000")
    assert "hunter2" not in str(refusal.value)


def test_a_forked_child_gets_clients_of_its_own(s3_bucket: S3Bucket) -> None:
    store = S3Store(s3_bucket.url, endpoint_url=s3_bucket.endpoint_url)
    store.put("parent", b"from the parent")
    child = multiprocessing.get_context("fork").Process(target=_copy, args=(store,))
    child.start()
    child.join(timeout=60)
    assert child.exitcode == 0
    assert store.get("child") == b"from the parent"


def _copy(store: S3Store) -> None:
    store.put("child", store.get("parent"))
