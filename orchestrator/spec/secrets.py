"""Refuses secrets in a job: jobs are stored, shown and sent through Ray's job server in the clear."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from orchestrator.spec.base import MAX_JSON_DEPTH, Problem

_NAME = re.compile(
    r"(^|_)(secret|password|passwd|passphrase|credentials?|(access|secret|private|api)_?key(_?id)?)$"
    r"|(^|(access|api|auth|aws|bearer|refresh|secret|security|session)_?)token$"
)
"""Matched against names in snake_case. Not every token: `pad_token` and `oov_token` are words of text models."""

_AWS_KEY_ID = re.compile(r"(AKIA|ASIA)[0-9A-Z]{16}")
_CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")


def secret_problems(data: Any, path: tuple[str | int, ...] = ()) -> Iterator[Problem]:
    """Every place that looks like a secret, by the key's name or by the value; the value itself is never repeated."""
    if len(path) > MAX_JSON_DEPTH:
        yield Problem(path[:3], f"is nested deeper than {MAX_JSON_DEPTH} levels")
    elif isinstance(data, dict):
        for key, value in data.items():
            if is_secret_name(str(key)) and value is not None and not isinstance(value, bool):
                yield Problem((*path, redact(key)), "looks like a secret")
            elif isinstance(key, str) and _AWS_KEY_ID.search(key):
                yield Problem(path, "has a key that looks like an AWS access key")
            else:
                yield from secret_problems(value, (*path, key))
    elif isinstance(data, list | tuple):
        for index, value in enumerate(data):
            yield from secret_problems(value, (*path, index))
    elif isinstance(data, str) and _AWS_KEY_ID.search(data):
        yield Problem(path, "holds what looks like an AWS access key")


def is_secret_name(name: str) -> bool:
    """Whether a key of that name would hold a secret."""
    return bool(_NAME.search(_CAMEL.sub("_", name).replace("-", "_").lower()))


def redact(text: Any) -> Any:
    """The text with AWS access keys blotted out; anything else unchanged."""
    return _AWS_KEY_ID.sub("…", text) if isinstance(text, str) else text
