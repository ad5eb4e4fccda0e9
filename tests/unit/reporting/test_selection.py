"""From members to a selection and what is made of it: what rows were used for besides, and the readable copies."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from run_examples import LAYOUT, finished_run

from orchestrator.reporting.again import evaluate_again
from orchestrator.reporting.selection import uses_of_validation
from orchestrator.spec import parse_job
from orchestrator.storage.log import Log
from orchestrator.storage.tables import labels_from_parquet, predictions_from_parquet
from orchestrator.testing import MemoryStore

USUAL = ("early stopping", "choice of the best epoch")


@pytest.mark.parametrize(
    ("callbacks", "uses"),
    [
        ([], ()),
        (["ReduceLROnPlateau"], ("learning rate",)),
        ([{"class_name": "ReduceLROnPlateau", "config": {"factor": 0.5}}], ("learning rate",)),
        ([{"class_name": "ReduceLROnPlateau", "config": {"monitor": "val_accuracy"}}], ("learning rate",)),
        ([{"class_name": "ReduceLROnPlateau", "config": {"monitor": "loss"}}], ()),
        (["jobs.mine:Watcher"], ("perhaps callbacks of the job's own",)),
        ([{"class_name": "jobs.mine:Watcher", "config": {"monitor": "loss"}}], ("perhaps callbacks of the job's own",)),
        (["CSVLogger", "TerminateOnNaN"], ()),
        (["ReduceLROnPlateau", "jobs.mine:Watcher"], ("learning rate", "perhaps callbacks of the job's own")),
    ],
)
def test_callbacks_use_validation_rows_when_they_watch_them_or_may(callbacks: list[Any], uses: tuple[str, ...]) -> None:
    job = {"name": "digits", "model": "jobs.digits:build", "data": "jobs.digits:load"}
    asked = parse_job({**job, "train": {"callbacks": callbacks}})
    found = uses_of_validation(asked, [asked.train])
    assert tuple(found) == (*USUAL, *uses)


def test_labels_lie_beside_the_predictions_to_be_paired_with_them() -> None:
    store, labels = MemoryStore(), {"validation": np.arange(30) % 3, "test": np.arange(12) % 3}
    known = {split: np.full((len(rows), 3), 1 / 3) for split, rows in labels.items()}
    finished_run(store, labels, [known] * 2)
    for split, rows in labels.items():
        np.testing.assert_array_equal(labels_from_parquet(store.get(LAYOUT.labels_copy(split))), rows)
        assert len(predictions_from_parquet(store.get(LAYOUT.member_copy(0, f"{split}.parquet")))) == len(rows)


def test_rows_that_are_not_there_were_used_for_nothing() -> None:
    store, labels = MemoryStore(), np.arange(30) % 3
    known = np.full((30, 3), 1 / 3)
    finished_run(store, {"test": labels}, [{"test": known}] * 2, train={"callbacks": ["ReduceLROnPlateau"]})
    result, _ = evaluate_again(store, LAYOUT)
    assert result.test is not None
    assert result.test.ensemble.scored_on == "test (30 rows; used for nothing else)"
    log = Log.open(store, LAYOUT.coord_log).records()
    assert next(record for record in log if record.kind == "selection").body["used_for"] == {}


def test_a_single_row_is_spoken_of_as_one() -> None:
    store = MemoryStore()
    finished_run(store, {"test": np.array([1])}, [{"test": np.full((1, 3), 1 / 3)}] * 2)
    result, _ = evaluate_again(store, LAYOUT)
    assert result.test is not None
    assert result.test.ensemble.scored_on == "test (1 row; used for nothing else)"
    assert "1 rows" not in str(result)
