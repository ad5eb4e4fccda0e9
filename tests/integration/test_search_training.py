"""A search trained by Keras: trials share packs, are pruned, and go on to the same bits when the run was stopped."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from orchestrator.errors import Interrupted, OrchestratorError
from orchestrator.planning.recovery import read_member
from orchestrator.reporting.progress import SilentProgress
from orchestrator.spec import Job, load_job
from orchestrator.storage.log import Log
from orchestrator.storage.open import open_store
from orchestrator.training.device import Device
from tests.support.in_process import run_in_process
from tests.support.tiny_jobs import TinyProject

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.slow

RATE = "train.optimizer.config.learning_rate"
SPACE = {"dropout": {"min": 0.1, "max": 0.5}, RATE: {"min": 0.001, "max": 0.03, "log": True}}


class StopsAfterPredicting(SilentProgress):
    """Asks the run to end once so many trials are predicted (None: never), and counts what is trained."""

    def __init__(self, count: int | None = None) -> None:
        self.left = count
        self.error: OrchestratorError | None = None
        self.num_epochs = 0
        self.told_of: list[int] = []

    def planned(self, members: int, workers: int, run_id: str) -> None:
        self.told_of.append(members)

    def epoch(self, member: int, epoch: int, epochs: int, logs: Mapping[str, float]) -> None:
        self.num_epochs += 1

    def member(self, member: int, status: str, message: str | None = None) -> None:
        if self.left is not None and status == "succeeded":
            self.left -= 1
        if self.left == 0:
            self.error = Interrupted("stopped by the test")


def searching(project: TinyProject, store: str, **search: Any) -> Job:
    return project.job(
        store=store,
        members=1,
        search={"space": SPACE, "sampler": "random", "trials": 4, **search},
        train={"epochs": 3, "engine": "fused", "optimizer": "Adam"},
        report={"html": False},
    )


def digests(job: Job) -> dict[int, str]:
    """Of the weights that each trial has in the end."""
    store = open_store(job.storage.url)
    logs = {key.rpartition("/")[0] for key in store.list("") if "/members/" in key and "/log/" in key}
    finals = {int(log.split("/")[-2]): read_member(Log.open(store, log).records()).final for log in logs}
    return {trial: final["weights_sha256"] for trial, final in finals.items() if final is not None}


def test_a_halved_search_ends_with_the_bits_of_straight_training_also_when_it_is_stopped(
    project: TinyProject, tensorflow_device: Device
) -> None:
    straight = searching(project, "straight")
    whole = run_in_process(straight, project.folder)
    assert whole.search is not None
    assert {member.engine for member in whole.members} == {"fused"}, "each has a learning rate of its own in the pack"
    assert len({str(trial.hyperparameters[RATE]) for trial in whole.search.trials}) == 4

    halving = {"pruning": {"min_epochs": 1, "reduction_factor": 2}}
    counted = StopsAfterPredicting()
    halved = run_in_process(searching(project, "halved", **halving), project.folder, progress=counted)
    assert counted.num_epochs == 4 + 2 + 1, "they go on from where they were, not from the beginning"
    assert counted.told_of == [4], "told once of its trials, not again on every rung"
    assert {member.attempts for member in halved.members} == {1}, "its rungs are one attempt"
    assert halved.search is not None
    [best] = [member.index for member in halved.members]
    assert sorted(trial.epochs or 0 for trial in halved.search.trials) == [1, 1, 2, 3]
    assert sum(trial.status == "pruned" for trial in halved.search.trials) == 3
    assert halved.members[0].weights_sha256 == digests(straight)[best]

    job, progress = searching(project, "stopped", **halving), StopsAfterPredicting(5)
    with pytest.raises(Interrupted):
        run_in_process(job, project.folder, progress=progress, interruption=lambda: progress.error)
    resumed = run_in_process(job, project.folder)
    assert resumed.search == halved.search
    assert resumed.members[0].weights_sha256 == halved.members[0].weights_sha256


def test_the_example_job_makes_a_weighted_ensemble_of_its_trials(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tensorflow_device: Device
) -> None:
    monkeypatch.syspath_prepend(str(ROOT))
    fewer = ["search.trials=4", "search.parallel=3", "members.count=2", "train.epochs=3", "report.html=false"]
    job = load_job(str(ROOT / "jobs" / "search.yaml"), [*fewer, f"storage.url={tmp_path}"])
    result = run_in_process(job, ROOT)
    assert result.search is not None
    assert [trial.generation for trial in result.search.trials] == [0, 0, 0, 1]
    assert {trial.hyperparameters["train.batch_size"] for trial in result.search.trials} <= {32, 64}
    assert result.weights is not None
    assert result.weights.method == "greedy"
    assert result.test is not None
    assert result.test.weighted is not None
    assert result.test.weighted.accuracy is not None
    assert result.test.weighted.accuracy > 0.8, "three epochs are enough for that"
