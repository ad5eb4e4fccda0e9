"""Runs on a Ray cluster of three nodes (a head, a node with two GPUs, a node with one), and what becomes of faults."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from orchestrator.planning.events import Cause
from tests.support.processes import without_ray

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
CASES_S = 900.0

Seen = dict[str, Any]


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> Seen:
    """What `tests.support.cluster_cases` saw; all of it on one cluster, in a process of its own."""
    folder = tmp_path_factory.mktemp("cluster")
    command = [sys.executable, "-m", "tests.support.cluster_cases", str(folder)]
    log = folder / "output.log"
    # Programs that run in the process of the tests set these for it; a node must not take them for its own.
    theirs = ("CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS", "KERAS_BACKEND")
    environ = {name: value for name, value in without_ray().items() if name not in theirs}
    with log.open("wb") as output:
        process = subprocess.Popen(command, cwd=ROOT, env=environ, stdout=output, stderr=output)
        try:
            process.wait(CASES_S)
        finally:
            process.terminate()  # it ends its nodes; nothing happens where it has ended
            process.wait(30)
    assert process.returncode == 0, log.read_text(encoding="utf-8", errors="replace")[-3000:]
    seen: Seen = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    return seen


def case(cases: Seen, name: str) -> Seen:
    seen: Seen = cases[name]
    assert "error" not in seen, seen["error"]
    return seen


def column(seen: Seen, name: str) -> list[Any]:
    return [member[name] for member in seen["members"]]


def test_whole_gpus_are_shared_out_over_the_nodes_and_none_twice(cases: Seen) -> None:
    seen = case(cases, "whole_gpus")
    assert Counter(seen["nodes"]) == {"two": 2, "one": 1}
    places = Counter((node, logs["gpu"]) for node, logs in zip(seen["nodes"], seen["logs"], strict=True))
    assert set(places.values()) == {1}


def test_half_gpus_carry_two_workers_each_and_a_seventh_waits(cases: Seen) -> None:
    seen = case(cases, "half_gpus")
    places = Counter((node, logs["gpu"]) for node, logs in zip(seen["nodes"], seen["logs"], strict=True))
    assert places == {("two", 0.0): 2, ("two", 1.0): 2, ("one", 0.0): 2}
    assert seen["one_too_many"] == 0


def test_the_data_reach_every_worker_without_a_copy_of_their_own(cases: Seen) -> None:
    for name in ("whole_gpus", "half_gpus"):
        assert {(logs["owned"], logs["writeable"]) for logs in case(cases, name)["logs"]} == {(0.0, 0.0)}


def test_a_run_trains_on_every_gpu_and_on_no_node_without_one(cases: Seen) -> None:
    seen = case(cases, "undisturbed")
    assert seen["exit_code"] == 0
    assert column(seen, "status") == ["succeeded"] * 4
    assert {(build["node"], build["gpu"]) for build in seen["builds"]} == {("two", "0"), ("two", "1"), ("one", "0")}


def test_the_data_function_is_called_once_in_a_run(cases: Seen) -> None:
    assert len(case(cases, "undisturbed")["loads"]) == 1


def test_the_data_are_loaded_where_workers_are_and_not_on_the_head(cases: Seen) -> None:
    assert case(cases, "undisturbed")["loads"][0] in ("one", "two")


def test_a_coordinator_needs_no_tensorflow_and_takes_no_cpu_or_gpu(cases: Seen) -> None:
    """All of `cluster_cases` runs where TensorFlow and Keras cannot be imported."""
    assert case(cases, "undisturbed")["exit_code"] == 0
    assert case(cases, "joined")["free"] == {"CPU": 10, "GPU": 3}


def test_labels_select_the_nodes_of_workers_and_of_the_data(cases: Seen) -> None:
    seen = case(cases, "labelled")
    assert set(seen["spot"]) == {"one"}
    assert seen["data spot"] == ["one"]
    assert set(seen["!spot"]) <= {"two", "head"}
    assert seen["data !spot"] == ["two"]


def test_a_worker_of_four_gpus_waits_for_a_node_that_has_them_and_sees_all_four(cases: Seen) -> None:
    seen = case(cases, "joined")
    assert seen["before"] == []
    assert seen["nodes"] == ["four"]
    assert [logs["num_gpus"] for logs in seen["logs"]] == [4]


def test_nodes_that_join_and_leave_are_told(cases: Seen) -> None:
    seen = case(cases, "joined")
    assert seen["shapes"] == [["four", "head", "one", "two"], ["head", "one", "two"]]
    assert seen["lost"] == ["node_lost"]


def test_the_data_are_loaded_again_on_the_head_where_it_alone_is_left(cases: Seen) -> None:
    assert case(cases, "left_to_the_head")["loads"] == ["two", "head"]


def test_four_members_on_three_workers_take_three_processes(cases: Seen) -> None:
    assert len({build["pid"] for build in case(cases, "undisturbed")["builds"]}) == 3


def test_tensorflow_has_as_many_threads_as_the_worker_has_cpus(cases: Seen) -> None:
    seen = case(cases, "undisturbed")
    assert {(build["intra"], build["inter"]) for build in seen["builds"]} == {(2, 2)}


def test_the_run_leaves_the_cluster_that_it_connected_to(cases: Seen) -> None:
    assert case(cases, "undisturbed")["connected"] is False


def test_a_killed_worker_costs_its_member_one_attempt_and_nobody_else_anything(cases: Seen) -> None:
    seen = case(cases, "struck")
    assert seen["exit_code"] == 0
    assert column(seen, "attempts") == [1 + (index in (seen["killed"], seen["lost"])) for index in range(4)]
    assert any("crashes: retry 1 of 3" in note and "worker process has died" in note for note in seen["notes"])
    assert len(seen["loads"]) <= 2, "once more at most, where the lost node had the only copy"


def test_a_lost_node_is_no_failure_of_its_member(cases: Seen) -> None:
    seen = case(cases, "struck")
    assert column(seen, "preemptions") == [int(index == seen["lost"]) for index in range(4)]
    assert any("node lost: not counted as a failure" in note for note in seen["notes"])


def test_neither_a_killed_worker_nor_a_lost_node_changes_a_weight(cases: Seen) -> None:
    straight, struck = case(cases, "undisturbed"), case(cases, "struck")
    assert column(struck, "weights") == column(straight, "weights")
    assert len(set(column(struck, "weights"))) == 4


def test_three_workers_and_the_one_that_replaces_the_killed_are_all_the_processes(cases: Seen) -> None:
    assert len({build["pid"] for build in case(cases, "struck")["builds"]}) <= 4


def test_a_demand_that_no_node_meets_ends_within_the_time_allowed(cases: Seen) -> None:
    seen = case(cases, "impossible")
    assert seen["exit_code"] == 75
    assert "no node has what `resources` asks for" in seen["message"]
    told = next(note for note in seen["notes"] if "a worker needs 1 CPU and 8 GPU" in note)
    assert {"2 CPU and 0 GPU", "4 CPU and 2 GPU", "4 CPU and 1 GPU"} == set(told.split("there is ")[1].split(", "))
    assert seen["took_s"] < 20


def test_doctor_sees_through_gpus_that_only_ray_counts_and_asks_no_node_with_another_package(cases: Seen) -> None:
    """TensorFlow is asked where Ray counts GPUs and this package is; the coordinator's process has none."""
    seen = case(cases, "examined")
    assert seen["gpus"] == [[0.0, None], [1.0, False], [2.0, None]]
    assert seen["packages"].count("0.0.9") == 1
    unasked = [[], "it has not this version of this package"]
    assert seen["missing"] == [unasked, [["not_held"], ""], [["not_held"], ""]]
    assert sorted(seen["denied"]) == [[], *[["see what another machine wrote"]] * 2]
    assert seen["troubles"] == 0


