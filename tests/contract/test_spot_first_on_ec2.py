"""cluster.yaml's node provider on a simulated EC2 (opt-in: `pytest -m aws`), through Ray's own bootstrap and provider.

Without moto and boto3 the tests fail, and say what to install.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

pytestmark = pytest.mark.aws

ROOT = Path(__file__).parents[2]
TAGS = {"ray-node-type": "worker", "ray-user-node-type": "gpu_spot", "ray-launch-config": "x", "ray-node-name": "w"}


@pytest.fixture
def account(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """An empty account in this process; what was asked of it, as actions of IAM policies."""
    try:
        import boto3
        from moto import mock_aws
    except ModuleNotFoundError as missing:
        raise RuntimeError(f'{missing}\n  → pip install "moto[ec2]" boto3') from missing
    monkeypatch.setenv("HOME", str(tmp_path))  # Ray puts its SSH key there
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    asked: list[str] = []
    with mock_aws():
        boto3.setup_default_session()
        events = boto3.DEFAULT_SESSION.events
        events.register("before-call.ec2.*", lambda model, **_: asked.append(f"ec2:{model.name}"))
        yield asked
        boto3.DEFAULT_SESSION = None


@pytest.fixture
def config(account: list[str]) -> dict[str, Any]:
    """The file as `ray up` completes it from the account, and as the head gets it."""
    from ray.autoscaler._private.util import prepare_config, validate_config

    from orchestrator.cluster.aws import SpotFirstNodeProvider

    prepared = prepare_config(yaml.safe_load((ROOT / "cluster.yaml").read_text(encoding="utf-8")))
    filled = SpotFirstNodeProvider.fillout_available_node_types_resources(prepared)
    validate_config(filled)
    completed = SpotFirstNodeProvider.bootstrap_config(filled)
    assert isinstance(completed, dict)
    for node_type in completed["available_node_types"].values():
        node_type["node_config"]["ImageId"] = "ami-12345678"  # the simulation resolves no parameters
    account.clear()
    return completed


@pytest.fixture
def provider(config: dict[str, Any]) -> Any:
    """As the autoscaler on the head makes it."""
    from ray.autoscaler._private.providers import _get_node_provider

    return _get_node_provider(config["provider"], config["cluster_name"], use_cache=False)


def refuse_spot(provider: Any, code: str) -> list[dict[str, Any]]:
    """Let EC2 refuse spot nodes with that code; every request from then on."""
    from botocore.exceptions import ClientError

    create: Callable[..., Any] = provider.ec2_fail_fast.create_instances
    requests: list[dict[str, Any]] = []

    def create_or_refuse(**request: Any) -> Any:
        requests.append(request)
        if "InstanceMarketOptions" in request:
            raise ClientError({"Error": {"Code": code, "Message": "no"}}, "RunInstances")
        return create(**request)

    provider.ec2_fail_fast.create_instances = create_or_refuse
    return requests


def launch(provider: Any, config: dict[str, Any], count: int) -> dict[str, Any]:
    """As both of Ray's autoscalers launch workers."""
    node_type = config["available_node_types"]["gpu_spot"]
    node_config = copy.deepcopy(node_type["node_config"])
    created = provider.create_node_with_resources_and_labels(node_config, TAGS, count, node_type["resources"], {})
    assert isinstance(created, dict)
    return created


def test_the_file_says_of_its_machines_what_ec2_says(config: dict[str, Any]) -> None:
    types = config["available_node_types"]
    assert types["head"]["resources"]["CPU"] == 0
    untold = copy.deepcopy(config)
    for name in ("gpu_spot", "gpu_on_demand"):
        untold["available_node_types"][name]["resources"] = {}
    from orchestrator.cluster.aws import SpotFirstNodeProvider

    told = SpotFirstNodeProvider.fillout_available_node_types_resources(untold)["available_node_types"]
    for name in ("gpu_spot", "gpu_on_demand"):
        assert types[name]["resources"] == told[name]["resources"]


def test_workers_are_spot_nodes_where_there_are_some(provider: Any, config: dict[str, Any]) -> None:
    created = launch(provider, config, 2)
    assert len(created) == 2
    assert {node.instance_lifecycle for node in created.values()} == {"spot"}


def test_where_every_zone_refuses_spot_nodes_the_same_machines_run_on_demand(
    provider: Any, config: dict[str, Any]
) -> None:
    requests = refuse_spot(provider, "InsufficientInstanceCapacity")
    created = launch(provider, config, 2)
    assert len(created) == 2
    assert {node.instance_lifecycle for node in created.values()} == {None}
    assert {node.instance_type for node in created.values()} == {"g5.2xlarge"}
    subnets = config["available_node_types"]["gpu_spot"]["node_config"]["SubnetIds"]
    assert len(subnets) == 3
    assert {each["SubnetId"] for each in requests if "InstanceMarketOptions" in each} == set(subnets)
    assert set(provider.non_terminated_nodes({"ray-user-node-type": "gpu_spot"})) == set(created)


def test_a_refusal_for_another_reason_is_rays_error(provider: Any, config: dict[str, Any]) -> None:
    from ray.autoscaler.node_launch_exception import NodeLaunchException

    refuse_spot(provider, "UnauthorizedOperation")
    with pytest.raises(NodeLaunchException, match="UnauthorizedOperation"):
        launch(provider, config, 1)


def test_the_heads_policy_has_what_the_autoscaler_asks_for(
    provider: Any, config: dict[str, Any], account: list[str]
) -> None:
    created = launch(provider, config, 1)
    (node,) = created
    provider.non_terminated_nodes({})
    provider.is_running(node)
    provider.internal_ip(node)
    provider.set_node_tags(node, {"ray-node-status": "up-to-date"})
    provider.non_terminated_nodes({})
    provider.terminate_nodes([node])
    policy = json.loads((ROOT / "jobs" / "head_policy.json").read_text(encoding="utf-8"))
    granted = {action for each in policy["Statement"] for action in each["Action"]}
    asked = set(account)
    assert {"ec2:RunInstances", "ec2:TerminateInstances", "ec2:CreateTags", "ec2:DescribeInstances"} <= asked
    assert asked <= granted
