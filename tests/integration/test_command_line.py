"""The command line as a scheduler uses it: streams, files, exit codes, signals. Each run here is a cold start."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.support.tiny_jobs import MODULE

pytestmark = pytest.mark.slow

LIMIT_S = 90
RUN_ID = "scheduled__2026-11-21T00:00:00+00:00"

JOB = """\
name: tiny
model: tiny_cli:build_model
data: tiny_cli:load_data
members: 2
train: {epochs: 2}
"""

HOT = """

def build_hot(dropout=0.1, rate=0.01):
    import keras

    model = keras.Sequential([keras.Input((64,)), keras.layers.Dense(16), keras.layers.Dense(10, "softmax")])
    model.compile(keras.optimizers.SGD(rate), "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A working directory with a job and its module."""
    (tmp_path / "tiny_cli.py").write_text(MODULE + HOT, encoding="utf-8")
    (tmp_path / "job.yaml").write_text(JOB, encoding="utf-8")
    return tmp_path


TELL_IMPORTS = (
    "import atexit, sys; from orchestrator.cli.main import main; "
    "atexit.register(lambda: print('imported:', *{'ray', 'keras', 'tensorflow'} & set(sys.modules), file=sys.stderr)); "
    "main()"
)

Ended = subprocess.CompletedProcess[str]


def start(folder: Path, *arguments: str, program: Sequence[str] = ("-m", "orchestrator")) -> subprocess.Popen[str]:
    """The command in a process group of its own, as schedulers start it."""
    return subprocess.Popen(
        [sys.executable, *program, *arguments],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def call(folder: Path, *arguments: str, program: Sequence[str] = ("-m", "orchestrator")) -> Ended:
    process = start(folder, *arguments, program=program)
    try:
        out, err = process.communicate(timeout=LIMIT_S)
    finally:
        end_group(process.pid)
    return subprocess.CompletedProcess(arguments, process.returncode, out, err)


def living(group: int) -> list[str]:
    """Command lines of the processes of a group that are not zombies."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and os.getpgid(int(entry.name)) == group:
                state = (entry / "stat").read_text().rpartition(")")[2].split()[0]
                if state != "Z":
                    found.append((entry / "cmdline").read_text().replace("\0", " "))
        except (ProcessLookupError, FileNotFoundError):  # it ended while we looked
            continue
    return found


def end_group(group: int) -> None:
    if living(group):
        os.killpg(group, signal.SIGKILL)


def only_json(text: str) -> Any:
    """The one JSON document that is all of standard output."""
    assert text.count("\n") == 1
    return json.loads(text)


def test_a_schedulers_run_its_retry_and_a_changed_job_under_the_same_id(folder: Path) -> None:
    """One story, for starts are slow: the gate is missed; the retry repeats that at once; another seed is refused."""
    gate = "ensemble.gate={metric: accuracy, min: 0.999}"
    command = ["run", "job.yaml", gate, "--run-id", RUN_ID, "--json"]
    first = call(folder, *command, "--result-file", "out/result.json", "--output-dir", "values")
    assert first.returncode == 3, first.stderr
    result = only_json(first.stdout)
    assert (result["run_id"], result["status"], result["exit_code"]) == (RUN_ID, "gate_failed", 3)
    assert (folder / "out" / "result.json").read_text() == first.stdout
    values = {file.name: file.read_text() for file in (folder / "values").iterdir()}
    assert values["run_id"] == RUN_ID
    assert float(values["validation_ensemble_accuracy"]) == result["validation"]["ensemble"]["accuracy"]
    assert (folder / "runs" / result["artifacts"]["result"]).read_text() == first.stdout
    assert "member 0" in first.stderr

    again = call(folder, *command, program=("-c", TELL_IMPORTS))
    assert (again.returncode, again.stdout) == (3, first.stdout)
    assert again.stderr.splitlines() == [f"run {RUN_ID} is finished: this is its recorded result", "imported:"]

    changed = call(folder, *command[:2], "seed=1", *command[2:])
    assert changed.returncode == 2
    error = only_json(changed.stdout)
    assert error["error"] == "IdentityChanged"
    assert "seed: 0 → 1" in error["what"]

    status = call(folder, "status", RUN_ID, "--json")
    found = only_json(status.stdout)
    assert (found["status"], found["exit_code"], found["terms"]) == ("gate_failed", 3, 1)
    assert [member["status"] for member in found["members"]] == ["trained", "trained"]
    listed = call(folder, "list", "--json")
    assert [run["run_id"] for run in only_json(listed.stdout)] == [RUN_ID]
    stopped = call(folder, "stop", RUN_ID)
    assert stopped.returncode == 2
    assert "finished" in stopped.stderr


def lines_until(stream: Any, word: str) -> Iterator[str]:
    for line in stream:
        yield line
        if word in line:
            return


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_ends_the_run_in_order_and_leaves_no_process(folder: Path, number: int, code: int) -> None:
    process = start(folder, "run", "job.yaml", "train.epochs=100000", "train.early_stopping=null", "--json")
    guard = threading.Timer(LIMIT_S, end_group, [process.pid])
    guard.start()
    try:
        seen = list(lines_until(process.stderr, "epoch 1/"))
        assert "epoch 1/" in seen[-1], seen
        process.send_signal(number)
        out, err = process.communicate(timeout=LIMIT_S)
        assert process.returncode == code, err
        assert only_json(out)["exit_code"] == code
        assert living(process.pid) == []
    finally:
        guard.cancel()
        end_group(process.pid)
    [found] = only_json(call(folder, "list", "--json").stdout)
    assert (found["status"], found["exit_code"]) == ("stopped", code)


def test_a_timeout_ends_the_run_with_its_own_code(folder: Path) -> None:
    ended = call(folder, "run", "job.yaml", "--timeout", "0.5")
    assert (ended.returncode, ended.stdout) == (124, "")
    assert "--timeout" in ended.stderr


def test_a_fresh_run_that_misses_its_quorum_leaves_the_error_as_its_result(folder: Path) -> None:
    overrides = ["model=tiny_cli:build_hot", "members.overrides={1: {kwargs: {rate: 1e9}}}"]
    ended = call(folder, "run", "job.yaml", *overrides, "--fresh", "--json", "--result-file", "result.json")
    assert ended.returncode == 4, ended.stderr
    error = only_json(ended.stdout)
    assert (error["error"], error["exit_code"], error["retryable"]) == ("QuorumMissed", 4, False)
    assert "learning rate 1e+09" in error["what"]
    assert (folder / "result.json").read_text() == ended.stdout
    [found] = only_json(call(folder, "list", "--json").stdout)
    default = json.loads(call(folder, "plan", "job.yaml", *overrides, "--json").stdout)["run_id"]
    assert found["run_id"].startswith(f"{default}-")  # a name of its own, beside the default's


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["run", "job.yaml", "train.epoch=3"], "epochs"),
        (["validate", "job.yaml", "model=tiny_cli:build_modell"], "build_model"),
        (["run", "job.yaml", "storage.url=memory://runs"], "memory://"),
        (["run", "job.yaml", "--run-id", "x", "--fresh"], "--fresh"),
        (["run", "nowhere.yaml"], "nowhere.yaml"),
        (["status", "no-such-run"], "no such run"),
    ],
)
def test_what_is_wrong_with_the_request_ends_in_two_with_its_json(
    folder: Path, arguments: Sequence[str], words: str
) -> None:
    ended = call(folder, *arguments, "--json")
    assert ended.returncode == 2
    error = only_json(ended.stdout)
    assert error["exit_code"] == 2
    assert words in " ".join(str(part) for part in error.values())
    assert ended.stderr.startswith("error: ")
    assert "Traceback" not in ended.stderr
