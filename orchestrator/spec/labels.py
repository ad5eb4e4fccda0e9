"""Labels of nodes, as a job may name them: the syntax of Ray's label selectors."""

from __future__ import annotations

import re
from collections.abc import Iterator

_NAME = r"[a-zA-Z0-9](?:[a-zA-Z0-9_.-]{0,61}[a-zA-Z0-9])?"
_PREFIX = rf"(?=[^/]{{1,253}}/){_NAME}(?:\.{_NAME})*/"


def label_problems(key: str, value: str) -> Iterator[str]:
    """What Ray would refuse of a label that nodes are selected by, or would find on no node."""
    if re.fullmatch(rf"(?:{_PREFIX})?{_NAME}", key) is None:
        yield "is no label: letters and digits with `-`, `_`, `.` between, and a prefix as in `ray.io/market-type`"
    if re.fullmatch(rf"!?{_NAME}|!?in\({_NAME}(?:, ?{_NAME})*\)", value) is None:
        yield f"must be a label's value (`spot`), `!spot`, `in(a, b)` or `!in(a, b)`, not {value!r}"
