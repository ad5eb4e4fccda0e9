"""`logs --sync` from a bucket, where others can write keys that no file system would hold."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from orchestrator.cli.main import app
from orchestrator.storage.open import open_store
from tests.conftest import S3Bucket
from tests.support.report_runs import LAYOUT, finished_run
from tests.support.s3_server import client


@pytest.fixture
def bucket(s3_bucket: S3Bucket) -> S3Bucket:
    """A bucket with a finished run that has event files, and a callback's own."""
    store = open_store(f"{s3_bucket.url}/runs", endpoint_url=s3_bucket.endpoint_url)
    finished_run(store, job={"report": {"html": False, "tensorboard": True}})
    store.put(f"{LAYOUT.attempt_prefix(0, 1)}/board/train/events.out.tfevents.1", b"own")
    return s3_bucket


def sync(bucket: S3Bucket, folder: Path, *options: str) -> Result:
    where = ["--storage", f"{bucket.url}/runs", "--endpoint-url", bucket.endpoint_url]
    return CliRunner().invoke(app, ["logs", LAYOUT.run_key, "--sync", str(folder), *where, *options])


def files(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_board_comes_whole_and_then_only_what_is_new(bucket: S3Bucket, tmp_path: Path) -> None:
    store = open_store(f"{bucket.url}/runs", endpoint_url=bucket.endpoint_url)
    folder = tmp_path / "my board"
    first = sync(bucket, folder)
    assert first.exit_code == 0, first.output
    there = files(folder)
    assert set(there) >= {f"tensorboard/{run}/events.out.tfevents.0" for run in ("member-0", "member-2", "ensemble")}
    assert there["attempts/0-1/board/train/events.out.tfevents.1"] == b"own"
    assert all(body == store.get(f"{LAYOUT.root}/{name}") for name, body in there.items())
    assert f"tensorboard --logdir {shlex.quote(str(folder))}" in first.stderr
    assert first.stdout == ""

    store.put(f"{LAYOUT.attempt_prefix(0, 1)}/board/train/events.out.tfevents.1", b"own, grown")
    second = json.loads(sync(bucket, folder, "--json").stdout)
    assert second["brought"] == {"attempts/0-1/board/train/events.out.tfevents.1": 10}
    assert (second["unchanged"], second["boards"], second["skipped"]) == (len(there) - 1, len(there), {})


def test_a_key_that_no_file_may_have_stays_in_the_bucket(bucket: S3Bucket, tmp_path: Path) -> None:
    """The server refuses or straightens keys that climb; they are tried in the unit tests."""
    evil = f"{LAYOUT.root}/attempts/0-1/.tmp-\x1b[31mevil"
    client(bucket.endpoint_url).pipe_file(f"{bucket.name}/runs/{evil}", b"evil")
    ended = sync(bucket, tmp_path / "a" / "board")
    assert ended.exit_code == 0, ended.output
    assert b"evil" not in files(tmp_path).values()
    [told] = [line for line in ended.stderr.splitlines() if line.startswith("left in storage")]
    assert "evil" in told
    assert "\x1b" not in told


def test_a_run_without_files_for_tensorboard_says_how_to_get_some(s3_bucket: S3Bucket, tmp_path: Path) -> None:
    finished_run(open_store(f"{s3_bucket.url}/runs", endpoint_url=s3_bucket.endpoint_url))
    ended = sync(s3_bucket, tmp_path)
    assert ended.exit_code == 0, ended.output
    assert "report.tensorboard: true" in ended.stderr
    assert "--logdir" not in ended.stderr


def test_one_member_alone_cannot_be_asked_for(bucket: S3Bucket, tmp_path: Path) -> None:
    ended = sync(bucket, tmp_path / "board", "--member", "0")
    assert ended.exit_code == 2
    assert "leave --member and --attempt out" in ended.stderr
    assert not (tmp_path / "board").exists()
