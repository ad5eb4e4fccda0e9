"""The bucket policy that the README gives, and users of the test server who have it, or all of it but one right."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

BUCKET = "policy-test"
_FILE = Path(__file__).parents[2] / "jobs" / "bucket_policy.json"
POLICY: dict[str, Any] = json.loads(_FILE.read_text(encoding="utf-8").replace("MY-BUCKET", BUCKET))
RIGHTS: list[str] = [right for statement in POLICY["Statement"] for right in statement["Action"]]
NODE = "node"


def user_without(right: str) -> str:
    """Name and access key of the user who has every right but one."""
    return f"node-without-{right.partition(':')[2]}"


def secret_of(user: str) -> str:
    return f"secret-of-{user}"


def policies() -> dict[str, dict[str, Any]]:
    """By user, what is granted."""
    return {NODE: POLICY, **{user_without(right): _without(right) for right in RIGHTS}}


def _without(right: str) -> dict[str, Any]:
    policy = copy.deepcopy(POLICY)
    for statement in policy["Statement"]:
        statement["Action"] = [action for action in statement["Action"] if action != right]
    policy["Statement"] = [statement for statement in policy["Statement"] if statement["Action"]]
    return policy