def test_doctor_names_nodes_that_do_not_answer_in_time(cases: Seen) -> None:
    assert case(cases, "examined")["late"] == [["it does not answer within 0 s", True]] * 3


@pytest.fixture
def job(tmp_path: Path) -> Path:
    """A job file in a folder of its own; neither of its functions is ever called."""
    (tmp_path / "never.py").write_text("def load_data(): ...\n\n\ndef build_model(): ...\n", encoding="utf-8")
    path = tmp_path / "job.yaml"
    path.write_text("name: never\nmodel: never:build_model\ndata: never:load_data\nmembers: 2\n", encoding="utf-8")
    return path


def run_cli(job: Path, *overrides: str) -> subprocess.CompletedProcess[str]:
    environ = without_ray()
    command = [sys.executable, "-m", "orchestrator", "run", job.name, *overrides]
    return subprocess.run(
        command, cwd=job.parent, env=environ, capture_output=True, text=True, timeout=300, check=False
    )


def test_a_demand_beyond_a_lone_machine_ends_at_once(job: Path) -> None:
    ended = run_cli(job, "resources.num_gpus=8")
    assert ended.returncode == 75
    assert "no worker fits on this machine: a worker needs 1 CPU and 8 GPU" in ended.stderr
    assert "ray.address" in ended.stderr


def test_an_address_where_no_cluster_listens_is_told_soon(job: Path) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{unused.getsockname()[1]}"
        ended = run_cli(job, f"ray.address={address}")
    assert ended.returncode == 75
    assert f"ray.address {address}: Ray cannot be reached" in ended.stderr


def test_why_a_worker_is_gone_follows_from_rays_error() -> None:
    from ray import exceptions as rex

    from orchestrator.cluster.ray_cluster import cause_of

    here: dict[str, bool] = {"node_alive": True, "node_leaving": False}
    died = rex.ActorDiedError()
    assert cause_of(died, **here) is Cause.CRASH
    assert cause_of(died, node_alive=False, node_leaving=False) is Cause.NODE_LOST
    assert cause_of(died, node_alive=True, node_leaving=True) is Cause.PREEMPTED
    assert cause_of(rex.OutOfMemoryError("killed"), node_alive=True, node_leaving=True) is Cause.OUT_OF_MEMORY
    # Before a lost node is declared dead, a minute long, its actors are only unavailable.
    assert cause_of(rex.ActorUnavailableError("gone", b"0" * 16), **here) is Cause.NODE_LOST
    # Of a worker that was lost before it was heard of, Ray's words alone say where it was.
    assert cause_of(rex.RayError("The actor died because its node has died."), **here) is Cause.NODE_LOST
