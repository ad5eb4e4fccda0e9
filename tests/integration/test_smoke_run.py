"""A smoke run goes through the whole flow, and says that it is none."""

from __future__ import annotations

import pytest

from orchestrator.reporting.result import Result, from_json
from orchestrator.storage.open import open_store
from tests.support.in_process import run_in_process
from tests.support.tiny_jobs import TinyProject

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("device")]

SOURCE = """

def load_many():
    return {"train": digits(1200), "test": digits(597, 1200)}
"""


def test_a_job_with_folds_gate_and_quorum_runs_small_to_its_report(project: TinyProject) -> None:
    module = project.folder / f"{project.name}.py"
    module.write_text(module.read_text(encoding="utf-8") + SOURCE, encoding="utf-8")
    job = project.job(
        data=f"{project.name}:load_many",
        members={"count": 3, "folds": {"count": 5}, "vary": {"units": [8, 16, 32]}},
        train={"epochs": 30, "checkpoint": {"initial_value_threshold": 1e-9}},
        ensemble={"gate": {"metric": "accuracy", "min": 1.0, "on": "out_of_fold"}, "quorum": 3, "deadline": 1},
    )
    result = run_in_process(job, project.folder, smoke=True)
    stored = open_store(job.storage.url)

    assert (result.status, result.exit_code, result.gate) == ("succeeded", 0, None)
    assert result.run_id.startswith("tiny-smoke-")
    assert result.notes[-2:] == (
        "smoke run: 4 members, 1 epoch, ≤ 512 rows: whole flow works; not a result",
        "left out in a smoke run: ensemble.gate, which is not judged; ensemble.quorum; ensemble.deadline",
    )
    assert [member.epochs for member in result.members] == [1] * 4
    assert isinstance(result.out_of_fold, type(result.test))
    assert _rows(result) == (512, 512)
    assert from_json(stored.get(result.artifacts["result"])) == result
    assert b"smoke run" in stored.get(result.artifacts["report"])


def _rows(result: Result) -> tuple[int, int]:
    return tuple(next(iter(result.scores(split).values())).ensemble.n for split in ("out_of_fold", "test"))  # type: ignore[return-value]
