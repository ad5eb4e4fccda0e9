"""What may be thrown away: only what no record names, and only of runs at which nobody works."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.planning.collection import Candidate, Sight, at_work, collectable, needs_watching

ROOT = "digits/run"
BLOBS, PROBE = f"{ROOT}/blobs", f"{ROOT}/probe"
SIGHT = Sight(num_records=7, last_kind="packed", beat=(2, 40))


def blob(name: str) -> str:
    return f"{BLOBS}/{name}"


def found(keys: list[str], *bodies: object) -> list[str]:
    return [candidate.key for candidate in collectable(keys, bodies, blobs=BLOBS, probe=PROBE)]


def test_a_blob_is_a_candidate_until_a_record_names_it() -> None:
    reference = {"key": blob("a"), "sha256": "0" * 64, "size": 1}
    assert found([blob("a")]) == [blob("a")]
    assert found([blob("a"), blob("b")], {"model": reference}) == [blob("b")]
    assert collectable([blob("b")], [], blobs=BLOBS, probe=PROBE) == (Candidate(blob("b"), "no record names it"),)


def test_only_blobs_and_probes_leftovers_are_ever_candidates() -> None:
    others = [
        f"{ROOT}/spec.json",
        f"{ROOT}/result.json",
        f"{ROOT}/coord/log/00000000.json",
        f"{ROOT}/coord/beat.json",
        f"{ROOT}/control/stop-1.json",
        f"{ROOT}/members/0/log/00000000.json",
        f"{ROOT}/members/0/best.keras",
        f"{ROOT}/attempts/0-1/log-00000.txt",
        f"{ROOT}/attempts/0-1/blobs/x",
        f"{ROOT}/blobs",
        f"{ROOT}/blobs-of-mine/x",
        f"{ROOT}/something-new",
        "other/run/blobs/x",
    ]
    assert found([*others, f"{PROBE}/abc-once"]) == [f"{PROBE}/abc-once"]


NESTED = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(around=NESTED, path=st.lists(st.text(max_size=3) | st.integers(0, 2), max_size=60))
def test_a_blob_is_found_named_however_deep_and_in_whatever_shape(around: Any, path: list[str | int]) -> None:
    body: Any = {"key": blob("a"), "sha256": "0" * 64, "size": 1}
    for step in path:
        body = {step: body, "around": around} if isinstance(step, str) else [*[around] * step, body]
    assert found([blob("a"), blob("b")], {"body": body}, {"around": around}) == [blob("b")]


def test_depth_has_no_end() -> None:
    body: Any = blob("a")
    for _ in range(100_000):
        body = [body]
    assert found([blob("a"), blob("b")], body) == [blob("b")]


@pytest.mark.parametrize("kind", ["done", "failed", "stopped"])
def test_a_run_that_ended_needs_no_watching_unless_a_probe_lies_there(kind: str) -> None:
    ended = replace(SIGHT, last_kind=kind)
    assert not needs_watching(ended)
    assert needs_watching(replace(ended, probes=frozenset({f"{PROBE}/abc-once"})))


@pytest.mark.parametrize("kind", [None, "claim", "opened", "packed", "ended", "selection"])
def test_a_run_that_did_not_end_is_watched(kind: str | None) -> None:
    assert needs_watching(replace(SIGHT, last_kind=kind))


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"num_records": 8}, "its log"),
        ({"last_kind": "claim"}, "its log"),
        ({"beat": (2, 41)}, "its beat"),
        ({"beat": (3, 0)}, "its beat"),
        ({"beat": None}, "its beat"),
        ({"probes": frozenset({"x"})}, "its probe"),
    ],
)
def test_whatever_moves_between_two_looks_shows_that_somebody_works(change: dict[str, Any], word: str) -> None:
    assert at_work(SIGHT, SIGHT) is None
    reason = at_work(SIGHT, replace(SIGHT, **change))
    assert reason == f"somebody works on it: {word} moved"
