"""What a submission finds, sends and leaves: against a job server that runs nothing."""

from __future__ import annotations

import os
import random
import subprocess
import sys

import pytest

from orchestrator import api
from orchestrator.api import Waiting
from orchestrator.cluster.jobs.server import JobServer
from orchestrator.cluster.jobs.submission import submit_job
from orchestrator.errors import (
    AccessDenied,
    IdentityChanged,
    Interrupted,
    InvalidJob,
)
from orchestrator.reporting.result import to_json
from orchestrator.spec import load_job
from orchestrator.storage.blobs import put_blob
from orchestrator.storage.local import LocalStore
from tests.support.cli_job import write_tiny_job
from tests.support.workbench import SIGNAL_S, Workbench, command

pytestmark = pytest.mark.slow


def test_a_finished_run_gives_its_result_and_its_code_without_a_request_to_the_cluster(bench: Workbench) -> None:
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


def test_a_run_that_ended_without_a_result_gets_the_number_after_its_last_term(bench: Workbench) -> None:
    log = bench.begin()
    log.append("stopped", exit_code=143, message="SIGTERM")
    found = bench.submit()
    assert (found.state, found.submission_id) == ("submitted", f"{bench.run_key}-2")
    job = bench.fake.jobs[f"{bench.run_key}-2"]
    assert job["metadata"]["run_key"] == bench.run_key
    assert job["metadata"]["run_id"] == bench.planned.request.run_id
    assert job["metadata"]["storage"] == str(bench.store_url)
    assert job["runtime_env"]["env_vars"] == {"RAY_JOB_STOP_WAIT_TIME_S": "30"}


def test_the_live_job_of_another_machine_is_attached_to_and_nothing_is_shipped(bench: Workbench) -> None:
    bench.fake.add(f"{bench.run_key}-4", "RUNNING", metadata={"run_key": bench.run_key})
    bench.fake.add(f"{bench.run_key}-5", "FAILED", metadata={"run_key": bench.run_key})
    found = bench.submit()
    assert (found.state, found.submission_id) == ("attached", f"{bench.run_key}-4")
    assert bench.fake.asked("PUT") == []
    assert bench.fake.asked("POST") == []
    assert bench.fake.asked("GET").count("/api/jobs/") == 1


def test_a_live_job_of_another_identity_is_not_attached_to_unasked(bench: Workbench) -> None:
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


def test_runs_of_two_jobs_may_have_one_id(bench: Workbench, monkeypatch: pytest.MonkeyPatch) -> None:
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
    bench: Workbench, first: dict[str, str], outcome: str
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


def test_a_job_whose_driver_is_frozen_is_not_attached_to(bench: Workbench) -> None:
    """Its number is taken; the next one's driver takes the run over. One that shows that it lives is attached to."""
    write_tiny_job(bench.root, {"url": str(bench.store_url)}, faults={"takeover_s": 1.0})
    assert bench.submit().submission_id == f"{bench.run_key}-1"
    log = bench.begin()
    with bench.beat(log):
        found = bench.submit()
    assert (found.state, found.submission_id) == ("attached", f"{bench.run_key}-1")
    found = bench.submit()
    assert (found.state, found.submission_id) == ("submitted", f"{bench.run_key}-2")
    assert "no sign of life" in bench.notes[-2]


def test_a_lost_answer_does_not_submit_twice(bench: Workbench) -> None:
    bench.fake.loses_answers = True
    assert bench.submit().submission_id == f"{bench.run_key}-1"
    assert list(bench.fake.jobs) == [f"{bench.run_key}-1"]


def test_a_smoke_run_is_submitted_as_one_under_an_id_of_its_own(bench: Workbench) -> None:
    found = bench.submit(smoke=True)
    small = api.plan(load_job(str(bench.job)), smoke=True, root=str(bench.root)).request
    assert (found.run_id, found.submission_id) == (small.run_id, f"{small.layout.run_key}-1")
    assert found.run_key != bench.run_key
    entrypoint = bench.fake.jobs[f"{small.layout.run_key}-1"]["entrypoint"]
    assert "--smoke" in entrypoint
    assert "--run-id" not in entrypoint
    with pytest.raises(InvalidJob, match="a fresh one is drawn here"):
        bench.submit(smoke=True, fresh=True)


def test_a_fresh_run_has_one_name_here_and_on_the_cluster(bench: Workbench) -> None:
    found = bench.submit(fresh=True, accept_code_change=True)
    assert found.run_key.startswith(f"{bench.run_key}-")
    assert found.submission_id == f"{found.run_key}-1"
    entrypoint = bench.fake.jobs[found.submission_id]["entrypoint"]
    assert f"--run-id {found.run_id} --accept-code-change" in entrypoint
    assert api.plan(load_job(str(bench.job)), run_id=found.run_id, root=str(bench.root)).request.layout.run_key == (
        found.run_key
    )


def test_headers_go_with_each_request_and_are_not_shown(bench: Workbench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_JOB_HEADERS", '{"X-Team": "vision", "X-Pass": "other"}')
    bench.submit(headers=["X-Pass=hunter2"])
    assert len(bench.fake.requests) >= 4
    for _, _, headers in bench.fake.requests:
        assert (headers["X-Team"], headers["X-Pass"]) == ("vision", "hunter2")
    bench.fake.refused = 403
    with pytest.raises(AccessDenied) as caught:
        bench.submit(headers=["X-Pass=hunter2"])
    assert "hunter2" not in f"{caught.value!r} {caught.value} {bench.notes}"


def test_a_folder_that_is_too_large_is_not_sent_and_what_makes_it_large_is_named(bench: Workbench) -> None:
    (bench.root / "data" / "raw").mkdir(parents=True)
    (bench.root / "data" / "raw" / "x.bin").write_bytes(random.Random(0).randbytes(20_000))
    server = JobServer(bench.fake.address, max_package_bytes=20_000)
    with pytest.raises(InvalidJob, match=r"too large to ship.*\n.*\.gitignore.*data/"):
        submit_job(server, run_key=bench.run_key, entrypoint=["true"], working_dir=str(bench.root))
    assert bench.fake.asked("PUT") == []


def test_who_gives_up_before_the_job_is_there_leaves_none(bench: Workbench) -> None:
    with pytest.raises(Interrupted) as caught:
        bench.submit(waiting=Waiting(interruption=lambda: Interrupted("signal", signal_number=2)))
    assert caught.value.exit_code == 130
    assert bench.fake.jobs == {}


def test_a_token_that_is_asked_for_and_not_there_is_no_wrong_token(bench: Workbench) -> None:
    """A process of its own: Ray reads RAY_AUTH_MODE once."""
    command = [sys.executable, "-m", "orchestrator", "submit", bench.job.name, "--address", bench.fake.address]
    environ = {**os.environ, "RAY_AUTH_MODE": "token"}
    done = subprocess.run(command, cwd=bench.root, env=environ, capture_output=True, text=True, timeout=SIGNAL_S)
    assert done.returncode == 2
    assert "RAY_AUTH_MODE is token, and no token is found here" in done.stderr
    assert bench.fake.jobs == {}


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
    bench: Workbench, monkeypatch: pytest.MonkeyPatch, arguments: list[str], said: str
) -> None:
    monkeypatch.chdir(bench.root)
    ended = command(*arguments)
    assert ended.exit_code == 2
    assert said in ended.stderr
    assert "hunter2" not in ended.stderr
