"""Where EC2 has no spot nodes, the same machines are bought on demand; a fake stands in for Ray's provider."""

from __future__ import annotations

from typing import Any

import pytest
from ray.autoscaler.node_launch_exception import NodeLaunchException

from orchestrator.cluster.launcher.spot_first import NO_SPOT_NODES, SpotFirst

pytestmark = pytest.mark.slow  # it imports Ray

SPOT = {"InstanceType": "g5.2xlarge", "SubnetIds": ["a"], "InstanceMarketOptions": {"MarketType": "spot"}}
ON_DEMAND = {"InstanceType": "g5.2xlarge", "SubnetIds": ["a"]}
TAGS = {"ray-user-node-type": "gpu_spot"}


class FakeProvider:
    """Starts what it is asked for, or refuses spot nodes with that code of EC2's."""

    def __init__(self, refuses_spot: str | None = None, refuses_all: str | None = None) -> None:
        self.asked: list[tuple[dict[str, Any], dict[str, str], int]] = []
        self._refuses_spot, self._refuses_all = refuses_spot, refuses_all

    def create_node(self, node_config: dict[str, Any], tags: dict[str, str], count: int) -> dict[str, Any]:
        self.asked.append((node_config, tags, count))
        refusal = self._refuses_all or (self._refuses_spot if "InstanceMarketOptions" in node_config else None)
        if refusal:
            raise NodeLaunchException(refusal, "no", None)
        return {f"i-{number}": node_config for number in range(count)}


class Provider(SpotFirst, FakeProvider):
    pass


def test_spot_nodes_are_taken_where_there_are_some() -> None:
    provider = Provider()
    assert list(provider.create_node(SPOT, TAGS, 2)) == ["i-0", "i-1"]
    assert provider.asked == [(SPOT, TAGS, 2)]


@pytest.mark.parametrize("code", sorted(NO_SPOT_NODES))
def test_without_spot_nodes_the_same_machines_are_bought_on_demand(code: str) -> None:
    provider = Provider(refuses_spot=code)
    assert provider.create_node(SPOT, TAGS, 2) == {"i-0": ON_DEMAND, "i-1": ON_DEMAND}
    assert provider.asked == [(SPOT, TAGS, 2), (ON_DEMAND, TAGS, 2)]
    assert "InstanceMarketOptions" in SPOT, "the next worker is looked for on the spot market again"


def test_the_answers_of_ec2_that_count_are_these() -> None:
    """Of several zones Ray tells the last one's answer, which may be that it has no such machines at all."""
    assert {"InsufficientInstanceCapacity", "MaxSpotInstanceCountExceeded", "Unsupported"} <= NO_SPOT_NODES
    assert not {"UnauthorizedOperation", "InvalidAMIID.NotFound", "VcpuLimitExceeded"} & NO_SPOT_NODES


def test_what_is_refused_for_another_reason_stays_an_error() -> None:
    provider = Provider(refuses_spot="UnauthorizedOperation")
    with pytest.raises(NodeLaunchException, match="UnauthorizedOperation"):
        provider.create_node(SPOT, TAGS, 1)
    assert len(provider.asked) == 1


@pytest.mark.parametrize("config", [ON_DEMAND, ON_DEMAND | {"InstanceMarketOptions": {"MarketType": "capacity-block"}}])
def test_nodes_that_are_not_of_the_spot_market_are_not_asked_for_twice(config: dict[str, Any]) -> None:
    provider = Provider(refuses_all="InsufficientInstanceCapacity")
    with pytest.raises(NodeLaunchException):
        provider.create_node(config, TAGS, 1)
    assert len(provider.asked) == 1


def test_when_there_are_none_on_demand_either_that_is_the_error() -> None:
    provider = Provider(refuses_all="InsufficientInstanceCapacity")
    with pytest.raises(NodeLaunchException):
        provider.create_node(SPOT, TAGS, 1)
    assert [config for config, _, _ in provider.asked] == [SPOT, ON_DEMAND]
