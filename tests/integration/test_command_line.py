"""The command line as a scheduler uses it: streams, files, exit codes, signals. Each run here is a cold start."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from orchestrator.spec import parse_job
from orchestrator.storage.layout import RunLayout
from orchestrator.storage.local import LocalStore
from orchestrator.storage.log import Log
from tests.support.held_job import living
from tests.support.tiny_jobs import MODULE

pytestmark = pytest.mark.slow

LIMIT_S = 240
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


TELL_IMPORTS = """
import os, sys
from orchestrator.cli.main import main
told = os.dup(2)
try:
    main()
finally:
    os.write(told, " ".join(["imported:", *{"ray", "keras", "tensorflow"} & set(sys.modules)]).encode())
"""

SPEAK_LATE = """
import atexit, os, signal, sys
from orchestrator.cli.main import main


def speak():
    print("a library says goodbye")
    print("and complains", file=sys.stderr)
    os.write(2, b"in C, too")
    os.kill(os.getpid(), signal.SIGTERM)


atexit.register(speak)
main()
"""

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
    assert [member["status"] for member in found["members"]] == ["succeeded", "succeeded"]
    assert [member["attempts"] for member in found["members"]] == [1, 1]
    assert found["age_s"] > 0
    [listed] = only_json(call(folder, "list", "--json").stdout)
    assert (listed["run_id"], listed["num_done"], listed["num_members"]) == (RUN_ID, 2, 2)
    [pruned] = only_json(call(folder, "prune", "--json").stdout)
    assert (pruned["candidates"], pruned["skipped"]) == ([], None)  # a run that went well names all that it stored
    stopped = call(folder, "stop", RUN_ID)
    assert stopped.returncode == 2
    assert "finished" in stopped.stderr


@pytest.mark.parametrize(("arguments", "code"), [(["job.yaml"], 0), (["nowhere.yaml"], 2), (["job.yaml", "--jsno"], 2)])
def test_the_answer_is_the_last_line_of_both_streams_in_one_whatever_libraries_say_later(
    folder: Path, arguments: Sequence[str], code: int
) -> None:
    """As Airflow's BashOperator reads it. A SIGTERM that comes as late changes the exit code no more."""
    command = [sys.executable, "-c", SPEAK_LATE, "validate", *arguments, "--json"]
    ended = subprocess.run(
        command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=LIMIT_S, check=False
    )
    answer = json.loads(ended.stdout.splitlines()[-1])
    assert (ended.returncode, answer.get("exit_code", 0)) == (code, code)
    assert len(ended.stdout.splitlines()) > 1  # what is for people comes before


def test_a_reader_that_has_heard_enough_is_no_error(folder: Path) -> None:
    process = start(folder, "schema")
    assert process.stdout is not None
    process.stdout.close()
    assert process.stderr is not None
    assert process.stderr.read() == ""
    assert process.wait(timeout=LIMIT_S) == 0


def lines_until(stream: Any, word: str) -> Iterator[str]:
    for line in stream:
        yield line
        if word in line:
            return


def test_a_signal_ends_the_run_in_order_and_leaves_no_process(folder: Path) -> None:
    """To the whole group, as a terminal, Airflow and systemd send it, so the Ray in it goes at the same time.

    SIGTERM to the command alone: `fault/test_driver_faults.py`."""
    process = start(folder, "run", "job.yaml", "train.epochs=100000", "train.early_stopping=null", "--json")
    guard = threading.Timer(LIMIT_S, end_group, [process.pid])
    guard.start()
    try:
        seen = list(lines_until(process.stderr, "epoch 1/"))
        assert "epoch 1/" in seen[-1], seen
        os.killpg(process.pid, signal.SIGTERM)
        out, err = process.communicate(timeout=LIMIT_S)
        assert process.returncode == 143, err
        assert only_json(out)["exit_code"] == 143
        assert living(process.pid) == []
    finally:
        guard.cancel()
        end_group(process.pid)
    [found] = only_json(call(folder, "list", "--json").stdout)
    assert (found["status"], found["exit_code"]) == ("stopped", 143)


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


