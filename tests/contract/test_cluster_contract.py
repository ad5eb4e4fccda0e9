"""What every `Cluster` keeps: the port's promises, over Ray and over the shipped fake."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from orchestrator import api
from orchestrator.planning import commands as cmd
from orchestrator.planning import events as ev
from orchestrator.planning.ports import Clock, Cluster
from orchestrator.spec import Job, parse_job
from orchestrator.storage.log import Log
from orchestrator.testing import FakeClock, FakeCluster, MemoryStore
from tests.support.packs import train_alone

EPOCHS = 20
ROWS = {"train": 60, "validation": 20, "test": 20}
PATIENCE_S = 120.0

MODULE = """
import numpy as np


def load_data():
    x = np.zeros((100, 4), dtype="float32")
    y = np.arange(100) % 2
    return {"train": (x[:60], y[:60]), "validation": (x[60:80], y[60:80]), "test": (x[80:], y[80:])}


def build_model(dropout): ...
"""


@dataclass
class Subject:
    """A cluster under test, with the clock that its waits go by and all that was heard of it."""

    cluster: Cluster
    clock: Clock
    heard: list[ev.Event]

    def poll(self, timeout_s: float = 0.5) -> list[ev.Event]:
        happened = list(self.cluster.poll(timeout_s))
        self.heard += happened
        return happened

    def until(self, done: Callable[[ev.Event], bool], times: int = 1) -> ev.Event:
        """Poll until so many such events are heard, and return the last of them."""
        found: list[ev.Event] = []
        give_up_at = self.clock.monotonic() + PATIENCE_S
        while self.clock.monotonic() < give_up_at:
            found += [event for event in self.poll() if done(event)]
            if len(found) >= times:
                return found[-1]
        raise AssertionError(f"not heard within {PATIENCE_S:g} s; heard {self.heard}")

    def of(self, worker: str) -> list[ev.Event]:
        """What was heard of a worker, signs of life and of checkpoints left out."""
        quiet = (ev.Progress, ev.Checkpointed)
        return [e for e in self.heard if getattr(e, "worker", None) == worker and not isinstance(e, quiet)]

    def start(self, worker: str) -> None:
        self.cluster.send([cmd.StartWorker(worker)])
        self.until(is_a(ev.WorkerReady, worker))


def is_a(kind: type[ev.Event], worker: str) -> Callable[[ev.Event], bool]:
    return lambda event: isinstance(event, kind) and getattr(event, "worker", None) == worker


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("project")
    (folder / "contract_job.py").write_text(MODULE, encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def job(project: Path) -> Job:
    return parse_job(
        {
            "name": "contract",
            "model": "contract_job:build_model",
            "data": "contract_job:load_data",
            "members": 2,
            "train": {"epochs": EPOCHS},
            "storage": {"url": str(project / "store")},
        }
    )


@pytest.fixture(scope="module")
def ray_cluster(job: Job, project: Path) -> Iterator[Callable[[], Cluster]]:
    """Makes clusters on one Ray; workers run a light program without TensorFlow."""
    from orchestrator.cluster.ray_cluster import RayCluster
    from orchestrator.cluster.session import connect
    from orchestrator.planning.placement import Placement
    from orchestrator.training.setup import WorkerSetup
    from tests.support.light_program import LightProgram

    session = connect(None, str(project))
    request = api.plan(job, root=str(project)).request
    setup = WorkerSetup("", job, request.plan, request.layout, 1, session.code_root, num_cpus=1, num_gpus=0)

    def make() -> Cluster:
        stays_open = replace(session, opened_here=False)
        return RayCluster(stays_open, setup, Placement(2, 1, 0, "as the test says"), program=LightProgram)

    yield make
    session.close()


@pytest.fixture(params=["fake", pytest.param("ray", marks=pytest.mark.slow)])
def subject(request: pytest.FixtureRequest, job: Job, project: Path) -> Iterator[Subject]:
    cluster: Cluster
    if request.param == "ray":
        cluster = request.getfixturevalue("ray_cluster")()
        under_test = Subject(cluster, api.SystemClock(), [])
    else:
        planned = api.plan(job, root=str(project)).request
        store, clock = MemoryStore(), FakeClock()
        term = Log.open(store, planned.layout.coord_log).claim()
        cluster = FakeCluster(
            store, planned.layout, planned.plan, coord_term=term, clock=clock, epochs=EPOCHS, epoch_s=0.1, rows=ROWS
        )
        under_test = Subject(cluster, clock, [])
    yield under_test
    cluster.close()


def test_there_is_a_node_to_work_on(subject: Subject) -> None:
    assert sum(node.num_cpus for node in subject.cluster.shape().nodes) >= 1


def test_the_data_are_told_once_with_their_rows(subject: Subject) -> None:
    told = subject.until(lambda event: isinstance(event, ev.DataLoaded))
    assert isinstance(told, ev.DataLoaded)
    assert told.rows == ROWS
    subject.start("w0")
    assert sum(isinstance(event, ev.DataLoaded) for event in subject.heard) == 1


def test_a_worker_is_ready_before_anything_else_is_heard_of_it(subject: Subject) -> None:
    # The commands are there before the worker is.
    subject.cluster.send([cmd.StartWorker("w0"), cmd.Preflight("w0")])
    subject.until(is_a(ev.WorkerIdle, "w0"))
    assert [type(event) for event in subject.of("w0")] == [ev.WorkerReady, ev.PreflightPassed, ev.WorkerIdle]


def test_epochs_come_in_order_then_the_member_then_the_idle_worker(subject: Subject) -> None:
    subject.start("w0")
    subject.cluster.send([train_alone("w0", 0)])
    subject.until(is_a(ev.WorkerIdle, "w0"))
    ready, *epochs, trained, idle = subject.of("w0")
    assert isinstance(ready, ev.WorkerReady)
    assert [e.epoch for e in epochs if isinstance(e, ev.EpochEnded)] == list(range(1, EPOCHS + 1))
    assert len(epochs) == EPOCHS
    assert {(e.member, e.epochs) for e in epochs if isinstance(e, ev.EpochEnded)} == {(0, EPOCHS)}
    assert trained == ev.MemberTrained("w0", 0)
    assert idle == ev.WorkerIdle("w0")


def test_a_worker_takes_one_command_after_another(subject: Subject) -> None:
    subject.start("w0")
    for command in (cmd.Preflight("w0"), train_alone("w0", 1), cmd.Predict("w0", 1)):
        subject.cluster.send([command])
        subject.heard.clear()
        subject.until(is_a(ev.WorkerIdle, "w0"))
    assert isinstance(subject.of("w0")[0], ev.MemberPredicted)


def test_workers_train_side_by_side_and_each_keeps_its_order(subject: Subject) -> None:
    subject.cluster.send([cmd.StartWorker("w0"), cmd.StartWorker("w1")])
    subject.cluster.send([train_alone("w0", 0), train_alone("w1", 1)])
    subject.until(lambda event: isinstance(event, ev.WorkerIdle), times=2)
    for member, worker in enumerate(("w0", "w1")):
        epochs = [e for e in subject.of(worker) if isinstance(e, ev.EpochEnded)]
        assert [(e.member, e.epoch) for e in epochs] == [(member, epoch) for epoch in range(1, EPOCHS + 1)]


def test_nothing_is_heard_of_a_killed_worker_and_the_other_works_on(subject: Subject) -> None:
    subject.start("w0")
    subject.start("w1")
    subject.cluster.send([train_alone("w0", 0), train_alone("w1", 1)])
    subject.until(is_a(ev.EpochEnded, "w0"))
    subject.cluster.send([cmd.KillWorker("w0")])
    subject.heard.clear()
    subject.until(is_a(ev.WorkerIdle, "w1"))
    subject.poll()
    assert [event for event in subject.heard if getattr(event, "worker", None) == "w0"] == []


def test_what_a_killed_worker_said_before_and_nobody_heard_is_dropped(subject: Subject) -> None:
    subject.start("w0")
    subject.start("w1")
    subject.cluster.send([cmd.Preflight("w0")])
    threading.Event().wait(0.5)  # with Ray, the outcome lies ready by now; nothing can tell so but a poll
    subject.cluster.send([cmd.KillWorker("w0"), cmd.Preflight("w1")])
    subject.heard.clear()
    subject.until(is_a(ev.WorkerIdle, "w1"))
    assert subject.of("w0") == []


# What follows needs a program that keeps checkpoints. The light one on Ray keeps none; the real one has its own tests.
keeps_checkpoints = pytest.mark.parametrize("subject", ["fake"], indirect=True)


@keeps_checkpoints
def test_saving_now_waits_for_nothing_and_the_member_goes_on_where_it_was_saved(subject: Subject) -> None:
    subject.start("w0")
    subject.cluster.send([train_alone("w0", 0)])
    subject.until(is_a(ev.EpochEnded, "w0"), times=3)
    subject.cluster.send([cmd.SaveNow("w0", stop=True)])
    subject.until(is_a(ev.WorkerIdle, "w0"))
    told = [type(event) for event in subject.of("w0")]
    assert told[-2:] == [ev.Saved, ev.WorkerIdle]
    assert ev.MemberTrained not in told
    assert 3 <= told.count(ev.EpochEnded) < EPOCHS
    subject.cluster.send([train_alone("w0", 0)])
    subject.until(is_a(ev.MemberTrained, "w0"))
    epochs = [event.epoch for event in subject.of("w0") if isinstance(event, ev.EpochEnded)]
    assert epochs == list(range(1, EPOCHS + 1)), "no epoch twice, none left out"


@keeps_checkpoints
def test_saving_without_a_stop_lets_the_member_train_on(subject: Subject) -> None:
    subject.start("w0")
    subject.cluster.send([train_alone("w0", 0)])
    subject.until(is_a(ev.EpochEnded, "w0"))
    subject.cluster.send([cmd.SaveNow("w0")])
    subject.until(is_a(ev.WorkerIdle, "w0"))
    told = [type(event) for event in subject.of("w0")]
    assert told.count(ev.Saved) == 1
    assert told[-2:] == [ev.MemberTrained, ev.WorkerIdle]


@keeps_checkpoints
def test_a_late_member_is_published_from_its_newest_checkpoint_or_there_is_nothing_to_publish(subject: Subject) -> None:
    subject.start("w0")
    subject.cluster.send([train_alone("w0", 0)])
    subject.until(is_a(ev.Checkpointed, "w0"))
    subject.cluster.send([cmd.SaveNow("w0", stop=True)])
    subject.until(is_a(ev.WorkerIdle, "w0"))
    for member, answer in ((0, ev.MemberTrained("w0", 0, late=True)), (1, ev.NothingToPublish("w0", 1))):
        subject.heard.clear()
        subject.cluster.send([cmd.PublishLate("w0", member)])
        subject.until(is_a(ev.WorkerIdle, "w0"))
        assert subject.of("w0") == [answer, ev.WorkerIdle("w0")]
    subject.heard.clear()
    subject.cluster.send([cmd.PublishLate("w0", 0)])
    subject.until(is_a(ev.WorkerIdle, "w0"))
    assert subject.of("w0")[0] == ev.MemberTrained("w0", 0, late=True), "what is published is not claimed again"


def test_commands_for_workers_that_are_gone_or_never_were_change_nothing(subject: Subject) -> None:
    subject.start("w0")
    subject.cluster.send([cmd.KillWorker("w0")])
    subject.heard.clear()
    subject.cluster.send([cmd.Predict("w0", 0), cmd.KillWorker("w0"), train_alone("nobody", 0)])
    subject.start("w1")
    assert {getattr(event, "worker", "w1") for event in subject.heard} == {"w1"}


def test_a_poll_without_events_ends_when_its_time_is_over(subject: Subject) -> None:
    subject.until(lambda event: isinstance(event, ev.DataLoaded))
    for _ in range(2):
        began = subject.clock.monotonic()
        assert subject.poll(0.3) == []
        assert 0.25 <= subject.clock.monotonic() - began < PATIENCE_S
    subject.start("w0")
    began = subject.clock.monotonic()
    subject.poll(0.3)
    assert subject.clock.monotonic() - began < PATIENCE_S


def test_sending_does_not_wait_for_the_work(subject: Subject) -> None:
    began = time.monotonic()
    subject.cluster.send([cmd.StartWorker("w0"), train_alone("w0", 0), cmd.StartWorker("w1")])
    assert time.monotonic() - began < PATIENCE_S


def test_nothing_is_heard_after_the_close_which_may_come_twice(subject: Subject) -> None:
    subject.start("w0")
    subject.cluster.send([train_alone("w0", 0)])
    subject.cluster.close()
    subject.cluster.close()
    subject.heard.clear()
    subject.poll(0.5)
    assert subject.heard == []


@pytest.mark.slow
def test_a_closed_ray_cluster_leaves_no_worker_process(ray_cluster: Callable[[], Cluster]) -> None:
    subject = Subject(ray_cluster(), api.SystemClock(), [])
    subject.start("w0")
    ready = subject.of("w0")[0]
    assert isinstance(ready, ev.WorkerReady)
    process = Path(f"/proc/{ready.pid}/cmdline")
    assert b"Worker" in process.read_bytes()
    subject.cluster.close()
    give_up_at = time.monotonic() + PATIENCE_S
    while process.exists() and b"Worker" in process.read_bytes() and time.monotonic() < give_up_at:
        threading.Event().wait(0.02)
    assert not process.exists() or b"Worker" not in process.read_bytes()


_CHILDREN = """
import os, pathlib
from orchestrator.cluster.session import connect

session = connect(None, os.getcwd())
for folder in pathlib.Path("/proc").glob("[0-9]*"):
    try:
        parent = (folder / "stat").read_text().rsplit(")", 1)[1].split()[1]
        command = (folder / "cmdline").read_bytes().replace(b"\\0", b" ").decode()
    except OSError:
        continue
    if int(parent) == os.getpid() and command:
        print(command)
session.close()
"""


@pytest.mark.slow
def test_a_ray_of_the_jobs_own_is_only_what_trains(project: Path) -> None:
    done = subprocess.run([sys.executable, "-c", _CHILDREN], cwd=project, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "raylet" in done.stdout
    for unused in ("dashboard.py", "monitor.py"):  # the latter are of the autoscaler and of logs
        assert unused not in done.stdout
