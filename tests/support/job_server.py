"""A job server without a cluster: it takes jobs as Ray's does, runs none of them, and remembers who asked for what."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class FakeJobServer:
    """What is known there, by submission id, and what a test lets go wrong.

    Attributes:
        jobs: as Ray tells them; a test may add and change them.
        logs: of the drivers.
        requests: method, path and headers of each.
        looks: how the next looks at one job are answered, as HTTP statuses; the last one stays.
        refused: what every request is answered instead, an HTTP error; None: nothing.
        loses_answers: jobs are taken, and the one who submits them is told of an error.
        before_taking: called once, before the next job is taken.
        ends: the exit code and log with which a submitted job is over at once; None: it runs until `end`.
        is_deaf: a job that is asked to stop runs on.
        watched: set once somebody has looked at a job.
    """

    jobs: dict[str, dict[str, Any]] = field(default_factory=dict)
    logs: dict[str, str] = field(default_factory=dict)
    requests: list[tuple[str, str, dict[str, str]]] = field(default_factory=list)
    looks: list[int] = field(default_factory=list)
    refused: int | None = None
    loses_answers: bool = False
    before_taking: Callable[[], None] | None = None
    ends: tuple[int, str] | None = None
    is_deaf: bool = False
    watched: threading.Event = field(default_factory=threading.Event)
    address: str = ""

    def add(self, submission_id: str, status: str = "RUNNING", **more: Any) -> None:
        """Let a job be there."""
        self.jobs[submission_id] = {
            "type": "SUBMISSION",
            "submission_id": submission_id,
            "status": status,
            "entrypoint": "x",
            "driver_exit_code": None,
            **more,
        }

    def end(self, submission_id: str, exit_code: int, log: str = "") -> None:
        """Let a job's driver exit."""
        self.logs[submission_id] = log
        status = "FAILED" if exit_code else "SUCCEEDED"
        self.jobs[submission_id] |= {"status": status, "driver_exit_code": exit_code}

    def asked(self, method: str) -> list[str]:
        """The paths of the requests of this method."""
        return [path for asked, path, _ in self.requests if asked == method]

    def answer(self, method: str, path: str, body: Any) -> tuple[int, Any]:
        """Status and body of the answer to a request."""
        if self.refused is not None:
            return self.refused, {}
        if path == "/api/version":
            return 200, {"ray_version": "2.60.0"}
        if path.startswith("/api/packages/"):
            return (404 if method == "GET" else 200), {}
        parts = path.removeprefix("/api/jobs/").split("/")
        if not parts[0]:
            return (200, list(self.jobs.values())) if method == "GET" else self._take(body)
        if parts[0] not in self.jobs:
            return 404, {}
        if parts[1:] == ["stop"]:
            if not self.is_deaf:
                self.jobs[parts[0]]["status"] = "STOPPED"
            return 200, {"stopped": True}
        if parts[1:] == ["logs"]:
            return 200, {"logs": self.logs.get(parts[0], "")}
        if parts[1:] == ["logs", "tail"]:
            return 500, {}
        self.watched.set()
        if self.looks:
            status = self.looks.pop(0) if len(self.looks) > 1 else self.looks[0]
            return status, self.jobs[parts[0]] if status == 200 else {}
        return 200, self.jobs[parts[0]]

    def _take(self, body: Any) -> tuple[int, Any]:
        if before_taking := self.before_taking:
            self.before_taking = None
            before_taking()
        submission_id = body["submission_id"]
        if submission_id in self.jobs:
            return 400, {}
        self.add(submission_id, **{name: body[name] for name in ("entrypoint", "metadata", "runtime_env")})
        if self.ends is not None:
            self.end(submission_id, *self.ends)
        return (500, {}) if self.loses_answers else (200, {"job_id": submission_id, "submission_id": submission_id})


@contextmanager
def fake_job_server() -> Iterator[FakeJobServer]:
    """Start one on a port of its own; it ends with the block."""
    fake = FakeJobServer()

    class Handler(BaseHTTPRequestHandler):
        def handle_one(self) -> None:
            sent = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            fake.requests.append((self.command, self.path, dict(self.headers.items())))
            body = json.loads(sent) if sent[:1] == b"{" else None
            status, answer = fake.answer(self.command, self.path, body)
            text = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        do_GET = do_POST = do_PUT = handle_one  # noqa: N815  # the names that the library calls

        def log_message(self, format: str, *args: object) -> None:
            """Keep the test's output clean."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    fake.address = f"http://127.0.0.1:{server.server_port}"
    try:
        yield fake
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
