"""Blots secrets out of text that goes to storage."""

from __future__ import annotations

import re
from collections.abc import Mapping

_SECRET_VARIABLE = re.compile(
    r"(SECRET|TOKEN|PASSWORD|PASSWD|PASSPHRASE|ACCESS_KEY|API_KEY|PRIVATE_KEY|CREDENTIAL)", re.IGNORECASE
)
_SHORTEST = 8
"""Shorter values of such variables are words that stand anywhere: blotting them out would hide nothing but text."""

_PATTERNS = (
    re.compile(r"(?<![A-Z0-9])(AKIA|ASIA)[A-Z0-9]{16}(?![A-Z0-9])"),
    re.compile(r"(?<=://)[^\s/@:'\"<>]*:[^\s/'\"<>]+(?=@)"),  # to the last @: a password may have one in it
    re.compile(r"(?<=X-Amz-Signature=)[^&\s'\"<>]+", re.IGNORECASE),
    re.compile(r"(?<=X-Amz-Credential=)[^&\s'\"<>]+", re.IGNORECASE),
    re.compile(r"(?<=X-Amz-Security-Token=)[^&\s'\"<>]+", re.IGNORECASE),
    re.compile(r"(?<=[?&]Signature=)[^&\s'\"<>]+"),  # the older way to sign
)
BLOT = "***"


def redact(text: str, environ: Mapping[str, str]) -> str:
    """The text without secrets.

    Args:
        text: any.
        environ: the environment of the process that wrote it. Values of variables whose names speak of secrets are
            blotted out, besides AWS access keys, credentials in URLs and signatures of signed URLs.
    """
    secrets = {value for name, value in environ.items() if _SECRET_VARIABLE.search(name) and len(value) >= _SHORTEST}
    for secret in sorted(secrets, key=len, reverse=True):
        text = text.replace(secret, BLOT)
    for pattern in _PATTERNS:
        text = pattern.sub(BLOT, text)
    return text
