"""Files of a run on their way to a local folder: which come, what is left alone, and that nothing lies outside."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from run_examples import LAYOUT, create_run

from orchestrator import api
from orchestrator.errors import AccessDenied, InvalidJob, StoreUnavailable
from orchestrator.reporting.sync import Synced, sync_files
from orchestrator.storage.local import LocalStore
from orchestrator.testing import Fault, FaultyStore, MemoryStore

EVENTS = "tensorboard/member-0/events.out.tfevents.0"
OWN = "attempts/1-2/board/train/events.out.tfevents.17"
TABLE = "attempts/1-2/metrics.csv"


@pytest.fixture
def store() -> MemoryStore:
    store = MemoryStore()
    for name, body in {EVENTS: b"events", OWN: b"own", TABLE: b"epoch\n0\n"}.items():
        store.put(f"{LAYOUT.root}/{name}", body)
    store.put(f"{LAYOUT.attempt_prefix(1, 2)}/log-00000.txt", b"a log")
    store.put(LAYOUT.report, b"a report")
    return store


def tree(folder: Path) -> dict[str, bytes]:
    """All files below, by path."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


class Counting(MemoryStore):
    """Tells which objects were downloaded."""

    def __init__(self, inner: MemoryStore) -> None:
        super().__init__()
        self._objects = inner._objects
        self.downloaded: list[str] = []

    def get_file(self, key: str, path: str, *, max_bytes: int | None = None) -> None:
        self.downloaded.append(key.removeprefix(f"{LAYOUT.root}/"))
        super().get_file(key, path, max_bytes=max_bytes)


def test_event_files_and_what_callbacks_wrote_come_as_they_lie_in_the_run(store: MemoryStore, tmp_path: Path) -> None:
    synced = sync_files(store, LAYOUT, tmp_path / "deep" / "board")
    assert tree(tmp_path / "deep" / "board") == {EVENTS: b"events", OWN: b"own", TABLE: b"epoch\n0\n"}
    assert synced == Synced(brought={EVENTS: 6, OWN: 3, TABLE: 8}, unchanged=0, skipped={}, boards=2)


def test_a_second_call_downloads_what_is_new_or_of_another_size_and_nothing_else(
    store: MemoryStore, tmp_path: Path
) -> None:
    sync_files(store, LAYOUT, tmp_path)
    counting = Counting(store)
    assert sync_files(counting, LAYOUT, tmp_path).unchanged == 3
    assert counting.downloaded == []
    store.put(f"{LAYOUT.root}/{TABLE}", b"epoch\n0\n1\n")
    store.put(f"{LAYOUT.root}/attempts/0-1/new.csv", b"new")
    (tmp_path / OWN).unlink()
    synced = sync_files(counting, LAYOUT, tmp_path)
    assert sorted(counting.downloaded) == ["attempts/0-1/new.csv", OWN, TABLE]
    assert (len(synced.brought), synced.unchanged) == (3, 1)
    assert tree(tmp_path)[TABLE] == b"epoch\n0\n1\n"


def test_a_file_that_has_grown_grows_in_place_for_whoever_has_it_open(store: MemoryStore, tmp_path: Path) -> None:
    sync_files(store, LAYOUT, tmp_path)
    with (tmp_path / EVENTS).open("rb") as reader:
        assert reader.read() == b"events"
        store.put(f"{LAYOUT.root}/{EVENTS}", b"events and more")
        sync_files(store, LAYOUT, tmp_path)
        assert reader.read() == b" and more"


@pytest.mark.parametrize("body", [b"eve", b"another one", b"EVENTS and more", b""])
def test_a_file_that_was_written_anew_is_replaced(body: bytes, store: MemoryStore, tmp_path: Path) -> None:
    sync_files(store, LAYOUT, tmp_path)
    store.put(f"{LAYOUT.root}/{EVENTS}", body)
    sync_files(store, LAYOUT, tmp_path)
    assert tree(tmp_path)[EVENTS] == body


HOSTILE = [
    "attempts/0-1/../../../../outside",
    "attempts/0-1//outside",
    "attempts/0-1/a/./b",
    "attempts/0-1/..",
    "tensorboard/../../../outside",
    "tensorboard//etc/outside",
    "attempts/0-1/back\\slash",
    "attempts/0-1/.tmp-1",
    "attempts/0-1/nul\0",
]


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_key_is_left_in_storage_and_holds_up_no_other(name: str, store: MemoryStore, tmp_path: Path) -> None:
    store._objects[f"{LAYOUT.root}/{name}"] = b"evil"
    folder = tmp_path / "a" / "b" / "c" / "board"
    synced = sync_files(store, LAYOUT, folder)
    assert list(synced.skipped) == [f"{LAYOUT.root}/{name}"]
    assert len(synced.brought) == 3
    assert b"evil" not in tree(tmp_path).values()


