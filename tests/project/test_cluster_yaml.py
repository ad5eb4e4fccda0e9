"""`cluster.yaml` is what Ray's launcher accepts, and as closed and as cheap as it says."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from orchestrator.cluster.launcher.check import check_cluster
from orchestrator.cluster.launcher.rules import SPOT_FIRST

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "cluster.yaml").read_text(encoding="utf-8")


@pytest.fixture
def config() -> dict[str, Any]:
    loaded = yaml.safe_load(TEXT)
    assert isinstance(loaded, dict)
    return loaded


@pytest.fixture
def workers(config: dict[str, Any]) -> list[dict[str, Any]]:
    found = [node for name, node in config["available_node_types"].items() if name != config["head_node_type"]]
    assert found
    return found


@pytest.fixture(scope="module")
def prepared() -> dict[str, Any]:
    """The file as Ray completes it, accepted by Ray's own validator."""
    from ray.autoscaler._private.util import prepare_config, validate_config

    completed = prepare_config(yaml.safe_load(TEXT))
    validate_config(completed)
    assert isinstance(completed, dict)
    return completed


@pytest.mark.slow
def test_rays_own_validator_accepts_it(prepared: dict[str, Any]) -> None:
    assert set(prepared["available_node_types"]) == {"head", "gpu_spot", "gpu_on_demand"}
    assert prepared["available_node_types"]["head"]["max_workers"] == 0
    assert prepared["available_node_types"]["head"]["resources"] == {"CPU": 0}


@pytest.mark.slow
def test_nothing_is_to_be_mended_but_the_name_of_the_bucket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "dist").mkdir()
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").touch()
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    findings = check_cluster(str(ROOT / "cluster.yaml"))
    assert [(each.level, each.where.split(".")[0]) for each in findings] == [("warning", "docker")]
    assert "MY-BUCKET is a placeholder" in str(findings[0])


@pytest.mark.slow
def test_rays_autoscaler_finds_an_image_for_each_node_type(prepared: dict[str, Any]) -> None:
    from ray.autoscaler.v2.instance_manager.config import AutoscalingConfig

    autoscaling = AutoscalingConfig(prepared, skip_content_hash=True)
    images = {name: autoscaling.get_docker_config(name)["image"] for name in prepared["available_node_types"]}
    docker = prepared["docker"]
    assert images.pop("head") == docker["head_image"]
    assert set(images.values()) == {docker["worker_image"]}


def started(prepared: dict[str, Any], num_gpus: int, label: str | None = None, **known: Any) -> dict[str, int]:
    """What Ray's own scheduler would start for so many waiting workers of one GPU each, by node type."""
    from ray.autoscaler.v2.instance_manager.config import AutoscalingConfig
    from ray.autoscaler.v2.scheduler import ResourceDemandScheduler, SchedulingRequest
    from ray.autoscaler.v2.utils import ResourceRequestUtil
    from ray.core.generated.autoscaler_pb2 import ResourceRequestByCount
    from ray.core.generated.common_pb2 import LabelSelectorOperator

    is_in = LabelSelectorOperator.Value("LABEL_OPERATOR_IN")
    selectors = None if label is None else [[("market", is_in, [label])]]
    worker = ResourceRequestUtil.make({"CPU": 1.0, "GPU": 1.0}, label_selectors=selectors)
    request = SchedulingRequest(
        disable_launch_config_check=True,
        node_type_configs=AutoscalingConfig(prepared, skip_content_hash=True).get_node_type_configs(),
        max_num_nodes=prepared["max_workers"],
        resource_requests=[ResourceRequestByCount(request=worker, count=num_gpus)],
        **known,
    )
    reply = ResourceDemandScheduler(event_logger=None).schedule(request)
    return {each.instance_type: each.count for each in reply.to_launch}


@pytest.mark.slow
def test_ray_starts_spot_nodes_first_and_no_more_than_may_be_paid_for(prepared: dict[str, Any]) -> None:
    assert started(prepared, 3) == {"gpu_spot": 3}
    assert started(prepared, 100) == {"gpu_spot": prepared["max_workers"]}


@pytest.mark.slow
def test_a_job_can_ask_for_nodes_that_nobody_takes_away(prepared: dict[str, Any]) -> None:
    assert started(prepared, 2, label="on-demand") == {"gpu_on_demand": 2}


@pytest.mark.slow
def test_what_exceeds_the_spot_nodes_is_started_on_demand(prepared: dict[str, Any]) -> None:
    few = copy.deepcopy(prepared)
    few["available_node_types"]["gpu_spot"]["max_workers"] = 2
    assert started(few, 3) == {"gpu_spot": 2, "gpu_on_demand": 1}


