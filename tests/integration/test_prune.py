"""Pruning on real stores: what means nothing goes, what a record names stays, whatever happens meanwhile."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from orchestrator.planning.ports import Store
from orchestrator.reporting.prune import TAKEOVER_S, PrunedRun, prune_runs
from orchestrator.spec import parse_job
from orchestrator.storage.blobs import get_blob, put_blob
from orchestrator.storage.layout import RunLayout, record_key
from orchestrator.storage.local import LocalStore
from orchestrator.storage.log import Log
from orchestrator.storage.open import open_store
from orchestrator.storage.records import BlobRef
from tests.conftest import S3Bucket

NEVER = "this must not be waited for"


@dataclass
class StoredRun:
    """A run with one member as it lies in a store: blobs that records name, and one that none does."""

    store: Store
    layout: RunLayout
    named: list[BlobRef] = field(default_factory=list)

    def __post_init__(self) -> None:
        job = {"name": self.layout.job, "model": "jobs.digits:build", "data": "jobs.digits:load", "members": 1}
        spec = {"run_id": self.layout.run_key, "job": parse_job(job).model_dump(mode="json")}
        self.store.create(self.layout.spec, json.dumps(spec).encode())
        self.coord = Log.open(self.store, self.layout.coord_log)
        self.coord.claim(at=0.0)
        self.member = Log.open(self.store, self.layout.member_log(0))
        self.member.claim(coord_term=1, worker="w0")
        self.member.append("checkpoint", epoch=1, state=self.upload(b"state"), best=self.upload(b"best"))
        self.member.append("final", model=self.upload(b"model"), epochs=1)
        self.coord.append("selection", members=[{"predictions": {"test": self.upload(b"predictions")}}])
        self.store.put(self.layout.member_copy(0, "best.keras"), b"model")
        self.store.put(f"{self.layout.attempt_prefix(0, 1)}/log-00000.txt", b"text")
        self.orphan = put_blob(self.store, self.layout, b"uploaded by a worker that died").key

    def upload(self, body: bytes) -> dict[str, Any]:
        """A blob, and the reference that its record will hold."""
        self.named.append(put_blob(self.store, self.layout, body))
        return dict(self.named[-1].to_json())

    def end(self, kind: str = "stopped") -> None:
        self.coord.append(kind, exit_code=143, message="", at=0.0)

    def beat(self, n: int) -> None:
        self.store.put(self.layout.beat, json.dumps({"term": 1, "n": n, "at": 0}).encode())

    def prune(self, meanwhile: Callable[[float], object] | None = None, *, delete: bool = True) -> PrunedRun:
        """Prune this run; `meanwhile` happens while it is watched, and fails the test if that is not needed."""
        paused: list[float] = []

        def pause(seconds: float) -> None:
            paused.append(seconds)
            if meanwhile is None:
                raise AssertionError(NEVER)
            meanwhile(seconds)

        [found] = prune_runs(self.store, [self.layout], delete=delete, pause=pause)
        assert paused == ([] if meanwhile is None else [TAKEOVER_S])
        return found

    def assert_named_are_there(self) -> None:
        for reference in self.named:
            get_blob(self.store, reference)


@pytest.fixture
def run(tmp_path: Path) -> StoredRun:
    return StoredRun(LocalStore(tmp_path / "runs"), RunLayout("digits", "night"))


def keys(found: PrunedRun) -> list[str]:
    return [candidate.key for candidate in found.candidates]


def nothing(seconds: float) -> None:
    """What happens while a dead run is watched."""


@pytest.mark.parametrize("kind", ["done", "failed", "stopped"])
def test_of_a_run_that_ended_only_what_no_record_names_is_deleted(run: StoredRun, kind: str) -> None:
    run.end(kind)
    before = run.store.list("")
    found = run.prune()
    assert (keys(found), found.deleted, found.skipped) == ([run.orphan], True, None)
    assert sorted({*before} - {*run.store.list("")}) == [run.orphan]
    run.assert_named_are_there()
    assert keys(run.prune()) == []


def test_looking_deletes_nothing(run: StoredRun) -> None:
    run.end()
    before = run.store.list("")
    found = run.prune(delete=False)
    assert (keys(found), found.deleted) == ([run.orphan], False)
    assert run.store.list("") == before


def test_a_run_whose_coordinator_died_is_watched_first(run: StoredRun) -> None:
    run.beat(3)
    assert keys(run.prune(nothing)) == [run.orphan]


@pytest.mark.parametrize(
    ("meanwhile", "word"),
    [
        (lambda run: run.beat(4), "beat"),
        (lambda run: run.coord.append("ended", member=0, attempt=1, cause="crash"), "log"),
        (lambda run: Log.open(run.store, run.layout.coord_log).claim(at=1.0), "log"),
        (lambda run: run.end(), "log"),
        (lambda run: run.store.create(f"{run.layout.probe}/new-once", b""), "probe"),
    ],
)
def test_a_run_that_moves_while_it_is_watched_is_left_alone(
    run: StoredRun, meanwhile: Callable[[StoredRun], object], word: str
) -> None:
    run.beat(3)
    found = run.prune(lambda seconds: meanwhile(run))
    assert found.skipped == f"somebody works on it: its {word} moved"
    assert (keys(found), found.deleted) == ([], False)
    assert run.orphan in run.store.list("")


def test_a_record_that_is_appended_while_the_run_is_watched_saves_its_blob(run: StoredRun) -> None:
    """A worker whose coordinator is gone publishes once more: its blob was uploaded before, its record comes after."""
    upload = run.upload(b"the next state")
    found = run.prune(lambda seconds: run.member.append("checkpoint", epoch=2, state=upload))
    assert keys(found) == [run.orphan]
    run.assert_named_are_there()


def test_a_blob_that_is_uploaded_while_the_run_is_watched_is_no_candidate(run: StoredRun) -> None:
    found = run.prune(lambda seconds: run.upload(b"the next state"))
    assert keys(found) == [run.orphan]
    run.assert_named_are_there()


def test_a_member_that_is_first_claimed_while_the_run_is_watched_keeps_its_blobs(run: StoredRun) -> None:
    upload = run.upload(b"a model")

    def train(seconds: float) -> None:
        log = Log.open(run.store, run.layout.member_log(1))
        log.claim(coord_term=1, worker="w1")
        log.append("final", model=upload, epochs=1)

    assert keys(run.prune(train)) == [run.orphan]
    run.assert_named_are_there()


def test_what_a_probe_left_goes_after_it_was_watched(run: StoredRun) -> None:
    leftover = f"{run.layout.probe}/abc-race"
    run.store.create(leftover, b"racer 0")
    run.end()
    assert keys(run.prune(nothing)) == [run.orphan, leftover]
    assert leftover not in run.store.list("")


@pytest.mark.parametrize("spoil", ["coord", "member", "gap"])
def test_a_run_whose_logs_cannot_be_read_is_left_alone_and_the_key_is_named(run: StoredRun, spoil: str) -> None:
    run.end()
    key = record_key(run.layout.coord_log if spoil == "coord" else run.layout.member_log(0), 1)
    if spoil == "gap":
        run.store.delete(key)
    else:
        run.store.put(key, b"garbage")
    found = run.prune()
    assert key in str(found.skipped)
    assert run.orphan in run.store.list("")


def test_several_runs_are_watched_at_once_and_each_is_judged_alone(run: StoredRun, tmp_path: Path) -> None:
    live = StoredRun(run.store, RunLayout("digits", "live"))
    ended = StoredRun(run.store, RunLayout("digits", "ended"))
    ended.end()
    waits: list[float] = []

    def pause(seconds: float) -> None:
        waits.append(seconds)
        live.beat(1)

    layouts = [each.layout for each in (run, live, ended)]
    found = prune_runs(run.store, layouts, delete=True, pause=pause)
    assert waits == [TAKEOVER_S]
    assert [keys(each) for each in found] == [[run.orphan], [], [ended.orphan]]
    assert [each.run_key for each in found if each.skipped] == ["live"]
    assert live.orphan in run.store.list("")


def prune_command(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "orchestrator", "prune", "--run", "night", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=180, check=False)


def test_the_command_shows_first_and_deletes_with_yes_on_s3(s3_bucket: S3Bucket) -> None:
    url = f"{s3_bucket.url}/runs"
    run = StoredRun(open_store(url, endpoint_url=s3_bucket.endpoint_url), RunLayout("digits", "night"))
    run.end()
    where = ("--storage", url, "--endpoint-url", s3_bucket.endpoint_url)
    before = run.store.list("")

    shown = prune_command(*where)
    assert shown.returncode == 0, shown.stderr
    assert run.orphan in shown.stdout
    assert "--yes deletes these 1" in shown.stderr
    assert run.store.list("") == before

    deleted = prune_command(*where, "--yes", "--json")
    assert deleted.returncode == 0, deleted.stderr
    [told] = json.loads(deleted.stdout)
    assert told["candidates"] == [{"key": run.orphan, "reason": "no record names it"}]
    assert (told["run_key"], told["deleted"], told["skipped"]) == ("night", True, None)
    assert sorted({*before} - {*run.store.list("")}) == [run.orphan]
    run.assert_named_are_there()
