"""A plan reads what a start would skip, and is a plan all the same where storage cannot be read."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import pytest

from orchestrator import api
from orchestrator.api.planned import RunPlan
from orchestrator.api.running import keep_spec
from orchestrator.errors import StoreUnavailable
from orchestrator.spec import parse_job
from orchestrator.storage.local import LocalStore
from orchestrator.storage.log import Log
from orchestrator.testing import MemoryStore


def planned(folder: Path, **parts: Any) -> RunPlan:
    (folder / "m.py").write_text("def f(units=0): ...\ndef g(): ...\n", encoding="utf-8")
    job = parse_job({"name": "a", "model": "m:f", "data": "m:g", "members": 3, **parts})
    return api.plan(job, run_id="nightly", root=str(folder))


def begin(plan: RunPlan, folder: Path) -> LocalStore:
    store = LocalStore(folder / "runs")
    keep_spec(store, plan, must_exist=False, accept_code_change=False)
    Log.open(store, plan.request.layout.coord_log).claim(run_id="nightly")
    return store


def test_of_a_run_that_nobody_started_there_is_nothing_and_nothing_is_made(tmp_path: Path) -> None:
    found = api.remaining(planned(tmp_path))

    assert (found.state, found.left) == ("new", (0, 1, 2))
    assert not (tmp_path / "runs").exists()


def test_what_is_stored_is_told(tmp_path: Path) -> None:
    plan = planned(tmp_path)
    store = begin(plan, tmp_path)
    log = Log.open(store, plan.request.layout.member_log(1))
    log.claim(coord_term=1, worker="w0")
    log.append("final", epochs=6, best_epoch=5)
    before = sorted(store.list(""))
    found = api.remaining(plan)

    assert (found.state, found.starts, found.done, found.left) == ("begun", 1, (1,), (0, 2))
    assert sorted(store.list("")) == before


def test_a_run_id_that_stands_for_another_job_is_said_to_be_refused(tmp_path: Path) -> None:
    begin(planned(tmp_path), tmp_path)
    found = api.remaining(planned(tmp_path, seed=1))

    assert found.state == "other"
    assert "refused (exit 2)" in found.text
    assert "(seed: 0 → 1)" in found.text
    assert "--accept-code-change" not in found.text


def test_a_run_of_other_code_goes_on_where_that_is_accepted(tmp_path: Path) -> None:
    begin(planned(tmp_path), tmp_path)
    changed = planned(tmp_path)
    (tmp_path / "m.py").write_text("def f(units=1): ...\ndef g(): ...\n", encoding="utf-8")
    changed = api.plan(changed.request.job, run_id="nightly", root=str(tmp_path))

    assert "--accept-code-change" in api.remaining(changed).text


def test_trials_that_were_not_asked_for_are_left_of_a_search(tmp_path: Path) -> None:
    search = {"space": {"units": [1, 2, 3]}, "sampler": "tpe", "trials": 12, "parallel": 4}
    plan = planned(tmp_path, search=search)
    begin(plan, tmp_path)
    found = api.remaining(plan)

    assert (found.left, found.to_come) == ((0, 1, 2, 3), 8)
    assert "trials to come: 8" in found.text


def test_damage_is_told_and_ends_no_plan(tmp_path: Path) -> None:
    plan = planned(tmp_path)
    begin(plan, tmp_path).put(plan.request.layout.spec, b"[]")
    found = api.remaining(plan)

    assert found.state == "unknown"
    assert "cannot be read from here" in found.text


def test_storage_out_of_reach_is_no_error(tmp_path: Path) -> None:
    class Unreachable(MemoryStore):
        def get(self, key: str) -> bytes:
            raise StoreUnavailable("nobody listens")

    found = api.remaining(planned(tmp_path), store=Unreachable())

    assert found.text == "storage cannot be read from here: nobody listens"


def test_storage_that_does_not_answer_is_waited_for_only_so_long(tmp_path: Path) -> None:
    over = threading.Event()

    class Silent(MemoryStore):
        def get(self, key: str) -> bytes:
            over.wait()
            return b""

    found = api.remaining(planned(tmp_path), store=Silent(), within_s=0.05)
    over.set()

    assert found.text == "storage cannot be read from here: no answer within 0.05 s"


def test_the_plan_as_json_has_all_of_it(tmp_path: Path) -> None:
    plan = planned(tmp_path, data={"source": "m:g", "max_rows": 99}, ensemble={"stop_when": {"patience": 2}})
    told = json.loads(json.dumps(plan.to_json()))

    assert told["packs"]["decided"] is False
    assert told["packs"]["may_share"] == [[0, 1, 2]]
    assert "at most 2 in one" in told["packs"]["reason"]
    assert told["time"] == told["memory"] == {"measured": False, "reason": "not measured: --measure"}
    assert told["max_rows"] == 99
    assert told["workers"]["num_workers"] >= 1
    assert told["keys"]["result"] == f"{told['run']}/result.json"


@pytest.mark.parametrize(
    "parts",
    [
        {"train": {"engine": "solo"}},
        {"model": {"builder": "m:f", "stages": [{"epochs": 1}]}},
        {"data": {"source": "rows.csv", "label": "y", "stream": True}},
    ],
)
def test_members_that_are_trained_one_by_one_share_no_packs(tmp_path: Path, parts: Any) -> None:
    told = planned(tmp_path, **parts).to_json()["packs"]
    assert told["may_share"] == [[0], [1], [2]]
    assert told["reason"] == "none: each member is trained by itself"


def test_members_that_look_like_no_other_may_turn_out_to(tmp_path: Path) -> None:
    told = planned(tmp_path, members={"count": 3, "vary": {"units": [1, 2, 3]}}).to_json()["packs"]
    assert told["may_share"] == [[0], [1], [2]]
    assert told["reason"] == "no two members look alike: decided when the models are there, or by --measure"
