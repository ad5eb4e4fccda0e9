"""Fault 34, for what leaves this machine: a submission carries names and paths of credentials, never values."""

from __future__ import annotations

import io
import json
import threading
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from orchestrator import api
from orchestrator.errors import InvalidJob
from tests.support.cli_job import write_tiny_job

TOKEN = "made-up-token-of-the-cluster-0001"
PLANTED = {
    "AWS_ACCESS_KEY_ID": "AKIA" + "MADEUPMADEUP0002",
    "AWS_SECRET_ACCESS_KEY": "made-up-secret-key-0003",
    "AWS_SESSION_TOKEN": "made-up-session-0004",
    "OPENAI_API_KEY": "made-up-key-of-another-service-0005",
    "DATABASE_URL": "postgres://me:made-up-password-0006@host/db",
}
IN_FILES = {
    ".env": "KEY=made-up-in-env-file-0007",
    ".aws/credentials": "aws_secret_access_key = made-up-in-aws-0008",
    ".ssh/id_ed25519": "made-up-private-key-0009",
    "deploy/id_rsa": "made-up-private-key-0012",
    ".git-credentials": "https://me:made-up-0013@host",
    "server.pem": "made-up-certificate-0010",
    ".git/config": "url = https://me:made-up-0011@host/repo",
}


@dataclass
class Received:
    """What a job server got: bodies by method, header values but for Authorization, and that one.

    `wants_token` is how it behaves.
    """

    bodies: dict[str, list[bytes]] = field(default_factory=dict)
    texts: list[str] = field(default_factory=list)
    authorization: set[str | None] = field(default_factory=set)
    wants_token: bool = False

    def everything(self) -> bytes:
        """All that was sent, packages unpacked."""
        parts = [text.encode() for text in self.texts]
        for body in (body for bodies in self.bodies.values() for body in bodies):
            parts.append(body)
            if zipfile.is_zipfile(io.BytesIO(body)):
                with zipfile.ZipFile(io.BytesIO(body)) as package:
                    parts += [name.encode() + b"\n" + package.read(name) for name in package.namelist()]
        return b"\n".join(parts)


@pytest.fixture
def job_server() -> Iterator[tuple[str, Received]]:
    """A job server that takes every job and keeps what it is sent; its URL."""
    received = Received()
    jobs: dict[str, dict[str, Any]] = {}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            received.bodies.setdefault(self.command, []).append(body)
            received.texts += [self.path, *(v for k, v in self.headers.items() if k.lower() != "authorization")]
            received.authorization.add(self.headers.get("Authorization"))
            status, said = self.reply(body)
            text = json.dumps(said).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def reply(self, body: bytes) -> tuple[int, Any]:
            if self.path == "/api/version":
                if received.wants_token and self.headers.get("Authorization") is None:
                    return 401, {}
                return 200, {"ray_version": "2.60.0"}
            if self.command == "POST":
                sent = json.loads(body)
                jobs[sent["submission_id"]] = {"type": "SUBMISSION", "status": "PENDING", **sent}
                return 200, {"submission_id": sent["submission_id"], "job_id": sent["submission_id"]}
            if self.command == "PUT":
                return 200, {}
            if self.path.rstrip("/") == "/api/jobs":
                return 200, list(jobs.values())
            found = jobs.get(self.path.rstrip("/").rpartition("/")[2])
            return (200, found) if found else (404, {})

        def do_POST(self) -> None:
            self.do_GET()

        def do_PUT(self) -> None:
            self.do_GET()

        def log_message(self, format: str, *args: object) -> None:
            """Keep the test's output clean."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", received
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A job's folder with secrets in the usual files, and others in the environment."""
    folder = tmp_path / "project"
    folder.mkdir()
    for name, text in IN_FILES.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    for name, value in {**PLANTED, "RAY_AUTH_TOKEN": TOKEN}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    return folder


def test_a_submission_ships_no_secret_of_environment_or_folder(
    job_server: tuple[str, Received], project: Path, tmp_path: Path
) -> None:
    """Entrypoint, environment variables, metadata, the package with the code, paths and headers."""
    address, received = job_server
    job = write_tiny_job(project, {"url": str(tmp_path / "runs")})
    api.submit(str(job), address=address, root=str(project))
    sent = received.everything()
    assert b"def build_model" in sent  # the code did come, and was looked into
    assert b"orchestrator run" in sent
    secrets = [*PLANTED.values(), *IN_FILES.values(), TOKEN]
    assert [secret for secret in secrets if secret.encode() in sent] == []
    assert [name for name in IN_FILES if name.encode() + b"\n" in sent] == []
    assert received.authorization <= {None, f"Bearer {TOKEN}"}
    assert f"Bearer {TOKEN}" in received.authorization  # the one header that is for it


@pytest.mark.parametrize(
    ("host", "wants_token", "said"),
    [
        ("127.0.0.1", False, []),
        ("0.0.0.0", False, ["asks for no token", "travels in clear"]),
        ("0.0.0.0", True, ["travels in clear"]),
    ],
)
def test_a_submission_to_another_host_is_warned_of_an_open_cluster_and_of_a_token_in_clear(
    job_server: tuple[str, Received], project: Path, tmp_path: Path, host: str, wants_token: bool, said: list[str]
) -> None:
    """0.0.0.0 is this machine too, by a name that is not its own alone."""
    address, received = job_server
    received.wants_token = wants_token
    job = write_tiny_job(project, {"url": str(tmp_path / "runs")})
    told: list[str] = []
    api.submit(str(job), address=address.replace("127.0.0.1", host), root=str(project), on_note=told.append)
    warnings = [line for line in told if line.startswith("warning: ")]
    assert all(words in line and "→" in line for words, line in zip(said, warnings, strict=True))
    assert TOKEN not in "".join(told)


def test_a_secret_given_as_an_override_is_refused_and_nothing_is_sent(
    job_server: tuple[str, Received], project: Path, tmp_path: Path
) -> None:
    address, received = job_server
    job = write_tiny_job(project, {"url": str(tmp_path / "runs")})
    secret = PLANTED["AWS_SECRET_ACCESS_KEY"]
    with pytest.raises(InvalidJob) as refused:
        api.submit(
            str(job), address=address, root=str(project), overrides=[f"model.kwargs.aws_secret_access_key={secret}"]
        )
    assert secret not in str(refused.value)
    assert received.bodies == {}