@pytest.mark.slow
def test_ray_alone_turns_away_from_nodes_that_did_not_come_up_but_not_from_those_that_were_refused(
    prepared: dict[str, Any],
) -> None:
    """Why there is a provider of our own. Should Ray learn it one day, this fails, and the provider can go."""
    from ray.autoscaler.v2.instance_manager.subscribers.cloud_resource_monitor import CloudResourceMonitor
    from ray.core.generated.instance_manager_pb2 import Instance, InstanceUpdateEvent

    def after(status: Any) -> dict[str, int]:
        monitor = CloudResourceMonitor()
        event = InstanceUpdateEvent(instance_id="a", new_instance_status=status, instance_type="gpu_spot")
        monitor.notify([event])
        known = {
            "cloud_resource_availabilities": monitor.get_resource_availabilities(),
            "recoverable_resource_availabilities": monitor.get_recoverable_resource_availabilities(),
        }
        return started(prepared, 1, **known)

    assert after(Instance.ALLOCATION_TIMEOUT) == {"gpu_on_demand": 1}
    assert after(Instance.ALLOCATION_FAILED) == {"gpu_spot": 1}


def test_every_node_type_names_its_rights_image_disk_and_machine(config: dict[str, Any]) -> None:
    for node in config["available_node_types"].values():
        machine = node["node_config"]
        assert machine["IamInstanceProfile"]["Name"]
        assert machine["ImageId"]
        assert machine["InstanceType"]
        assert machine["BlockDeviceMappings"][0]["Ebs"]["VolumeSize"] >= 100


def test_workers_are_spot_with_the_same_machine_on_demand_and_the_head_is_not_spot(config: dict[str, Any]) -> None:
    types = config["available_node_types"]
    spot, on_demand = dict(types["gpu_spot"]["node_config"]), types["gpu_on_demand"]["node_config"]
    assert spot.pop("InstanceMarketOptions")["MarketType"] == "spot"
    assert spot == on_demand
    assert types["gpu_spot"]["resources"] == types["gpu_on_demand"]["resources"]
    assert "InstanceMarketOptions" not in types[config["head_node_type"]]["node_config"]


def test_the_provider_falls_back_to_nodes_on_demand(config: dict[str, Any]) -> None:
    assert (config["provider"]["type"], config["provider"]["module"]) == ("external", SPOT_FIRST)


def test_nothing_is_paid_for_when_nothing_runs(config: dict[str, Any], workers: list[dict[str, Any]]) -> None:
    assert 0 < config["idle_timeout_minutes"] <= 15
    assert config["provider"]["cache_stopped_nodes"] is False
    assert all(worker["min_workers"] == 0 for worker in workers)


def test_the_dashboard_listens_on_loopback_only(config: dict[str, Any]) -> None:
    starts = [command for command in config["head_start_ray_commands"] if "ray start" in command]
    assert len(starts) == 1
    assert re.findall(r"--dashboard-host[= ](\S+)", starts[0]) == ["127.0.0.1"]
    assert "0.0.0.0" not in TEXT


def test_head_and_workers_have_one_ray_and_one_python(config: dict[str, Any]) -> None:
    images = {image for name, image in config["docker"].items() if name.endswith("image")}
    versions = {re.fullmatch(r"rayproject/ray:(\d+\.\d+\.\d+-py3\d+)-(?:cpu|gpu)", image) for image in images}
    assert len({match[1] for match in versions if match}) == 1
    assert None not in versions


def test_the_package_reaches_every_node_as_a_wheel(config: dict[str, Any]) -> None:
    folder = next(remote for remote, local in config["file_mounts"].items() if local == "./dist")
    for commands in ("head_setup_commands", "worker_setup_commands"):
        assert any("pip install" in each and f"{folder}/orchestrator-*.whl" in each for each in config[commands])
        again = [each for each in config[commands] if "--force-reinstall" in each]
        assert len(again) == 1, "a changed wheel of the same version replaces the one that is there"


def test_every_node_checks_the_bucket(config: dict[str, Any]) -> None:
    assert "--env ORCHESTRATOR_BUCKET=MY-BUCKET" in config["docker"]["run_options"]
    for commands in ("head_setup_commands", "worker_setup_commands"):
        assert any("ORCHESTRATOR_BUCKET" in each for each in config[commands])


def test_the_heads_policy_is_about_this_cluster(config: dict[str, Any]) -> None:
    policy = json.loads((ROOT / "jobs" / "head_policy.json").read_text(encoding="utf-8"))
    by_action = {action: statement for statement in policy["Statement"] for action in statement["Action"]}
    starts, ends = by_action["ec2:RunInstances"]["Condition"], by_action["ec2:TerminateInstances"]["Condition"]
    assert starts == {"StringEquals": {"aws:RequestedRegion": config["provider"]["region"]}}
    assert ends == {"StringEquals": {"ec2:ResourceTag/ray-cluster-name": config["cluster_name"]}}
    profiles = {each["node_config"]["IamInstanceProfile"]["Name"] for each in config["available_node_types"].values()}
    assert {by_action["iam:PassRole"]["Resource"].rpartition("/")[2]} == profiles
