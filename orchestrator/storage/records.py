"""What a log is made of: one small JSON object per record, and references to blobs.

A record is stored as canonical JSON (sorted keys, no spaces, UTF-8) that carries a digest of itself, so that a flipped
bit is found even where the result is still JSON. Reading is strict: what is not exactly a record is damage,
not a guess.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from orchestrator.errors import DamagedStore

JSON: TypeAlias = "bool | int | float | str | Sequence[JSON] | Mapping[str, JSON] | None"

KINDS = frozenset(
    {
        "claim",
        "opened",
        "base",
        "packed",
        "enough",
        "ended",
        "generation",
        "rung",
        "void",
        "selection",
        "done",
        "extend",
        "failed",
        "stopped",
        "checkpoint",
        "final",
    }
)
MAX_RECORD_BYTES = 4 * 2**20
FORMAT = 1

_FIELDS = {"format", "seq", "kind", "term", "nonce", "body", "check"}
_NONCE = re.compile(r"[A-Za-z0-9_-]{1,64}\Z")
_SHA256 = re.compile(r"[0-9a-f]{64}\Z")
_DAMAGE_HINT = "nothing is guessed: restore the object from a backup, or start a new run with --fresh"


@dataclass(frozen=True)
class Record:
    """One entry of a log.

    Args:
        seq: place in the log, from 0.
        kind: one of `KINDS`.
        term: the writer's fencing token, from 1.
        nonce: tells this write from any other, when the outcome of a write is unknown.
        body: what the record says; JSON values only, read and never changed.
    """

    seq: int
    kind: str
    term: int
    nonce: str
    body: Mapping[str, JSON] = field(default_factory=dict)


def encode(record: Record) -> bytes:
    """The bytes of a record, the same for equal records.

    Raises:
        ValueError: an unknown kind, a bad term or nonce, NaN or infinity in the body, or more than `MAX_RECORD_BYTES`.
        TypeError: a value in the body that JSON does not have.
    """
    problem = _problem(record.seq, record.kind, record.term, record.nonce, record.body)
    if problem:
        raise ValueError(f"cannot write record {record.seq}: {problem}")
    content: dict[str, JSON] = {
        "format": FORMAT,
        "seq": record.seq,
        "kind": record.kind,
        "term": record.term,
        "nonce": record.nonce,
        "body": dict(record.body),
    }
    data = canonical({**content, "check": _check(content)})
    if len(data) > MAX_RECORD_BYTES:
        raise ValueError(
            f"record {record.seq} ({record.kind}) has {len(data)} bytes, more than {MAX_RECORD_BYTES}: put it in a blob"
        )
    return data


def decode(data: bytes, *, key: str, seq: int) -> Record:
    """The record that `data`, read from `key`, holds.

    Args:
        data: the object's bytes.
        key: where they were read, for the message.
        seq: the place in the log that the key stands for.

    Raises:
        DamagedStore: anything that `encode` cannot have written there.
    """
    if len(data) > MAX_RECORD_BYTES:
        raise _damaged(key, f"{len(data)} bytes are more than a record may have ({MAX_RECORD_BYTES})")
    try:
        content = json.loads(data.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_refuse)
        digest = _check(content)  # here, because infinities (1e999) and lone surrogates show up only when written
    except (ValueError, RecursionError) as error:
        raise _damaged(key, f"it is no JSON ({error})") from error
    if not isinstance(content, dict) or set(content) != _FIELDS:
        raise _damaged(key, f"it has not exactly the fields {', '.join(sorted(_FIELDS))}")
    if type(content["format"]) is not int or content["format"] != FORMAT:
        raise _damaged(key, f"format {content['format']!r} is unknown (this version reads {FORMAT})")
    if content["check"] != digest:
        raise _damaged(key, "its content does not match its own digest")
    problem = _problem(content["seq"], content["kind"], content["term"], content["nonce"], content["body"])
    if problem is None and content["seq"] != seq:
        problem = f"it says that it is record {content['seq']}"
    if problem:
        raise _damaged(key, problem)
    return Record(seq, content["kind"], content["term"], content["nonce"], content["body"])


def canonical(value: JSON) -> bytes:
    """Canonical JSON: equal values give equal bytes.

    Raises:
        ValueError: NaN or infinity.
    """
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.encode("utf-8")


@dataclass(frozen=True)
class BlobRef:
    """Names immutable bytes: where they are, their sha256 (64 hex digits) and size in bytes."""

    key: str
    sha256: str
    size: int

    def to_json(self) -> dict[str, JSON]:
        """As it stands in a record."""
        return {"key": self.key, "sha256": self.sha256, "size": self.size}

    @classmethod
    def from_json(cls, value: object, *, where: str) -> BlobRef:
        """The reference that a record holds.

        Args:
            value: what `to_json` returned, after its way through a record.
            where: the record's key, for the message.

        Raises:
            DamagedStore: anything else.
        """
        if not isinstance(value, Mapping) or set(value) != {"key", "sha256", "size"}:
            raise _damaged(where, "a reference to a blob has not exactly the fields key, sha256, size")
        key, sha256, size = value["key"], value["sha256"], value["size"]
        if not isinstance(key, str) or not key:
            raise _damaged(where, "a reference to a blob names no key")
        if not isinstance(sha256, str) or not _SHA256.match(sha256):
            raise _damaged(where, f"{sha256!r} is no sha256")
        if type(size) is not int or size < 0:
            raise _damaged(where, f"{size!r} is no size in bytes")
        return cls(key, sha256, size)


def _problem(seq: Any, kind: Any, term: Any, nonce: Any, body: Any) -> str | None:
    """What is wrong with the fields of a record; None when nothing is. `type() is`: a bool is no number here."""
    if type(seq) is not int or seq < 0:
        return f"{seq!r} is no record number"
    if not isinstance(kind, str) or kind not in KINDS:
        return f"kind {kind!r} is unknown"
    if type(term) is not int or term < 1:
        return f"{term!r} is no term"
    if not isinstance(nonce, str) or not _NONCE.match(nonce):
        return f"{nonce!r} is no nonce"
    if not isinstance(body, Mapping):
        return "its body is no mapping"
    return None


def _check(content: JSON) -> str:
    """The record's digest of itself: 16 hex digits of the sha256 over all other fields."""
    if isinstance(content, Mapping):
        content = {name: value for name, value in content.items() if name != "check"}
    return hashlib.sha256(canonical(content)).hexdigest()[:16]


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) != len(pairs):
        raise ValueError("a key stands twice")
    return content


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON number")


def _damaged(key: str, what: str) -> DamagedStore:
    return DamagedStore(f"the stored record is damaged: {what}", where=key, hint=_DAMAGE_HINT)
