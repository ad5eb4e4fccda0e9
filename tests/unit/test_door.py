"""Knocking at a cluster's door, before servers that answer as Ray's do."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import grpc
import pytest
import ray

from orchestrator.api import run
from orchestrator.cluster.authentication import Door, Means, Token
from orchestrator.cluster.door import knock
from orchestrator.errors import ClusterUnavailable
from orchestrator.reporting.progress import SilentProgress
from orchestrator.spec import load_job
from tests.support.cli_job import write_tiny_job

RIGHT, WRONG = Means("token", Token("right", "RAY_AUTH_TOKEN")), Means("token", Token("wrong", "RAY_AUTH_TOKEN"))
NONE = Means("", None)
Answer = Callable[[str | None], int]


def guarded(authorization: str | None) -> int:
    if authorization is None:
        return 401
    return 200 if authorization == "Bearer right" else 403


@contextmanager
def job_server(answer: Answer) -> Iterator[tuple[str, list[str | None]]]:
    """A server that answers by what is shown to it; its URL, and what was shown."""
    shown: list[str | None] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            shown.append(self.headers.get("Authorization"))
            self.send_response(answer(shown[-1]))
            self.send_header("Location", "/elsewhere")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            """Keep the test's output clean."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", shown
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@contextmanager
def head(answer: Answer) -> Iterator[str]:
    """A gRPC server with the methods that are knocked at; its address."""

    def reply(request: bytes, context: grpc.ServicerContext) -> bytes:
        shown = dict(context.invocation_metadata()).get("authorization")
        if answer(shown) != 200:
            context.abort(grpc.StatusCode.UNAUTHENTICATED, "no")
        return b""

    class Methods(grpc.GenericRpcHandler):
        def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
            known = details.method.startswith("/ray.rpc.")
            return grpc.unary_unary_rpc_method_handler(reply) if known else None

    server = grpc.server(ThreadPoolExecutor(2), handlers=[Methods()])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(None).wait()


CASES = [
    (lambda shown: 200, NONE, Door(wants_token=False)),
    (lambda shown: 200, RIGHT, Door(wants_token=False)),
    (guarded, NONE, Door(wants_token=True)),
    (guarded, RIGHT, Door(wants_token=True, takes_ours=True)),
    (guarded, WRONG, Door(wants_token=True, takes_ours=False)),
]


@pytest.mark.parametrize(("answer", "means", "door"), CASES)
def test_a_job_server_tells_whether_it_wants_a_token_and_takes_ours(answer: Answer, means: Means, door: Door) -> None:
    with job_server(answer) as (address, shown):
        assert knock(address, means) == door
    assert shown[0] is None  # a cluster that wants no token gets to see none
    assert len(shown) == (2 if door.takes_ours is not None else 1)


@pytest.mark.parametrize("scheme", ["", "ray://"])
@pytest.mark.parametrize(("answer", "means", "door"), CASES)
def test_a_head_and_its_client_server_tell_the_same(answer: Answer, means: Means, door: Door, scheme: str) -> None:
    with head(answer) as address:
        assert knock(f"{scheme}{address}", means) == door


def test_a_head_is_knocked_at_past_a_proxy_as_ray_reaches_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "grpc_proxy", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    for name in ("no_proxy", "NO_PROXY", "no_grpc_proxy"):
        monkeypatch.delenv(name, raising=False)
    with head(guarded) as address:
        assert knock(address, RIGHT) == Door(wants_token=True, takes_ours=True)


@pytest.mark.parametrize("status", [404, 500, 302])
def test_what_is_no_job_server_says_nothing_of_tokens(status: int) -> None:
    with job_server(lambda shown: status) as (address, shown):
        assert knock(address, RIGHT) is None
    assert shown == [None]


def test_a_token_is_not_taken_along_to_where_a_server_sends_us() -> None:
    with job_server(lambda shown: 401 if shown is None else 307) as (address, shown):
        assert knock(address, RIGHT) == Door(wants_token=True, takes_ours=None)
    assert shown == [None, "Bearer right"]


@pytest.mark.parametrize("form", ["http://{}", "{}", "ray://{}"])
def test_where_nobody_opens_the_error_says_so_at_once(form: str) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        with pytest.raises(OSError, match="refused"):
            knock(form.format(f"127.0.0.1:{unused.getsockname()[1]}"), NONE)


@pytest.mark.parametrize("form", ["http://{}", "{}", "ray://{}"])
def test_a_server_that_is_silent_holds_nobody_for_long(form: str) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        address = form.format(f"127.0.0.1:{silent.getsockname()[1]}")
        if form.startswith("http"):
            with pytest.raises(OSError, match="timed out"):
                knock(address, NONE, timeout_s=0.3)
        else:
            assert knock(address, NONE, timeout_s=0.3) is None


@pytest.mark.parametrize(("host", "warned"), [("127.0.0.1", 0), ("0.0.0.0", 1)])
def test_a_run_is_warned_of_a_cluster_that_lets_everybody_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, host: str, warned: int
) -> None:
    """0.0.0.0 is this machine too, by a name that is not its own alone. Ray itself is not asked further than that."""
    monkeypatch.setattr(ray, "init", lambda **_: None)
    monkeypatch.setattr(ray, "nodes", end_here)
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    told: list[str] = []
    progress = SilentProgress()
    monkeypatch.setattr(progress, "note", told.append)
    with head(lambda shown: 200) as address:
        where = address.replace("127.0.0.1", host)
        job = load_job(write_tiny_job(tmp_path, {"url": str(tmp_path / "runs")}), [f"ray.address={where}"])
        with pytest.raises(ClusterUnavailable, match="far enough"):
            run(job, root=str(tmp_path), progress=progress)
    assert [line for line in told if "asks for no token" in line] == told[1 : 1 + warned]


def end_here() -> None:
    raise ClusterUnavailable("far enough")


def test_an_address_without_a_port_is_left_to_ray() -> None:
    assert knock("head", NONE) is None
