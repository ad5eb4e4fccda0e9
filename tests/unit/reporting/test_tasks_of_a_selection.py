"""What each output tells, as selections have it."""

from __future__ import annotations

import json

from orchestrator.ensemble.tasks import TaskKind
from orchestrator.planning.outputs import ONLY
from orchestrator.reporting.selection import RunFacts, make_selection, tasks_of
from orchestrator.spec import parse_job
from orchestrator.storage.records import BlobRef, canonical


def read_nothing(ref: BlobRef) -> bytes:
    raise AssertionError(f"{ref.key} was read")


def test_a_record_keeps_the_outputs_in_the_order_of_the_model() -> None:
    tasks = {"species": TaskKind.MULTICLASS, "mass": TaskKind.REGRESSION}
    run = RunFacts("tuesday", 1, tasks, {}, {}, "0" * 64, "1" * 64, "2" * 64, {}, ())
    named = {"name": "birds", "model": "jobs.birds:build_model", "data": "jobs.birds:load_data", "members": 2}
    stored = canonical(make_selection(parse_job(named), run, [], read_nothing))
    assert list(tasks_of(json.loads(stored)).items()) == list(tasks.items())


def test_a_selection_from_before_there_were_several_outputs_tells_that_of_its_only_one() -> None:
    assert tasks_of({"task": "binary"}) == {ONLY: TaskKind.BINARY}
