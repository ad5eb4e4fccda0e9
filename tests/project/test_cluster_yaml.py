"""`cluster.yaml` is what Ray's launcher accepts, and as closed and as cheap as it says."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "cluster.yaml").read_text(encoding="utf-8")

SECRETS = [
    r"\b(AKIA|ASIA)[A-Z0-9]{16}\b",
    r"(?i)aws_(secret_access_key|session_token|access_key_id)\s*[=:]",
    r"RAY_AUTH_TOKEN\s*[=:]",
    r"(?i)passw(or)?d\s*[=:]",
    r"-----BEGIN [A-Z ]*PRIVATE KEY",
    r"\b[0-9a-fA-F]{32,}\b",
    r"://[^/\s]*:[^/\s]*@",
]


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


@pytest.mark.slow
def test_rays_own_validator_accepts_it(config: dict[str, Any]) -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    prepared = prepare_config(config)
    validate_config(prepared)
    assert set(prepared["available_node_types"]) == {"head", "gpu_spot"}
    assert prepared["available_node_types"]["head"]["max_workers"] == 0


@pytest.mark.slow
def test_rays_own_validator_refuses_a_misspelt_key(config: dict[str, Any]) -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    config["idle_timeout_minute"] = 5
    with pytest.raises(Exception, match="idle_timeout_minute"):
        validate_config(prepare_config(config))


def test_every_node_type_names_its_rights_image_disk_and_machine(config: dict[str, Any]) -> None:
    for node in config["available_node_types"].values():
        machine = node["node_config"]
        assert machine["IamInstanceProfile"]["Name"]
        assert machine["ImageId"]
        assert machine["InstanceType"]
        assert machine["BlockDeviceMappings"][0]["Ebs"]["VolumeSize"] >= 100


def test_workers_are_spot_and_the_head_is_not(config: dict[str, Any], workers: list[dict[str, Any]]) -> None:
    head = config["available_node_types"][config["head_node_type"]]
    assert "InstanceMarketOptions" not in head["node_config"]
    for worker in workers:
        assert worker["node_config"]["InstanceMarketOptions"]["MarketType"] == "spot"


def test_nothing_is_paid_for_when_nothing_runs(config: dict[str, Any], workers: list[dict[str, Any]]) -> None:
    assert 0 < config["idle_timeout_minutes"] <= 15
    assert config["provider"]["cache_stopped_nodes"] is False
    assert all(worker["min_workers"] == 0 for worker in workers)


def test_the_head_offers_no_cpus_to_members(config: dict[str, Any]) -> None:
    assert config["available_node_types"][config["head_node_type"]]["resources"] == {"CPU": 0}


def test_the_dashboard_listens_on_loopback_only(config: dict[str, Any]) -> None:
    starts = [command for command in config["head_start_ray_commands"] if "ray start" in command]
    assert len(starts) == 1
    assert re.findall(r"--dashboard-host[= ](\S+)", starts[0]) == ["127.0.0.1"]
    assert "0.0.0.0" not in TEXT


def test_the_token_is_asked_for_and_given_by_path(config: dict[str, Any]) -> None:
    options = config["docker"]["run_options"]
    assert "--env RAY_AUTH_MODE=token" in options
    path = next(x.split("=", 1)[1] for x in options if "RAY_AUTH_TOKEN_PATH=" in x)
    assert str(Path(path).parent) in config["file_mounts"]


def test_head_and_workers_have_one_ray_and_one_python(config: dict[str, Any]) -> None:
    images = {config["docker"]["head_image"], config["docker"]["worker_image"]}
    versions = {re.fullmatch(r"rayproject/ray:(\d+\.\d+\.\d+-py3\d+)-(?:cpu|gpu)", image) for image in images}
    assert len({match[1] for match in versions if match}) == 1
    assert None not in versions


def test_the_package_reaches_every_node_as_a_wheel(config: dict[str, Any]) -> None:
    folder = next(remote for remote, local in config["file_mounts"].items() if local == "./dist")
    for commands in ("head_setup_commands", "worker_setup_commands"):
        assert any("pip install" in each and f"{folder}/orchestrator-*.whl" in each for each in config[commands])


def test_every_node_checks_the_bucket(config: dict[str, Any]) -> None:
    assert "--env ORCHESTRATOR_BUCKET=MY-BUCKET" in config["docker"]["run_options"]
    for commands in ("head_setup_commands", "worker_setup_commands"):
        assert any("ORCHESTRATOR_BUCKET" in each for each in config[commands])


@pytest.mark.parametrize("pattern", SECRETS)
def test_there_is_no_secret_in_it(pattern: str) -> None:
    assert not re.search(pattern, TEXT)


@pytest.mark.parametrize(
    ("line", "pattern"),
    [
        ("key: AKIAABCDEFGHIJKLMNOP", SECRETS[0]),
        ("- --env AWS_SECRET_ACCESS_KEY=x", SECRETS[1]),
        ("- --env RAY_AUTH_TOKEN=x", SECRETS[2]),
        ("token: " + "0f" * 16, SECRETS[5]),
    ],
)
def test_the_search_for_secrets_finds_them(line: str, pattern: str) -> None:
    assert re.search(pattern, line)
