"""cluster.yaml on a simulated EC2 (opt-in: `pytest -m aws`): through Ray's own `ray up`, autoscaler's provider and
installer. What would go through SSH is noted, and answered as a node would.

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


@pytest.fixture(scope="module")
def account(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[str]]:
    """An account in this process that has the instance profile; what was asked of EC2, as actions of IAM policies."""
    try:
        import boto3
        from moto import mock_aws
    except ModuleNotFoundError as missing:
        raise RuntimeError(f'{missing}\n  → pip install "moto[ec2]" boto3') from missing
    asked: list[str] = []
    with pytest.MonkeyPatch.context() as patch, mock_aws():
        patch.setenv("HOME", str(tmp_path_factory.mktemp("home")))  # Ray puts its SSH key there
        boto3.setup_default_session()
        boto3.client("iam").create_instance_profile(InstanceProfileName="orchestrator-node")
        events = boto3.DEFAULT_SESSION.events
        events.register("before-call.ec2.*", lambda model, **_: asked.append(f"ec2:{model.name}"))
        yield asked
        boto3.DEFAULT_SESSION = None


@pytest.fixture(scope="module")
def config(account: list[str]) -> dict[str, Any]:
    """The file as `ray up` completes it from the account, and as the head gets it."""
    from ray.autoscaler._private.util import prepare_config, validate_config

    from orchestrator.cluster.launcher.aws import SpotFirstNodeProvider

    prepared = prepare_config(yaml.safe_load((ROOT / "cluster.yaml").read_text(encoding="utf-8")))
    filled = SpotFirstNodeProvider.fillout_available_node_types_resources(prepared)
    validate_config(filled)
    completed = SpotFirstNodeProvider.bootstrap_config(filled)
    assert isinstance(completed, dict)
    for node_type in completed["available_node_types"].values():
        node_type["node_config"]["ImageId"] = "ami-12345678"  # the simulation resolves no parameters
    return completed


@pytest.fixture
def provider(config: dict[str, Any]) -> Any:
    """As the autoscaler on the head makes it."""
    from ray.autoscaler._private.providers import _get_node_provider

    return _get_node_provider(config["provider"], config["cluster_name"], use_cache=False)


@pytest.fixture
def refuse_spot(provider: Any, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], list[dict[str, Any]]]:
    """Lets EC2 refuse spot nodes with that code; returns every request from then on."""
    from botocore.exceptions import ClientError

    create: Callable[..., Any] = provider.ec2_fail_fast.create_instances

    def refuse(code: str) -> list[dict[str, Any]]:
        requests: list[dict[str, Any]] = []

        def create_or_refuse(**request: Any) -> Any:
            requests.append(request)
            if "InstanceMarketOptions" in request:
                raise ClientError({"Error": {"Code": code, "Message": "no"}}, "RunInstances")
            return create(**request)

        monkeypatch.setattr(provider.ec2_fail_fast, "create_instances", create_or_refuse)
        return requests

    return refuse


class Ssh:
    """Stands where Ray's launcher starts processes: notes each command, and answers as a fresh node with a GPU."""

    def __init__(self) -> None:
        self.commands: list[str] = []

    def check_call(self, command: str | list[str], *_: Any, **__: Any) -> None:
        self._note(command)

    def check_output(self, command: str | list[str], *_: Any, **__: Any) -> bytes:
        text = self._note(command)
        answers = {
            ".State.Running": b"false",
            ".Config.Env": b'["HOME=/home/ray"]',
            "printenv HOME": b"/home/ray",
            "meminfo": b"MemAvailable: 30000000 kB",
            ".Runtimes": b"map[nvidia-container-runtime:{} runc:{}]",
        }
        return next((answer for asked, answer in answers.items() if asked in text), b"docker")

    def only(self, *words: str) -> str:
        """The one command with all these words in it."""
        (found,) = [command for command in self.commands if all(word in command for word in words)]
        return found

    def _note(self, command: str | list[str]) -> str:
        self.commands.append(command if isinstance(command, str) else " ".join(command))
        return self.commands[-1]


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
    from orchestrator.cluster.launcher.aws import SpotFirstNodeProvider

    told = SpotFirstNodeProvider.fillout_available_node_types_resources(untold)["available_node_types"]
    for name in ("gpu_spot", "gpu_on_demand"):
        assert types[name]["resources"] == told[name]["resources"]


def test_workers_are_spot_nodes_where_there_are_some(provider: Any, config: dict[str, Any]) -> None:
    created = launch(provider, config, 1)
    assert len(created) == 1
    assert {node.instance_lifecycle for node in created.values()} == {"spot"}


