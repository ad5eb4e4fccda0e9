"""Runs whose members start from a member of an earlier run: from the job file to the result."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from orchestrator import load_member
from orchestrator.errors import InvalidInput
from orchestrator.reporting.result import Result
from orchestrator.storage.tables import history_from_parquet
from orchestrator.training.device import Device
from tests.support.in_process import run_in_process
from tests.support.tiny_jobs import TinyProject

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("device")]

SOURCE = """

def build_on(base, dropout=0.2):
    import keras

    model = keras.Sequential([keras.Input((64,)), base, keras.layers.Dense(10, activation="softmax", name="new")])
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def build_on_nothing(base, dropout=0.2):
    return build_model(dropout)


def build_too_narrow(base, dropout=0.2):
    import keras

    return keras.Sequential([keras.Input((63,)), *base.layers])
"""
STAGES: list[dict[str, Any]] = [
    {"freeze": "all", "epochs": 2, "early_stopping": {"patience": 4}},
    {"freeze": "none", "epochs": 1, "learning_rate": 1e-4, "early_stopping": False},
]


@pytest.fixture(scope="module")
def transfer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TinyProject]:
    """A tiny project with build functions that take a base."""
    folder = tmp_path_factory.mktemp("transfer")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        yield TinyProject(folder, "tiny_transfer", SOURCE)


@pytest.fixture(scope="module")
def earlier(transfer: TinyProject, device: Device) -> Result:
    """A run whose members can be a base."""
    return run_in_process(transfer.job(train={"epochs": 1}), transfer.folder, run_id="earlier")


def model(project: TinyProject, builder: str = "build_on", **parts: Any) -> dict[str, Any]:
    base = {"run": "earlier", "member": "best", "layers": 2}
    return {"builder": f"{project.name}:{builder}", "base": base, "stages": STAGES, **parts}


def stored(project: TinyProject, key: str) -> bytes:
    return Path(project.folder, "runs", key).read_bytes()


def test_members_start_from_the_best_member_of_an_earlier_run(transfer: TinyProject, earlier: Result) -> None:
    assert earlier.validation is not None
    assert earlier.validation.best_member is not None
    best = earlier.members[earlier.validation.best_member.member or 0].model
    assert best is not None
    before = stored(transfer, best.key)

    job = transfer.job(name="next", model=model(transfer), train={"early_stopping": False})
    result = run_in_process(job, transfer.folder)

    assert [member.status for member in result.members] == ["succeeded", "succeeded"]
    assert [member.epochs for member in result.members] == [3, 3]
    assert {member.engine for member in result.members} == {"solo"}
    assert [base.sha256 for base in result.bases.values()] == [best.sha256]
    assert list(result.bases) == ["run earlier, member best"]
    assert stored(transfer, best.key) == before
    assert hashlib.sha256(before).hexdigest() == best.sha256
    for member in result.members:
        assert member.history is not None
        rows = history_from_parquet(stored(transfer, member.history.key))
        assert [row["stage"] for row in rows] == [1, 1, 2]

    validation = result.scores("validation").values()
    assert ["early stopping" in scores.ensemble.scored_on for scores in validation] == [True]  # of a stage's own
    whole = load_member(result, 1, root=str(transfer.folder), storage=str(transfer.folder / "runs"))
    assert [layer.name for layer in whole.layers][-1] == "new"


def test_what_cannot_be_is_told_before_any_member_trains(transfer: TinyProject, earlier: Result) -> None:
    cases: list[tuple[dict[str, Any], str]] = [
        ({"builder": "build_on_nothing"}, "without the layers of the base"),
        ({"builder": "build_too_narrow"}, "the build function raised ValueError"),
        ({"stages": [{"freeze": ["dense_9"]}]}, "no layer 'dense_9'(.|\n)*did you mean dense"),
        ({"stages": [{"early_stopping": {"monitor": "val_los"}}]}, "nothing called 'val_los'"),
        ({"stages": [{"optimizer": "adamm"}]}, "Keras knows no 'adamm'"),
        ({"base": {"run": "earlier", "layers": 4}}, "the base has 3 layers, not 4"),
        ({"base": {"run": "earlier", "member": 5}}, "no model of member 5(.|\n)*0, 1"),
        ({"base": {"run": "never"}}, "there is no such run"),
        ({"base": "never.keras"}, "there is no base never.keras"),
    ]

    for changes, told in cases:
        with pytest.raises(InvalidInput, match=told):
            run_in_process(transfer.job(name="next", model=model(transfer, **changes)), transfer.folder)
