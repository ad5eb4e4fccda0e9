"""Workers, nodes and heads that die, freeze, are cut off or taken away, on a real Ray cluster (a light trainer).

In brackets the faults of the table that each test covers. Every wait has an end, and every fault shows that it struck.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.processes import without_ray

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
CASES_S = 900.0
EVERY = 2
"""Epochs from one checkpoint to the next where a case does not say otherwise."""

Seen = dict[str, Any]


def run_cases(folder: Path, *names: str) -> Seen:
    command = [sys.executable, "-m", "tests.support.fault_cases", str(folder), *names]
    output = folder / "output.log"
    environ = without_ray()
    with output.open("ab") as log:
        process = subprocess.Popen(command, cwd=ROOT, env=environ, stdout=log, stderr=log)
        try:
            process.wait(CASES_S)
        finally:
            process.terminate()  # it ends its nodes; nothing happens where it has ended
            process.wait(30)
    assert process.returncode == 0, output.read_text(encoding="utf-8", errors="replace")[-3000:]
    seen: Seen = json.loads((folder / f"{'-'.join(names) or 'all'}.json").read_text(encoding="utf-8"))
    return seen


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> Seen:
    """What `tests.support.fault_cases` saw: all cases on one cluster, then the last run's end on another."""
    folder = tmp_path_factory.mktemp("faults")
    first = run_cases(folder)
    second = run_cases(folder, "resumed")
    return {**first, **second, "timing": {**first["timing"], **second["timing"]}}


def case(cases: Seen, name: str, exit_code: int = 0) -> Seen:
    seen: Seen = cases[name]
    assert not seen.get("error"), seen["error"]
    assert seen["exit_code"] == exit_code, seen
    return seen


def ended(seen: Seen, member: int) -> list[str]:
    """Why attempts of the member ended."""
    causes: list[str] = seen["members"][member]["ended"]
    return causes


def resumed_at(seen: Seen, member: int) -> list[int]:
    """The epochs from which the member's attempts went on."""
    return [epoch for _, epoch, _ in seen["members"][member]["claims"]]


def nodes(seen: Seen, member: int) -> list[str]:
    return [node for _, _, node in seen["members"][member]["claims"]]


def test_a_killed_worker_costs_less_than_a_checkpoints_interval_each_time(cases: Seen) -> None:
    """[1]"""
    seen = case(cases, "crashes")
    member = seen["members"][0]
    assert ended(seen, 0) == ["crash", "crash"]
    assert resumed_at(seen, 0) == [0, 2, 6]
    assert member["redone"] == [1, 1]
    assert member["status"] == "succeeded"
    assert member["as_undisturbed"]


def test_a_frozen_worker_is_found_by_its_silence_and_replaced(cases: Seen) -> None:
    """[2]"""
    seen = case(cases, "crashes")
    assert ended(seen, 1) == ["stall"]
    assert any("member 1, attempt 1: no progress for 5 s" in note for note in seen["notes"])
    assert resumed_at(seen, 1) == [0, 4]
    assert seen["members"][1]["as_undisturbed"]


def test_a_member_that_always_dies_at_one_epoch_is_given_up_and_the_result_says_so(cases: Seen) -> None:
    """[41]"""
    seen = case(cases, "crashes")
    assert ended(seen, 2) == ["crash"] * 4
    assert resumed_at(seen, 2) == [0, 2, 2, 2]
    assert [kind for kind, _, _ in seen["members"][2]["kinds"]][-2:] == ["claim", "failed"]
    assert seen["members"][2]["status"] == "failed"
    assert seen["status"] == "partial"


def test_an_error_in_the_users_code_is_not_retried_and_memory_that_ran_out_is(cases: Seen) -> None:
    """[18]"""
    seen = case(cases, "crashes")
    assert ended(seen, 3) == ["user_error"]
    assert seen["members"][3]["status"] == "failed"
    assert ended(seen, 4) == ["out_of_memory"] * 2
    assert seen["members"][4]["status"] == "succeeded"
    assert seen["members"][4]["as_undisturbed"]


def test_whoever_is_not_struck_is_not_disturbed(cases: Seen) -> None:
    seen = case(cases, "crashes")
    assert ended(seen, 5) == []
    assert len(seen["members"][5]["claims"]) == 1


def test_workers_that_were_cut_off_and_frozen_find_themselves_fenced_and_end(cases: Seen) -> None:
    """[3, 6] Their raylet stood still meanwhile, so nothing of Ray's could end them; reading the logs checks that no
    record of an old term stands behind a new claim."""
    seen = case(cases, "partition")
    raylet, working, frozen = seen["alive"]  # when the new terms were there
    assert (raylet, frozen) == ("T", "T")
    assert working in ("R", "S", "D")
    assert seen["fenced"]
    for member in range(4):
        struck = member in seen["cut_off"]
        assert ended(seen, member) == ["node_lost"] * struck
        assert resumed_at(seen, member) == [0, 4][: 1 + struck]
        assert seen["members"][member]["num_finals"] == 1
        assert seen["members"][member]["as_undisturbed"]


def test_a_node_lost_during_an_upload_leaves_the_checkpoint_before(cases: Seen) -> None:
    """[5]"""
    seen = case(cases, "nodes_lost")
    member = seen["roles"]["uploading"]
    assert resumed_at(seen, member)[:2] == [0, 4]
    assert seen["members"][member]["redone"][0] == EVERY
    assert ("checkpoint", 1, 6) not in [tuple(kind) for kind in seen["members"][member]["kinds"]]


