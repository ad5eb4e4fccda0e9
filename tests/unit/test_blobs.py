from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.errors import DamagedStore, MissingObject, StoreUnavailable
from orchestrator.storage.blobs import get_blob, get_blob_file, put_blob, put_blob_file
from orchestrator.storage.layout import RunLayout
from orchestrator.testing import Fault, FaultyStore, MemoryStore

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
    assert damage.value.where == ref.key
    with pytest.raises(DamagedStore):
        get_blob_file(store, ref, str(tmp_path / "f"))
    assert list(tmp_path.iterdir()) == []  # what is not verified never stands under the name


def test_a_blob_that_is_gone_is_a_missing_object(tmp_path: Path) -> None:
    store = MemoryStore()
    ref = put_blob(store, LAYOUT, b"weights")
    store.delete(ref.key)
    with pytest.raises(MissingObject):
        get_blob(store, ref)
    with pytest.raises(MissingObject):
        get_blob_file(store, ref, str(tmp_path / "f"))


def test_an_upload_with_a_lost_answer_can_be_repeated_under_a_fresh_key() -> None:
    lost = Fault("put", "after")
    store = FaultyStore(MemoryStore(), [lost])
    with pytest.raises(StoreUnavailable):
        put_blob(store, LAYOUT, b"weights")
    assert get_blob(store, put_blob(store, LAYOUT, b"weights")) == b"weights"
    assert store.fired[lost] == 1
    assert len(store.list(LAYOUT.root)) == 2  # an orphan at most: no record names it
