"""Faults 34 to 38: wrong credentials, skewed clocks, spoiled specs, hostile names and addresses."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from orchestrator import api
from orchestrator.attach import Start, become_coordinator
from orchestrator.errors import Fenced, InvalidJob, RunHeld
from orchestrator.planning.ports import Store
from orchestrator.reporting.progress import SilentProgress
from orchestrator.reporting.status import status_of
from orchestrator.spec import Job, load_job, parse_job
from orchestrator.storage.layout import RunLayout
from orchestrator.storage.log import Log
from orchestrator.testing import FakeClock, MemoryStore
from tests.conftest import S3Bucket
from tests.support.cli_job import write_tiny_job
from tests.support.s3_server import REGION

NO_RAY = "ray.address=127.0.0.1:1"
"""Nobody listens there: a start that comes as far as Ray ends with 75."""

TELL_IMPORTS = (
    "import atexit, os, sys; from orchestrator.cli.main import main; "
    "after = open(os.dup(2), 'w'); "  # a command that has ended says no more on its own streams
    "atexit.register(lambda: print('imported:', *{'ray', 'keras', 'tensorflow'} & set(sys.modules), file=after)); "
    "main()"
)


def command(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The command line in `folder`; the last line that it tells names the heavy libraries that it imported."""
    return subprocess.run(
        [sys.executable, "-c", TELL_IMPORTS, *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=300,
        check=False,
    )


def assert_refused(ended: subprocess.CompletedProcess[str]) -> None:
    """Exit code 2, in plain words, before anything heavy was imported."""
    assert ended.returncode == 2, ended.stderr
    assert "error: " in ended.stderr
    assert "Traceback" not in ended.stderr
    assert ended.stderr.splitlines()[-1] == "imported:"


# 34: credentials


@pytest.mark.parametrize(
    "arguments",
    [("run", "job.yaml", NO_RAY), ("status", "x"), ("list",), ("stop", "x"), ("logs", "x"), ("prune",)],
    ids=lambda arguments: arguments[0],
)
def test_wrong_credentials_at_the_start_end_in_two_and_are_never_told(
    s3_bucket: S3Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...]
) -> None:
    secret = "a-secret-that-is-wrong/0123456789"
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", secret)
    place = {"url": f"{s3_bucket.url}/runs", "endpoint_url": s3_bucket.endpoint_url, "region": REGION}
    write_tiny_job(tmp_path, place)
    if arguments[0] != "run":
        arguments += ("--storage", place["url"], "--endpoint-url", place["endpoint_url"], "--region", REGION)
    ended = command(tmp_path, *arguments)
    assert_refused(ended)
    assert "SignatureDoesNotMatch" in ended.stderr  # the real server's own answer: the fault struck
    assert "AWS_SECRET_ACCESS_KEY" in ended.stderr  # the remedy
    assert secret not in ended.stdout + ended.stderr
    assert secret.encode() not in b"".join(file.read_bytes() for file in tmp_path.rglob("*") if file.is_file())


# 35: clocks

HOUR = 3600.0
LAYOUT = RunLayout("digits", "night")


def coordinate(store: Store, clock: FakeClock, pause: Callable[[float], object], *, attach: bool = True) -> Log:
    """A start that becomes the run's coordinator; its log."""
    log = Log.open(store, LAYOUT.coord_log, sleep=clock.sleep, monotonic=clock.monotonic)
    become_coordinator(
        Start(store, LAYOUT, "night", takeover_s=15.0, attach=attach, claim={}),
        log,
        clock=clock,
        progress=SilentProgress(),
        before_claim=lambda: None,
        interruption=lambda: None,
        give_up_at=None,
        pause=pause,
    )
    return log


def write_beat(store: Store, clock: FakeClock, n: int) -> None:
    store.put(LAYOUT.beat, json.dumps({"term": 1, "n": n, "at": clock.epoch()}).encode())


@pytest.mark.parametrize("skew_s", [HOUR, -HOUR, 1e9])
def test_clocks_that_differ_change_nothing_about_who_may_write(skew_s: float) -> None:
    """A coordinator with a skewed clock is followed while it lives, replaced when it does not, and then fenced."""
    store, theirs, ours = MemoryStore(), FakeClock(1_700_000_000.0 + skew_s), FakeClock(1_700_000_000.0)
    first = coordinate(store, theirs, theirs.sleep)
    write_beat(store, theirs, 0)
    beats = iter(range(1, 1000))

    def beating(seconds: float) -> None:
        ours.sleep(seconds)
        write_beat(store, theirs, next(beats))

    with pytest.raises(RunHeld, match="live coordinator"):
        coordinate(store, ours, beating, attach=False)
    began = ours.monotonic()
    second = coordinate(store, ours, ours.sleep)
    assert 15.0 <= ours.monotonic() - began < 20.0  # by its own clock alone
    assert (first.term, second.term) == (1, 2)
    with pytest.raises(Fenced):
        first.append("opened", identity="x")