def test_members_of_a_lost_node_move_and_others_are_untouched(cases: Seen) -> None:
    """[4]"""
    seen = case(cases, "nodes_lost")
    roles = seen["roles"]
    for role in ("uploading", "beside"):
        assert set(ended(seen, roles[role])) == {"node_lost"}
        assert len(set(nodes(seen, roles[role]))) >= 2
    assert ended(seen, roles["untouched"]) == []
    assert len(nodes(seen, roles["untouched"])) == 1


def test_a_run_without_any_node_waits_and_goes_on_when_one_comes(cases: Seen) -> None:
    """[7]"""
    seen = case(cases, "nodes_lost")
    assert seen["waited"]
    assert ended(seen, seen["roles"]["hit_later"]) == ["node_lost"]
    assert resumed_at(seen, seen["roles"]["hit_later"]) == [0, 4]
    assert all(member["as_undisturbed"] for member in seen["members"])
    assert not any("(crash)" in note for note in seen["notes"])
    assert any("waiting for a node: a worker needs 1 CPU" in note for note in seen["notes"])


def test_nodes_that_join_are_used_as_far_as_there_are_members(cases: Seen) -> None:
    seen = case(cases, "nodes_lost")
    roles = seen["roles"]
    last = {nodes(seen, roles[role])[-1] for role in ("uploading", "beside", "hit_later")}
    assert sorted(last) == seen["joined"]
    assert any("nodes have changed: 4 × 1 CPU" in note for note in seen["notes"])


def test_a_notice_leads_to_a_checkpoint_at_once_and_to_another_node(cases: Seen) -> None:
    """[8] Without the notice the next checkpoint would be that of epoch 8."""
    seen = case(cases, "preempted")
    member = seen["roles"]["saving"]
    assert len(seen["warned"]) == 2
    assert all(50 < remaining_s <= 60 for remaining_s in seen["warned"])
    assert ended(seen, member) == ["preempted"]
    assert resumed_at(seen, member) == [0, 6]
    assert seen["members"][member]["redone"] == [0]
    assert any(f"member {member}, attempt 1" in note and "not counted" in note for note in seen["notes"])


def test_nothing_is_placed_on_a_node_that_will_be_taken_away(cases: Seen) -> None:
    """[8] There was room for a worker on that node alone when the first one ended."""
    seen = case(cases, "preempted")
    for role in ("saving", "too_slow"):
        first, second = nodes(seen, seen["roles"][role])
        assert first == seen["node"]
        assert second != seen["node"]


def test_a_notice_shorter_than_the_upload_leaves_the_checkpoint_before(cases: Seen) -> None:
    """[9]"""
    seen = case(cases, "preempted")
    member = seen["roles"]["too_slow"]
    assert ended(seen, member) == ["preempted"]
    assert resumed_at(seen, member) == [0, 4]
    assert seen["members"][member]["redone"] == [2]
    assert all(each["as_undisturbed"] for each in seen["members"])


def test_at_the_deadline_a_member_saves_and_counts_with_what_it_has(cases: Seen) -> None:
    seen = case(cases, "late")
    assert seen["members"][1]["status"] == "late"
    assert [(kind, epoch) for kind, _, epoch in seen["members"][1]["kinds"]] == [
        ("claim", None),
        ("checkpoint", 5),
        ("claim", None),
        ("final", None),
    ]


def test_rays_memory_monitor_uses_the_budget_for_memory(cases: Seen) -> None:
    """[17]"""
    seen = case(cases, "memory")
    assert seen["taken"] < seen["most"]  # it was ended before it had what it wanted
    assert ended(seen, 0) == ["out_of_memory"]
    assert any("low on memory" in note for note in seen["notes"])
    assert resumed_at(seen, 0) == [0, 4]
    assert ended(seen, 1) == []
    assert all(member["as_undisturbed"] for member in seen["members"])


def test_a_closed_cluster_leaves_no_worker(cases: Seen) -> None:
    assert cases["closed"].get("error") is None, cases["closed"]["error"]
    assert cases["closed"]["left"] == []
    assert cases["closed"]["exit_code"] == 143


def test_a_worker_told_to_stop_before_it_is_ready_never_trains(cases: Seen) -> None:
    assert cases["closed"]["withdrawn"] == ["WorkerReady", "Saved", "WorkerIdle", "WorkerIdle", "0 claims"]


def test_a_run_whose_head_is_gone_ends_in_time_and_goes_on_elsewhere(cases: Seen) -> None:
    """[10] Ray by itself would end the process after a minute, with exit code 1."""
    seen = case(cases, "head_lost", exit_code=75)
    assert seen["gone"]
    assert "the cluster's head has been silent for 4 s" in seen["message"]
    assert [resumed_at(seen, member) for member in range(2)] == [[0], [0]]
    resumed = case(cases, "resumed")
    assert [resumed_at(resumed, member) for member in range(2)] == [[0, 4], [0, 4]]
    assert all(member["as_undisturbed"] and member["ended"] == [] for member in resumed["members"])


def test_what_it_costs(cases: Seen) -> None:
    """The figures of the README; `pytest -rP` shows them."""
    members = [m for seen in cases.values() for m in seen.get("members", ())]
    redone = [epochs for member in members for epochs in member["redone"]]
    survived = sum(len(member["ended"]) for member in members if member["num_finals"])
    print(f"attempts that ended and were survived: {survived}; epochs redone per attempt: {redone}")
    for name in ("crashes", "partition", "nodes_lost", "preempted"):
        figures = {key: value for key, value in cases[name].items() if key.startswith("to_")}
        print(f"{name}: seconds {figures}")
    print(f"seconds by case: {cases['timing']}")
    assert survived >= 10
    assert max(redone) <= EVERY
