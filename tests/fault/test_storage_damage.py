"""What is stored is damaged, gone, or shown by a stale listing: found, named, never guessed at."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from orchestrator.errors import DamagedStore
from orchestrator.planning.ports import Store
from orchestrator.storage.blobs import get_blob, get_blob_file, put_blob
from orchestrator.storage.layout import RunLayout, record_key
from orchestrator.storage.local import LocalStore
from orchestrator.storage.log import Log
from orchestrator.storage.records import BlobRef
from orchestrator.storage.retry import Patience
from orchestrator.storage.s3 import S3Store
from tests.support.s3_server import ACCESS_KEY, REGION, SECRET_KEY, S3Server

LAYOUT = RunLayout("digits", "digits-0123456789ab")
LOG = LAYOUT.member_log(0)
WEIGHTS = bytes(range(256)) * 1000
EDITS: dict[str, Callable[[bytes], bytes]] = {
    "first half": lambda body: body[: len(body) // 2],
    "one bit": lambda body: body[:1000] + bytes([body[1000] ^ 1]) + body[1001:],
    "nothing": lambda body: b"",
    "more": lambda body: body + b"\0",
}
RUINS: dict[str, Callable[[bytes], bytes]] = {
    "garbage": lambda body: b"\xff" * 100,
    "another record": lambda body: body.replace(b'"seq":1', b'"seq":2'),
    "one digit": lambda body: body.replace(b'"epoch":1', b'"epoch":7'),
    "first half": lambda body: body[: len(body) // 2],
    "nothing": lambda body: b"",
}


@pytest.fixture(params=["local", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    if request.param == "local":
        return LocalStore(tmp_path / "runs")
    direct: Store = request.getfixturevalue("direct")
    return direct


@pytest.fixture
def log(store: Store) -> Log:
    """A log of three records, numbers 0, 1 and 2."""
    log = Log.open(store, LOG)
    log.claim()
    for epoch in (1, 2):
        log.append("checkpoint", epoch=epoch)
    return log


def newest_intact(store: Store, refs: list[BlobRef]) -> BlobRef | None:
    """The rule of a resume: the newest whose bytes are those recorded, else the next older one."""
    for ref in reversed(refs):
        try:
            get_blob(store, ref)
        except DamagedStore:
            continue
        return ref
    return None


@pytest.mark.parametrize("edit", EDITS)
def test_a_blob_that_was_changed_is_damage_and_the_next_older_one_serves(
    store: Store, tmp_path: Path, edit: str
) -> None:
    """Faults 22, 23 at rest."""
    older, newer = put_blob(store, LAYOUT, b"older"), put_blob(store, LAYOUT, WEIGHTS)
    store.put(newer.key, EDITS[edit](WEIGHTS))

    with pytest.raises(DamagedStore) as damage:
        get_blob(store, newer)
    with pytest.raises(DamagedStore):
        get_blob_file(store, newer, str(tmp_path / "weights"))

    assert newer.key in str(damage.value)
    assert not (tmp_path / "weights").exists()
    assert newest_intact(store, [older, newer]) == older


def test_a_blob_that_was_deleted_is_missing_and_the_next_older_one_serves(store: Store) -> None:
    """Fault 24."""
    older, newer = put_blob(store, LAYOUT, b"older"), put_blob(store, LAYOUT, WEIGHTS)
    store.delete(newer.key)
    with pytest.raises(DamagedStore, match="is gone"):
        get_blob(store, newer)
    assert newest_intact(store, [older, newer]) == older
    store.delete(older.key)
    assert newest_intact(store, [older, newer]) is None


@pytest.mark.parametrize("ruin", RUINS)
def test_a_record_that_is_no_longer_one_is_refused_and_its_key_named(store: Store, log: Log, ruin: str) -> None:
    """Fault 25."""
    key = record_key(LOG, 1)
    body = store.get(key)
    store.put(key, RUINS[ruin](body))
    assert store.get(key) != body
    with pytest.raises(DamagedStore) as damage:
        Log.open(store, LOG).records()
    assert damage.value.where == key
    assert damage.value.exit_code == 2
    assert damage.value.hint


def test_a_log_with_a_gap_is_refused_when_it_is_opened(store: Store, log: Log) -> None:
    """Fault 25."""
    store.delete(record_key(LOG, 1))
    with pytest.raises(DamagedStore, match="missing") as damage:
        Log.open(store, LOG)
    assert damage.value.where == record_key(LOG, 1)


def test_a_foreign_object_in_a_log_is_refused_when_it_is_opened(store: Store, log: Log) -> None:
    store.put(f"{LOG}/notes.txt", b"mine")
    with pytest.raises(DamagedStore, match="does not belong") as damage:
        Log.open(store, LOG)
    assert damage.value.where == f"{LOG}/notes.txt"


class StaleListing:
    """A store whose listings are those of some time ago; its reads are not."""

    def __init__(self, inner: Store, seen: list[str]) -> None:
        self._inner = inner
        self._seen = seen
        self.listed = 0

    def list(self, prefix: str) -> list[str]:
        self.listed += 1
        return [key for key in self._seen if key.startswith(prefix)]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


@pytest.mark.parametrize("seen", [0, 1, 3])
def test_a_stale_listing_hides_no_record_from_who_opens_the_log(store: Store, log: Log, seen: int) -> None:
    """Fault 33: the end of a log is found by reads upward."""
    stale = StaleListing(store, store.list(LOG)[:seen])
    for epoch in range(3, 9):
        log.append("checkpoint", epoch=epoch)

    opened = Log.open(stale, LOG)

    assert stale.listed
    assert [record.body.get("epoch") for record in opened.records()] == [None, *range(1, 9)]
    assert opened.claim() == 2


def test_a_listing_with_a_hole_is_not_taken_for_a_gap(store: Store, log: Log) -> None:
    holes = StaleListing(store, [record_key(LOG, 0), record_key(LOG, 2)])
    assert len(Log.open(holes, LOG).records()) == 3


def test_what_another_client_wrote_is_listed_where_the_librarys_own_default_shows_old_listings(
    s3_server: S3Server, s3_url: str
) -> None:
    """Fault 33, with its control: s3fs as it comes keeps listings."""
    import s3fs

    ours = S3Store(s3_url, endpoint_url=s3_server.endpoint_url)
    as_it_comes = s3fs.S3FileSystem(
        key=ACCESS_KEY,
        secret=SECRET_KEY,
        endpoint_url=s3_server.endpoint_url,
        client_kwargs={"region_name": REGION},
        skip_instance_cache=True,
    )
    folder = f"{s3_url}/folder"
    ours.put("folder/1", b"")
    assert (len(ours.list("folder")), len(as_it_comes.ls(folder))) == (1, 1)

    S3Store(s3_url, endpoint_url=s3_server.endpoint_url).put("folder/2", b"")

    assert (len(ours.list("folder")), len(as_it_comes.ls(folder))) == (2, 1)


def test_a_forked_child_has_clients_of_its_own_while_the_parents_are_busy(s3_server: S3Server, s3_url: str) -> None:
    """Fault 43: event loops and sockets do not survive a fork; a child that closes them breaks the parent's calls."""
    store = S3Store(s3_url, endpoint_url=s3_server.endpoint_url, timeout_s=8.0)
    log = Log.open(store, LOG)
    log.claim()

    child = multiprocessing.get_context("fork").Process(target=_claim_and_read, args=(store,))
    child.start()
    refs = []
    while child.is_alive():
        refs.append(put_blob(store, LAYOUT, b"from the parent", patience=Patience(deadline_s=0.0)))

    child.join(timeout=60)
    assert child.exitcode == 0
    assert len(refs) > 1
    assert {get_blob(store, ref) for ref in refs} == {b"from the parent"}
    assert [record.kind for record in Log.open(store, LOG).records()] == ["claim", "claim", "ended"]


def _claim_and_read(store: S3Store) -> None:
    log = Log.open(store, LOG)
    log.claim()
    log.append("ended", read=get_blob(store, put_blob(store, LAYOUT, b"from the child")).decode())
