"""What a submission decides, without a cluster."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.cluster.jobs.decisions import (
    driver_answer,
    driver_command,
    exit_code_of,
    heaviest,
    is_of_member,
    parse_headers,
    resolve_address,
    shippable_env,
    with_token,
)
from orchestrator.cluster.jobs.submission import job_path_in
from orchestrator.errors import InvalidJob


@pytest.mark.parametrize(
    ("status", "driver_exit_code", "message", "exit_code", "reason"),
    [
        ("SUCCEEDED", 0, None, 0, "ended well"),
        ("SUCCEEDED", None, None, 0, "ended well"),
        ("STOPPED", None, None, 143, "stopped"),
        ("FAILED", 1, "failed with exit code 1", 1, "exited 1"),
        ("FAILED", 2, None, 2, "exited 2"),
        ("FAILED", 3, None, 3, "exited 3"),
        ("FAILED", 4, None, 4, "exited 4"),
        ("FAILED", 75, None, 75, "exited 75"),
        ("FAILED", 124, None, 124, "exited 124"),
        ("FAILED", 130, None, 130, "SIGINT"),
        ("FAILED", -2, None, 130, "SIGINT"),
        ("FAILED", 143, None, 143, "SIGTERM"),
        ("FAILED", -15, None, 143, "SIGTERM"),
        ("FAILED", 137, None, 75, "out of memory"),
        ("FAILED", -9, None, 75, "out of memory"),
        ("FAILED", -11, None, 139, "exited -11"),
        ("FAILED", None, "runtime_env setup failed: no space", 75, "runtime_env setup failed: no space"),
        ("FAILED", None, "Job supervisor actor died: node", 75, "supervisor actor died"),
        ("FAILED", None, None, 75, "no reason given"),
        ("FAILED", 0, "odd", 75, "odd"),
    ],
)
def test_the_end_of_a_job_gives_an_exit_code_and_its_reason(
    status: str, driver_exit_code: int | None, message: str | None, exit_code: int, reason: str
) -> None:
    decision = exit_code_of(status, driver_exit_code, message)
    assert decision.exit_code == exit_code
    assert reason in decision.reason


@pytest.mark.parametrize("status", ["PENDING", "RUNNING", "SOMETHING_NEW"])
def test_a_job_that_has_not_ended_has_no_exit_code(status: str) -> None:
    with pytest.raises(ValueError, match="has not ended"):
        exit_code_of(status, None, None)


def test_the_driver_runs_the_job_on_the_cluster_it_is_on() -> None:
    command = driver_command("jobs/digits.yaml", ["train.epochs=3"], "daily 1", ["--fresh"])
    assert command == [
        *("python", "-m", "orchestrator", "run", "jobs/digits.yaml", "ray.address=auto", "train.epochs=3"),
        *("--json", "--run-id", "daily 1", "--fresh"),
    ]
    assert "--run-id" not in driver_command("jobs/digits.yaml", [], None, [])


@pytest.mark.parametrize("word", ["it's", 'a "b"', "$HOME", "a;b", "*", "über", "two words"])
def test_the_shell_gives_the_driver_the_words_as_they_were(word: str) -> None:
    show = [sys.executable, "-c", "import sys; print(sys.argv[1:])"]
    command = driver_command("jobs/a.yaml", [f"name={word}"], word, [])
    out = subprocess.run(shlex.join([*show, *command]), shell=True, capture_output=True, text=True, check=True)
    assert out.stdout.strip() == str(command)


def test_a_job_file_that_looks_like_an_option_stays_a_file() -> None:
    assert driver_command("-x.yaml", [], None, [])[4] == "./-x.yaml"


@pytest.mark.parametrize("path", ["/etc/job.yaml", "../job.yaml", "jobs/../../job.yaml"])
def test_a_job_file_outside_of_the_working_directory_is_refused(path: str) -> None:
    with pytest.raises(InvalidJob, match="outside of the working directory"):
        driver_command(path, [], None, [])


def test_an_override_of_the_drivers_cluster_is_refused() -> None:
    with pytest.raises(InvalidJob, match="--address"):
        driver_command("job.yaml", ["ray.address=local"], None, [])


def test_the_job_path_is_made_relative_to_the_working_directory(tmp_path: Path) -> None:
    assert job_path_in(str(tmp_path), str(tmp_path / "jobs" / "a.yaml")) == "jobs/a.yaml"
    assert job_path_in(str(tmp_path), "jobs/../jobs/a.yaml") == "jobs/a.yaml"
    with pytest.raises(InvalidJob, match="outside"):
        job_path_in(str(tmp_path), "../a.yaml")


def test_the_argument_names_the_cluster_before_the_environment_does() -> None:
    environ = {"RAY_API_SERVER_ADDRESS": "http://api:8265/", "RAY_ADDRESS": "https://ray:8265"}
    assert resolve_address("http://mine:1/", environ) == "http://mine:1"
    assert resolve_address(None, environ) == "http://api:8265"
    assert resolve_address(None, {"RAY_ADDRESS": "https://ray:8265"}) == "https://ray:8265"


@pytest.mark.parametrize(
    ("address", "environ"),
    [
        (None, {}),
        (None, {"RAY_ADDRESS": "10.0.0.1:6379"}),
        (None, {"RAY_ADDRESS": "auto"}),
        ("10.0.0.1:8265", {}),
        ("ray://head:10001", {}),
        ("http://", {}),
    ],
)
def test_an_address_that_is_no_url_is_refused_with_an_example(address: str | None, environ: dict[str, str]) -> None:
    with pytest.raises(InvalidJob, match="http://HEAD:8265"):
        resolve_address(address, environ)


def test_credentials_in_the_address_are_refused_and_not_repeated() -> None:
    with pytest.raises(InvalidJob, match="RAY_AUTH_TOKEN") as caught:
        resolve_address("http://me:hunter2@head:8265", {})
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("AWS_SECRET_ACCESS_KEY", "x"),
        ("AWS_ACCESS_KEY_ID", "x"),
        ("AWS_SESSION_TOKEN", "x"),
        ("RAY_AUTH_TOKEN", "x"),
        ("DB_PASSWORD", "x"),
        ("my_api_key", "x"),
        ("PROXY", "http://me:hunter2@proxy:1"),
    ],
)
def test_secrets_are_not_put_into_the_drivers_environment(name: str, value: str) -> None:
    with pytest.raises(InvalidJob, match="secret") as caught:
        shippable_env({name: value})
    assert "hunter2" not in str(caught.value)


def test_names_and_paths_of_credentials_are_shipped_with_the_time_to_stop() -> None:
    env = {
        "AWS_PROFILE": "train",
        "AWS_SHARED_CREDENTIALS_FILE": "/etc/aws",
        "RAY_AUTH_TOKEN_PATH": "/t",
        "AWS_ENDPOINT_URL": "http://127.0.0.1:8333",
    }
    assert shippable_env(env) == {"RAY_JOB_STOP_WAIT_TIME_S": "30", **env}


def test_importing_the_submission_loads_no_ray() -> None:
    modules = "{'ray', 'tensorflow', 'keras'}"
    code = f"import sys, orchestrator.cluster.jobs.submission; print(sorted({modules} & set(sys.modules)))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def test_headers_given_come_before_those_of_the_environment() -> None:
    environ = {"RAY_JOB_HEADERS": '{"X-Team": "vision", "X-Room": "1"}'}
    assert parse_headers(["x-team=speech", "X-Sum = a=b"], environ) == {
        "X-Room": "1",
        "x-team": "speech",
        "X-Sum": "a=b",
    }
    assert parse_headers([], {}) == {}


@pytest.mark.parametrize("text", ["hunter2", "hunter2 x=1", "=hunter2", "X-Key=", "X-Key=hunter2\r\nX: y"])
def test_what_is_no_header_is_refused_and_not_repeated(text: str) -> None:
    with pytest.raises(InvalidJob, match="NAME=VALUE") as caught:
        parse_headers(["X-Fine=1", text], {})
    assert caught.value.where == "--header, number 2"
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("text", ["hunter2", '["hunter2"]', '{"X": 2}'])
def test_headers_of_the_environment_are_an_object_of_texts(text: str) -> None:
    with pytest.raises(InvalidJob, match="RAY_JOB_HEADERS") as caught:
        parse_headers([], {"RAY_JOB_HEADERS": text})
    assert "hunter2" not in str(caught.value)


def test_the_token_is_shown_unless_a_header_stands_in_its_place() -> None:
    assert with_token({"X-Team": "vision"}, "t") == {"Authorization": "Bearer t", "X-Team": "vision"}
    assert with_token({"authorization": "Basic x"}, "t") == {"authorization": "Basic x"}
    assert with_token({}, None) == {}


def test_the_heaviest_folders_are_named_and_one_that_holds_all_is_taken_apart() -> None:
    sizes = {"a.py": 1, "data/x": 60, "data/y": 30, "models/m": 50}
    assert heaviest(sizes) == [("data/", 90), ("models/", 50), ("a.py", 1)]
    assert heaviest(sizes, most=1) == [("data/", 90)]
    assert heaviest({"a.py": 1, "data/raw/x": 600, "data/y": 30}) == [("data/raw/", 600), ("data/y", 30)]
    assert heaviest({"data/x": 7}) == [("data/", 7)]
    assert heaviest({}) == []


@pytest.mark.parametrize(
    ("line", "is_answer"),
    [
        ('{"exit_code": 0, "schema": 1, "status": "succeeded"}', True),
        ('{"exit_code": 75, "error": "StoreUnavailable"}', True),
        ('{"exit_code": 75}', False),
        ('{"loss": 0.5}', False),
        ("{0: 'not JSON'}", False),
        ('["exit_code", "schema"]', False),
        ("[member 0] epoch 1/2", False),
        ("", False),
    ],
)
def test_the_drivers_answer_is_told_from_other_lines(line: str, is_answer: bool) -> None:
    assert (driver_answer(line) is not None) == is_answer


@pytest.mark.parametrize(
    ("line", "members"),
    [
        ("[member 3] epoch 1/2", {3}),
        ("[members 1–3] epoch 1/2", {1, 2, 3}),
        ("[members 0, 2-3] compiled", {0, 2, 3}),
        ("run x: 5 members on 2 workers", set()),
        ("said [member 3]", set()),
        ("[member x]", set()),
    ],
)
def test_a_line_of_the_log_is_about_the_members_it_begins_with(line: str, members: set[int]) -> None:
    assert {member for member in range(6) if is_of_member(line, member)} == members
