from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.errors import DamagedStore, StoreUnavailable
from orchestrator.storage.blobs import get_blob, get_blob_file, put_blob, put_blob_file
from orchestrator.storage.layout import RunLayout
from orchestrator.storage.retry import Patience
from orchestrator.testing import FakeClock, Fault, FaultyStore, MemoryStore

LAYOUT = RunLayout("digits", "digits-0123456789ab")


def test_the_same_bytes_get_a_fresh_key_each_time() -> None:
    store = MemoryStore()
    first, second = put_blob(store, LAYOUT, b"w"), put_blob(store, LAYOUT, b"w")
    assert first.sha256 == second.sha256
    assert first.key != second.key
    assert first.key.startswith(f"{LAYOUT.root}/blobs/{first.sha256}-")


def test_a_file_and_its_bytes_have_the_same_reference_but_for_the_key(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"weights")
    store = MemoryStore()
    from_file = put_blob_file(store, LAYOUT, str(tmp_path / "f"), nonce=lambda: "n")
    assert from_file == put_blob(store, LAYOUT, b"weights", nonce=lambda: "n")


@pytest.mark.parametrize("effect", ["truncate", "corrupt"])
def test_damage_in_transit_is_read_again_three_times(effect: str, tmp_path: Path) -> None:
    rules = [Fault(method, effect, times=3) for method in ("get", "get_file")]  # type: ignore[arg-type]
    store = FaultyStore(MemoryStore(), rules)
    ref = put_blob(store, LAYOUT, b"weights")
    assert get_blob(store, ref) == b"weights"
    get_blob_file(store, ref, str(tmp_path / "f"))
    assert (tmp_path / "f").read_bytes() == b"weights"
    assert [store.fired[rule] for rule in rules] == [3, 3]


@pytest.mark.parametrize("body", [b"weight", b"weightz", b"", b"weights and more"])
def test_damage_at_rest_is_refused_and_the_key_named(body: bytes, tmp_path: Path) -> None:
    store = MemoryStore()
    ref = put_blob(store, LAYOUT, b"weights")
    store.put(ref.key, body)
    with pytest.raises(DamagedStore) as damage:
        get_blob(store, ref)
    assert damage.value.where
    assert damage.value.where.endswith(ref.key)
    with pytest.raises(DamagedStore):
        get_blob_file(store, ref, str(tmp_path / "f"))
    assert list(tmp_path.iterdir()) == []  # what is not verified never stands under the name


def test_a_blob_that_is_gone_is_damage(tmp_path: Path) -> None:
    store = MemoryStore()
    ref = put_blob(store, LAYOUT, b"weights")
    store.delete(ref.key)
    with pytest.raises(DamagedStore, match="is gone"):
        get_blob(store, ref)
    with pytest.raises(DamagedStore, match="is gone"):
        get_blob_file(store, ref, str(tmp_path / "f"))


@pytest.mark.parametrize("effect", ["before", "after"])
def test_an_upload_is_tried_again_under_a_fresh_key_each_time(effect: str, tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"weights")
    rules = [Fault(method, effect, times=2) for method in ("put", "put_file")]  # type: ignore[arg-type]
    store, clock = FaultyStore(MemoryStore(), rules), FakeClock()
    patience = Patience(60.0, clock.sleep, clock.monotonic)

    refs = [
        put_blob(store, LAYOUT, b"weights", patience=patience),
        put_blob_file(store, LAYOUT, str(tmp_path / "f"), patience=patience),
    ]

    assert [get_blob(store, ref) for ref in refs] == [b"weights", b"weights"]
    assert [store.fired[rule] for rule in rules] == [2, 2]
    keys = store.list(LAYOUT.root)
    assert len(keys) == (2 if effect == "before" else 6)  # orphans at most: no record names them
    assert {ref.key for ref in refs} <= set(keys)


def test_reads_and_writes_go_on_within_one_deadline_and_then_say_so(tmp_path: Path) -> None:
    ref = put_blob(store := FaultyStore(MemoryStore()), LAYOUT, b"weights")
    for method in ("put", "get", "get_file"):
        store.inject(Fault(method, "before", times=None))  # type: ignore[arg-type]
    for call in (
        lambda patience: put_blob(store, LAYOUT, b"weights", patience=patience),
        lambda patience: get_blob(store, ref, patience=patience),
        lambda patience: get_blob_file(store, ref, str(tmp_path / "f"), patience=patience),
    ):
        clock = FakeClock()
        with pytest.raises(StoreUnavailable):
            call(Patience(10.0, clock.sleep, clock.monotonic))
        assert 4 < clock.monotonic() <= 10


def test_a_blob_larger_than_recorded_is_refused_without_reading_it_again(tmp_path: Path) -> None:
    class Counting(MemoryStore):
        reads = 0

        def get(self, key: str, *, max_bytes: int | None = None) -> bytes:
            self.reads += 1
            return super().get(key, max_bytes=max_bytes)

    store = Counting()
    ref = put_blob(store, LAYOUT, b"weights")
    store.put(ref.key, bytes(2**20))
    with pytest.raises(DamagedStore, match="at most 7"):
        get_blob(store, ref)
    with pytest.raises(DamagedStore, match="at most 7"):
        get_blob_file(store, ref, str(tmp_path / "f"))
    assert store.reads == 2
