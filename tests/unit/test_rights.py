"""What a machine may do in storage, right by right."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from orchestrator.errors import AccessDenied, StoreUnavailable
from orchestrator.storage.local import LocalStore
from orchestrator.storage.rights import check_rights, leave_mark
from orchestrator.testing import MemoryStore

ALL = ["create", "put", "get", "list", "delete"]


class LimitedStore(MemoryStore):
    """A store that refuses some calls; it remembers which were made."""

    def __init__(self, refused: Sequence[str], error: Exception) -> None:
        super().__init__()
        self.refused, self.error, self.calls = refused, error, list[str]()

    def _check(self, call: str) -> None:
        self.calls.append(call)
        if call in self.refused:
            raise self.error

    def create(self, key: str, body: bytes) -> bool:
        self._check("create")
        return super().create(key, body)

    def put(self, key: str, body: bytes) -> None:
        self._check("put")
        super().put(key, body)

    def get(self, key: str, *, max_bytes: int | None = None) -> bytes:
        self._check("get")
        return super().get(key, max_bytes=max_bytes)

    def list(self, prefix: str) -> list[str]:
        self._check("list")
        return super().list(prefix)

    def delete(self, key: str) -> None:
        self._check("delete")
        super().delete(key)


def test_who_may_do_everything_has_every_right_and_leaves_nothing(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    mark = leave_mark(store, "job/run/probe")
    rights = check_rights(store, "job/run/probe", mark)
    assert [right.name for right in rights] == [*ALL, "see what another machine wrote"]
    assert [right.error for right in rights] == [None] * 6
    assert store.list("") == [mark]


@pytest.mark.parametrize("refused", [[name] for name in ALL] + [["create", "put"], ["create", "list"], ALL], ids=str)
def test_each_right_that_is_missing_is_named_and_no_other(refused: list[str]) -> None:
    store = LimitedStore(refused, AccessDenied("S3 forbids it"))
    rights = check_rights(store, "job/run/probe", None)
    assert [right.name for right in rights] == ALL
    assert [right.name for right in rights if right.error is not None] == refused


def test_a_store_out_of_reach_is_tried_once_and_not_right_by_right() -> None:
    store = LimitedStore(ALL, StoreUnavailable("S3 is out of reach"))
    (right,) = check_rights(store, "job/run/probe", "mark")
    assert isinstance(right.error, StoreUnavailable)
    assert store.calls == ["create"]


class ForgetfulStore(MemoryStore):
    """A store that takes every create."""

    def create(self, key: str, body: bytes) -> bool:
        self.put(key, body)
        return True


def test_a_store_that_creates_twice_lacks_that_promise() -> None:
    first, *_ = check_rights(ForgetfulStore(), "job/run/probe", None)
    assert first.error is not None
    assert first.error.what == "one key could be created twice"


def test_two_machines_with_folders_of_their_own_are_told_that_they_do_not_share_them(tmp_path: Path) -> None:
    mark = leave_mark(LocalStore(tmp_path / "here"), "job/run/probe")
    *rights, last = check_rights(LocalStore(tmp_path / "there"), "job/run/probe", mark)
    assert all(right.error is None for right in rights)
    assert last.error is not None
    assert "another folder" in last.error.what
    assert "shared by all nodes" in str(last.error.hint)
