"""The local store when the file system misbehaves; the contract suite has the rest."""

from __future__ import annotations

import errno
import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from orchestrator.errors import AccessDenied, MissingObject, OrchestratorError, StoreUnavailable, UnsupportedStore
from orchestrator.storage.layout import TEMPORARY_PREFIX
from orchestrator.storage.local import LocalStore, explain
from orchestrator.storage.probe import probe


@contextmanager
def file_size_limit(limit_bytes: int) -> Iterator[None]:
    """Writes beyond the limit fail, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_nothing_is_made_before_the_first_write(tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "runs")
    assert store.list("") == []
    assert not (tmp_path / "runs").exists()


def test_a_disk_that_fills_up_keeps_the_old_object_and_leaves_no_debris(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    store.put("best", b"old")
    with file_size_limit(100_000):
        for write in (store.put, store.create):
            with pytest.raises(StoreUnavailable, match="full"):
                write("best" if write == store.put else "new", bytes(1_000_000))
    assert store.get("best") == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["best"]


def test_a_file_system_without_hard_links_is_refused_by_the_probe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_links(source: object, target: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", no_links)
    with pytest.raises(UnsupportedStore, match="hard links") as refusal:
        probe(LocalStore(tmp_path), "probe")
    assert "s3://" in str(refusal.value)
    assert LocalStore(tmp_path).list("") == []


def test_a_root_below_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(UnsupportedStore, match="cannot be used"):
        LocalStore(tmp_path / "file" / "runs").create("k", b"v")


def test_nothing_is_said_to_be_missing_below_a_file_where_the_root_would_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for root in (tmp_path / "file", tmp_path / "file" / "runs"):
        with pytest.raises(UnsupportedStore, match="cannot be used"):
            LocalStore(root).get("job/run/spec.json")
    with pytest.raises(MissingObject):
        LocalStore(tmp_path).get("file/spec.json")


def test_unfinished_files_of_a_killed_writer_are_not_listed(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    store.put("folder/done", b"")
    (tmp_path / "folder" / f"{TEMPORARY_PREFIX}0123").write_bytes(b"half")
    assert store.list("folder") == ["folder/done"]


@pytest.mark.parametrize(
    ("number", "expected"),
    [
        (errno.ENOSPC, StoreUnavailable),
        (errno.EDQUOT, StoreUnavailable),
        (errno.EIO, StoreUnavailable),
        (errno.EACCES, AccessDenied),
        (errno.EPERM, AccessDenied),
        (errno.EROFS, UnsupportedStore),
        (errno.ENAMETOOLONG, UnsupportedStore),
    ],
)
def test_each_system_error_has_a_meaning_a_place_and_a_remedy(number: int, expected: type[OrchestratorError]) -> None:
    explained = explain(OSError(number, "x"), "/runs/k")
    assert type(explained) is expected
    assert explained.where == "/runs/k"
    assert explained.hint
