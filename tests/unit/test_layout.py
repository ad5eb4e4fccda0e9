from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.errors import InvalidJob
from orchestrator.storage.layout import (
    NAME_PATTERN,
    AttemptFile,
    RunLayout,
    check_key,
    record_key,
    record_seq,
    run_key,
)

LAYOUT = RunLayout("digits", "digits-0123456789ab")


@given(st.text(), st.text())
def test_any_run_id_becomes_a_safe_name(name: str, run_id: str) -> None:
    key = run_key(name, run_id)
    assert re.match(NAME_PATTERN, key)
    assert "\n" not in key
    assert check_key(key) == key
    RunLayout("job", key)


@given(st.text(), st.text())
def test_two_ids_never_share_a_key(first: str, second: str) -> None:
    assert (run_key("job", first) == run_key("job", second)) == (first == second)


def test_ids_that_differ_in_unsafe_characters_alone_stay_apart() -> None:
    ids = [
        "manual__2026-01-01T00:00:00+00:00",
        "manual__2026-01-01T00:00:00 00:00",
        "MANUAL__2026-01-01T00:00:00+00:00",
    ]
    keys = {run_key("digits", run_id) for run_id in ids}
    assert len(keys) == 3
    assert all(key.startswith("manual__2026-01-01t00-00-00-00-00-") for key in keys)


@pytest.mark.parametrize("run_id", ["../x", "../../etc/passwd", "/", "..", "", " ", "a/../b", "\0", "-x", ".tmp-1"])
def test_hostile_ids_are_harmless(run_id: str) -> None:
    key = run_key("digits", run_id)
    assert "/" not in key
    assert not key.startswith(".")
    assert re.match(NAME_PATTERN, key)


def test_a_default_id_is_used_as_it_is() -> None:
    assert run_key("digits", "digits-0123456789ab", is_default=True) == "digits-0123456789ab"


def test_a_given_id_that_looks_like_a_default_one_does_not_take_its_key() -> None:
    assert run_key("digits", "digits-0123456789ab") != "digits-0123456789ab"


def test_a_default_id_that_is_too_long_for_a_name_is_shortened() -> None:
    key = run_key("n" * 63, "n" * 63 + "-0123456789ab", is_default=True)
    assert re.match(NAME_PATTERN, key)


@pytest.mark.parametrize(
    ("key", "below_root"),
    [
        (LAYOUT.spec, "spec.json"),
        (LAYOUT.result, "result.json"),
        (LAYOUT.report, "report.html"),
        (LAYOUT.event_file("member-3"), "tensorboard/member-3/events.out.tfevents.0"),
        (LAYOUT.coord_log, "coord/log"),
        (LAYOUT.beat, "coord/beat.json"),
        (LAYOUT.control, "control"),
        (LAYOUT.stop_request("n"), "control/stop-n.json"),
        (LAYOUT.member_log(3), "members/3/log"),
        (LAYOUT.member_copy(3, "best.keras"), "members/3/best.keras"),
        (LAYOUT.labels_copy("test"), "labels/test.parquet"),
        (LAYOUT.attempt_prefix(3, 2), "attempts/3-2"),
        (LAYOUT.blob("sha", "n"), "blobs/sha-n"),
        (LAYOUT.results(1), "results/1.json"),
        (LAYOUT.probe, "probe"),
    ],
)
def test_keys_are_where_the_documentation_says(key: str, below_root: str) -> None:
    assert key == f"digits/digits-0123456789ab/{below_root}"


@pytest.mark.parametrize("name", ["", "../x", "Digits", "a/b", "a\n", "-a", "a" * 64])
def test_unsafe_names_are_refused(name: str) -> None:
    with pytest.raises(InvalidJob):
        RunLayout(name, "run")
    with pytest.raises(InvalidJob):
        RunLayout("job", name)


def test_a_copy_cannot_climb_out_of_its_member() -> None:
    with pytest.raises(ValueError, match="no storage key"):
        LAYOUT.member_copy(0, "../../../x")


def test_record_keys_and_numbers_belong_together() -> None:
    assert record_key("a/log", 7) == "a/log/00000007.json"
    assert record_seq("a/log", "a/log/00000007.json") == 7
    for foreign in ("a/log/7.json", "a/log/00000007.json.bak", "b/log/00000007.json", "a/log/x/00000007.json", "a/log"):
        assert record_seq("a/log", foreign) is None
    for bad in (-1, 10**8):
        with pytest.raises(ValueError, match="record number"):
            record_key("a/log", bad)


def test_a_run_is_found_by_its_spec_and_by_nothing_else() -> None:
    assert RunLayout.of_spec(LAYOUT.spec) == LAYOUT
    for foreign in (
        "spec.json",
        "digits/spec.json",
        "Digits/run/spec.json",
        "digits/-run/spec.json",
        "a/digits/run/spec.json",
        LAYOUT.result,
    ):
        assert RunLayout.of_spec(foreign) is None


def test_a_key_in_a_logs_folder_tells_its_log() -> None:
    assert LAYOUT.log_of(record_key(LAYOUT.coord_log, 3)) == LAYOUT.coord_log
    assert LAYOUT.log_of(record_key(LAYOUT.member_log(12), 0)) == LAYOUT.member_log(12)
    assert LAYOUT.log_of(f"{LAYOUT.member_log(12)}/garbage") == LAYOUT.member_log(12)
    for other in (
        LAYOUT.beat,
        LAYOUT.member_copy(1, "best.keras"),
        f"{LAYOUT.attempt_prefix(0, 1)}/coord/log/00000000.json",
        f"other/{LAYOUT.coord_log}/00000000.json",
        "coord/log/00000000.json",
    ):
        assert LAYOUT.log_of(other) is None


def test_a_key_below_an_attempt_tells_member_term_and_name() -> None:
    assert LAYOUT.attempt_file(f"{LAYOUT.attempt_prefix(3, 2)}/tb/train/x.v2") == AttemptFile(3, 2, "tb/train/x.v2")
    for other in (
        LAYOUT.attempt_prefix(3, 2),
        f"{LAYOUT.attempts}/3/log-00000.txt",
        f"{LAYOUT.attempts}/x-2/log-00000.txt",
        f"other/{LAYOUT.attempt_prefix(3, 2)}/log-00000.txt",
        "attempts/3-2/log-00000.txt",
        LAYOUT.spec,
    ):
        assert LAYOUT.attempt_file(other) is None
