"""An HTTP/1.1 proxy in front of a real S3 server that injects faults by rules, for any number of client processes.

It passes the Host header on as it came, so that signatures hold: a client needs its `endpoint_url` and nothing else.
Uploads are passed on as they come in; answers are read whole first.
"""

from __future__ import annotations

import http.client
import os
import socket
import struct
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit
from xml.sax.saxutils import escape

from tests.support.fault_rules import (
    Corrupt,
    CorruptUpload,
    Delay,
    Hang,
    Ledger,
    LostResponse,
    Reset,
    ResetAfter,
    Rule,
    Seen,
    Status,
    Throttle,
    Truncate,
)

_PIECE_BYTES = 2**16
_THROTTLE_STEP_S = 0.05
_UPSTREAM_TIMEOUT_S = 60.0
_HOP_BY_HOP = {"connection", "keep-alive", "expect", "proxy-connection", "te", "upgrade"}


class FaultProxy:
    """The running proxy. Close it, or use it in a `with`.

    Args:
        upstream_url: the real server, `http://host:port`.
        rules: what goes wrong; `rules` can be assigned while it runs.
        seed: of all rules with a probability.
    """

    def __init__(self, upstream_url: str, rules: Iterable[Rule] = (), *, seed: int = 0) -> None:
        parts = urlsplit(upstream_url)
        self.upstream = (str(parts.hostname), int(parts.port or 80))
        self.ledger = Ledger(seed)
        self.ledger.replace(rules)
        self.gate = _Gate()
        self._closing = threading.Event()
        self._server = _Server(self)
        self.endpoint_url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    def __enter__(self) -> FaultProxy:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def set_rules(self, *rules: Rule) -> None:
        """Put these rules in force instead of those before; none at all: everything passes."""
        self.ledger.replace(rules)

    def seen(self, method: str = ".*", key: str = "") -> list[Seen]:
        """The requests so far whose method and key match."""
        return self.ledger.seen(method, key)

    def fired(self, rule: Rule) -> int:
        """How many requests the rule has struck."""
        return self.ledger.fired(rule)

    def wait_until_fired(self, rule: Rule, times: int = 1) -> None:
        """Wait, with a deadline, until the rule has struck so often."""
        self.ledger.wait_until_fired(rule, times)

    def check_fired(self) -> None:
        """Raises AssertionError when a rule never struck, or when the proxy itself failed."""
        assert not self._server.failures, f"the proxy itself failed: {self._server.failures}"
        self.ledger.check_fired()

    def release(self) -> None:
        """Pass on what hangs now, though its client may be long gone, and wait until the server has answered it."""
        self.gate.open()

    def close(self) -> None:
        """End it: what hangs, or comes to hang yet, is reset, and new connections are refused."""
        self._closing.set()
        self.gate.tear_down()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(timeout=10)

    def pause(self, seconds: float) -> None:
        """Block a request for a while. Raises `Cut` when the proxy ends meanwhile."""
        if self._closing.wait(seconds):
            raise Cut


class Cut(Exception):
    """The client's connection is to be reset."""


class _Gate:
    """Holds requests back until it is opened after they came; whoever opens it waits until they are through."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._times_opened = 0
        self._is_gone = False
        self._inside: Counter[int] = Counter()
        """Requests, by how often the gate had been opened before they came."""

    @contextmanager
    def passage(self) -> Iterator[Callable[[], None]]:
        """Come to the gate. What it gives waits there, and raises `Cut` when the gate is torn down."""
        with self._changed:
            came_at = self._times_opened
            self._inside[came_at] += 1

        def wait() -> None:
            with self._changed:
                self._changed.wait_for(lambda: self._is_gone or self._times_opened > came_at)
                if self._is_gone:
                    raise Cut

        try:
            yield wait
        finally:
            with self._changed:
                self._inside[came_at] -= 1
                self._changed.notify_all()

    def open(self) -> None:
        """Let through whoever has come, and wait until they are. Raises AssertionError when that takes too long."""
        with self._changed:
            self._times_opened += 1
            before = self._times_opened
            self._changed.notify_all()
            through = self._changed.wait_for(
                lambda: not any(count for came_at, count in self._inside.items() if came_at < before),
                _UPSTREAM_TIMEOUT_S,
            )
        assert through, "a held request never ended"

    def tear_down(self) -> None:
        """Cut off whoever waits, and whoever comes to wait."""
        with self._changed:
            self._is_gone = True
            self._changed.notify_all()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, proxy: FaultProxy) -> None:
        self.proxy = proxy
        self.failures: list[str] = []
        super().__init__(("127.0.0.1", 0), _Handler)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away is no failure of the proxy; anything else is."""
        error = sys.exc_info()[1]
        if not isinstance(error, ConnectionError):
            self.failures.append(repr(error))