def test_a_beat_from_the_future_is_shown_as_just_now() -> None:
    store, clock = MemoryStore(), FakeClock()
    job = parse_job({"name": "digits", "model": "m:f", "data": "m:g", "members": 1})
    store.create(LAYOUT.spec, json.dumps({"run_id": "night", "job": job.model_dump(mode="json")}).encode())
    Log.open(store, LAYOUT.coord_log).claim(at=clock.epoch() + HOUR)
    write_beat(store, FakeClock(clock.epoch() + HOUR), 0)
    shown = status_of(store, LAYOUT, now=clock.epoch())
    assert (shown.age_s, shown.sign_age_s) == (0.0, 0.0)


# 36: specs

GOOD = """\
name: tiny
model: {builder: tiny:build_model, kwargs: {}}
data: tiny:load_data
members: {count: 2, dropout: [0.1, 0.2]}
train: {epochs: 2, batch_size: 20}
storage: {url: runs}
"""
LINES = GOOD.splitlines(keepends=True)


@st.composite
def spoiled(draw: st.DrawFn) -> bytes:
    """The good file after one or a few accidents: cut off, bytes changed, a line twice, a value of another type."""
    body = GOOD.encode()
    for _ in range(draw(st.integers(1, 3))):
        match draw(st.sampled_from(["cut", "change", "insert", "repeat", "retype"])):
            case "cut":
                body = body[: draw(st.integers(0, len(body)))]
            case "change" if body:
                at = draw(st.integers(0, len(body) - 1))
                body = body[:at] + bytes([draw(st.integers(0, 255))]) + body[at + 1 :]
            case "insert":
                at = draw(st.integers(0, len(body)))
                body = body[:at] + draw(st.binary(min_size=1, max_size=8)) + body[at:]
            case "repeat":
                body += draw(st.sampled_from(LINES)).encode()
            case "retype":
                new = draw(st.sampled_from([b"[]", b"{}", b"null", b"'2'", b"-1", b"1e999", b"true", b"&a [*a]"]))
                old = draw(st.sampled_from([b"2", b"[0.1, 0.2]", b"tiny", b"{}", b"runs"]))
                body = body.replace(old, new, 1)
    return body


def outcome(file: Path) -> str:
    """What the user sees: "a job", or the refusal; any other exception fails the test."""
    try:
        return "a job" if isinstance(load_job(file), Job) else "something else"
    except InvalidJob as error:
        return str(error)


@given(body=spoiled())
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_spoiled_job_file_is_a_job_or_is_refused_and_nothing_is_written(tmp_path: Path, body: bytes) -> None:
    file = tmp_path / "job.yaml"
    file.write_bytes(body)
    said = outcome(file)
    assert said == "a job" or str(file) in said
    assert [path.name for path in tmp_path.iterdir()] == ["job.yaml"]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        GOOD.encode()[:-20],
        GOOD.encode() + b"members: 3\n",
        GOOD.encode().replace(b"epochs: 2", b"epochs: many"),
        b"\x00\xff\xfe" + GOOD.encode(),
        b"PK\x03\x04" + bytes(200),
        b"- name: tiny\n",
        b"a: &a [*a]\n" + GOOD.encode(),
    ],
    ids=["empty", "cut off", "a key twice", "wrong type", "bytes", "a zip", "a list", "an alias of itself"],
)
def test_the_command_line_refuses_a_spoiled_job_file_before_storage_and_ray(tmp_path: Path, body: bytes) -> None:
    job = write_tiny_job(tmp_path, {"url": "runs"})
    job.write_bytes(body)
    assert_refused(command(tmp_path, "run", "job.yaml"))
    assert not (tmp_path / "runs").exists()


# 37: another spec under the same run id


def test_another_seed_under_the_same_run_id_is_refused_with_the_difference_and_nothing_is_written(
    tmp_path: Path,
) -> None:
    write_tiny_job(tmp_path, {"url": "runs"})
    first = command(tmp_path, "run", "job.yaml", NO_RAY, "--run-id", "night")
    assert first.returncode == 75, first.stderr  # as far as Ray, so the spec is stored

    def stored() -> dict[str, bytes]:
        files = (path for path in (tmp_path / "runs").rglob("*") if path.is_file())
        return {str(path): path.read_bytes() for path in files}

    before = stored()
    assert any(path.endswith("spec.json") for path in before)
    changed = command(tmp_path, "run", "job.yaml", "seed=1", NO_RAY, "--run-id", "night", "--json")
    assert_refused(changed)
    error = json.loads(changed.stdout)
    assert (error["error"], error["exit_code"]) == ("IdentityChanged", 2)
    assert "seed: 0 → 1" in error["what"]
    assert stored() == before


