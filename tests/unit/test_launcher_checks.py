"""What is found in a cluster launcher file: one change to a good one at a time, without Ray."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest

from orchestrator.cluster.launcher.fit import check_job
from orchestrator.cluster.launcher.rules import SPOT_FIRST, check_given, check_prepared, check_text
from orchestrator.planning.placement import Autoscaler, ClusterShape, NodeGroup, NodeShape
from orchestrator.spec import Job, parse_job

Config = dict[str, Any]
AWS: Config = {"type": "aws", "region": "us-west-2", "cache_stopped_nodes": False}
Change = Callable[[Config], object]

MACHINE = {"InstanceType": "g5.2xlarge", "IamInstanceProfile": {"Name": "node"}}
SPOT = {**MACHINE, "InstanceMarketOptions": {"MarketType": "spot"}}
SCALES = "--autoscaling-config=~/ray_bootstrap_config.yaml"
IMAGE = "rayproject/ray:2.60.0-py311"
GOOD: Config = {
    "max_workers": 4,
    "idle_timeout_minutes": 5,
    "provider": {"type": "external", "module": SPOT_FIRST, "region": "us-west-2", "cache_stopped_nodes": False},
    "auth": {"ssh_user": "ubuntu"},
    "docker": {
        "image": f"{IMAGE}-cpu",
        "worker_image": f"{IMAGE}-gpu",
        "run_options": ["--env RAY_AUTH_MODE=token", "--env RAY_AUTH_TOKEN_PATH=/cluster/token/auth_token"],
    },
    "file_mounts": {"/cluster/token": "~/.ray"},
    "head_node_type": "head",
    "available_node_types": {
        "head": {"resources": {"CPU": 0}, "max_workers": 0, "node_config": MACHINE},
        "gpu": {"resources": {"CPU": 8, "GPU": 1}, "max_workers": 4, "min_workers": 0, "node_config": SPOT},
    },
    "head_start_ray_commands": ["ray stop", f"ray start --head {SCALES} --dashboard-host=127.0.0.1"],
    "worker_start_ray_commands": ["ray stop", "ray start --address=$RAY_HEAD_IP:6379"],
}


def put(path: str, value: object) -> Change:
    """A change: that value under that key, dots between its parts."""

    def change(config: Config) -> None:
        *parents, last = path.split(".")
        for name in parents:
            config = config[name]
        config[last] = value

    return change


def drop(path: str) -> Change:
    def change(config: Config) -> None:
        *parents, last = path.split(".")
        for name in parents:
            config = config[name]
        del config[last]

    return change


def changed(*changes: Change) -> Config:
    config = deepcopy(GOOD)
    for change in changes:
        change(config)
    return config


def found(config: Config) -> list[tuple[str, str]]:
    return [(each.level, each.where) for each in check_prepared(config, ray_version="2.60.0")]


def opens(port: int, who: str = "0.0.0.0/0") -> Config:
    """A security group that lets them in."""
    return {"IpPermissions": [{"FromPort": port, "ToPort": port, "IpRanges": [{"CidrIp": who}]}]}


open_dashboard = put("head_start_ray_commands", [f"ray start --head {SCALES} --dashboard-host 0.0.0.0"])
no_token = put("docker.run_options", [])


def test_nothing_is_found_in_a_good_file() -> None:
    assert found(GOOD) == []
    assert list(check_given(GOOD)) == []


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ([open_dashboard], [("warning", "head_start_ray_commands")]),
        ([no_token], [("warning", "docker.run_options")]),
        ([open_dashboard, no_token], [("error", "head_start_ray_commands"), ("error", "docker.run_options")]),
        (
            [no_token, put("docker.head_run_options", ["--env RAY_AUTH_MODE=token"])],
            [("error", "docker.run_options")],
        ),
        ([put("file_mounts", {})], [("error", "file_mounts")]),
        ([put("file_mounts", {"/elsewhere": "~/.ray"})], [("error", "file_mounts")]),
        ([put("idle_timeout_minutes", 600)], [("warning", "idle_timeout_minutes")]),
        ([put("available_node_types.gpu.min_workers", 2)], [("warning", "available_node_types.gpu.min_workers")]),
        (
            [put("available_node_types.gpu.node_config", {"InstanceMarketOptions": {"MarketType": "spot"}})],
            [("error", "available_node_types.gpu.node_config")],
        ),
        (
            [put("available_node_types.head.node_config", {"InstanceType": "m7i.xlarge"})],
            [("warning", "available_node_types.head.node_config")],
        ),
        (
            [put("available_node_types.head.node_config", SPOT)],
            [("warning", "available_node_types.head.node_config.InstanceMarketOptions")],
        ),
        ([put("provider", AWS)], [("warning", "provider.type")]),
        ([drop("provider.cache_stopped_nodes")], [("warning", "provider.cache_stopped_nodes")]),
        ([drop("provider.region")], [("error", "provider.region")]),
        ([put("auth", {})], [("error", "auth.ssh_user")]),
        (
            [put("file_mounts", {"/cluster/token": "~/.ray", "/home/ray/.aws": "~/.aws"})],
            [("warning", "file_mounts./home/ray/.aws")],
        ),
        ([put("head_start_ray_commands", ["ray start --head"])], [("error", "head_start_ray_commands")]),
        ([put("provider.security_group", opens(8265))], [("warning", "provider.security_group")]),
        (
            [put("available_node_types.gpu.node_config", {"InstanceType": "m", "IamInstanceProfile": None})],
            [("error", "available_node_types.gpu.node_config")],
        ),
        ([drop("docker.image"), put("docker.head_image", f"{IMAGE}-cpu")], [("error", "docker.image")]),
        ([put("docker.worker_image", "rayproject/ray:2.59.0-py311-gpu")], [("error", "docker")]),
        ([put("docker.worker_image", "rayproject/ray:2.60.0-py312-gpu")], [("error", "docker")]),
        (
            [put("available_node_types.gpu.docker", {"worker_image": "rayproject/ray-ml:2.60.0-py312-gpu"})],
            [("error", "docker")],
        ),
        (
            [put("docker", {**GOOD["docker"], "image": "ray:2.55.1-py311", "worker_image": "ray:2.55.1-py311-gpu"})],
            [("warning", "docker")],
        ),
    ],
)
def test_each_weakness_is_found_where_it_is(changes: list[Change], expected: list[tuple[str, str]]) -> None:
    assert found(changed(*changes)) == expected


@pytest.mark.parametrize(
    "changes",
    [
        [put("head_start_ray_commands", [f"ray start --head {SCALES}"])],  # Ray's own default is the loopback
        [drop("idle_timeout_minutes")],
        [put("provider.security_group", opens(22))],
        [put("provider.security_group", opens(8265, "10.0.0.0/8"))],
        [put("head_start_ray_commands", ["./start_head.sh"])],
        [put("docker.run_options", ["--env RAY_AUTH_MODE=Token", *GOOD["docker"]["run_options"][1:]])],
        [put("docker.run_options", ["--env RAY_AUTH_MODE=token"]), put("file_mounts", {"/home/ray/.ray": "~/.ray"})],
        [
            no_token,
            put("head_start_ray_commands", [f"RAY_AUTH_MODE=token RAY_AUTH_TOKEN=$(fetch) ray start --head {SCALES}"]),
            put("worker_start_ray_commands", ["RAY_AUTH_MODE=token RAY_AUTH_TOKEN=$(fetch) ray start"]),
        ],
        [put("docker", {**GOOD["docker"], "image": "registry.local/team/ensembles:7", "worker_image": "other:1"})],
        [
            put("provider", AWS),
            put("available_node_types.gpu.node_config", MACHINE),
        ],
        [put("provider", {"type": "gcp"}), put("available_node_types.gpu.node_config", {"machineType": "n1"})],
    ],
)
def test_what_is_as_good_is_not_complained_about(changes: list[Change]) -> None:
    assert found(changed(*changes)) == []


def test_a_finding_says_what_is_wrong_where_and_how_to_mend_it() -> None:
    (finding,) = check_prepared(changed(put("file_mounts", {})), ray_version="2.60.0")
    assert str(finding) == f"file_mounts: {finding.what}\n  → {finding.hint}"
    assert "RAY_AUTH_TOKEN_PATH" in finding.hint


def test_placeholders_and_limits_that_are_left_to_ray_are_named() -> None:
    given = {"docker": {"run_options": ["--env ORCHESTRATOR_BUCKET=MY-BUCKET"]}, "cluster_name": "YOUR-NAME"}
    assert [(each.level, each.where) for each in check_given(given)] == [
        ("warning", "docker.run_options.0"),
        ("warning", "cluster_name"),
        ("warning", "max_workers"),
        ("warning", "idle_timeout_minutes"),
    ]


@pytest.mark.parametrize(
    ("line", "kind"),
    [
        ("key: AKIAABCDEFGHIJKLMNOP", "an AWS access key id"),
        ("  - --env AWS_SECRET_ACCESS_KEY=abc", "AWS credentials"),
        ("aws_session_token: abc", "AWS credentials"),
        ("- --env RAY_AUTH_TOKEN=abc", "Ray's token"),
        ("- export HF_TOKEN=abc", "a secret in a variable"),
        ("- huggingface login hf_abc" + "d" * 30, "a service's token"),
        ("# password: abc", "a password"),
        ("-----BEGIN RSA PRIVATE KEY-----", "a private key"),
        ("token: " + "0f" * 16, "a token or key in hexadecimal"),
        ("index: https://me:abc@packages.local/", "a password in a URL"),
    ],
)
def test_a_secret_is_named_by_its_line_and_never_repeated(line: str, kind: str) -> None:
    findings = list(check_text(f"cluster_name: a\n{line}\n"))
    assert [(each.level, each.where, each.what) for each in findings] == [
        ("error", "line 2", f"this looks like {kind}")
    ]
    assert "abc" not in str(findings[0])


@pytest.mark.parametrize(
    "line",
    [
        "image: registry.local/ray@sha256:" + "0f" * 32,
        "- --env RAY_AUTH_TOKEN_PATH=/home/ray/cluster/token/auth_token",
        "- export RAY_AUTH_TOKEN=$(fetch-the-token)",
        "- export AWS_SECRET_ACCESS_KEY=$KEY",
        "- export HF_TOKEN=$(fetch-the-token)",
        "# export HF_TOKEN=<yours>",
        "HttpTokens: required",
        "/home/ray/cluster/token: ~/.ray",
        "ImageId: ami-0271ce88f6c03e149",
    ],
)
def test_references_to_secrets_and_digests_are_none(line: str) -> None:
    assert list(check_text(line)) == []


def job(**parts: object) -> Job:
    return parse_job(
        {"name": "a", "model": "m:build", "data": "m:load", "storage": {"url": "s3://bucket/runs"}, **parts}
    )


ON_DEMAND = NodeGroup(NodeShape(8, 1, labels={"market": "on-demand"}), max_nodes=4)
GPU = NodeGroup(NodeShape(8, 1), max_nodes=4)
UNKNOWN = NodeGroup(NodeShape(0, 0), max_nodes=4)
WAITS = [("error", "available_node_types")]


@pytest.mark.parametrize(
    ("resources", "groups", "expected"),
    [
        ({"num_gpus": 1, "num_cpus": 8}, [GPU], []),
        ({"num_gpus": 0.5}, [GPU], []),
        ({"num_gpus": 0}, [GPU], []),
        ({}, [GPU], []),
        ({"num_gpus": 2}, [GPU], WAITS),
        ({"num_gpus": 1, "num_cpus": 9}, [GPU], WAITS),
        ({"num_gpus": 1}, [], WAITS),
        ({"num_gpus": 1}, [NodeGroup(NodeShape(8, 1), max_nodes=0)], WAITS),
        ({"labels": {"market": "on-demand"}}, [GPU], WAITS),
        ({"labels": {"market": "on-demand"}}, [GPU, ON_DEMAND], []),
        ({"labels": {"market": "!on-demand"}}, [ON_DEMAND], WAITS),
        ({"num_gpus": 2}, [GPU, UNKNOWN], [("warning", "available_node_types")]),
        ({"num_gpus": 1}, [GPU, UNKNOWN], []),
    ],
)
def test_a_jobs_demand_must_fit_a_node(
    resources: dict[str, Any], groups: list[NodeGroup], expected: list[tuple[str, str]]
) -> None:
    shape = ClusterShape((NodeShape(0, 0, is_head=True),), can_grow=True, autoscaler=Autoscaler(tuple(groups), 8))
    unsaid = ["new"] if UNKNOWN in groups else []
    findings = check_job(shape, job(resources=resources), unsaid=unsaid)
    assert [(each.level, each.where) for each in findings] == expected


def test_a_head_that_offers_cpus_may_carry_workers_and_one_that_offers_none_may_not() -> None:
    for num_cpus, expected in ((4, []), (0, WAITS)):
        head = NodeShape(num_cpus, 0, is_head=True)
        findings = check_job(ClusterShape((head,), True, Autoscaler((), 0)), job(resources={"num_gpus": 0}))
        assert [(each.level, each.where) for each in findings] == expected


@pytest.mark.parametrize(
    ("storage", "expected"),
    [
        ({"url": "runs"}, ["storage.url"]),
        ({"url": "file:///data/runs"}, ["storage.url"]),
        ({"url": "s3://bucket/runs", "endpoint_url": "http://localhost:9000"}, ["storage.endpoint_url"]),
        ({"url": "s3://bucket/runs", "endpoint_url": "https://s3.company.example"}, []),
    ],
)
def test_storage_that_nodes_do_not_share_is_refused_on_a_cluster(storage: Config, expected: list[str]) -> None:
    shape = ClusterShape((), can_grow=True, autoscaler=Autoscaler((GPU,), 8))
    findings = list(check_job(shape, job(storage=storage)))
    assert [(finding.level, finding.where) for finding in findings] == [("error", where) for where in expected]
