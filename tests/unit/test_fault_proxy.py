"""The fault proxy itself: what it passes on is unchanged, what strikes is what the rule says, and seeds replay."""

from __future__ import annotations

import http.client
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.support.fault_proxy import FaultProxy
from tests.support.fault_rules import (
    Corrupt,
    CorruptUpload,
    Delay,
    Effect,
    Hang,
    Ledger,
    LostResponse,
    Reset,
    ResetAfter,
    Rule,
    Status,
    Throttle,
    Truncate,
)

BODY = bytes(range(256)) * 1000


class Origin(ThreadingHTTPServer):
    """Keeps what is PUT, gives it back on GET, and remembers the headers."""

    daemon_threads = True

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.headers: list[Any] = []
        super().__init__(("127.0.0.1", 0), _OriginHandler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _OriginHandler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Origin

    def do_PUT(self) -> None:
        if self.headers.get("Transfer-Encoding") == "chunked":
            body = b""
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        else:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if len(body) < int(self.headers["Content-Length"]):
                return  # broken off: nothing is kept
        self.server.headers.append(self.headers)
        self.server.objects[self.path] = body
        self._say(204, b"")

    def do_GET(self) -> None:
        body = self.server.objects.get(self.path)
        self._say(404 if body is None else 200, body or b"")

    do_HEAD = do_GET  # noqa: N815 - the base class calls this name

    def _say(self, status: int, body: bytes) -> None:
        self.send_response(status)
        if status != 204:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def origin() -> Iterator[Origin]:
    with Origin() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        yield server
        server.shutdown()


@pytest.fixture
def proxy(origin: Origin) -> Iterator[FaultProxy]:
    with FaultProxy(origin.url, seed=7) as running:
        yield running


@pytest.fixture
def client(proxy: FaultProxy) -> Iterator[http.client.HTTPConnection]:
    connection = http.client.HTTPConnection(str(urlsplit(proxy.endpoint_url).netloc), timeout=30)
    yield connection
    connection.close()


def ask(client: http.client.HTTPConnection, method: str, path: str, **more: Any) -> tuple[int, bytes]:
    client.request(method, path, **more)
    response = client.getresponse()
    return response.status, response.read()


def test_requests_pass_unchanged_over_one_connection_with_the_host_that_the_client_signed(
    proxy: FaultProxy, client: http.client.HTTPConnection, origin: Origin
) -> None:
    assert ask(client, "PUT", "/b/k%20ey?x=1", body=BODY) == (204, b"")
    used = client.sock
    assert ask(client, "GET", "/b/k%20ey?x=1") == (200, BODY)
    assert ask(client, "HEAD", "/b/k%20ey?x=1") == (200, b"")
    assert ask(client, "GET", "/missing") == (404, b"")
    assert client.sock is used
    assert origin.headers[0]["Host"] == urlsplit(proxy.endpoint_url).netloc
    assert [each.target for each in proxy.seen("PUT")] == ["/b/k ey?x=1"]
    proxy.check_fired()


def test_chunked_uploads_and_expectations_are_served(client: http.client.HTTPConnection, origin: Origin) -> None:
    ask(client, "PUT", "/chunked", body=iter([b"one", b"two" * 50_000]), encode_chunked=True)
    assert origin.objects["/chunked"] == b"one" + b"two" * 50_000

    client.putrequest("PUT", "/expected")
    client.putheader("Content-Length", "3")
    client.putheader("Expect", "100-continue")
    client.endheaders()
    assert client.sock.recv(100).startswith(b"HTTP/1.1 100")  # before any byte of the body
    client.send(b"abc")
    client.getresponse().read()
    assert origin.objects["/expected"] == b"abc"


def test_a_status_is_answered_without_the_server_and_keeps_the_connection(
    proxy: FaultProxy, client: http.client.HTTPConnection, origin: Origin
) -> None:
    proxy.set_rules(Rule(Status(503, "SlowDown"), "PUT", times=1))
    status, body = ask(client, "PUT", "/k", body=BODY)
    assert status == 503
    assert b"<Code>SlowDown</Code>" in body
    assert origin.objects == {}
    assert ask(client, "PUT", "/k", body=BODY)[0] == 204


@pytest.mark.parametrize(
    ("effect", "arrives"), [(Reset(), False), (ResetAfter(1000), False), (LostResponse(), True)], ids=str
)
def test_resets_reach_the_client_and_only_a_lost_response_lets_the_server_act(
    proxy: FaultProxy, client: http.client.HTTPConnection, origin: Origin, effect: Effect, arrives: bool
) -> None:
    proxy.set_rules(Rule(effect))
    with pytest.raises(ConnectionError):
        ask(client, "PUT", "/k", body=BODY)
    assert ("/k" in origin.objects) is arrives
    proxy.check_fired()


def test_bodies_are_cut_and_bits_flipped_in_both_directions(
    proxy: FaultProxy, client: http.client.HTTPConnection, origin: Origin
) -> None:
    origin.objects["/k"] = BODY
    proxy.set_rules(Rule(Truncate(), times=1), Rule(Corrupt(), times=1), Rule(CorruptUpload(), "PUT"))

    assert ask(client, "GET", "/k") == (200, BODY[: len(BODY) // 2])
    _, corrupt = ask(client, "GET", "/k")
    ask(client, "PUT", "/up", body=BODY)

    for changed in (corrupt, origin.objects["/up"]):
        assert [a ^ b for a, b in zip(changed, BODY, strict=True) if a != b] == [1]


def test_a_body_that_breaks_off_was_announced_whole(
    proxy: FaultProxy, client: http.client.HTTPConnection, origin: Origin
) -> None:
    origin.objects["/k"] = BODY
    proxy.set_rules(Rule(Truncate(announced=False)))
    with pytest.raises(http.client.IncompleteRead) as broken:
        ask(client, "GET", "/k")
    assert broken.value.partial == BODY[: len(BODY) // 2]


@pytest.mark.parametrize("effect", [Delay(0.01), Throttle(2**24)], ids=str)
def test_slow_is_still_right(
    proxy: FaultProxy, client: http.client.HTTPConnection, origin: Origin, effect: Effect
) -> None:
    proxy.set_rules(Rule(effect))
    assert ask(client, "PUT", "/k", body=BODY)[0] == 204
    assert ask(client, "GET", "/k") == (200, BODY)
    assert proxy.fired(Rule(effect)) == 2


def test_what_hangs_reaches_the_server_when_it_is_released_though_its_client_is_gone(
    proxy: FaultProxy, client: http.client.HTTPConnection, origin: Origin
) -> None:
    rule = Rule(Hang(), "PUT")
    proxy.set_rules(rule)
    client.timeout = 0.2
    with pytest.raises(TimeoutError):
        ask(client, "PUT", "/late", body=b"whole")  # so short that it is on its way before the client gives up
    client.close()
    assert origin.objects == {}
    proxy.wait_until_fired(rule)
    proxy.release()
    assert origin.objects == {"/late": b"whole"}


def test_what_hangs_is_reset_when_the_proxy_closes(origin: Origin) -> None:
    rule = Rule(Hang())
    with ThreadPoolExecutor(1) as pool:
        with FaultProxy(origin.url, [rule]) as proxy:
            client = http.client.HTTPConnection(str(urlsplit(proxy.endpoint_url).netloc), timeout=30)
            answer = pool.submit(ask, client, "PUT", "/k", body=b"x")
            proxy.wait_until_fired(rule)
        with pytest.raises(ConnectionError):
            answer.result(timeout=30)
    assert origin.objects == {}


def test_what_comes_to_hang_while_the_proxy_closes_is_reset_too(origin: Origin) -> None:
    rule = Rule(Hang())
    with FaultProxy(origin.url, [rule]) as proxy:
        client = http.client.HTTPConnection(str(urlsplit(proxy.endpoint_url).netloc), timeout=30)
        client.putrequest("PUT", "/k")
        client.putheader("Content-Length", "3")
        client.endheaders()
        proxy.wait_until_fired(rule)
    client.send(b"abc")  # its upload ends, and it waits, when the proxy is closed already
    with pytest.raises(ConnectionError):
        client.getresponse()
    assert origin.objects == {}


def test_a_server_that_is_down_looks_like_a_reset_and_no_failure_of_the_proxy(origin: Origin) -> None:
    with FaultProxy("http://127.0.0.1:9") as proxy:
        client = http.client.HTTPConnection(str(urlsplit(proxy.endpoint_url).netloc), timeout=30)
        with pytest.raises(ConnectionError):
            ask(client, "GET", "/k")
        proxy.check_fired()


def strikes(seed: int, **how: Any) -> list[bool]:
    ledger = Ledger(seed)
    ledger.replace([Rule(Reset(), **how)])
    return [ledger.strike("PUT", f"/k{number}") is not None for number in range(200)]


def test_rules_count_skips_and_times() -> None:
    assert strikes(0, skip=2, times=3)[:7] == [False, False, True, True, True, False, False]


def test_the_seed_decides_what_a_probability_strikes() -> None:
    struck = strikes(1, probability=0.3)
    assert struck == strikes(1, probability=0.3)
    assert struck != strikes(2, probability=0.3)
    assert 30 < sum(struck) < 90


@pytest.mark.parametrize(
    ("method", "key", "target", "meant"),
    [
        ("PUT", "", "/b/k", True),
        ("PUT|POST", "/log/", "/b/log/1", True),
        ("GET", "", "/b/k", False),
        ("PU", "", "/b/k", False),
        ("PUT", r"partNumber=2\b", "/b/k?partNumber=20", False),
    ],
)
def test_rules_mean_whole_methods_and_parts_of_targets(method: str, key: str, target: str, meant: bool) -> None:
    assert Rule(Reset(), method, key).means("PUT", target) is meant


def test_of_several_rules_the_first_strikes_and_an_idle_one_is_reported() -> None:
    first, idle, second = Rule(Reset(), times=1), Rule(Hang(), "POST"), Rule(LostResponse())
    ledger = Ledger(3)
    ledger.replace([first, idle, second])
    assert [ledger.strike("PUT", "/k") for _ in range(2)] == [Reset(), LostResponse()]
    with pytest.raises(AssertionError, match="never struck") as report:
        ledger.check_fired()
    assert "seed 3" in str(report.value)
    assert "1 × PUT /k   ← Reset()" in ledger.table()


def test_rules_can_be_replaced_while_clients_are_served(proxy: FaultProxy, origin: Origin) -> None:
    origin.objects["/k"] = b"v"
    rule = Rule(Status(500, "InternalError"))
    start = threading.Barrier(5)

    def reads(count: int) -> set[int]:
        client = http.client.HTTPConnection(str(urlsplit(proxy.endpoint_url).netloc), timeout=30)
        start.wait(timeout=30)
        return {ask(client, "GET", "/k")[0] for _ in range(count)}

    def switch() -> None:
        start.wait(timeout=30)
        for number in range(50):
            proxy.set_rules(*([rule] if number % 2 == 0 else []))
        proxy.set_rules(rule)

    with ThreadPoolExecutor(5) as pool:
        switching = pool.submit(switch)
        answers: Callable[[], list[set[int]]] = lambda: list(pool.map(reads, [50] * 4))  # noqa: E731
        assert set().union(*answers()) <= {200, 500}
        switching.result(timeout=30)
    assert reads_one(proxy) == 500
    proxy.check_fired()


def reads_one(proxy: FaultProxy) -> int:
    return ask(http.client.HTTPConnection(str(urlsplit(proxy.endpoint_url).netloc), timeout=30), "GET", "/k")[0]