# 38: hostile names and addresses

PASSWORD = "hunter2-0123456789"
LOCATIONS = [
    f"s3://user:{PASSWORD}@bucket/runs",
    "s3://169.254.169.254/runs",
    "s3://bucket/../other",
    "s3://bucket/x?versionId=1",
    "http://169.254.169.254/latest/meta-data",
    f"https://user:{PASSWORD}@host/runs",
    "file://host/runs",
    "gs://bucket/runs",
    "memory://runs",
    "s3:bucket",
    "",
]
ENDPOINTS = [
    "http://169.254.169.254",
    "http://169.254.169.254:80/x",
    "http://[fe80::1]:9000",
    "http://[::ffff:169.254.169.254]",
    "http://0xa9fea9fe",
    "http://2852039166",
    "http://metadata.google.internal",
    "http://METADATA.google.internal.",
    f"http://user:{PASSWORD}@127.0.0.1:9000",
    "ftp://127.0.0.1",
    "http://127.0.0.1\\@169.254.169.254",
    "127.0.0.1:9000",
]
PLACES = [{"storage": url} for url in LOCATIONS]
PLACES += [{"storage": "s3://bucket/runs", "endpoint_url": url} for url in ENDPOINTS]


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Any attempt to reach somebody is remembered, and fails the test even if its error is swallowed."""
    tried: list[object] = []

    def refuse(*arguments: Any, **_: Any) -> None:
        tried.append(arguments[-1])
        raise AssertionError(f"contacted {arguments}")

    for name in ("connect", "connect_ex"):
        monkeypatch.setattr(socket.socket, name, refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    yield
    assert tried == []


CALLS: dict[str, Callable[..., object]] = {
    "status": lambda **place: api.status("x", **place),
    "list": api.list_runs,
    "stop": lambda **place: api.stop("x", **place),
    "logs": lambda **place: api.logs("x", **place),
    "report": lambda **place: api.report("x", **place),
    "prune": lambda **place: api.prune(delete=True, **place),
    "compare": lambda **place: api.compare(["x", "y"], **place),
}


@pytest.mark.parametrize("place", PLACES, ids=lambda place: place.get("endpoint_url") or place["storage"] or "empty")
def test_a_hostile_location_is_refused_by_job_and_commands_alike_and_nothing_is_fetched(
    no_network: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: dict[str, str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for call in CALLS.values():
        with pytest.raises(InvalidJob) as refused:
            call(**place)
        assert PASSWORD not in str(refused.value)
    spec = {"url": place["storage"], **{k: v for k, v in place.items() if k != "storage"}}
    with pytest.raises(InvalidJob) as refused:
        parse_job({"name": "tiny", "model": "tiny:f", "data": "tiny:g", "storage": spec})
    assert PASSWORD not in str(refused.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "arguments",
    [
        ("run", "job.yaml", f"storage.url=s3://user:{PASSWORD}@bucket/runs"),
        ("run", "job.yaml", "storage.url=s3://bucket/runs", "storage.endpoint_url=http://169.254.169.254"),
        ("run", "job.yaml", "name=../x"),
        ("run", "job.yaml", f"ray.address=ray://user:{PASSWORD}@host:10001"),
        ("run", "job.yaml", f"model.kwargs.aws_secret_access_key={PASSWORD}"),
        ("status", "../../x"),
        ("list", "--storage", f"s3://user:{PASSWORD}@bucket/runs"),
        ("prune", "--yes", "--storage", "s3://bucket/runs", "--endpoint-url", "http://169.254.169.254"),
    ],
    ids=" ".join,
)
def test_the_command_line_refuses_hostile_values_and_never_repeats_a_password(
    tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    write_tiny_job(tmp_path, {"url": "runs"})
    ended = command(tmp_path, *arguments)
    assert_refused(ended)
    assert PASSWORD not in ended.stdout + ended.stderr
    assert sorted(path.name for path in tmp_path.iterdir() if path.name != "__pycache__") == ["job.yaml", "tiny.py"]


@pytest.mark.parametrize("run_id", ["../../x", "/etc/passwd", "a/../../b", "\0", "x\ny", "..", "%2e%2e/", "s3://h/x"])
def test_a_hostile_run_id_stays_inside_its_job(tmp_path: Path, run_id: str) -> None:
    job = load_job(write_tiny_job(tmp_path, {"url": "runs"}))
    planned = api.plan(job, run_id=run_id, root=str(tmp_path))
    job_name, run_key = planned.request.layout.root.split("/")
    assert job_name == "tiny"
    assert run_key not in ("", ".", "..")
    assert run_key.isascii()
    assert run_key.isprintable()
    assert planned.request.run_id == run_id
