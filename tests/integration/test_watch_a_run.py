"""A run on a real cluster is watched while it trains: by Prometheus, from storage, and by what its members print."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from orchestrator import api
from tests.support.cli_job import write_tiny_job
from tests.support.processes import without_ray
from tests.support.ray_head import RayHead
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("head")]

WAIT_S = 120.0
PER_MEMBER = {"member_epoch": 2.0, "attempts_total": 1.0}
RUN = "watched/2026-11-21"

HELD = """
import threading
import time
import warnings
from pathlib import Path

import keras


class Held(keras.callbacks.Callback):
    def __init__(self, gate):
        super().__init__()
        self.gate = Path(gate)

    def on_epoch_end(self, epoch, logs=None):
        print("said after", epoch + 1)
        if epoch == 0:
            warnings.warn("the labels look odd")
        give_up_at = time.monotonic() + 120
        while epoch == 2 and not self.gate.exists() and time.monotonic() < give_up_at:
            threading.Event().wait(0.05)
"""

Figures = dict[tuple[str, str, str], float]
"""By name, member and status (or the name of a score), empty where a figure has none."""


def figures_at(url: str) -> Figures:
    """The run's figures, as Prometheus reads them."""
    found: Figures = {}
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(url, timeout=10.0) as answer:
        text = answer.read().decode()
    for name, inner, value in re.findall(r"^ray_orchestrator_(\w+)\{(.*)\} (\S+)$", text, re.MULTILINE):
        labels = dict(re.findall(r'(\w+)="([^"]*)"', inner))
        if labels["run"] == RUN:
            found[name, labels.get("member", ""), labels.get("status", labels.get("name", ""))] = float(value)
    return found


@contextmanager
def started(
    arguments: list[str], folder: Path, name: str, environ: Mapping[str, str]
) -> Iterator[subprocess.Popen[bytes]]:
    """A command of ours whose output goes to `<name>.out` and `<name>.err`; killed at the end, should it live on."""
    with (folder / f"{name}.out").open("wb") as out, (folder / f"{name}.err").open("wb") as err:
        process = subprocess.Popen(
            [sys.executable, "-m", "orchestrator", *arguments], cwd=folder, env=dict(environ), stdout=out, stderr=err
        )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def test_a_run_is_seen_by_prometheus_from_storage_and_in_what_its_members_print(
    cluster_head: RayHead, tmp_path: Path
) -> None:
    storage, gate = str(tmp_path / "store"), tmp_path / "gate"
    held = {"class_name": "held:Held", "config": {"gate": str(gate)}}
    train = {"epochs": 3, "batch_size": 20, "verbose": 2, "callbacks": [held]}
    job = write_tiny_job(tmp_path, {"url": storage}, train=train, faults={"checkpoint_every_s": 0})
    (tmp_path / "held.py").write_text(HELD, encoding="utf-8")
    quick = {**cluster_head.environ, "RAY_metrics_report_interval_ms": "1000"}
    plain = without_ray()

    def said(name: str) -> str:
        return (tmp_path / name).read_text(encoding="utf-8")

    def told(part: str, name: str) -> None:
        wait_until(lambda: part in said(name), lambda: f"{part!r} in:\n{said(name)}\n{said('run.err')}")

    expected = {("run_info", "", "running"): 1.0, ("members", "", "running"): 2.0}
    expected |= {(name, member, ""): value for name, value in PER_MEMBER.items() for member in "01"}
    look = ["status", RUN, "--watch", "--every", "0.5", "--storage", storage]
    run = ["run", job.name, "--run-id", RUN, f"ray.address={cluster_head.gcs_address}"]
    with started(look, tmp_path, "watch", plain) as watch, started(look, tmp_path, "left", plain) as left:
        told("there is no such run yet", "watch.err")
        with started(run, tmp_path, "run", quick) as driver:
            for member in (0, 1):
                told(f"[member {member}] started epoch 2/3 loss", "watch.out")
            [url] = re.findall(r"^metrics for Prometheus: (.*)$", said("run.err"), re.MULTILINE)
            wait_until(lambda: expected.items() <= figures_at(url).items(), lambda: f"{expected}: {figures_at(url)}")
            figures = figures_at(url)
            left.send_signal(signal.SIGINT)
            assert left.wait(WAIT_S) == 130
            gate.touch()
            assert driver.wait(WAIT_S) == 0, said("run.err")
        assert watch.wait(WAIT_S) == 0, said("watch.err")

    for member in "01":
        assert figures["member_examples_per_second", member, ""] > 0
        assert {name for kind, of, name in figures if (kind, of) == ("member_score", member)} == {
            *("loss", "accuracy", "val_loss", "val_accuracy")
        }
    assert figures["uploads_total", "", ""] >= 2
    assert figures["upload_seconds_total", "", ""] > 0

    lines = said("watch.out").splitlines()
    for member in (0, 1):
        # Trained, and soon after succeeded with the ensemble: a look may fall on either.
        assert any(re.match(rf"\[member {member}\] (trained|succeeded) epoch 3/3 ", line) for line in lines), lines
    assert lines[-1].startswith(f"run {RUN}: ensemble of 2: validation accuracy ")

    shown = said("run.err").splitlines()
    kept = "".join(path.read_text(errors="replace") for path in cluster_head.scratch.glob("session_*/logs/worker-*"))
    for member, other in ((0, 1), (1, 0)):
        for line in ("Epoch 3/3", "said after 2"):
            assert f"[member {member}] {line}" in shown
            assert f"[member {member}] {line}\n" in kept, "Ray's own log of the worker has it, too"
        [(_, text)] = api.logs(RUN, member=member, storage=storage)
        log = "".join(text)
        assert log.count("said after 2\n") == 1, "its own, and not that of the other member"
        assert "UserWarning: the labels look odd" in log
        assert f"member {other}," not in log
        assert any(line.startswith(f"[member {member}] ") and "the labels look odd" in line for line in shown)
