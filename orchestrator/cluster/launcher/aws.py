"""The node provider that cluster.yaml names; on the head, and where `ray up` is called. It needs boto3."""

from __future__ import annotations

from ray.autoscaler._private.aws.node_provider import AWSNodeProvider

from orchestrator.cluster.launcher.spot_first import SpotFirst


class SpotFirstNodeProvider(SpotFirst, AWSNodeProvider):  # type: ignore[misc]  # Ray ships no types
    """Ray's own provider for AWS, with workers on demand where the spot market has none."""