def stored_run(folder: Path) -> Log:
    """A run of three members with a live coordinator, as another machine may see it; the coordinator's log."""
    store, layout = LocalStore(folder / "runs"), RunLayout("tiny", "night")
    job = parse_job({"name": "tiny", "model": "tiny_cli:build_model", "data": "tiny_cli:load_data", "members": 3})
    store.create(layout.spec, json.dumps({"run_id": RUN_ID, "job": job.model_dump(mode="json")}).encode())
    log = Log.open(store, layout.coord_log)
    log.claim(at=time.time() - 7500)
    log.append("ended", member=1, attempt=1, cause="preempted", message="the node was taken", at=time.time())
    store.put(layout.beat, json.dumps({"term": 1, "n": 7, "at": time.time()}).encode())
    member = Log.open(store, layout.member_log(1))
    member.claim(coord_term=1, worker="w1")
    member.claim(coord_term=1, worker="w2")
    member.append("checkpoint", epoch=12, best_epoch=9, at=time.time() - 200)
    attempt = layout.attempt_prefix(1, 2)
    store.put(f"{attempt}/log-00000.txt", b"epoch 1\x1b[2J\n")
    store.put(f"{attempt}/log-00001.txt", b"epoch 2 \xff\x00")
    store.put(f"{attempt}/history.csv", b"epoch,loss\n")
    return log


def test_status_tells_people_what_has_happened_and_when(folder: Path) -> None:
    stored_run(folder)
    shown = call(folder, "status", RUN_ID)
    assert shown.returncode == 0, shown.stderr
    lines = [" ".join(line.split()) for line in shown.stdout.splitlines()]
    assert "status live" in lines
    assert "starts 1" in lines
    assert any(line.startswith("first start 20") and line.endswith("UTC, 2 h 5 min ago") for line in lines)
    assert any(re.fullmatch(r"last sign of life \d+ s ago \(term 1\)", line) for line in lines)
    assert "1 started 2 1 epoch 12, 3 min ago – 9 preempted" in lines
    assert "0 not_started 0 0 – – – –" in lines
    listed = [" ".join(line.split()) for line in call(folder, "list").stdout.splitlines()]
    assert any(re.fullmatch(r"tiny night live 1 –/3 \d+ s ago \(term 1\)", line) for line in listed)


def test_logs_prints_the_newest_attempts_text_made_safe_and_names_other_files(folder: Path) -> None:
    stored_run(folder)
    shown = call(folder, "logs", "night")
    assert shown.returncode == 0, shown.stderr
    text = "== member 1, attempt 2 ==\nepoch 1\nepoch 2 �\n"
    assert shown.stdout == f"{text}other files:\ntiny/night/attempts/1-2/history.csv\n"
    [told] = only_json(call(folder, "logs", "night", "--member", "1", "--attempt", "2", "--json").stdout)
    assert told == {
        "member": 1,
        "attempt": 2,
        "text": "epoch 1\nepoch 2 �",
        "files": ["tiny/night/attempts/1-2/history.csv"],
    }
    missing = call(folder, "logs", "night", "--member", "0")
    assert missing.returncode == 2
    assert "no attempt at member 0" in missing.stderr
    assert "member 1 attempt 2" in missing.stderr


def test_stop_leaves_a_request_for_a_live_run_and_refuses_one_that_has_ended(folder: Path) -> None:
    log = stored_run(folder)
    asked = call(folder, "stop", RUN_ID)
    assert asked.returncode == 0, asked.stderr
    [request] = (folder / "runs" / "tiny" / "night" / "control").iterdir()
    assert request.name in asked.stderr
    log.append("stopped", exit_code=143, message="stopped on request", at=time.time())
    again = call(folder, "stop", RUN_ID)
    assert again.returncode == 2
    assert "the run has ended (stopped)" in again.stderr
    [found] = only_json(call(folder, "list", "--json").stdout)
    assert (found["status"], found["exit_code"], found["message"]) == ("stopped", 143, "stopped on request")
