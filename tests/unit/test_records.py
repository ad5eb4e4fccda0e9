from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.errors import DamagedStore
from orchestrator.storage.records import JSON, KINDS, MAX_RECORD_BYTES, BlobRef, Record, canonical, decode, encode

KEY = "job/run/coord/log/00000003.json"
GOOD = Record(3, "opened", 2, "0123456789abcdef", {"identity": "x", "packs": [[0, 1], [2]], "quote": "ä"})

scalars = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text("aäß\n")
)
values = st.recursive(scalars, lambda inner: st.lists(inner) | st.dictionaries(st.text("abc"), inner), max_leaves=8)
records = st.builds(
    Record,
    seq=st.integers(0, 10**6),
    kind=st.sampled_from(sorted(KINDS)),
    term=st.integers(1, 10**6),
    nonce=st.from_regex(r"[a-f0-9]{16}", fullmatch=True),
    body=st.dictionaries(st.text("abc"), values),
)


@given(records)
def test_a_record_comes_back_as_it_was(record: Record) -> None:
    assert decode(encode(record), key=KEY, seq=record.seq) == record


def test_equal_bodies_give_equal_bytes_whatever_their_order() -> None:
    assert canonical({"a": 1, "b": [2.5]}) == canonical({"b": [2.5], "a": 1}) == b'{"a":1,"b":[2.5]}'


def test_the_stored_form_of_a_record_stays_readable() -> None:
    """Bytes written by an earlier version: they must be read for as long as runs last."""
    stored = (
        b'{"body":{"run_id":"r"},"check":"6e3958ae99968a00","format":1,'
        b'"kind":"claim","nonce":"0123456789abcdef","seq":0,"term":1}'
    )
    assert decode(stored, key=KEY, seq=0) == Record(0, "claim", 1, "0123456789abcdef", {"run_id": "r"})


@given(st.integers(0, len(encode(GOOD)) * 8 - 1))
def test_any_flipped_bit_is_found(bit: int) -> None:
    data = bytearray(encode(GOOD))
    data[bit // 8] ^= 1 << bit % 8
    with pytest.raises(DamagedStore) as damage:
        decode(bytes(data), key=KEY, seq=GOOD.seq)
    assert damage.value.where == KEY


@given(st.binary(max_size=200))
def test_garbage_is_damage(data: bytes) -> None:
    with pytest.raises(DamagedStore):
        decode(data, key=KEY, seq=0)


@pytest.mark.parametrize(
    "text",
    ["", "null", "3", "[]", "{}", "NaN", '{"a":1,"a":2}', "1e999", '"\\ud800"', "[" * 100_000],
    ids=lambda text: text[:10],
)
def test_json_that_is_no_record_is_damage(text: str) -> None:
    with pytest.raises(DamagedStore):
        decode(text.encode(), key=KEY, seq=0)


@pytest.mark.parametrize("change", [{"format": 2}, {"format": True}, {"term": 9}, {"extra": 1}, {"kind": "claim"}])
def test_a_record_with_changed_fields_is_damage(change: dict[str, JSON]) -> None:
    with pytest.raises(DamagedStore):
        decode(canonical({**json.loads(encode(GOOD)), **change}), key=KEY, seq=GOOD.seq)


def test_a_record_under_another_number_is_damage() -> None:
    with pytest.raises(DamagedStore, match="it says that it is record 3"):
        decode(encode(GOOD), key=KEY, seq=4)


def test_an_oversized_object_is_damage_before_it_is_parsed() -> None:
    with pytest.raises(DamagedStore, match="more than a record may have"):
        decode(b" " * (MAX_RECORD_BYTES + 1), key=KEY, seq=0)


@pytest.mark.parametrize(
    "record",
    [
        Record(0, "rumour", 1, "n"),
        Record(0, "claim", 0, "n"),
        Record(0, "claim", True, "n"),
        Record(-1, "claim", 1, "n"),
        Record(0, "claim", 1, ""),
        Record(0, "claim", 1, "a nonce"),
        Record(0, "claim", 1, "n", {"score": math.nan}),
        Record(0, "claim", 1, "n", {"score": math.inf}),
        Record(0, "claim", 1, "n", {"text": "x" * MAX_RECORD_BYTES}),
    ],
)
def test_what_no_reader_would_accept_is_not_written(record: Record) -> None:
    with pytest.raises(ValueError, match=r"."):
        encode(record)


def test_a_blob_reference_comes_back_from_a_record() -> None:
    ref = BlobRef("job/run/blobs/x", "a" * 64, 7)
    assert BlobRef.from_json(json.loads(json.dumps(ref.to_json())), where=KEY) == ref


@pytest.mark.parametrize(
    "value",
    [
        None,
        [],
        {},
        {"key": "k", "sha256": "a" * 64},
        {"key": "", "sha256": "a" * 64, "size": 1},
        {"key": "k", "sha256": "A" * 64, "size": 1},
        {"key": "k", "sha256": "a" * 64, "size": -1},
        {"key": "k", "sha256": "a" * 64, "size": True},
    ],
)
def test_a_damaged_blob_reference_is_refused_with_its_place(value: object) -> None:
    with pytest.raises(DamagedStore) as damage:
        BlobRef.from_json(value, where=KEY)
    assert damage.value.where == KEY
