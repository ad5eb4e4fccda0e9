"""What a submission finds, sends and leaves, and what signals do to it: against a job server that runs nothing."""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner
from typer.testing import Result as Ended

from orchestrator import api
from orchestrator.api import RunPlan, SubmittedRun, Waiting
from orchestrator.api.running import keep_spec
from orchestrator.cli.main import app
from orchestrator.cluster.jobs.server import JobServer
from orchestrator.cluster.jobs.submission import submit_job
from orchestrator.errors import (
    AccessDenied,
    ClusterUnavailable,
    CredentialsExpired,
    IdentityChanged,
    Interrupted,
    InvalidJob,
    TimedOut,
)
from orchestrator.reporting.result import Result, to_json
from orchestrator.spec import load_job
from orchestrator.storage.beat import Beat
from orchestrator.storage.blobs import put_blob
from orchestrator.storage.local import LocalStore
from orchestrator.storage.log import Log
from tests.support.cli_job import write_tiny_job
from tests.support.job_server import FakeJobServer, fake_job_server
from tests.support.report_cases import result as made_up_result
from tests.support.waiting import wait_until

pytestmark = pytest.mark.slow

SIGNAL_S = 120.0
AUTHENTICATION = ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")


@pytest.fixture(autouse=True)
def no_other_cluster(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    # Ray sets RAY_AUTH_MODE in a process in which it was started.
    for name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS", "RAY_JOB_HEADERS", *AUTHENTICATION):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def fake() -> Iterator[FakeJobServer]:
    with fake_job_server() as started:
        yield started


class Bench:
    """A job whose runs are stored in a folder that is there, and a cluster to submit it to."""

    def __init__(self, folder: Path, fake: FakeJobServer) -> None:
        self.store_url = folder / "store"
        self.store_url.mkdir()
        self.root = folder / "project"
        self.root.mkdir()
        self.fake = fake
        self.job = write_tiny_job(self.root, {"url": str(self.store_url)})
        self.run_id: str | None = None
        self.notes: list[str] = []

    @property
    def planned(self) -> RunPlan:
        return api.plan(load_job(str(self.job)), run_id=self.run_id, root=str(self.root))

    @property
    def run_key(self) -> str:
        return self.planned.request.layout.run_key

    def submit(self, **more: Any) -> SubmittedRun:
        options = {"address": self.fake.address, "root": str(self.root), "on_note": self.notes.append}
        options["run_id"] = self.run_id
        return api.submit(str(self.job), **{**options, **more})

    def begin(self) -> Log:
        """Let the run have been started, and claimed once."""
        store = LocalStore(self.store_url)
        keep_spec(store, self.planned, must_exist=False, accept_code_change=False)
        log = Log.open(store, self.planned.request.layout.coord_log)
        log.claim(run_id=self.planned.request.run_id)
        return log

    def result(self, exit_code: int) -> Result:
        status = {0: "succeeded", 3: "gate_failed"}[exit_code]
        return made_up_result(
            num_members=2, run_id=self.run_key, run_key=self.run_key, status=status, exit_code=exit_code
        )


@pytest.fixture
def bench(tmp_path: Path, fake: FakeJobServer) -> Bench:
    return Bench(tmp_path, fake)


def test_a_finished_run_gives_its_result_and_its_code_without_a_request_to_the_cluster(bench: Bench) -> None:
    bench.run_id = "nightly"
    log, result = bench.begin(), bench.result(3)
    body = put_blob(LocalStore(bench.store_url), bench.planned.request.layout, to_json(result))
    log.append("done", result=body.to_json(), exit_code=3)
    found = bench.submit()
    assert (found.state, found.submission_id, found.exit_code, found.result) == ("recorded", None, 3, result)

    with (bench.root / "tiny.py").open("a") as module:
        module.write("\nchanged = True\n")
    with pytest.raises(IdentityChanged, match="--accept-code-change"):
        bench.submit()
    assert bench.submit(accept_code_change=True).result == result
    assert bench.fake.requests == []


def test_a_run_that_ended_without_a_result_gets_the_number_after_its_last_term(bench: Bench) -> None:
    log = bench.begin()
    log.append("stopped", exit_code=143, message="SIGTERM")
    found = bench.submit()
    assert (found.state, found.submission_id) == ("submitted", f"{bench.run_key}-2")
    job = bench.fake.jobs[f"{bench.run_key}-2"]
    assert job["metadata"]["run_key"] == bench.run_key
    assert job["metadata"]["run_id"] == bench.planned.request.run_id
    assert job["metadata"]["storage"] == str(bench.store_url)
    assert job["runtime_env"]["env_vars"] == {"RAY_JOB_STOP_WAIT_TIME_S": "30"}


def test_the_live_job_of_another_machine_is_attached_to_and_nothing_is_shipped(bench: Bench) -> None:
    bench.fake.add(f"{bench.run_key}-4", "RUNNING", metadata={"run_key": bench.run_key})
    bench.fake.add(f"{bench.run_key}-5", "FAILED", metadata={"run_key": bench.run_key})
    found = bench.submit()
    assert (found.state, found.submission_id) == ("attached", f"{bench.run_key}-4")
    assert bench.fake.asked("PUT") == []
    assert bench.fake.asked("POST") == []
    assert bench.fake.asked("GET").count("/api/jobs/") == 1


def test_a_live_job_of_another_identity_is_not_attached_to_unasked(bench: Bench) -> None:
    """Also where nobody can look into the run's storage from here."""
    bench.run_id = "nightly"
    bench.store_url.rmdir()
    first = bench.submit()
    assert bench.submit().state == "attached"
    with pytest.raises(IdentityChanged, match="another job") as caught:
        bench.submit(overrides=["train.epochs=3"], accept_code_change=True)
    assert caught.value.exit_code == 2
    with (bench.root / "tiny.py").open("a") as module:
        module.write("\nchanged = True\n")
    with pytest.raises(IdentityChanged, match="--accept-code-change"):
        bench.submit()
    assert bench.submit(accept_code_change=True).submission_id == first.submission_id


def test_runs_of_two_jobs_may_have_one_id(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """A scheduler's run id is given to each of its tasks."""
    bench.run_id = "nightly"
    bench.submit()
    second = bench.submit(overrides=["name=other"])
    assert (second.state, second.submission_id) == ("submitted", f"{bench.run_key}-2")
    assert bench.submit().submission_id == f"{bench.run_key}-1"
    assert bench.submit(overrides=["name=other"]).submission_id == f"{bench.run_key}-2"
    with pytest.raises(InvalidJob, match=f"several runs.*\n.*other/{bench.run_key}"):
        api.submitted_status("nightly", address=bench.fake.address)
    bench.begin()
    jobs_run = api.submitted_status(f"tiny/{bench.run_key}", address=bench.fake.address)
    assert [job.submission_id for job in jobs_run.jobs] == [f"{bench.run_key}-1"]
    assert jobs_run.run is not None
    assert jobs_run.run.job == "tiny"
    assert api.submitted_status(f"{bench.run_key}-2", address=bench.fake.address).run is None


@pytest.mark.parametrize(
    ("first", "outcome"),
    [({}, "attached"), ({"identity": "another"}, "refused"), ({"job": "another"}, "submitted")],
)
def test_who_comes_second_in_a_race_attaches_to_its_own_run_alone(
    bench: Bench, first: dict[str, str], outcome: str
) -> None:
    """The other's job is there just after we looked for one."""
    metadata = {"run_id": bench.run_key, "run_key": bench.run_key, "job": "tiny", **first}

    def comes_first() -> None:
        bench.fake.add(f"{bench.run_key}-1", metadata=metadata)

    bench.fake.before_taking = comes_first
    if outcome == "refused":
        with pytest.raises(IdentityChanged, match="another job"):
            bench.submit()
        return
    found = bench.submit()
    number = {"attached": 1, "submitted": 2}[outcome]
    assert (found.state, found.submission_id) == (outcome, f"{bench.run_key}-{number}")


def test_a_job_whose_driver_is_frozen_is_not_attached_to(bench: Bench) -> None:
    """Its number is taken; the next one's driver takes the run over. One that shows that it lives is attached to."""
    write_tiny_job(bench.root, {"url": str(bench.store_url)}, faults={"takeover_s": 1.0})
    assert bench.submit().submission_id == f"{bench.run_key}-1"
    log = bench.begin()
    store, layout = LocalStore(bench.store_url), bench.planned.request.layout
    with Beat(store, layout.beat, layout.control, term=log.term, every_s=0.05, epoch=lambda: 0.0):
        found = bench.submit()
    assert (found.state, found.submission_id) == ("attached", f"{bench.run_key}-1")
    found = bench.submit()
    assert (found.state, found.submission_id) == ("submitted", f"{bench.run_key}-2")
    assert "no sign of life" in bench.notes[-2]


def test_a_wait_for_a_driver_that_freezes_comes_to_an_end(bench: Bench) -> None:
    """Ray calls it running for ever; its sign of life is in storage. While there is one, it is waited for."""
    assert bench.submit().submission_id == f"{bench.run_key}-1"
    log = bench.begin()
    store, layout = LocalStore(bench.store_url), bench.planned.request.layout
    beat = Beat(store, layout.beat, layout.control, term=log.term, every_s=0.05, epoch=lambda: 0.0)

    def wait(timeout_s: float) -> None:
        waiting = Waiting(silent_s=0.5, timeout_s=timeout_s)
        api.wait_submitted(bench.run_key, address=bench.fake.address, waiting=waiting)

    with beat, pytest.raises(TimedOut):
        wait(2.0)
    with pytest.raises(ClusterUnavailable, match=r"no sign of life in storage for 0\.5 s") as caught:
        wait(SIGNAL_S)
    assert caught.value.exit_code == 75
    assert "submit again" in str(caught.value.hint)

    bench.fake.jobs[f"{bench.run_key}-1"]["status"] = "PENDING"  # its driver waits for its environment, say
    with pytest.raises(TimedOut):
        wait(2.0)


def test_storage_that_cannot_be_read_is_no_sign_that_a_driver_is_frozen(bench: Bench) -> None:
    """Nor does looking there hold up anything: the endpoint takes the connection and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        where = {"storage": "s3://bucket/runs", "storage_endpoint_url": f"http://127.0.0.1:{silent.getsockname()[1]}"}
        bench.fake.add("night-1", metadata={"run_key": "night", "job": "tiny", "term": "1", **where})
        began = time.monotonic()
        with pytest.raises(TimedOut):
            api.wait_submitted("night", address=bench.fake.address, waiting=Waiting(silent_s=0.5, timeout_s=3.0))
        assert time.monotonic() - began < 20.0  # one look at such storage takes half a minute


def test_a_token_that_is_refused_in_the_middle_of_the_waiting_is_worth_a_retry(bench: Bench) -> None:
    def forget() -> None:
        bench.fake.refused = 401 if bench.fake.watched.is_set() else None

    with pytest.raises(CredentialsExpired, match="no longer") as caught:
        bench.submit(waiting=Waiting(interruption=forget))
    assert caught.value.exit_code == 75


def test_a_lost_answer_does_not_submit_twice(bench: Bench) -> None:
    bench.fake.loses_answers = True
    assert bench.submit().submission_id == f"{bench.run_key}-1"
    assert list(bench.fake.jobs) == [f"{bench.run_key}-1"]


def test_a_smoke_run_is_submitted_as_one_under_an_id_of_its_own(bench: Bench) -> None:
    found = bench.submit(smoke=True)
    small = api.plan(load_job(str(bench.job)), smoke=True, root=str(bench.root)).request
    assert (found.run_id, found.submission_id) == (small.run_id, f"{small.layout.run_key}-1")
    assert found.run_key != bench.run_key
    entrypoint = bench.fake.jobs[f"{small.layout.run_key}-1"]["entrypoint"]
    assert "--smoke" in entrypoint
    assert "--run-id" not in entrypoint
    with pytest.raises(InvalidJob, match="a fresh one is drawn here"):
        bench.submit(smoke=True, fresh=True)


def test_a_fresh_run_has_one_name_here_and_on_the_cluster(bench: Bench) -> None:
    found = bench.submit(fresh=True, accept_code_change=True)
    assert found.run_key.startswith(f"{bench.run_key}-")
    assert found.submission_id == f"{found.run_key}-1"
    entrypoint = bench.fake.jobs[found.submission_id]["entrypoint"]
    assert f"--run-id {found.run_id} --accept-code-change" in entrypoint
    assert api.plan(load_job(str(bench.job)), run_id=found.run_id, root=str(bench.root)).request.layout.run_key == (
        found.run_key
    )


@pytest.mark.parametrize("storage", ["a folder of the cluster's", "a bucket without our credentials"])
def test_where_storage_cannot_be_read_the_driver_looks_and_its_answer_is_the_result(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, storage: str
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


def test_what_a_driver_says_instead_of_a_result_comes_back(bench: Bench) -> None:
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
    bench: Bench, capsys: pytest.CaptureFixture[str], exit_code: int, log: str, status: str | None, said: str
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


def test_headers_go_with_each_request_and_are_not_shown(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_JOB_HEADERS", '{"X-Team": "vision", "X-Pass": "other"}')
    bench.submit(headers=["X-Pass=hunter2"])
    assert len(bench.fake.requests) >= 4
    for _, _, headers in bench.fake.requests:
        assert (headers["X-Team"], headers["X-Pass"]) == ("vision", "hunter2")
    bench.fake.refused = 403
    with pytest.raises(AccessDenied) as caught:
        bench.submit(headers=["X-Pass=hunter2"])
    assert "hunter2" not in f"{caught.value!r} {caught.value} {bench.notes}"


def test_a_folder_that_is_too_large_is_not_sent_and_what_makes_it_large_is_named(bench: Bench) -> None:
    (bench.root / "data" / "raw").mkdir(parents=True)
    (bench.root / "data" / "raw" / "x.bin").write_bytes(random.Random(0).randbytes(20_000))
    server = JobServer(bench.fake.address, max_package_bytes=20_000)
    with pytest.raises(InvalidJob, match=r"too large to ship.*\n.*\.gitignore.*data/"):
        submit_job(server, run_key=bench.run_key, entrypoint=["true"], working_dir=str(bench.root))
    assert bench.fake.asked("PUT") == []


@pytest.mark.parametrize(
    ("number", "on_interrupt", "status", "said"),
    [(2, "stop", "STOPPED", "the job was stopped"), (15, "detach", "RUNNING", "the job goes on")],
)
def test_what_becomes_of_the_job_on_a_signal_can_be_said(
    bench: Bench, number: int, on_interrupt: Any, status: str, said: str
) -> None:
    def interruption() -> Interrupted | None:
        return Interrupted("signal", signal_number=number) if bench.fake.watched.is_set() else None

    waiting = Waiting(interruption=interruption, on_interrupt=on_interrupt)
    with pytest.raises(Interrupted, match=said) as caught:
        bench.submit(waiting=waiting)
    assert caught.value.exit_code == 128 + number
    assert bench.fake.jobs[f"{bench.run_key}-1"]["status"] == status


def test_who_gives_up_before_the_job_is_there_leaves_none(bench: Bench) -> None:
    with pytest.raises(Interrupted) as caught:
        bench.submit(waiting=Waiting(interruption=lambda: Interrupted("signal", signal_number=2)))
    assert caught.value.exit_code == 130
    assert bench.fake.jobs == {}


def test_a_token_that_is_asked_for_and_not_there_is_no_wrong_token(bench: Bench) -> None:
    """A process of its own: Ray reads RAY_AUTH_MODE once."""
    command = [sys.executable, "-m", "orchestrator", "submit", bench.job.name, "--address", bench.fake.address]
    environ = {**os.environ, "RAY_AUTH_MODE": "token"}
    done = subprocess.run(command, cwd=bench.root, env=environ, capture_output=True, text=True, timeout=SIGNAL_S)
    assert done.returncode == 2
    assert "RAY_AUTH_MODE is token, and no token is found here" in done.stderr
    assert bench.fake.jobs == {}


def test_a_job_that_could_not_be_asked_to_stop_is_said_to_go_on(bench: Bench) -> None:
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
    bench: Bench, tmp_path: Path, number: signal.Signals, code: int, status: str, hint: str
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


def command(*arguments: str) -> Ended:
    return CliRunner().invoke(app, list(arguments), catch_exceptions=False)


def test_a_run_is_looked_at_by_its_id_through_the_job_server(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_a_run_is_waited_for_and_its_logs_are_followed_in_storage(bench: Bench, tmp_path: Path) -> None:
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


def test_stop_asks_through_storage_once_the_jobs_driver_coordinates_the_run(bench: Bench) -> None:
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


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["submit", "job.yaml", "--timeout", "5", "--address", "http://127.0.0.1:1"], "give --wait too"),
        (["submit", "job.yaml", "--header", "hunter2", "--address", "http://127.0.0.1:1"], "NAME=VALUE"),
        (["wait", "nightly", "--on-interrupt", "stop"], "give --address too"),
        (["logs", "nightly", "--follow", "--json"], "leave one of them out"),
        (["wait", "nightly"], "no such run"),
    ],
)
def test_options_that_cannot_work_are_refused(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, arguments: list[str], said: str
) -> None:
    monkeypatch.chdir(bench.root)
    ended = command(*arguments)
    assert ended.exit_code == 2
    assert said in ended.stderr
    assert "hunter2" not in ended.stderr
