"""The one worker that measures: what becomes of its answer, and of none."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest

from orchestrator import api
from orchestrator.api.measuring import WORKER, Told, ask_worker
from orchestrator.errors import ClusterUnavailable, InvalidData, InvalidModel, OrchestratorError
from orchestrator.planning import commands as cmd
from orchestrator.planning import events as ev
from orchestrator.planning.packs import PackingRules
from orchestrator.planning.placement import ClusterShape, NodeShape, Placement
from orchestrator.spec import parse_job

LOADED = ev.DataLoaded("f" * 64, {"train": 1234, "validation": 56})
ANSWER = ev.Measured(WORKER, "cpu", (), "as it is", {}, import_s=1.0, preflight_s=1.0, packs_s=1.0, peak_bytes=1)


class OneWorker:
    """The `Cluster` port with a worker that tells what it is told to."""

    def __init__(self, *told: ev.Event) -> None:
        self.sent: list[cmd.WorkerCommand] = []
        self._told = list(told)

    def shape(self) -> ClusterShape:
        return ClusterShape((NodeShape(num_cpus=2, num_gpus=0),), can_grow=False)

    def send(self, commands: Iterable[cmd.WorkerCommand]) -> None:
        self.sent += commands

    def poll(self, timeout_s: float) -> Sequence[ev.Event]:
        return [self._told.pop(0)] if self._told else ()

    def close(self) -> None:
        pass


def ask(cluster: OneWorker, folder: Path, notes: list[str] | None = None, **parts: Any) -> Told:
    (folder / "m.py").write_text("def f(): ...\ndef g(): ...\n", encoding="utf-8")
    job = parse_job({"name": "a", "model": "m:f", "data": "m:g", "train": {"epochs": 7}, **parts})
    planned = api.plan(job, root=str(folder))
    return ask_worker(cluster, planned, Placement(2, 1, 0.0, "2 × 1 CPU"), ([] if notes is None else notes).append)


def test_one_worker_is_asked_and_its_answer_is_taken(tmp_path: Path) -> None:
    cluster, notes = OneWorker(ev.WorkerReady(WORKER, "here", 1), LOADED, ev.Progress(WORKER), ANSWER), list[str]()
    told = ask(cluster, tmp_path, notes)

    assert told.measured is ANSWER
    assert told.num_rows == 1234
    assert cluster.sent == [
        cmd.StartWorker(WORKER, 1),
        cmd.Measure(WORKER, PackingRules("auto", epochs=7), num_workers=2),
    ]
    assert notes == ["data: 1,234 train, 56 validation rows; checking the job and timing a few of its steps"]


@pytest.mark.parametrize(
    "event",
    [
        ev.PreflightFailed(WORKER, InvalidModel("wrong")),
        ev.DataFailed(InvalidData("wrong")),
        ev.WorkerFailed(WORKER, InvalidModel("wrong")),
    ],
)
def test_what_is_wrong_with_the_job_is_raised_as_it_is(tmp_path: Path, event: Any) -> None:
    with pytest.raises(OrchestratorError, match="wrong") as caught:
        ask(OneWorker(LOADED, event), tmp_path)

    assert caught.value is event.error
    assert caught.value.exit_code == 2


def test_a_worker_that_is_lost_is_worth_another_try(tmp_path: Path) -> None:
    with pytest.raises(ClusterUnavailable, match=r"is gone \(out_of_memory\): killed"):
        ask(OneWorker(LOADED, ev.WorkerLost(WORKER, ev.Cause.OUT_OF_MEMORY, "killed")), tmp_path)


def test_a_worker_that_says_nothing_is_not_waited_for_for_ever(tmp_path: Path) -> None:
    with pytest.raises(ClusterUnavailable, match="no sign of life"):
        ask(OneWorker(LOADED), tmp_path, faults={"stall_s": 0.01})
