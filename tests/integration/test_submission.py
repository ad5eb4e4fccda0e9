"""Submission against a real Ray head with its job server, token authentication on."""

from __future__ import annotations

import json
import socket
import sys
import threading
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from orchestrator.cluster.submission import Submission, read_excludes, submit_job, wait_for
from orchestrator.errors import AccessDenied, ClusterUnavailable, TimedOut
from tests.support.ray_head import RayHead

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("head")]

WAIT_S = 180.0


@pytest.fixture(autouse=True)
def no_other_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A working directory with a file to ship and one that `.gitignore` keeps."""
    folder = tmp_path / "project"
    (folder / "private").mkdir(parents=True)
    (folder / ".gitignore").write_text("/private/\n*.log\n", encoding="utf-8")
    (folder / "shipped.txt").write_text("shipped", encoding="utf-8")
    (folder / "private" / "kept.txt").write_text("kept", encoding="utf-8")
    (folder / "runs").mkdir()
    (folder / "runs" / "result.json").write_text("{}", encoding="utf-8")
    (folder / ".env").write_text("KEY=1", encoding="utf-8")
    return folder


def submit(
    cluster_head: RayHead, project: Path, entrypoint: Sequence[str], submission_id: str | None = None
) -> Submission:
    return submit_job(
        address=cluster_head.address,
        entrypoint=entrypoint,
        working_dir=str(project),
        submission_id=submission_id or f"test-{uuid.uuid4().hex[:10]}",
        excludes=read_excludes(str(project)),
        token=cluster_head.token,
    )


def python(code: str) -> list[str]:
    return ["python", "-c", code]


def stop(submission: Submission) -> None:
    from ray.job_submission import JobSubmissionClient

    headers = {"Authorization": f"Bearer {submission.token}"}
    JobSubmissionClient(submission.address, headers=headers).stop_job(submission.submission_id)


def test_the_drivers_exit_code_75_comes_back_with_its_log(cluster_head: RayHead, project: Path) -> None:
    lines: list[str] = []
    code = "import sys; print('hello'); print('über', end=''); sys.exit(75)"
    submission = submit(cluster_head, project, python(code))
    assert submission.state == "submitted"
    assert wait_for(submission, timeout_s=WAIT_S, on_log=lines.append) == 75
    assert lines.count("hello") == 1
    assert "über" in lines
    assert lines[-1].endswith("the driver exited 75")


def test_a_driver_that_ends_well_gives_0_and_sees_exactly_the_shipped_files(
    cluster_head: RayHead, project: Path
) -> None:
    lines: list[str] = []
    code = "import os; print('seen', sorted(p for _, d, f in os.walk('.') for p in f), 'quote \"$HOME\" kept')"
    submission = submit(cluster_head, project, python(code))
    assert wait_for(submission, timeout_s=WAIT_S, on_log=lines.append) == 0
    assert "seen ['.gitignore', 'shipped.txt'] quote \"$HOME\" kept" in lines


def test_a_stopped_job_gives_143_and_its_driver_gets_sigterm(cluster_head: RayHead, project: Path) -> None:
    lines: list[str] = []
    code = (
        "import signal, sys, threading; over = threading.Event();"
        "signal.signal(signal.SIGTERM, lambda *_: (print('told to end'), over.set()));"
        "print('ready'); over.wait(60); sys.exit(1)"
    )
    submission = submit(cluster_head, project, python(code))

    def on_log(line: str) -> None:
        lines.append(line)
        if line == "ready":
            stop(submission)

    assert wait_for(submission, timeout_s=WAIT_S, on_log=on_log) == 143
    assert "told to end" in lines
    assert lines[-1].endswith("the job was stopped")


def test_a_used_id_attaches_while_the_job_runs_and_gives_its_code_afterwards(
    cluster_head: RayHead, project: Path
) -> None:
    release = project / "release"
    code = (
        f"import pathlib, sys, time; p = pathlib.Path({str(release)!r}); print('first')\n"
        "for _ in range(600):\n    if p.exists(): sys.exit(3)\n    time.sleep(0.1)"
    )
    first = submit(cluster_head, project, python(code))
    second = submit(cluster_head, project, python("print('second')"), first.submission_id)
    assert (first.state, second.state) == ("submitted", "attached")
    with pytest.raises(TimedOut, match="goes on"):
        wait_for(second, timeout_s=0.2, on_log=lambda _: None)
    release.touch()
    lines: list[str] = []
    assert wait_for(second, timeout_s=WAIT_S, on_log=lines.append) == 3
    assert "first" in lines
    assert "second" not in lines
    third = submit(cluster_head, project, python("print('third')"), first.submission_id)
    assert third.state == "finished"
    assert wait_for(third, timeout_s=WAIT_S, on_log=lines.append) == 3


def test_the_driver_reaches_the_cluster_it_runs_on(cluster_head: RayHead, project: Path) -> None:
    lines: list[str] = []
    code = "import ray; ray.init(address='auto'); print('at', ray.get_runtime_context().gcs_address)"
    submission = submit(cluster_head, project, python(code))
    assert wait_for(submission, timeout_s=WAIT_S, on_log=lines.append) == 0
    assert f"at {cluster_head.gcs_address}" in lines


@pytest.mark.parametrize("token", [None, "0" * 64])
def test_a_missing_or_wrong_token_names_the_settings(cluster_head: RayHead, project: Path, token: str | None) -> None:
    with pytest.raises(AccessDenied, match=r"RAY_AUTH_MODE=token.*RAY_AUTH_TOKEN_PATH"):
        submit_job(
            address=cluster_head.address,
            entrypoint=["true"],
            working_dir=str(project),
            submission_id="denied",
            token=token,
        )


def test_the_named_address_wins_over_the_environment(
    cluster_head: RayHead, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "http://127.0.0.1:1")
    monkeypatch.setenv("RAY_ADDRESS", "http://127.0.0.1:1")
    submission = submit(cluster_head, project, [sys.executable, "-c", "pass"])
    assert wait_for(submission, timeout_s=WAIT_S, on_log=lambda _: None) == 0


def test_an_address_where_nothing_listens_is_worth_a_retry(project: Path) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{unused.getsockname()[1]}"
        with pytest.raises(ClusterUnavailable, match="out of reach") as caught:
            submit_job(address=address, entrypoint=["true"], working_dir=str(project), submission_id="nobody")
    assert caught.value.exit_code == 75
    assert caught.value.where == address


def test_a_server_that_never_answers_does_not_hold_the_submitter(project: Path) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        address = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(ClusterUnavailable, match="out of reach"):
            submit_job(
                address=address,
                entrypoint=["true"],
                working_dir=str(project),
                submission_id="silence",
                request_timeout_s=0.5,
            )


@contextmanager
def flaky_job_server(answers: Sequence[str | int]) -> Iterator[str]:
    """A job server that answers each look at a job by the next status or HTTP error; the last one stays."""
    left = list(answers)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path == "/api/version":
                return self.answer(200, {"ray_version": "2.60.0"})
            if self.path.endswith("/logs"):
                return self.answer(200, {"logs": "all\n"})
            if self.path.endswith("/tail"):
                return self.answer(500, {})
            status = left.pop(0) if len(left) > 1 else left[0]
            if isinstance(status, int):
                return self.answer(status, {})
            code = 0 if status == "SUCCEEDED" else None
            job = {"type": "SUBMISSION", "status": status, "entrypoint": "x", "driver_exit_code": code}
            return self.answer(200, job)

        def answer(self, status: int, body: object) -> None:
            text = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, format: str, *args: object) -> None:
            """Keep the test's output clean."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_an_outage_of_the_job_server_and_its_log_stream_is_survived() -> None:
    lines: list[str] = []
    with flaky_job_server(["RUNNING", 503, 500, "RUNNING", "SUCCEEDED"]) as address:
        submission = Submission(address, "any", "attached")
        assert wait_for(submission, timeout_s=WAIT_S, on_log=lines.append) == 0
    assert lines == ["all"]


@pytest.mark.parametrize(("answer", "said"), [(503, "job server failed"), (404, "does not know this job")])
def test_a_job_server_that_stays_away_ends_the_wait(answer: int, said: str) -> None:
    with flaky_job_server(["RUNNING", answer]) as address:
        submission = Submission(address, "any", "attached")
        with pytest.raises(ClusterUnavailable, match=said):
            wait_for(submission, timeout_s=WAIT_S, on_log=lambda _: None, patience_s=0.3)
