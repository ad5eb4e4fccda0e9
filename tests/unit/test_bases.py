"""Bases of a run: copied into its own storage once, from a file or a bucket, and taken from there ever after."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.api import measure, plan
from orchestrator.api.bases import copy_bases, keep_bases
from orchestrator.errors import InvalidJob
from orchestrator.spec import Job, parse_job
from orchestrator.storage.blobs import get_blob
from orchestrator.storage.layout import RunLayout
from orchestrator.storage.log import Log
from orchestrator.testing import MemoryStore

LAYOUT = RunLayout("a", "run")


def job(base: object = "base.keras", **parts: object) -> Job:
    return parse_job({"name": "a", "model": {"builder": "m:f", "base": base}, "data": "m:d", **parts})


def claimed(store: MemoryStore) -> Log:
    log = Log.open(store, LAYOUT.coord_log)
    log.claim()
    return log


def test_a_base_is_copied_once_and_outlives_its_file(tmp_path: Path) -> None:
    store, file = MemoryStore(), tmp_path / "base.keras"
    file.write_bytes(b"model")
    first = keep_bases(job(), store, LAYOUT, claimed(store), str(tmp_path))
    file.unlink()

    later = keep_bases(job(), store, LAYOUT, claimed(store), str(tmp_path))

    assert later == first
    assert get_blob(store, later["base.keras"]) == b"model"
    assert [record.kind for record in Log.open(store, LAYOUT.coord_log).records()] == ["claim", "base", "claim"]


def test_each_place_is_kept_once_also_those_of_members_own_models(tmp_path: Path) -> None:
    for name in ("base", "other"):
        (tmp_path / f"{name}.keras").write_bytes(name.encode())
    own = {index: {"model": {"builder": "m:f", "base": place}} for index, place in enumerate(("other.keras",) * 2)}

    kept = keep_bases(
        job(members={"count": 3, "overrides": own}), store := MemoryStore(), LAYOUT, claimed(store), str(tmp_path)
    )

    assert {source: get_blob(store, ref) for source, ref in kept.items()} == {
        "base.keras": b"base",
        "other.keras": b"other",
    }


def test_a_base_that_is_not_there_is_told_with_its_place(tmp_path: Path) -> None:
    store = MemoryStore()

    with pytest.raises(InvalidJob, match=r"base\.keras: there is no base"):
        keep_bases(job(), store, LAYOUT, claimed(store), str(tmp_path))


def test_copies_for_a_look_are_recorded_nowhere(tmp_path: Path) -> None:
    (tmp_path / "base.keras").write_bytes(b"model")
    there, own = str(tmp_path / "runs"), MemoryStore()

    copies = copy_bases(job(storage={"url": there}), own, LAYOUT, str(tmp_path))

    assert {source: get_blob(own, ref) for source, ref in copies.items()} == {"base.keras": b"model"}
    assert not Path(there).exists()
    assert Log.open(own, LAYOUT.coord_log).records() == []


def test_what_starts_from_a_base_is_not_measured_on_a_cluster_that_cannot_see_it(tmp_path: Path) -> None:
    (tmp_path / "base.keras").write_bytes(b"model")
    (tmp_path / "m.py").write_text("def f(base): ...\ndef d(): ...\n", encoding="utf-8")
    planned = plan(job(ray={"address": "head:6379"}), root=str(tmp_path))

    with pytest.raises(InvalidJob, match="measure on this machine"):
        measure(planned)
