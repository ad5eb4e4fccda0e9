"""The example jobs of each kind of target, and of width and depth by keywords, on their own data, a little shorter."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from orchestrator import load_job
from orchestrator.reporting.result import Result
from tests.support.in_process import run_in_process

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("device")]

ROOT = Path(__file__).parents[2]


def result_of(name: str, folder: Path, *changes: str) -> Result:
    path = ROOT / "jobs" / f"{name}.yaml"
    return run_in_process(load_job(str(path), [*changes, "report.html=false", f"storage.url={folder}"]), ROOT)


def scores(result: Result) -> Any:
    assert result.test is not None
    return result.test.ensemble


def test_yes_or_no_with_balanced_classes(tmp_path: Path) -> None:
    result = result_of("breast_cancer", tmp_path, "members.count=2", "train.epochs=12")
    assert scores(result).accuracy > 0.93
    assert scores(result).auc > 0.97


def test_one_hot_labels_and_members_that_differ_in_how_they_learn(tmp_path: Path) -> None:
    result = result_of("wine_growers", tmp_path, "members.count=3", "train.epochs=15")
    assert scores(result).accuracy > 0.9
    own = [member.hyperparameters for member in result.members]
    assert [each["train.learning_rate"] for each in own] == [0.01, 0.003, 0.01]
    assert len({str(each["train.optimizer"]) for each in own}) == 3


def test_numbers_by_networks_of_several_depths(tmp_path: Path) -> None:
    result = result_of("diabetes", tmp_path, "members.count=2", "train.epochs=25")
    assert scores(result).r2 > 0.3
    assert scores(result).rmse < 0.7
    assert result.validation is not None
    assert result.validation.ensemble.n == 89, "the last quarter of 354"


def test_several_labels_at_once(tmp_path: Path) -> None:
    result = result_of("digit_traits", tmp_path, "members.count=2", "train.epochs=12", "train.verbose=2")
    assert scores(result).accuracy > 0.9
    logs = [path.read_text(encoding="utf-8") for path in tmp_path.rglob("log-*.txt")]
    assert sum("Epoch 12/12" in text for text in logs) == 2, "what Keras prints is in each member's log"


def test_widths_depths_and_layers_are_keywords_of_one_build_function(tmp_path: Path) -> None:
    result = result_of("digits_depth", tmp_path, "members.count=3", "members.overrides={}", "train.epochs=7")
    assert scores(result).accuracy > 0.9
    assert {len(member.hyperparameters["widths"]) for member in result.members} == {1, 2, 3}
    assert [member.status for member in result.members] == ["succeeded"] * 3
    curves = min(tmp_path.rglob("curves.csv"))
    rates = [line.split(",")[2] for line in curves.read_text().splitlines()]
    assert rates[0] == "learning_rate"
    assert float(rates[7]) == pytest.approx(0.001 * 0.9**2)
