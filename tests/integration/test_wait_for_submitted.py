"""What comes back of a submitted job, and what signals do to it: against a job server that runs nothing."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from orchestrator import api
from orchestrator.api import Waiting, awaited
from orchestrator.errors import (
    ClusterUnavailable,
    CredentialsExpired,
    Interrupted,
    TimedOut,
)
from orchestrator.reporting.result import to_json
from orchestrator.storage.blobs import put_blob
from orchestrator.storage.local import LocalStore
from tests.support.cli_job import write_tiny_job
from tests.support.waiting import wait_until
from tests.support.workbench import SIGNAL_S, Workbench, command

pytestmark = pytest.mark.slow


def test_a_wait_for_a_driver_that_freezes_comes_to_an_end(bench: Workbench) -> None:
    """Ray calls it running for ever; its sign of life is in storage. While there is one, it is waited for."""
    assert bench.submit().submission_id == f"{bench.run_key}-1"
    log = bench.begin()

    def wait(timeout_s: float) -> None:
        waiting = Waiting(silent_s=0.5, timeout_s=timeout_s)
        api.wait_submitted(bench.run_key, address=bench.fake.address, waiting=waiting)

    with bench.beat(log), pytest.raises(TimedOut):
        wait(2.0)
    with pytest.raises(ClusterUnavailable, match=r"no sign of life in storage for 0\.5 s") as caught:
        wait(SIGNAL_S)
    assert caught.value.exit_code == 75
    assert "submit again" in str(caught.value.hint)

    bench.fake.jobs[f"{bench.run_key}-1"]["status"] = "PENDING"  # its driver waits for its environment, say
    with pytest.raises(TimedOut):
        wait(2.0)


def test_storage_that_cannot_be_read_is_no_sign_that_a_driver_is_frozen(bench: Workbench) -> None:
    """Nor does looking there hold up anything: the endpoint takes the connection and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        where = {"storage": "s3://bucket/runs", "storage_endpoint_url": f"http://127.0.0.1:{silent.getsockname()[1]}"}
        bench.fake.add("night-1", metadata={"run_key": "night", "job": "tiny", "term": "1", **where})
        began = time.monotonic()
        with pytest.raises(TimedOut):
            api.wait_submitted("night", address=bench.fake.address, waiting=Waiting(silent_s=0.5, timeout_s=3.0))
        assert time.monotonic() - began < 20.0  # one look at such storage takes half a minute


def test_storage_that_is_not_known_here_is_no_sign_that_a_driver_is_frozen(bench: Workbench) -> None:
    bench.fake.add("night-1", metadata={"run_key": "night", "job": "tiny", "term": "1", "storage": "other://runs"})
    with pytest.raises(TimedOut):
        api.wait_submitted("night", address=bench.fake.address, waiting=Waiting(silent_s=0.2, timeout_s=1.5))


