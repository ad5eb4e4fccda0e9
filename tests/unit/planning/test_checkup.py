"""Reports in, findings out: what `doctor` makes of what machines say."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from orchestrator.errors import AccessDenied, StoreUnavailable
from orchestrator.planning.checkup import (
    DISK_PROBLEM_BYTES,
    DISK_WARNING_BYTES,
    Asked,
    Finding,
    Gpus,
    MachineReport,
    Right,
    error_in,
    exit_code,
    judge,
    of_error,
    skew_s,
)

VERSIONS = {
    "python": "3.11.7",
    "orchestrator": "1.2.3",
    "ray": "2.60.0",
    "keras": "3.15.1",
    "tensorflow": "2.21.0",
    "jax": "0.10.1",
    "numpy": "2.4.1",
}
HERE = MachineReport("this machine", VERSIONS, "/tmp", 100 * 2**30)
NODE = replace(HERE, where="node 10.0.0.2")
OTHER = replace(HERE, where="node 10.0.0.3")
CLUSTER = Asked("tensorflow", of_cluster=True)
ON_S3 = replace(CLUSTER, storage="s3://b", on_s3=True)


def found(check: str, node: MachineReport, asked: Asked = CLUSTER) -> list[Finding]:
    """What is said of one check of a cluster of two nodes, but for what is well."""
    return [each for each in judge(HERE, [NODE, node], asked) if each.check == check and each.level != "ok"]


def with_version(**versions: str | None) -> MachineReport:
    return replace(OTHER, versions={**VERSIONS, **versions})


def test_a_head_on_which_nobody_trains_needs_no_tensorflow() -> None:
    head = replace(with_version(tensorflow=None, keras=None), trains=False)
    assert found("versions", head) == []
    assert [each.what for each in found("versions", replace(head, trains=True))] == [
        "keras is not installed",
        "tensorflow is not installed",
    ]
    other_ray = replace(with_version(ray="2.59.0"), trains=False)
    assert [each.level for each in found("versions", other_ray)] == ["problem"]


def test_where_some_are_silent_the_others_are_not_all() -> None:
    findings = judge(HERE, [NODE, OTHER], replace(CLUSTER, some_silent=True))
    assert {finding.where for finding in findings} == {"2 machines", "3 machines"}


def test_an_error_that_a_command_told_is_a_problem_and_no_other_line_is() -> None:
    told = {"error": "InvalidJob", "what": "there is no module m", "where": None, "hint": "ship it", "retryable": False}
    assert error_in(json.dumps(told), "there") == Finding("job", "problem", "there", told["what"], told["hint"])
    for line in ("", "text", "[]", '"what"', "{}", '{"findings": []}'):
        assert error_in(line, "there") is None


def test_machines_without_fault_share_one_line_a_check() -> None:
    findings = judge(HERE, [NODE, OTHER], CLUSTER)
    assert {finding.level for finding in findings} == {"ok"}
    assert [(finding.check, finding.where) for finding in findings] == [
        ("versions", "all 3 machines"),
        ("gpus", "all 2 machines"),
        ("clock", "all 2 machines"),
        ("disk", "all 3 machines"),
    ]
    assert "tensorflow 2.21.0" in findings[0].what
    assert exit_code(findings) == 0


@pytest.mark.parametrize(
    ("package", "version", "level"),
    [
        ("orchestrator", "1.2.4", "problem"),
        ("ray", "2.60.1", "problem"),
        ("python", "3.12.1", "problem"),
        ("python", "3.11.9", "warning"),
        ("keras", "3.16.0", "problem"),
        ("keras", "3.15.2", "warning"),
        ("tensorflow", "2.20.0", "problem"),
        ("numpy", "1.26.4", "warning"),
    ],
)
def test_a_version_that_differs_is_named_with_its_node_and_both_versions(
    package: str, version: str, level: str
) -> None:
    (finding,) = found("versions", with_version(**{package: version}))
    assert (finding.level, finding.where) == (level, "node 10.0.0.3")
    assert package in finding.what
    assert version in finding.what
    assert VERSIONS[package] in finding.what
    assert VERSIONS[package] in str(finding.hint)


def test_a_package_that_a_node_lacks_is_a_problem_and_one_that_only_the_coordinator_lacks_is_none() -> None:
    (finding,) = found("versions", with_version(tensorflow=None))
    assert (finding.level, finding.what) == ("problem", "tensorflow is not installed")
    light = replace(HERE, versions={**VERSIONS, "tensorflow": None})
    assert exit_code(judge(light, [NODE], CLUSTER)) == 0
    assert exit_code(judge(light, [], Asked("tensorflow"))) == 2  # here it has to train
    nodes = [NODE, with_version(tensorflow="2.19.0")]
    assert exit_code(judge(light, nodes, CLUSTER)) == 2  # nodes are compared with each other then


def test_of_the_backends_only_the_jobs_own_must_be_there_and_alike() -> None:
    with_jax = replace(CLUSTER, backend="jax")
    for asked, wanted, other in ((CLUSTER, "tensorflow", "jax"), (with_jax, "jax", "tensorflow")):
        for version in (None, "0.1.0"):
            (finding,) = found("versions", with_version(**{wanted: version}), asked)
            assert (finding.level, finding.what.split()[0]) == ("problem", wanted)
            assert found("versions", with_version(**{other: version}), asked) == []
        assert other not in judge(HERE, [NODE], asked)[0].what


@pytest.mark.parametrize(
    ("gpus", "levels", "said"),
    [
        (Gpus(counted=0.0), [], ""),
        (Gpus(counted=2.0, installed=2, seen=True), [], ""),
        (Gpus(counted=2.0, seen=True), [], ""),
        (Gpus(counted=2.0, installed=None, seen=False), ["problem"], "2 GPUs, and a worker sees none"),
        (Gpus(counted=1.0, installed=1, seen=None, silence="busy"), ["warning"], "1 GPU, and nobody knows"),
        (Gpus(counted=0.0, installed=4), ["warning"], "Ray counts 0 GPUs of 4"),
        (Gpus(counted=2.0, installed=4, seen=True), ["warning"], "Ray counts 2 GPUs of 4"),
        (Gpus(counted=2.0, installed=4, seen=False), ["problem", "warning"], "sees none"),
        (Gpus(installed=1, seen=False), ["problem"], "1 GPU, and a worker sees none"),
        (Gpus(installed=0), [], ""),
    ],
)
def test_gpus_that_are_counted_installed_and_seen_are_compared(gpus: Gpus, levels: list[str], said: str) -> None:
    findings = found("gpus", replace(OTHER, gpus=gpus))
    assert [finding.level for finding in findings] == levels
    assert said in "".join(finding.what for finding in findings[:1])


def test_gpus_are_counted_over_the_nodes_that_train() -> None:
    nodes = [replace(node, gpus=Gpus(counted=2.0, seen=True)) for node in (NODE, OTHER)]
    (finding,) = [each for each in judge(HERE, nodes, CLUSTER) if each.check == "gpus"]
    assert finding.what == "4 GPUs in all, seen by workers"


@pytest.mark.parametrize(
    ("ahead_s", "on_s3", "level", "said"),
    [
        (5.0, True, None, ""),
        (6.0, True, "warning", "6 s ahead of"),
        (-6.0, False, "warning", "6 s behind"),
        (901.0, True, "problem", "S3 refuses"),
        (-901.0, True, "problem", "S3 refuses"),
        (3600.0, False, "warning", "3,600 s ahead of"),
    ],
)
def test_a_clock_that_is_off_is_a_warning_and_on_s3_a_problem_from_a_quarter_of_an_hour_on(
    ahead_s: float, on_s3: bool, level: str | None, said: str
) -> None:
    asked = replace(CLUSTER, storage="s3://bucket" if on_s3 else "/runs", on_s3=on_s3)
    findings = found("clock", replace(OTHER, ahead_s=ahead_s), asked)
    assert [finding.level for finding in findings] == ([level] if level else [])
    assert said in "".join(finding.what for finding in findings)
    server = replace(asked, server_ahead_s=ahead_s)
    of_server = [each for each in judge(HERE, [NODE], server) if each.check == "clock" and each.where == server.storage]
    assert [finding.level for finding in of_server] == [level or "ok"]


@pytest.mark.parametrize(
    ("free_bytes", "level"),
    [
        (DISK_WARNING_BYTES, None),
        (DISK_WARNING_BYTES - 1, "warning"),
        (DISK_PROBLEM_BYTES, "warning"),
        (DISK_PROBLEM_BYTES - 1, "problem"),
    ],
)
def test_a_disk_that_runs_full_is_named_with_its_folder(free_bytes: int, level: str | None) -> None:
    findings = found("disk", replace(OTHER, free_bytes=free_bytes))
    assert [finding.level for finding in findings] == ([level] if level else [])
    assert all("/tmp" in finding.what for finding in findings)


def test_each_right_that_is_denied_is_named_with_its_remedy() -> None:
    denied = AccessDenied("S3 forbids it (HTTP 403 AccessDenied)", hint="grant s3:PutObject")
    rights = (Right("create"), Right("put", denied))
    (finding,) = found("storage", replace(OTHER, rights=rights), ON_S3)
    assert (finding.level, finding.where, finding.hint) == ("problem", "node 10.0.0.3", "grant s3:PutObject")
    assert finding.what == "s3://b: put: S3 forbids it (HTTP 403 AccessDenied)"
    assert exit_code([finding]) == 2


def test_a_right_that_only_clears_away_is_a_warning() -> None:
    denied = (Right("delete", AccessDenied("S3 forbids it", hint="grant s3:DeleteObject")),)
    (finding,) = found("storage", replace(OTHER, rights=denied), ON_S3)
    assert (finding.level, finding.hint) == ("warning", "grant s3:DeleteObject")
    assert "runs end without it" in finding.what
    silent = (Right("delete", StoreUnavailable("S3 is out of reach")),)
    (finding,) = found("storage", replace(OTHER, rights=silent), ON_S3)
    assert (finding.level, finding.retryable) == ("problem", True)


def test_storage_out_of_reach_is_worth_a_retry() -> None:
    rights = (Right("create", StoreUnavailable("S3 is out of reach")),)
    (finding,) = found("storage", replace(OTHER, rights=rights), ON_S3)
    assert exit_code([finding]) == 75


def test_modules_that_did_not_come_to_a_node_are_named() -> None:
    asked = replace(CLUSTER, modules=("jobs.digits", "jobs.common"))
    (finding,) = found("modules", replace(OTHER, missing_modules=("jobs.common",)), asked)
    assert (finding.level, finding.where) == ("problem", "node 10.0.0.3")
    assert "jobs.common" in finding.what
    assert "jobs.digits" not in finding.what


def test_a_node_that_was_not_asked_about_storage_and_modules_does_not_pass_for_well() -> None:
    asked = replace(ON_S3, modules=("jobs.digits",))
    node = replace(OTHER, unasked="it did not answer", gpus=Gpus(counted=1.0))
    for check in ("storage", "modules", "gpus"):
        (finding,) = found(check, node, asked)
        assert (finding.level, finding.where) == ("warning", "node 10.0.0.3")
        assert "it did not answer" in finding.what


def test_a_cluster_of_which_nobody_answers_is_not_judged_by_this_machine() -> None:
    bare: dict[str, Any] = {"versions": {**VERSIONS, "tensorflow": None}, "gpus": Gpus(installed=1)}
    assert [finding.level for finding in judge(replace(HERE, **bare), [], CLUSTER)] == ["ok", "ok"]


@pytest.mark.parametrize(
    ("retryable", "code"), [([], 0), ([True], 75), ([True, True], 75), ([False], 2), ([True, False], 2)]
)
def test_the_exit_code_is_that_of_the_problem_that_no_retry_mends(retryable: list[bool], code: int) -> None:
    fine = [Finding("disk", "ok", "x", "y"), Finding("disk", "warning", "x", "y")]
    assert exit_code([*fine, *(Finding("nodes", "problem", "x", "y", retryable=each) for each in retryable)]) == code


def test_an_error_becomes_a_problem_with_its_place_and_remedy() -> None:
    error = StoreUnavailable("out of reach", hint="check the network")
    assert of_error("storage", "here", error) == Finding(
        "storage", "problem", "here", "out of reach", "check the network", retryable=True
    )


@pytest.mark.parametrize(
    ("there", "ahead_s"), [(10.0, 0.0), (12.0, 0.0), (11.0, 0.0), (72.0, 60.0), (-50.0, -60.0), (9.5, -0.5)]
)
def test_a_clock_is_off_only_as_far_as_the_time_of_the_answer_proves_it(there: float, ahead_s: float) -> None:
    assert skew_s(10.0, there, 12.0) == ahead_s
