"""One contract for every store: the in-memory fake, a local folder, and S3 on a real server."""

from __future__ import annotations

import pickle
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from orchestrator.errors import DamagedStore, MissingObject, UnsupportedStore
from orchestrator.planning.ports import Store
from orchestrator.storage.blobs import get_blob, get_blob_file, put_blob, put_blob_file
from orchestrator.storage.layout import RunLayout
from orchestrator.storage.local import LocalStore
from orchestrator.storage.log import Log
from orchestrator.storage.open import open_store
from orchestrator.storage.probe import probe
from orchestrator.storage.s3 import MAX_CREATE_BYTES, S3Store
from orchestrator.testing import MemoryStore

if TYPE_CHECKING:
    from conftest import S3Bucket

LAYOUT = RunLayout("digits", "digits-0123456789ab")
RACERS = 16


@pytest.fixture(params=["memory", "local", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    if request.param == "memory":
        return MemoryStore()
    if request.param == "local":
        return open_store(str(tmp_path / "runs"))
    bucket = request.getfixturevalue("s3_bucket")
    return open_store(f"{bucket.url}/team/runs", endpoint_url=bucket.endpoint_url)


def test_create_writes_once_and_never_again(store: Store) -> None:
    assert store.create("a/b", b"first") is True
    assert store.create("a/b", b"second") is False
    assert store.get("a/b") == b"first"


def test_create_among_racing_threads_has_one_winner_in_every_round(store: Store) -> None:
    with ThreadPoolExecutor(RACERS) as pool:
        for round_number in range(2):
            key = f"race/{round_number}"
            start = threading.Barrier(RACERS)

            def run(racer: int, key: str = key, start: threading.Barrier = start) -> bool:
                start.wait(timeout=30)
                return store.create(key, b"%d" % racer)

            created = list(pool.map(run, range(RACERS)))

            assert created.count(True) == 1
            assert store.get(key) == b"%d" % created.index(True)


def test_create_refuses_what_put_has_written(store: Store) -> None:
    store.put("k", b"put")
    assert store.create("k", b"create") is False
    assert store.get("k") == b"put"


def test_put_replaces(store: Store) -> None:
    store.put("k", b"one")
    store.put("k", b"two")
    assert store.get("k") == b"two"


@pytest.mark.parametrize("body", [b"", b"\0\xff", b"x" * 3_000_000], ids=["empty", "binary", "3 MB"])
def test_bytes_come_back_as_they_were(store: Store, body: bytes) -> None:
    store.put("put", body)
    assert store.create("create", body)
    assert store.get("put") == body
    assert store.get("create") == body


@pytest.mark.parametrize("size", [0, 1000, 40 * 2**20], ids=["empty", "small", "in several parts"])
def test_files_come_back_as_they_were(store: Store, tmp_path: Path, size: int) -> None:
    source, target = tmp_path / "source.keras", tmp_path / "target"
    source.write_bytes(bytes(range(256)) * (size // 256) + b"e" * (size % 256))
    store.put_file("deep/file", str(source))
    store.get_file("deep/file", str(target))
    assert target.read_bytes() == source.read_bytes()


def test_an_object_larger_than_it_may_be_is_refused_and_nothing_is_written(store: Store, tmp_path: Path) -> None:
    store.put("k", b"12345")
    with pytest.raises(DamagedStore, match="at most 4") as damage:
        store.get("k", max_bytes=4)
    with pytest.raises(DamagedStore):
        store.get_file("k", str(tmp_path / "target"), max_bytes=4)
    assert damage.value.where
    assert damage.value.where.endswith("/k")
    assert not (tmp_path / "target").exists() or (tmp_path / "target").stat().st_size == 0
    assert store.get("k", max_bytes=5) == b"12345"
    store.get_file("k", str(tmp_path / "target"), max_bytes=5)
    assert (tmp_path / "target").read_bytes() == b"12345"
    with pytest.raises(MissingObject):
        store.get("missing", max_bytes=0)


def test_a_missing_key_is_missing_object(store: Store, tmp_path: Path) -> None:
    store.put("there/is", b"something")
    for key in ("missing", "there", "there/is/more", "there/other"):
        with pytest.raises(MissingObject):
            store.get(key)
        with pytest.raises(MissingObject):
            store.get_file(key, str(tmp_path / "target"))


def test_list_shows_all_keys_below_a_folder_sorted(store: Store) -> None:
    keys = ["a/b/c/d/e", "a/b/f", "a/b2/g", "a/z", "h"]
    for size, key in enumerate(reversed(keys)):
        store.put(key, b"x" * size)
    assert store.list("") == keys
    assert store.list("a") == keys[:4]
    assert store.list("a/b") == keys[:2]  # `a/b2` is another folder
    assert store.list("a/b/f") == []  # an object is no folder
    assert store.list("nothing/here") == []
    assert [*store.sizes("").items()] == [*zip(keys, (4, 3, 2, 1, 0), strict=True)]
    assert store.sizes("a/b") == {"a/b/c/d/e": 4, "a/b/f": 3}
    assert store.sizes("nothing/here") == {}


def test_list_sees_each_change_at_once(store: Store) -> None:
    seen = [store.list("d")]
    store.create("d/1", b"")
    seen.append(store.list("d"))
    store.delete("d/1")
    seen.append(store.list("d"))
    assert seen == [[], ["d/1"], []]


def test_delete_removes_and_forgives_a_missing_key(store: Store) -> None:
    store.put("d/k", b"")
    for _ in range(2):
        store.delete("d/k")
    with pytest.raises(MissingObject):
        store.get("d/k")
    assert store.create("d/k", b"again")


@pytest.mark.parametrize("key", ["", "/a", "a/", "a//b", "../a", "a/../b", "./a", "a\\b", "a/.tmp-1"])
def test_a_key_that_climbs_or_hides_is_refused(store: Store, key: str) -> None:
    with pytest.raises(ValueError, match="no storage key"):
        store.put(key, b"")


def test_the_probe_passes_and_leaves_nothing(store: Store) -> None:
    probe(store, LAYOUT.probe)
    assert store.list("") == []


def test_a_log_orders_writers_and_a_new_reader_sees_all(store: Store) -> None:
    first = Log.open(store, LAYOUT.coord_log)
    assert first.claim(run_id="a") == 1
    first.append("opened", identity="x")
    second = Log.open(store, LAYOUT.coord_log)
    assert second.claim(run_id="b") == 2
    second.append("done", exit_code=0)

    reader = Log.open(store, LAYOUT.coord_log)

    assert [(r.seq, r.kind, r.term) for r in reader.records()] == [
        (0, "claim", 1),
        (1, "opened", 1),
        (2, "claim", 2),
        (3, "done", 2),
    ]


def test_racing_claims_get_different_terms(store: Store) -> None:
    racers = 6
    start = threading.Barrier(racers)

    def run(_: int) -> int:
        log = Log.open(store, LAYOUT.member_log(0))
        start.wait(timeout=30)
        return log.claim()

    with ThreadPoolExecutor(racers) as pool:
        terms = list(pool.map(run, range(racers)))

    assert sorted(terms) == list(range(1, racers + 1))
    assert [r.term for r in Log.open(store, LAYOUT.member_log(0)).records()] == sorted(terms)


def test_blobs_come_back_verified(store: Store, tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_bytes(b"weights" * 1000)
    ref = put_blob_file(store, LAYOUT, str(source))
    assert get_blob(store, ref) == source.read_bytes()
    get_blob_file(store, put_blob(store, LAYOUT, b"other"), str(target))
    assert target.read_bytes() == b"other"


def test_a_real_store_travels_to_another_process_by_pickle(store: Store) -> None:
    if isinstance(store, MemoryStore):
        with pytest.raises(TypeError):
            pickle.dumps(store)  # it would arrive as an empty copy
        return
    store.put("k", b"v")
    copy: Store = pickle.loads(pickle.dumps(store))
    assert copy.get("k") == b"v"
    assert copy.url == store.url


def test_a_bucket_without_a_prefix_shows_the_same_objects_by_their_full_keys(s3_bucket: S3Bucket) -> None:
    whole = open_store(s3_bucket.url, endpoint_url=s3_bucket.endpoint_url)
    part = open_store(f"{s3_bucket.url}/team/runs", endpoint_url=s3_bucket.endpoint_url)
    part.put("digits/1", b"v")
    assert whole.list("") == ["team/runs/digits/1"]
    assert whole.get("team/runs/digits/1") == b"v"
    assert part.list("") == ["digits/1"]


class OverwritingStore(MemoryStore):
    """Takes every create, as servers do that ignore `If-None-Match`."""

    def create(self, key: str, body: bytes) -> bool:
        self.put(key, body)
        return True


class ForgetfulListing(MemoryStore):
    """Does not list what was just written."""

    def list(self, prefix: str) -> list[str]:
        return []


@pytest.mark.parametrize("broken", [OverwritingStore, ForgetfulListing])
def test_the_probe_refuses_a_store_that_breaks_a_promise(broken: type[MemoryStore]) -> None:
    store = broken()
    with pytest.raises(UnsupportedStore) as refusal:
        probe(store, LAYOUT.probe)
    assert refusal.value.hint
    assert MemoryStore.list(store, "") == []


def test_open_store_knows_folders_and_s3(tmp_path: Path) -> None:
    assert isinstance(open_store(str(tmp_path)), LocalStore)
    assert open_store(f"file://{tmp_path}").url == str(tmp_path)
    assert isinstance(open_store("s3://bucket/prefix/"), S3Store)
    assert open_store("s3://bucket/prefix/").url == "s3://bucket/prefix"


@pytest.mark.parametrize(
    "url",
    [
        "",
        "memory://x",
        "gs://bucket",
        "http://host/x",
        "file://host/x",
        "s3://",
        "s3:///x",
        "s3://b",
        "s3://bucket/../x",
        "s3://user:hunter2@bucket/x",
    ],
)
def test_open_store_refuses_what_it_cannot_hold(url: str) -> None:
    with pytest.raises(UnsupportedStore) as refusal:
        open_store(url)
    assert refusal.value.hint
    assert "hunter2" not in str(refusal.value)


def test_a_create_too_large_for_one_part_is_refused() -> None:
    with pytest.raises(ValueError, match="more than a create may have"):
        S3Store("s3://bucket").create("k", bytes(MAX_CREATE_BYTES + 1))
