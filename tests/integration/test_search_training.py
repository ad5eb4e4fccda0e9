"""A search trained by Keras: trials share packs, and one that is stopped between goes on to the same members."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from orchestrator.errors import Interrupted, OrchestratorError
from orchestrator.reporting.progress import SilentProgress
from orchestrator.reporting.result import Result
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
    """Asks the run to end once so many trials are predicted."""

    def __init__(self, count: int) -> None:
        self.left = count
        self.error: OrchestratorError | None = None

    def member(self, member: int, status: str, message: str | None = None) -> None:
        self.left -= status == "succeeded"
        if self.left == 0:
            self.error = Interrupted("stopped by the test")


def searching(project: TinyProject, store: str, **search: Any) -> Job:
    return project.job(
        store=store,
        members=2,
        search={"space": SPACE, "trials": 4, "parallel": 2, **search},
        train={"epochs": 2, "engine": "fused", "optimizer": "Adam"},
        report={"html": False},
    )


def digests(result: Result) -> list[tuple[int, str | None]]:
    return [(member.index, member.weights_sha256) for member in result.members]


def test_trials_share_packs_and_a_stopped_search_ends_with_the_same_bits(
    project: TinyProject, tensorflow_device: Device
) -> None:
    straight = run_in_process(searching(project, "straight"), project.folder)
    assert straight.search is not None
    assert {member.engine for member in straight.members} == {"fused"}
    rates = [trial.hyperparameters[RATE] for trial in straight.search.trials]
    assert len(set(map(str, rates))) == 4, "each trial of a pack has a learning rate of its own"
    assert all(member.hyperparameters[RATE] == rates[member.index] for member in straight.members)
    told = [trial.score for trial in straight.search.trials]
    assert sorted(told, key=lambda score: score or 0.0)[:2] == sorted(
        m.validation.nll for m in straight.members if m.validation is not None and m.validation.nll is not None
    )

    progress = StopsAfterPredicting(3)
    job = searching(project, "stopped")
    with pytest.raises(Interrupted):
        run_in_process(job, project.folder, progress=progress, interruption=lambda: progress.error)
    resumed = run_in_process(job, project.folder)
    assert digests(resumed) == digests(straight)
    assert resumed.search == straight.search
    [coord] = [key for key in open_store(job.storage.url).list("") if key.endswith("coord/log/00000000.json")]
    kinds = [record.kind for record in Log.open(open_store(job.storage.url), coord.rpartition("/")[0]).records()]
    assert kinds.count("claim") == 2
    assert kinds.count("generation") == 2


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
