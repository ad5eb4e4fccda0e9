"""What a selection says that validation rows were used for besides being scored on."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from run_examples import LAYOUT, finished_run

from orchestrator.reporting.again import evaluate_again
from orchestrator.reporting.selection import uses_of_validation
from orchestrator.spec import parse_job
from orchestrator.storage.log import Log
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
    job = {"name": "digits", "model": "jobs.digits:build", "data": "jobs.digits:load", "train": {"callbacks": callbacks}}
    assert tuple(uses_of_validation(parse_job(job))) == (*USUAL, *uses)


def test_rows_that_are_not_there_were_used_for_nothing() -> None:
    store, labels = MemoryStore(), np.arange(30) % 3
    known = np.full((30, 3), 1 / 3)
    finished_run(store, {"test": labels}, [{"test": known}] * 2, train={"callbacks": ["ReduceLROnPlateau"]})
    result, _ = evaluate_again(store, LAYOUT)
    assert result.test is not None
    assert result.test.ensemble.scored_on == "test (30 rows; used for nothing else)"
    log = Log.open(store, LAYOUT.coord_log).records()
    assert next(record for record in log if record.kind == "selection").body["used_for"] == []
