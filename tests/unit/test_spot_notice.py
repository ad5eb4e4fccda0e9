"""EC2's notice that a spot node goes: read from the node's metadata service, and passed on once."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from orchestrator.cluster.launcher.spot_notice import POLL_S, ask_ec2, main, watch
from orchestrator.errors import ClusterUnavailable, InvalidInput

NOTICE = '{"action": "terminate", "time": "2026-11-21T20:22:00Z"}'
ENDS_AT = 1795292520.0


class Metadata(ThreadingHTTPServer):
    """A node's metadata service, which answers only those who fetched a token first; `notice` None: there is none."""

    notice: str | None = None
    status = 200

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/latest"


class Answer(BaseHTTPRequestHandler):
    server: Metadata

    def do_PUT(self) -> None:  # the base class names it so
        asked = self.headers["X-aws-ec2-metadata-token-ttl-seconds"] and self.path == "/latest/api/token"
        self._say(200 if asked else 400, "the-token")

    def do_GET(self) -> None:
        if self.headers["X-aws-ec2-metadata-token"] != "the-token":
            self._say(401, "")
        elif self.path != "/latest/meta-data/spot/instance-action" or self.server.notice is None:
            self._say(404, "")
        else:
            self._say(self.server.status, self.server.notice)

    def _say(self, status: int, text: str) -> None:
        self.send_response(status)
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def metadata() -> Iterator[Metadata]:
    server = Metadata(("127.0.0.1", 0), Answer)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join(timeout=30)


def test_without_a_notice_there_is_none(metadata: Metadata) -> None:
    assert ask_ec2(metadata.url) is None


def test_a_notice_says_when_the_node_goes(metadata: Metadata) -> None:
    metadata.notice = NOTICE
    assert ask_ec2(metadata.url) == ENDS_AT


@pytest.mark.parametrize("notice", ["{}", "soon", "[]", '{"time": "soon"}'])
def test_what_is_no_notice_is_not_taken_for_one(metadata: Metadata, notice: str) -> None:
    metadata.notice = notice
    with pytest.raises(ValueError, match=r"."):
        ask_ec2(metadata.url)


def test_a_service_that_fails_is_an_error(metadata: Metadata) -> None:
    metadata.notice, metadata.status = NOTICE, 503
    with pytest.raises(OSError, match="503"):
        ask_ec2(metadata.url)


def test_the_notice_is_passed_on_once_whatever_failed_before() -> None:
    answers = iter([OSError("no answer"), None, ValueError("garbage"), ENDS_AT, ENDS_AT])
    failures = iter([ClusterUnavailable("the head is away")])
    told: list[float] = []
    waits: list[float] = []

    def ask() -> float | None:
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def tell(ends_at: float) -> None:
        for failure in failures:
            raise failure
        told.append(ends_at)

    watch(ask, tell, waits.append)
    assert told == [ENDS_AT]
    assert waits == [POLL_S] * 4


@pytest.mark.parametrize("arguments", [[], ["a:1", "b:2"]])
def test_without_the_heads_address_there_is_nothing_to_watch(arguments: list[str]) -> None:
    with pytest.raises(InvalidInput, match="worker_start_ray_commands"):
        main(arguments)