def test_where_every_zone_refuses_spot_nodes_the_same_machines_run_on_demand(
    provider: Any, config: dict[str, Any], refuse_spot: Callable[[str], list[dict[str, Any]]]
) -> None:
    requests = refuse_spot("InsufficientInstanceCapacity")
    created = launch(provider, config, 1)
    assert len(created) == 1
    assert {node.instance_lifecycle for node in created.values()} == {None}
    assert {node.instance_type for node in created.values()} == {"g5.2xlarge"}
    subnets = config["available_node_types"]["gpu_spot"]["node_config"]["SubnetIds"]
    assert len(subnets) == 3
    assert {each["SubnetId"] for each in requests if "InstanceMarketOptions" in each} == set(subnets)
    assert set(created) <= set(provider.non_terminated_nodes({"ray-user-node-type": "gpu_spot"}))


def test_a_refusal_for_another_reason_is_rays_error(
    provider: Any, config: dict[str, Any], refuse_spot: Callable[[str], list[dict[str, Any]]]
) -> None:
    from ray.autoscaler.node_launch_exception import NodeLaunchException

    refuse_spot("UnauthorizedOperation")
    with pytest.raises(NodeLaunchException, match="UnauthorizedOperation"):
        launch(provider, config, 1)


def test_the_heads_policy_has_what_the_autoscaler_asks_for_and_no_more(
    provider: Any, config: dict[str, Any], account: list[str]
) -> None:
    account.clear()
    (node,) = launch(provider, config, 1)
    provider.non_terminated_nodes({})
    provider.is_running(node)
    provider.internal_ip(node)
    provider.set_node_tags(node, {"ray-node-status": "up-to-date"})
    provider.non_terminated_nodes({})
    provider.terminate_nodes([node])
    policy = json.loads((ROOT / "jobs" / "head_policy.json").read_text(encoding="utf-8"))
    granted = {action for each in policy["Statement"] for action in each["Action"]}
    assert set(account) == {action for action in granted if action.startswith("ec2:")}


def test_ray_up_starts_the_head_as_the_file_says(config: dict[str, Any], tmp_path: Path) -> None:
    from ray.autoscaler._private.commands import get_or_create_head_node

    ssh = Ssh()
    own = copy.deepcopy(config)
    own["file_mounts"] = {remote: str(tmp_path) for remote in own["file_mounts"]}  # the wheel's folder may not be there
    file = tmp_path / "cluster.yaml"
    file.write_text(yaml.safe_dump(own), encoding="utf-8")
    get_or_create_head_node(own, str(file), False, False, True, None, False, _runner=ssh)

    container = ssh.only("docker run")
    assert "rayproject/ray:2.60.0-py311-cpu" in container
    assert "--env RAY_AUTH_MODE=token --env RAY_AUTH_TOKEN_PATH=/home/ray/cluster/token/auth_token" in container
    assert ":/home/ray/cluster/token " in container
    start = ssh.only("ray start --head")
    assert '{"CPU":0}' in start
    assert "--dashboard-host=127.0.0.1" in start
    assert ssh.only("pip install", "boto3")


def test_the_autoscaler_sets_a_worker_up_as_the_file_says(provider: Any, config: dict[str, Any]) -> None:
    from ray.autoscaler.v2.instance_manager.config import AutoscalingConfig
    from ray.autoscaler.v2.instance_manager.ray_installer import RayInstaller
    from ray.core.generated.instance_manager_pb2 import Instance

    ssh = Ssh()
    (node,) = launch(provider, config, 1)
    provider.non_terminated_nodes({})  # the autoscaler looks at the nodes before it sets one up
    own = copy.deepcopy(config) | {"file_mounts": {}}
    instance = Instance(instance_type="gpu_spot", cloud_instance_id=node)
    RayInstaller(provider, AutoscalingConfig(own), process_runner=ssh).install_ray(instance, "10.0.0.1")

    container = ssh.only("docker run")
    assert "rayproject/ray:2.60.0-py311-gpu" in container
    assert "--runtime=nvidia" in container
    assert "--env RAY_AUTH_MODE=token" in container
    start = ssh.only("ray start --address=$RAY_HEAD_IP:6379", "export RAY_HEAD_IP=10.0.0.1")
    assert '"CPU":8' in start
    assert '"GPU":1' in start
    assert ssh.only("orchestrator.cluster.launcher.spot_notice $RAY_HEAD_IP:6379", "export RAY_HEAD_IP=10.0.0.1")
    assert ssh.only("pip install", "[gpu]")
