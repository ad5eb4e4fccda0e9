"""Servers that are killed and disks that fill up, on either side."""

from __future__ import annotations

import multiprocessing
import resource
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from orchestrator.errors import StoreUnavailable
from orchestrator.storage.blobs import get_blob, get_blob_file, put_blob, put_blob_file
from orchestrator.storage.layout import RunLayout
from orchestrator.storage.local import LocalStore
from orchestrator.storage.log import Log
from orchestrator.storage.retry import Patience
from orchestrator.storage.s3 import S3Store
from tests.support.s3_server import S3Server, client, start_s3_server

LAYOUT = RunLayout("digits", "digits-0123456789ab")
LOG = LAYOUT.member_log(0)
MIB = 2**20


@pytest.fixture(scope="module")
def own_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """A server that these tests may kill."""
    server = start_s3_server(tmp_path_factory.mktemp("own-s3"))
    client(server.endpoint_url).mkdir("own-bucket")
    yield server
    server.stop()


@pytest.fixture
def store(own_server: S3Server, s3_credentials: None) -> S3Store:
    return S3Store("s3://own-bucket/runs", endpoint_url=own_server.endpoint_url, timeout_s=5.0)


@pytest.mark.slow
def test_a_server_that_is_killed_and_comes_back_has_all_it_acknowledged_and_the_writer_goes_on(
    own_server: S3Server, store: S3Store
) -> None:
    """Fault 31: an append and an upload that began while the server was down end well when it is back."""
    refused = threading.Event()

    class Watched(S3Store):
        def create(self, key: str, body: bytes) -> bool:
            try:
                return super().create(key, body)
            except StoreUnavailable:
                refused.set()
                raise

    log = Log.open(Watched(store.url, endpoint_url=own_server.endpoint_url, timeout_s=5.0), LOG)
    log.claim()
    refs = [put_blob(store, LAYOUT, b"%d" % number * 10_000) for number in range(20)]
    for epoch in range(5):
        log.append("checkpoint", epoch=epoch)
    refused.clear()
    own_server.stop()
    assert own_server.process.returncode == -signal.SIGKILL

    with ThreadPoolExecutor(2) as pool:
        append = pool.submit(log.append, "final", model="last")
        upload = pool.submit(put_blob, store, LAYOUT, b"late", patience=Patience(120.0))
        assert refused.wait(timeout=30), "the server was never found down"
        own_server.start()
        append.result(timeout=120)
        late = upload.result(timeout=120)

    records = Log.open(store, LOG).records()
    assert [record.kind for record in records] == ["claim", *["checkpoint"] * 5, "final"]
    assert [get_blob(store, ref) for ref in refs] == [b"%d" % number * 10_000 for number in range(20)]
    assert get_blob(store, late) == b"late"


@pytest.mark.slow
def test_a_full_disk_of_the_server_is_unavailable_and_passes(
    own_server: S3Server, store: S3Store, tmp_path: Path
) -> None:
    """Fault 21."""
    source = tmp_path / "weights"
    source.write_bytes(bytes(range(256)) * (2**14))  # 4 MiB
    before = put_blob_file(store, LAYOUT, str(source))
    with own_server.full_disk(MIB):
        with pytest.raises(StoreUnavailable) as full:
            put_blob_file(store, LAYOUT, str(source), patience=Patience(1.0))
        assert get_blob(store, before) == source.read_bytes()
    assert full.value.exit_code == 75
    after = put_blob_file(store, LAYOUT, str(source), patience=Patience(60.0))
    assert get_blob(store, after) == source.read_bytes()


def test_a_full_disk_of_a_local_store_keeps_what_was_there_and_passes(tmp_path: Path) -> None:
    """Fault 20, in a process of its own, because a limit on files holds for all of a process."""
    ours, theirs = multiprocessing.Pipe()
    child = multiprocessing.get_context("spawn").Process(target=_fill_the_disk, args=(tmp_path, theirs))
    child.start()
    theirs.close()
    told = ours.recv() if ours.poll(timeout=120) else "nothing"
    child.join(timeout=60)
    assert told == {
        "put": "the disk is full (File too large)",
        "create": "the disk is full (File too large)",
        "put_blob": "the disk is full (File too large)",
        "get_blob_file": "the disk is full (File too large)",
        "debris": [],
        "best": 5 * MIB,
        "after": True,
    }
    assert child.exitcode == 0


def _fill_the_disk(folder: Path, tell: Connection) -> None:
    """What becomes of each kind of write when files cannot grow beyond 1 MiB."""
    store, target = LocalStore(folder / "runs"), folder / "scratch"
    short = Patience(0.2)
    store.put("best", bytes(5 * MIB))
    ref = put_blob(store, LAYOUT, bytes(2 * MIB))
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (MIB, hard))
    told: dict[str, object] = {}
    for name, write in {
        "put": lambda: store.put("best", bytes(2 * MIB)),
        "create": lambda: store.create("new", bytes(2 * MIB)),
        "put_blob": lambda: put_blob(store, LAYOUT, bytes(2 * MIB), patience=short),
        "get_blob_file": lambda: get_blob_file(store, ref, str(target), patience=short),
    }.items():
        try:
            write()
        except StoreUnavailable as error:
            told[name] = error.what
    listed = {"best", ref.key}
    files = {path.relative_to(folder / "runs").as_posix() for path in (folder / "runs").rglob("*") if path.is_file()}
    told["debris"] = sorted(files - listed) + [path.name for path in folder.glob("scratch*")]
    told["best"] = len(store.get("best"))
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    store.put("best", bytes(2 * MIB))
    get_blob_file(store, ref, str(target))
    told["after"] = len(store.get("best")) == target.stat().st_size
    tell.send(told)


def test_a_full_scratch_disk_in_a_download_is_an_error_of_its_own_and_leaves_nothing(
    direct: S3Store, tmp_path: Path
) -> None:
    """Fault 20 on the reading side: what the disk says is not mistaken for what S3 says."""
    ref = put_blob(direct, LAYOUT, bytes(2 * MIB))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (MIB, hard))
    try:
        with pytest.raises(StoreUnavailable, match="the disk is full") as full:
            get_blob_file(direct, ref, str(tmp_path / "weights"), patience=Patience(0.2))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert full.value.where
    assert full.value.where.startswith(str(tmp_path))
    assert list(tmp_path.iterdir()) == []
    get_blob_file(direct, ref, str(tmp_path / "weights"))
    assert (tmp_path / "weights").stat().st_size == 2 * MIB
