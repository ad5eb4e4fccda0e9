"""Workers at the full price where the spot market has none: what Ray's launcher leaves out on AWS.

Left alone, Ray asks for the same spot nodes for ever, however many other node types there are: its autoscaler passes
over a type whose nodes were granted and never came up, but does not hold it against a type that EC2 refused to start.
"""

from __future__ import annotations

import logging
from typing import Any

logger = logging.getLogger(__name__)

NO_SPOT_NODES = frozenset(
    {
        "InsufficientInstanceCapacity",
        "InsufficientCapacity",
        "UnfulfillableCapacity",
        "Unsupported",  # by the zone that Ray tried last: the others may have answered anything
        "MaxSpotInstanceCountExceeded",
        "SpotMaxPriceTooLow",
    }
)
"""What EC2 answers when the spot market has no such machine, none in this zone, for this account or at this price."""


class SpotFirst:
    """Stands before a node provider of Ray's: where EC2 has no spot nodes, the same machines are bought on demand.

    They count against the same `max_workers`, go when they are idle as the others do, and the next worker is looked for
    on the spot market again. What is refused for another reason (rights, a wrong image) stays an error.
    """

    def create_node(self, node_config: dict[str, Any], tags: dict[str, str], count: int) -> dict[str, Any]:
        """Start up to `count` instances; Ray's own signature.

        Raises:
            NodeLaunchException: EC2 starts none, on demand neither; Ray's own.
        """
        from ray.autoscaler.node_launch_exception import NodeLaunchException

        create: Any = super().create_node  # type: ignore[misc]  # of the provider that this stands before
        try:
            return dict(create(node_config, tags, count))
        except NodeLaunchException as refused:
            market = node_config.get("InstanceMarketOptions", {}).get("MarketType")
            if market != "spot" or refused.category not in NO_SPOT_NODES:
                raise
            logger.warning("no spot nodes (%s): %d on demand instead", refused.category, count)
        on_demand = {key: value for key, value in node_config.items() if key != "InstanceMarketOptions"}
        return dict(create(on_demand, tags, count))