@pytest.mark.parametrize("link_at", ["attempts", "attempts/1-2", TABLE])
@pytest.mark.parametrize("exists", [True, False])
def test_nothing_is_written_through_a_link(link_at: str, exists: bool, store: MemoryStore, tmp_path: Path) -> None:
    outside, folder = tmp_path / "outside", tmp_path / "board"
    is_file = link_at == TABLE
    if exists and is_file:
        outside.write_bytes(b"mine")
    elif exists:
        outside.mkdir()
    (folder / link_at).parent.mkdir(parents=True)
    (folder / link_at).symlink_to(outside)
    synced = sync_files(store, LAYOUT, folder)
    expected = {TABLE} if is_file else {TABLE, OWN}
    assert set(synced.skipped) == {f"{LAYOUT.root}/{name}" for name in expected}
    assert all("is a link" in reason for reason in synced.skipped.values())
    assert outside.exists() == exists
    if exists:
        assert (outside.read_bytes() if is_file else list(outside.iterdir())) == (b"mine" if is_file else [])
    assert EVENTS in synced.brought


def test_the_folder_itself_may_be_a_link(store: MemoryStore, tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "board").symlink_to(tmp_path / "real")
    sync_files(store, LAYOUT, tmp_path / "board")
    assert EVENTS in tree(tmp_path / "real")


def test_a_relative_folder_is_taken_from_the_working_directory(
    store: MemoryStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for folder in (".", "board", "deep/board"):
        assert len(sync_files(store, LAYOUT, Path(folder)).brought) == 3
        assert (tmp_path / folder / EVENTS).read_bytes() == b"events"
    (tmp_path / "board" / TABLE).unlink()
    (tmp_path / "board" / TABLE).symlink_to(tmp_path / "elsewhere")
    assert list(sync_files(store, LAYOUT, Path("board")).skipped) == [f"{LAYOUT.root}/{TABLE}"]


def test_what_cannot_lie_beside_what_is_there_is_left_in_storage(store: MemoryStore, tmp_path: Path) -> None:
    sync_files(store, LAYOUT, tmp_path)
    (tmp_path / OWN).unlink()
    (tmp_path / OWN).mkdir()
    os.mkfifo(tmp_path / "attempts" / "1-2" / "pipe")
    for name in (f"{TABLE}/below", f"attempts/1-2/{'n' * 300}", "attempts/1-2/pipe"):
        store.put(f"{LAYOUT.root}/{name}", b"x")
    synced = sync_files(store, LAYOUT, tmp_path)
    left = [f"{TABLE}/below", f"attempts/1-2/{'n' * 300}", OWN, "attempts/1-2/pipe"]
    assert sorted(synced.skipped) == sorted(f"{LAYOUT.root}/{name}" for name in left)
    assert synced.unchanged == 2


def test_a_file_that_goes_meanwhile_is_skipped_and_nothing_half_written_stays(
    store: MemoryStore, tmp_path: Path
) -> None:
    class Vanishing(Counting):
        def get_file(self, key: str, path: str, *, max_bytes: int | None = None) -> None:
            if key.endswith(TABLE):
                Path(path).write_bytes(b"half")
                self.delete(key)
            super().get_file(key, path, max_bytes=max_bytes)

    synced = sync_files(Vanishing(store), LAYOUT, tmp_path)
    assert list(synced.skipped) == [f"{LAYOUT.root}/{TABLE}"]
    assert set(tree(tmp_path)) == {EVENTS, OWN}


def test_a_store_out_of_reach_ends_it_and_leaves_nothing_half_written(store: MemoryStore, tmp_path: Path) -> None:
    fault = Fault("get_file", "after", key=OWN)
    faulty = FaultyStore(store, [fault])
    with pytest.raises(StoreUnavailable):
        sync_files(faulty, LAYOUT, tmp_path)
    assert faulty.fired[fault] == 1
    assert set(tree(tmp_path)) <= {EVENTS, TABLE}


def test_a_folder_that_cannot_be_one_is_refused(store: MemoryStore, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for folder in (tmp_path / "file", tmp_path / "file" / "board"):
        with pytest.raises(InvalidJob, match="cannot make the folder"):
            sync_files(store, LAYOUT, folder)


def test_a_store_that_refuses_says_so(store: MemoryStore, tmp_path: Path) -> None:
    fault = Fault("list", "before", error=AccessDenied)
    faulty = FaultyStore(store, [fault])
    with pytest.raises(AccessDenied):
        sync_files(faulty, LAYOUT, tmp_path)
    assert faulty.fired[fault] == 1


def test_the_run_is_found_by_its_id_in_a_folder_and_need_not_be_finished(tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "runs")
    create_run(store)
    store.put(f"{LAYOUT.root}/{OWN}", b"own")
    (tmp_path / "runs" / LAYOUT.root / "attempts" / "1-2" / "back\\slash").write_bytes(b"foreign")
    run_id = json.loads(store.get(LAYOUT.spec))["run_id"]
    synced = api.sync(run_id, str(tmp_path / "board"), storage=str(tmp_path / "runs"))
    assert tree(tmp_path / "board") == {OWN: b"own"}
    assert synced.boards == 1
    assert list(synced.skipped) == [f"{LAYOUT.root}/attempts/1-2/back\\slash"]
