"""The job on raw measurements: its members take rows as they were measured, and a constant one does no harm."""

from __future__ import annotations

from pathlib import Path

import keras
import numpy as np
import pytest

from orchestrator import api
from orchestrator.spec import load_job
from orchestrator.training.sources.load import load_job_data
from tests.support.in_process import run_in_process

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("device")]

ROOT = Path(__file__).parents[2]
SOURCE = """
import numpy as np
from jobs import wine


def with_constant(x):
    return np.column_stack([x, np.full(len(x), 7.0)])


def load_data(seed):
    return {name: (with_constant(x), y) for name, (x, y) in wine.load_data(seed).items()}
"""


def test_wine_is_told_from_raw_rows_and_a_constant_feature_does_no_harm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "constant_wine.py").write_text(SOURCE)
    ours = ["data.source=constant_wine:load_data", "model.kwargs.features=14", "members.count=2", "train.epochs=15"]
    job = load_job(ROOT / "jobs" / "wine.yaml", [*ours, f"storage.url={tmp_path}/runs"])
    monkeypatch.chdir(ROOT)

    result = run_in_process(job, tmp_path)

    assert result.test is not None
    assert result.test.ensemble.accuracy is not None
    assert result.test.ensemble.accuracy > 0.9
    test = load_job_data(job).test
    assert test is not None
    files = [tmp_path / "runs" / each.model.key for each in result.members if each.model is not None]
    opened = [keras.models.load_model(file).predict(test.x, verbose=0) for file in files]
    together = np.mean(np.mean(opened, axis=0).argmax(axis=1) == test.y)
    assert together == pytest.approx(result.test.ensemble.accuracy)
    model = api.load_member(result, 0, root=str(tmp_path), storage=f"{tmp_path}/runs")
    barolo = [14.0, 1.7, 2.4, 15.6, 127.0, 2.8, 3.0, 0.3, 2.3, 5.6, 1.0, 3.9, 1065.0]
    probabilities = model.predict(np.array([[*barolo, 7.0], [*barolo, 1e6]]), verbose=0)
    assert probabilities[0].argmax() == 0
    np.testing.assert_array_equal(probabilities[0], probabilities[1])