def test_who_stops_a_frozen_driver_hears_of_the_stop_and_not_of_the_silence(
    bench: Workbench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A scheduler's SIGTERM is answered with 143, however long the driver has been silent by then."""
    monkeypatch.setattr(awaited, "STOPPED_WITHIN_S", 3.0)
    bench.fake.is_deaf = True
    bench.submit()
    with bench.beat(bench.begin()):
        pass  # it has lived, and beats no more

    def interruption() -> Interrupted | None:
        return Interrupted("signal", signal_number=15) if bench.fake.watched.is_set() else None

    waiting = Waiting(silent_s=0.5, interruption=interruption)
    with pytest.raises(Interrupted, match="has not been seen to end") as caught:
        api.wait_submitted(bench.run_key, address=bench.fake.address, waiting=waiting)
    assert caught.value.exit_code == 143


def test_a_token_that_is_refused_in_the_middle_of_the_waiting_is_worth_a_retry(bench: Workbench) -> None:
    def forget() -> None:
        bench.fake.refused = 401 if bench.fake.watched.is_set() else None

    with pytest.raises(CredentialsExpired, match="no longer") as caught:
        bench.submit(waiting=Waiting(interruption=forget))
    assert caught.value.exit_code == 75


@pytest.mark.parametrize("storage", ["a folder of the cluster's", "a bucket without our credentials"])
def test_where_storage_cannot_be_read_the_driver_looks_and_its_answer_is_the_result(
    bench: Workbench, monkeypatch: pytest.MonkeyPatch, storage: str
) -> None:
    bench.store_url.rmdir()
    if storage.startswith("a bucket"):
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
            monkeypatch.delenv(name, raising=False)
        for name, value in {"AWS_EC2_METADATA_DISABLED": "true", "AWS_CONFIG_FILE": "/nonexistent"}.items():
            monkeypatch.setenv(name, value)
        there = {"url": "s3://bucket/runs", "endpoint_url": "http://127.0.0.1:1", "region": "eu-west-1"}
        write_tiny_job(bench.root, there)
    result = bench.result(0)
    bench.fake.ends = (0, f"[member 0] epoch 1/2\n{to_json(result).decode()}")
    lines: list[str] = []
    found = bench.submit(waiting=Waiting(on_log=lines.append))
    assert (found.state, found.exit_code, found.status, found.result) == ("submitted", 0, "succeeded", result)
    assert lines == ["[member 0] epoch 1/2"]
    assert ["cannot be read from here" in note for note in bench.notes[:-1]] == [True] * storage.startswith("a bucket")
    assert found.to_json()["result"] == json.loads(to_json(result))


def test_what_a_driver_says_instead_of_a_result_comes_back(bench: Workbench) -> None:
    said = {"error": "QuorumMissed", "what": "too few", "where": None, "hint": None, "exit_code": 4, "retryable": False}
    bench.fake.ends = (4, f"{json.dumps(said)}\n")
    found = bench.submit(waiting=Waiting())
    assert (found.exit_code, found.status, found.result, found.error) == (4, "failed", None, said)


@pytest.mark.parametrize(
    ("exit_code", "log", "status", "said"),
    [
        (0, '{"schema": 99, "exit_code": 0}\n', None, "of the same version"),
        (3, '{"schema": 99, "exit_code": 3}\n', "failed", "of the same version"),
        (1, "No module named orchestrator\n", "failed", "nodes need this package"),
    ],
)
def test_an_answer_that_cannot_be_read_leaves_the_drivers_exit_code_and_says_why(
    bench: Workbench, capsys: pytest.CaptureFixture[str], exit_code: int, log: str, status: str | None, said: str
) -> None:
    bench.fake.ends = (exit_code, log)
    found = bench.submit(waiting=Waiting())
    assert (found.exit_code, found.status, found.result) == (exit_code, status, None)
    assert found.error is not None
    assert (found.error["error"], found.error["exit_code"], found.error["retryable"]) == ("JobEnded", exit_code, False)
    assert said in found.error["hint"]
    waited = command("wait", bench.run_key, "--address", bench.fake.address)
    assert waited.exit_code == exit_code
    assert said in waited.stderr


@pytest.mark.parametrize(
    ("number", "on_interrupt", "status", "said"),
    [(2, "stop", "STOPPED", "the job was stopped"), (15, "detach", "RUNNING", "the job goes on")],
)
def test_what_becomes_of_the_job_on_a_signal_can_be_said(
    bench: Workbench, number: int, on_interrupt: Any, status: str, said: str
) -> None:
    def interruption() -> Interrupted | None:
        return Interrupted("signal", signal_number=number) if bench.fake.watched.is_set() else None

    waiting = Waiting(interruption=interruption, on_interrupt=on_interrupt)
    with pytest.raises(Interrupted, match=said) as caught:
        bench.submit(waiting=waiting)
    assert caught.value.exit_code == 128 + number
    assert bench.fake.jobs[f"{bench.run_key}-1"]["status"] == status


def test_a_job_that_could_not_be_asked_to_stop_is_said_to_go_on(bench: Workbench) -> None:
    def interruption() -> Interrupted | None:
        if not bench.fake.watched.is_set():
            return None
        bench.fake.refused = 503
        return Interrupted("signal", signal_number=15)

    with pytest.raises(Interrupted, match="could not be asked to stop") as caught:
        bench.submit(waiting=Waiting(interruption=interruption))
    assert caught.value.exit_code == 143
    for command_ in ("wait", "stop"):
        assert f"`orchestrator {command_} {bench.run_key}-1 --address {bench.fake.address}`" in str(caught.value.hint)
    assert bench.fake.jobs[f"{bench.run_key}-1"]["status"] == "RUNNING"


@pytest.mark.parametrize(
    ("number", "code", "status", "hint"),
    [
        (signal.SIGINT, 130, "RUNNING", "orchestrator wait {job} --address {address}"),
        (signal.SIGTERM, 143, "STOPPED", "submit again"),
    ],
)
def test_a_signal_leaves_the_job_at_a_terminal_and_stops_it_for_a_scheduler(
    bench: Workbench, tmp_path: Path, number: signal.Signals, code: int, status: str, hint: str
) -> None:
    """A real process; what it leaves says the same."""
    command = [sys.executable, "-m", "orchestrator", "submit", bench.job.name, "--address", bench.fake.address]
    process = subprocess.Popen(
        [*command, "--wait", "--json", "--result-file", str(tmp_path / "result.json")],
        cwd=bench.root,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        wait_until(
            lambda: bench.fake.watched.is_set() or process.poll() is not None, lambda: f"a look: {bench.fake.requests}"
        )
        process.send_signal(number)
        stdout, stderr = process.communicate(timeout=SIGNAL_S)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == code, stderr
    job = f"{bench.run_key}-1"
    assert bench.fake.jobs[job]["status"] == status
    answer = json.loads(stdout)
    assert answer["exit_code"] == code
    assert hint.format(job=job, address=bench.fake.address) in answer["hint"]
    assert json.loads((tmp_path / "result.json").read_text(encoding="utf-8")) == answer


def test_a_run_is_looked_at_by_its_id_through_the_job_server(bench: Workbench, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a user does from any folder of any machine; the run is stored where its job's metadata say."""
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", bench.fake.address)
    bench.run_id = "nightly"
    bench.begin().append("failed", exit_code=4, message="too few members")
    bench.submit(address=None)
    job, there = f"{bench.run_key}-2", ("--address", bench.fake.address)
    bench.fake.logs[job] = "[member 0] epoch 1/2\n[member 1] epoch 1/2\n"

    waited = command("wait", "nightly", *there, "--timeout", "0.1", "--json")
    assert waited.exit_code == 124
    assert json.loads(waited.stdout)["error"] == "TimedOut"
    bench.fake.end(job, 75, bench.fake.logs[job])
    for run in ("nightly", bench.run_key, job):
        waited = command("wait", run, *there, "--json")
        answer = json.loads(waited.stdout)
        assert (waited.exit_code, answer["submission_id"], answer["state"]) == (75, job, "ended")
        assert answer["error"]["retryable"]
        assert "resumes" in answer["error"]["hint"]
    assert waited.stderr.splitlines()[:2] == bench.fake.logs[job].splitlines()

    assert command("logs", "nightly", *there, "--member", "1").stdout == "[member 1] epoch 1/2\n"
    assert command("logs", "nightly", *there, "--follow").stdout == bench.fake.logs[job]
    shown = command("status", "nightly", *there)
    assert job in shown.stdout
    told = json.loads(command("status", "nightly", *there, "--json").stdout)
    assert [(each["submission_id"], each["exit_code"]) for each in told["jobs"]] == [(job, 75)]
    assert (told["run"]["status"], told["run"]["exit_code"]) == ("failed", 4)
    stopped = command("stop", "nightly", *there)
    assert stopped.exit_code == 2
    assert "nothing to stop" in stopped.stderr
    unknown = command("wait", "weekly", *there)
    assert unknown.exit_code == 2
    assert "knows no job" in unknown.stderr


def test_a_run_is_waited_for_and_its_logs_are_followed_in_storage(bench: Workbench, tmp_path: Path) -> None:
    bench.run_id = "nightly"
    log, result = bench.begin(), bench.result(3)
    store, layout = LocalStore(bench.store_url), bench.planned.request.layout
    store.put(f"{layout.attempt_prefix(1, 1)}/log-00000.txt", b"epoch 1\n")
    log.append("done", result=put_blob(store, layout, to_json(result)).to_json(), exit_code=3)
    there = ("--storage", str(bench.store_url))
    waited = command("wait", "nightly", *there, "--json", "--result-file", str(tmp_path / "result.json"))
    assert (waited.exit_code, waited.stdout.strip()) == (3, to_json(result).decode().strip())
    assert (tmp_path / "result.json").read_bytes() == to_json(result)
    followed = command("logs", "nightly", *there, "--follow")
    assert followed.stdout == "== member 1, attempt 1 ==\n[member 1] epoch 1\n"


def test_stop_asks_through_storage_once_the_jobs_driver_coordinates_the_run(bench: Workbench) -> None:
    submission_id = bench.submit().submission_id
    assert submission_id == f"{bench.run_key}-1"
    log = bench.begin()
    assert "through storage" in api.stop_submitted(bench.run_key, address=bench.fake.address)
    requests = LocalStore(bench.store_url).list(bench.planned.request.layout.control)
    assert len(requests) == 1
    assert bench.fake.jobs[submission_id]["status"] == "RUNNING"

    log.append("failed", exit_code=75, message="the cluster went")
    bench.fake.end(submission_id, 75)
    assert bench.submit().submission_id == f"{bench.run_key}-2"
    assert api.stop_submitted(bench.run_key, address=bench.fake.address) == "asked Ray to stop the driver"
    assert bench.fake.jobs[f"{bench.run_key}-2"]["status"] == "STOPPED"
