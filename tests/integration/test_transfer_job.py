"""The transfer jobs on a part of Fashion-MNIST: the base helps where there is little to learn from."""

from __future__ import annotations

from pathlib import Path

import pytest

from jobs import fashion_mnist, transfer
from orchestrator import load_job
from orchestrator.reporting.result import Result
from orchestrator.training.device import Device
from tests.support.in_process import run_in_process

ROOT = Path(__file__).parents[2]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not fashion_mnist.FOLDER.is_dir(), reason=fashion_mnist.HOW_TO_GET_IT),
]


@pytest.fixture
def few_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    parts = fashion_mnist.load_data()
    sizes = {"train": 6_000, "validation": 1_000, "test": 3_000}
    small = {name: (x[: sizes[name]], y[: sizes[name]]) for name, (x, y) in parts.items()}
    monkeypatch.setattr(transfer, "load_data", lambda: small)
    monkeypatch.setattr(transfer, "NUM_TRAIN", 30)


def accuracy_of(name: str, tmp_path: Path, *settings: str, run_id: str | None = None) -> float:
    job = load_job(str(ROOT / "jobs" / f"{name}.yaml"), [f"storage.url={tmp_path}/runs", "members.count=1", *settings])
    result: Result = run_in_process(job, ROOT, run_id=run_id)
    (scores,) = result.scores("test").values()
    return float(scores.ensemble.accuracy or 0.0)


def test_a_base_beats_training_from_scratch_on_few_pictures(few_pictures: None, tmp_path: Path, device: Device) -> None:
    base = accuracy_of("transfer_base", tmp_path, "train.epochs=2", run_id="transfer-base")
    scratch = accuracy_of("transfer_scratch", tmp_path, "train.epochs=12")
    stages = "model.stages=[{freeze: all, epochs: 6}, {epochs: 6, learning_rate: 3.0e-4}]"

    reused = accuracy_of("transfer", tmp_path, stages)

    assert base > 0.7
    assert reused > scratch + 0.01
