"""Runs that were scored on the same rows can be counted."""

from __future__ import annotations

from orchestrator.storage.layout import RunLayout
from orchestrator.storage.looks import Looks, mark_look, other_looks
from orchestrator.testing import MemoryStore

DATA, OTHER = "ab" * 32, "cd" * 32


def test_other_runs_on_the_same_rows_are_counted_with_their_members_and_trials() -> None:
    store = MemoryStore()
    ours = RunLayout("digits", "digits-1")
    mark_look(store, ours, [DATA], members=5)
    assert other_looks(store, ours, [DATA]) == Looks()
    mark_look(store, RunLayout("digits", "digits-2"), [DATA], members=5)
    mark_look(store, RunLayout("digits", "digits-2"), [DATA], members=5)  # a resumed run leaves its mark once
    mark_look(store, RunLayout("search", "digits-1"), [DATA], members=8, trials=100)
    mark_look(store, RunLayout("digits", "digits-3"), [OTHER], members=50)
    assert other_looks(store, ours, [DATA]) == Looks(runs=2, members=13, trials=100)


def test_a_run_that_has_grown_counts_once_with_its_largest_size() -> None:
    store = MemoryStore()
    grown = RunLayout("digits", "digits-1")
    for members in (5, 9):
        mark_look(store, grown, [DATA], members=members)
    assert other_looks(store, RunLayout("digits", "digits-2"), [DATA]) == Looks(runs=1, members=9)


def test_foreign_objects_among_the_marks_are_passed_over() -> None:
    store = MemoryStore()
    store.create(f".data/{DATA}/README", b"")
    store.create(f".data/{DATA}/a/b/many-members", b"")
    assert other_looks(store, RunLayout("digits", "digits-1"), [DATA]) == Looks()


def test_a_run_counts_once_although_it_shares_two_splits_and_also_where_it_shares_one() -> None:
    store = MemoryStore()
    mark_look(store, RunLayout("digits", "both"), [DATA, OTHER], members=5)
    mark_look(store, RunLayout("digits", "only-test"), [OTHER, "ef" * 32], members=8)
    ours = RunLayout("digits", "digits-1")
    mark_look(store, ours, [DATA, OTHER], members=3)
    assert other_looks(store, ours, [DATA, OTHER]) == Looks(runs=2, members=13)
    assert other_looks(store, ours, [DATA]) == Looks(runs=1, members=5)
    assert other_looks(store, ours, []) == Looks()