class _Handler(BaseHTTPRequestHandler):
    """One client connection: requests one after another, each suffering at most one effect."""

    protocol_version = "HTTP/1.1"  # keeps connections alive, and answers `Expect: 100-continue`
    disable_nagle_algorithm = True
    server: _Server

    def _serve(self) -> None:
        try:
            self._suffer()
        except (Cut, ConnectionError, http.client.HTTPException):
            # The last two: the server went away, and a client without proxy would have seen a reset, too.
            self._reset()

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _serve  # noqa: N815 - the base class calls these names

    def _suffer(self) -> None:
        proxy = self.server.proxy
        # It comes to the gate before its strike is told: whoever waits for that may open the gate, or close, at once.
        with proxy.gate.passage() as wait:
            effect = proxy.ledger.strike(self.command, unquote(self.path))
            if isinstance(effect, Hang):
                upload = list(self._upload())
                wait()
                self._pass_on(upload)
                return
        match effect:
            case None:
                self._pass_on()
            case Status(status, code, message):
                self._drain()
                error = f"<Error><Code>{escape(code)}</Code><Message>{escape(message)}</Message></Error>"
                self._answer(status, [("Content-Type", "application/xml")], error.encode())
            case Delay(seconds):
                proxy.pause(seconds)
                self._pass_on()
            case Reset():
                raise Cut
            case ResetAfter(num_bytes):
                self._pass_on(_cut_after(self._upload(), num_bytes))
            case LostResponse():
                self._ask(self._upload())
                raise Cut
            case CorruptUpload():
                self._pass_on([_flip_a_bit(b"".join(self._upload()))])
            case Corrupt():
                status, headers, body = self._ask(self._upload())
                self._answer(status, headers, _flip_a_bit(body))
            case Truncate(announced):
                status, headers, body = self._ask(self._upload())
                self._answer(status, headers, body[: len(body) // 2], length=None if announced else len(body))
            case Throttle(bytes_per_s):
                self._throttle(bytes_per_s)

    def _throttle(self, bytes_per_s: float) -> None:
        def slowly(pieces: Iterable[bytes]) -> Iterator[bytes]:
            for piece in pieces:
                yield piece
                self.server.proxy.pause(len(piece) / bytes_per_s)

        step = max(1, min(_PIECE_BYTES, int(bytes_per_s * _THROTTLE_STEP_S)))
        status, headers, body = self._ask(slowly(self._upload(step)))
        self._answer(status, headers, body, pieces=slowly(_split(body, step)))

    def _pass_on(self, upload: Iterable[bytes] | None = None) -> None:
        self._answer(*self._ask(self._upload() if upload is None else upload))

    def _ask(self, upload: Iterable[bytes]) -> tuple[int, list[tuple[str, str]], bytes]:
        """Put the request to the real server; its whole answer."""
        connection = http.client.HTTPConnection(*self.server.proxy.upstream, timeout=_UPSTREAM_TIMEOUT_S)
        try:
            connection.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                if name.lower() not in _HOP_BY_HOP:
                    connection.putheader(name, value)
            connection.putheader("Connection", "close")
            connection.endheaders()
            try:
                self._send(connection, upload)
            except Cut:
                _close_with_reset(connection.sock)
                raise
            response = connection.getresponse()
            return response.status, response.getheaders(), response.read()
        except TimeoutError as error:
            raise Cut from error
        finally:
            connection.close()

    def _send(self, connection: http.client.HTTPConnection, upload: Iterable[bytes]) -> None:
        pieces = iter(upload)
        with suppress(BrokenPipeError, ConnectionResetError):  # it has answered already, and wants no more
            for piece in pieces:
                connection.send(b"%x\r\n%b\r\n" % (len(piece), piece) if self._is_chunked() else piece)
            if self._is_chunked():
                connection.send(b"0\r\n\r\n")
        for _ in pieces:
            pass

    def _answer(
        self,
        status: int,
        headers: Iterable[tuple[str, str]],
        body: bytes,
        *,
        length: int | None = None,
        pieces: Iterable[bytes] | None = None,
    ) -> None:
        """Send an answer.

        Args:
            length: the Content-Length to announce; None is that of the body.
            pieces: the body, bit by bit; None: all at once.
        """
        has_body = self.command != "HEAD" and status not in (204, 304)
        self.send_response_only(status)
        for name, value in headers:
            if name.lower() not in _HOP_BY_HOP | {"transfer-encoding"} and not (
                has_body and name.lower() == "content-length"
            ):
                self.send_header(name, value)
        if has_body:
            self.send_header("Content-Length", str(len(body) if length is None else length))
        self.end_headers()
        if not has_body:
            return
        for piece in [body] if pieces is None else pieces:
            self.wfile.write(piece)
        if length is not None and length != len(body):
            self.close_connection = True

    def _upload(self, piece_bytes: int = _PIECE_BYTES) -> Iterator[bytes]:
        """The request's body as it comes in. Raises ConnectionResetError when the client breaks off."""
        if self._is_chunked():
            while size := int(self.rfile.readline().split(b";")[0] or b"0", 16):
                yield self._read(size)
                self.rfile.readline()
            while self.rfile.readline().strip():
                pass  # trailing headers
            return
        left = int(self.headers.get("Content-Length", 0))
        while left:
            piece = self._read(min(piece_bytes, left))
            left -= len(piece)
            yield piece

    def _read(self, size: int) -> bytes:
        piece = self.rfile.read(size)
        if len(piece) < size:
            raise ConnectionResetError("the client broke off its upload")
        return piece

    def _drain(self) -> None:
        for _ in self._upload():
            pass

    def _is_chunked(self) -> bool:
        return "chunked" in self.headers.get("Transfer-Encoding", "").lower()

    def _reset(self) -> None:
        self.close_connection = True
        _close_with_reset(self.connection)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: the ledger has it."""


def _close_with_reset(connection: socket.socket | None) -> None:
    """Close so that the other side gets RST, not an orderly end. A `close` would wait for open file objects on it."""
    if connection is None or connection.fileno() < 0:
        return
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    os.close(connection.detach())


def _cut_after(pieces: Iterable[bytes], num_bytes: int) -> Iterator[bytes]:
    for piece in pieces:
        yield piece[:num_bytes]
        num_bytes -= len(piece)
        if num_bytes <= 0:
            raise Cut


def _split(body: bytes, size: int) -> Iterator[bytes]:
    return (body[start : start + size] for start in range(0, len(body), size))


def _flip_a_bit(body: bytes) -> bytes:
    middle = len(body) // 2
    return body[:middle] + bytes([body[middle] ^ 1]) + body[middle + 1 :] if body else body
