"""The jobs with several inputs and outputs, on a reduced size: they learn, and every output is told."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jobs import penguins, tickets
from orchestrator import load_job
from orchestrator.errors import InvalidJob
from orchestrator.reporting.progress import SilentProgress
from orchestrator.reporting.result import Result
from orchestrator.storage.tables import labels_from_parquet, predictions_from_parquet
from tests.support.in_process import run_in_process

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("device")]

ROOT = Path(__file__).parents[2]


class Shown(SilentProgress):
    """Remembers which metrics people see."""

    def __init__(self) -> None:
        self.names: set[str] = set()

    def epoch(self, member: int, epoch: int, epochs: int, logs: Mapping[str, float]) -> None:
        self.names |= set(logs)


def trained(name: str, folder: Path, *changes: str, progress: SilentProgress | None = None) -> Result:
    job = load_job(ROOT / "jobs" / f"{name}.yaml", [f"storage.url={folder}", *changes])
    return run_in_process(job, ROOT, progress=progress)


def scores(result: Result) -> Mapping[str, Any]:
    return {output: split.ensemble for output, split in result.scores("test").items()}


def read(result: Result, folder: Path, output: str) -> tuple[np.ndarray, np.ndarray]:
    """Labels, and the members' predictions [M, N, C], as a user finds them in storage."""
    members = folder / result.artifacts["members"]
    copies = [members / f"{member.index}" / "test" / f"{output}.parquet" for member in result.members]
    labels = members.parent / "labels" / "test" / f"{output}.parquet"
    return labels_from_parquet(labels.read_bytes()), np.stack(
        [predictions_from_parquet(copy.read_bytes()) for copy in copies]
    )


def test_penguins_are_told_by_species_and_mass(tmp_path: Path) -> None:
    result = trained("penguins", tmp_path, "members.count=2", "train.epochs=20")
    assert result.status == "succeeded"
    told = scores(result)
    assert list(told) == ["species", "mass"]
    assert told["species"].accuracy > 0.9, "the most frequent species: 0.44"
    assert told["mass"].r2 > 0.5, "the mean mass: 0"
    species, predicted = read(result, tmp_path, "species")
    assert told["species"].accuracy == pytest.approx(np.mean(predicted.mean(axis=0).argmax(axis=1) == species))
    mass, predicted = read(result, tmp_path, "mass")
    assert told["mass"].mae == pytest.approx(np.abs(predicted.astype(float).mean(axis=0) - mass).mean())


def test_the_output_that_is_named_decides(tmp_path: Path) -> None:
    asked = ("ensemble.output=mass", "ensemble.stop_when={metric: rmse, patience: 1}", "ensemble.calibrate=true")
    gate, shown = "ensemble.gate={metric: rmse, max: 100}", Shown()
    watched = "train.early_stopping={monitor: val_species_accuracy, mode: max}"
    result = trained("penguins", tmp_path, "members.count=2", "train.epochs=2", *asked, gate, watched, progress=shown)
    mass = result.scores("validation")["mass"]
    assert result.outputs == ("mass", "species")
    assert (result.gate is not None, result.gate and result.gate.value) == (True, mass.ensemble.rmse)
    assert result.stop_when is not None
    assert result.stop_when.scores[-1] == pytest.approx(mass.ensemble.rmse, rel=1e-9)
    assert {"loss", "val_loss", "mass_mae", "val_mass_mae"} <= shown.names
    assert [name for name in shown.names if "species" in name] == ["val_species_accuracy"], "it is watched"
    report = (tmp_path / result.artifacts["report"]).read_text(encoding="utf-8")
    assert "Was the ensemble worth it? <strong>mass: " in report


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        (("ensemble.output=weight",), "the models have no output 'weight'"),
        (("ensemble.output=mass", "ensemble.gate={metric: accuracy, min: 0.5}"), "accuracy cannot be told"),
    ],
)
def test_what_the_output_that_decides_cannot_tell_is_refused_before_training(
    tmp_path: Path, changes: tuple[str, ...], told: str
) -> None:
    with pytest.raises(InvalidJob, match=told):
        trained("penguins", tmp_path, *changes)


def test_every_input_of_a_penguin_counts() -> None:
    """A table that is read in the wrong order, or a code that stands for another island, would not show otherwise."""
    x, y = penguins.load_data(0)["train"]
    told = {name: set(x["island"][y["species"] == code, 0]) for code, name in enumerate(penguins.SPECIES)}
    assert told == {"Adelie": {0, 1, 2}, "Chinstrap": {1}, "Gentoo": {0}}
    heavy = [y["mass"][x["sex"][:, 0] == penguins.SEXES.index(sex)].mean() for sex in ("female", "male")]
    assert 3.5 < heavy[0] < heavy[1] < 5


def test_tickets_are_told_by_department_urgency_and_days(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def load_data(seed: int) -> Any:
        return original(seed, count=1200)

    original = tickets.load_data
    monkeypatch.setattr(tickets, "load_data", load_data)
    result = trained("tickets", tmp_path, "members.count=1", "train.epochs=4")
    assert result.status == "succeeded"
    told = scores(result)
    assert list(told) == ["department", "urgent", "days"]
    assert told["department"].accuracy > 0.6, "by guessing: 0.33"
    assert told["urgent"].accuracy > 0.75, "patience alone: 0.6"
    assert told["days"].r2 > 0.3, "the mean: 0"


def test_words_are_numbers_from_one_and_zeros_fill_up() -> None:
    encode = partial(tickets.encode, length=4)
    (row,) = encode(["hello the app"])
    assert [tickets.WORDS[number - 1] for number in row[:3]] == ["hello", "the", "app"]
    assert row[3] == 0
    assert (encode(["the the the the the"]) > 0).all()
