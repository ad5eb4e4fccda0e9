"""Submission against a real Ray head with its job server, token authentication on."""

from __future__ import annotations

import socket
import uuid
from collections.abc import Sequence
from pathlib import Path

import pytest

from orchestrator import api
from orchestrator.api import Waiting
from orchestrator.cluster.authentication import find_token
from orchestrator.cluster.jobs.server import JobServer, open_job_server
from orchestrator.cluster.jobs.submission import submit_job, wait_for
from orchestrator.errors import AccessDenied, ClusterUnavailable, InvalidJob, TimedOut
from tests.support.job_server import fake_job_server
from tests.support.ray_head import RayHead

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("head")]

WAIT_S = 180.0


@pytest.fixture(autouse=True)
def no_other_cluster(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_JOB_HEADERS"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def server(cluster_head: RayHead, monkeypatch: pytest.MonkeyPatch) -> JobServer:
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", cluster_head.environ["RAY_AUTH_TOKEN_PATH"])
    return open_job_server(cluster_head.address, (), cluster_head.environ)


@pytest.fixture
def run_key() -> str:
    return f"test-{uuid.uuid4().hex[:10]}"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A working directory with a file to ship, and others that two `.gitignore` and prudence keep."""
    folder = tmp_path / "project"
    texts = {
        ".gitignore": "/private/\n*.log\n",
        "shipped.txt": "shipped",
        "private/kept.txt": "kept",
        "runs/result.json": "{}",
        ".env": "KEY=1",
        "sub/.gitignore": "big.*\n!.ssh/\n!.ssh/key.pem\n",
        "sub/big.bin": "kept",
        "sub/.ssh/key.pem": "kept",
        "sub/code.py": "shipped",
    }
    for name, text in texts.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    return folder


def python(code: str) -> list[str]:
    return ["python", "-c", code]


def submit(server: JobServer, project: Path, run_key: str, entrypoint: Sequence[str]) -> str:
    found = submit_job(server, run_key=run_key, entrypoint=entrypoint, working_dir=str(project))
    assert found.state == "submitted"
    return found.submission_id


def wait(server: JobServer, submission_id: str) -> tuple[int, list[str]]:
    lines: list[str] = []
    end = wait_for(server, submission_id, timeout_s=WAIT_S, on_log=lines.append)
    return end.exit_code, lines


def test_the_drivers_exit_code_75_comes_back_with_its_log(server: JobServer, project: Path, run_key: str) -> None:
    """Read once more by `logs` and `status`, as a user sees it who knows the run alone."""
    code = "import sys; print('[member 1] hello'); print('über', end=''); sys.exit(75)"
    exit_code, lines = wait(server, submit(server, project, run_key, python(code)))
    assert exit_code == 75
    assert lines.count("[member 1] hello") == 1
    assert "über" in lines

    again: list[str] = []
    api.submitted_log(run_key, address=server.address, on_line=again.append)
    assert again == lines
    api.submitted_log(run_key, address=server.address, member=1, follow=True, on_line=again.append)
    assert again == [*lines, "[member 1] hello"]
    (job,) = api.submitted_status(run_key, address=server.address).jobs
    assert (job.submission_id, job.status, job.exit_code) == (f"{run_key}-1", "FAILED", 75)
    assert job.started_at
    assert job.ended_at
    assert job.ended_at >= job.started_at


def test_a_driver_that_ends_well_gives_0_and_sees_exactly_the_shipped_files(
    server: JobServer, project: Path, run_key: str
) -> None:
    code = "import os; print('seen', sorted(p for _, d, f in os.walk('.') for p in f), 'quote \"$HOME\" kept')"
    exit_code, lines = wait(server, submit(server, project, run_key, python(code)))
    assert exit_code == 0
    assert "seen ['.gitignore', '.gitignore', 'code.py', 'shipped.txt'] quote \"$HOME\" kept" in lines


def test_a_stopped_job_gives_143_and_its_driver_gets_sigterm(server: JobServer, project: Path, run_key: str) -> None:
    lines: list[str] = []
    code = (
        "import signal, sys, threading; over = threading.Event();"
        "signal.signal(signal.SIGTERM, lambda *_: (print('told to end'), over.set()));"
        "print('ready'); over.wait(60); sys.exit(1)"
    )
    submit(server, project, run_key, python(code))

    def on_log(line: str) -> None:
        lines.append(line)
        if line == "ready":
            assert api.stop_submitted(run_key, address=server.address) == "asked Ray to stop the driver"

    ended = api.wait_submitted(run_key, address=server.address, waiting=Waiting(timeout_s=WAIT_S, on_log=on_log))
    assert (ended.exit_code, ended.status, ended.state) == (143, "stopped", "attached")
    assert "told to end" in lines
    with pytest.raises(InvalidJob, match="nothing to stop"):
        api.stop_submitted(run_key, address=server.address)


def test_a_second_submission_attaches_to_the_live_job_and_the_next_one_gets_the_next_number(
    server: JobServer, project: Path, run_key: str
) -> None:
    release = project / "release"
    code = (
        f"import pathlib, sys, time; p = pathlib.Path({str(release)!r}); print('first')\n"
        "for _ in range(600):\n    if p.exists(): sys.exit(3)\n    time.sleep(0.1)"
    )
    first = submit(server, project, run_key, python(code))
    second = submit_job(server, run_key=run_key, entrypoint=python("print('second')"), working_dir=str(project))
    assert (second.submission_id, second.state) == (first, "attached")
    with pytest.raises(TimedOut, match="goes on") as caught:
        wait_for(server, second.submission_id, timeout_s=0.2, on_log=lambda _: None)
    assert f"orchestrator wait {first} --address {server.address}" in str(caught.value)
    release.touch()
    exit_code, lines = wait(server, second.submission_id)
    assert exit_code == 3
    assert "first" in lines
    assert "second" not in lines
    third = submit_job(
        server, run_key=run_key, entrypoint=python("print('third')"), working_dir=str(project), last_term=6
    )
    assert (third.submission_id, third.state) == (f"{run_key}-7", "submitted")
    assert wait(server, third.submission_id)[0] == 0


def test_the_driver_reaches_the_cluster_it_runs_on(
    server: JobServer, cluster_head: RayHead, project: Path, run_key: str
) -> None:
    code = "import ray; ray.init(address='auto'); print('at', ray.get_runtime_context().gcs_address)"
    exit_code, lines = wait(server, submit(server, project, run_key, python(code)))
    assert exit_code == 0
    assert f"at {cluster_head.gcs_address}" in lines


@pytest.mark.parametrize("token", [None, "0" * 64])
def test_a_missing_or_wrong_token_names_the_settings(cluster_head: RayHead, token: str | None) -> None:
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    with pytest.raises(AccessDenied, match=r"RAY_AUTH_MODE=token.*RAY_AUTH_TOKEN_PATH") as caught:
        JobServer(cluster_head.address, headers=headers)
    assert "0000" not in str(caught.value)


def test_the_named_address_and_token_win_over_the_environment(
    cluster_head: RayHead, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "http://127.0.0.1:1")
    monkeypatch.setenv("RAY_ADDRESS", "http://127.0.0.1:1")
    environ = {**cluster_head.environ, "RAY_API_SERVER_ADDRESS": "http://127.0.0.1:1", "RAY_AUTH_TOKEN": "0" * 64}
    own = f"Authorization=Bearer {find_token(cluster_head.environ)}"
    assert open_job_server(cluster_head.address, [own], environ).job("nobody-1") is None


def test_an_address_where_nothing_listens_is_worth_a_retry() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{unused.getsockname()[1]}"
        with pytest.raises(ClusterUnavailable, match="out of reach") as caught:
            JobServer(address)
    assert caught.value.exit_code == 75
    assert caught.value.where == address


def test_a_server_that_never_answers_does_not_hold_the_submitter() -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        with pytest.raises(ClusterUnavailable, match="out of reach"):
            JobServer(f"http://127.0.0.1:{silent.getsockname()[1]}", request_timeout_s=0.5)


def test_an_outage_of_the_job_server_and_its_log_stream_is_survived() -> None:
    with fake_job_server() as fake:
        fake.add("any-1")
        fake.end("any-1", 0, "all\n")
        server = JobServer(fake.address)
        fake.looks = [503, 500, 200]
        lines: list[str] = []
        assert wait_for(server, "any-1", timeout_s=WAIT_S, on_log=lines.append).exit_code == 0
    assert lines == ["all"]


@pytest.mark.parametrize(("answer", "said"), [(503, "job server failed"), (404, "does not know this job")])
def test_a_job_server_that_stays_away_ends_the_wait(answer: int, said: str) -> None:
    with fake_job_server() as fake:
        fake.add("any-1")
        server = JobServer(fake.address)
        fake.looks = [answer]
        with pytest.raises(ClusterUnavailable, match=said):
            wait_for(server, "any-1", timeout_s=WAIT_S, on_log=lambda _: None, patience_s=0.3)
