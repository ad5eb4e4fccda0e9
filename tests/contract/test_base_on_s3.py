"""A base in a bucket, on the server that the job's storage names."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.api.bases import keep_bases
from orchestrator.errors import InvalidJob
from orchestrator.spec import Job, parse_job
from orchestrator.storage.blobs import get_blob
from orchestrator.storage.layout import RunLayout
from orchestrator.storage.log import Log
from orchestrator.storage.open import open_store
from orchestrator.testing import MemoryStore
from tests.conftest import S3Bucket

LAYOUT = RunLayout("a", "run")


def job(base: str, bucket: S3Bucket) -> Job:
    storage = {"url": bucket.url, "endpoint_url": bucket.endpoint_url}
    return parse_job({"name": "a", "model": {"builder": "m:f", "base": base}, "data": "m:d", "storage": storage})


def test_a_base_comes_from_a_bucket_on_the_server_of_the_storage(s3_bucket: S3Bucket, tmp_path: Path) -> None:
    open_store(s3_bucket.url, endpoint_url=s3_bucket.endpoint_url).put("models/base.keras", b"model")
    store, there = MemoryStore(), f"{s3_bucket.url}/models/base.keras"

    log = Log.open(store, LAYOUT.coord_log)
    log.claim()

    kept = keep_bases(job(there, s3_bucket), store, LAYOUT, log, str(tmp_path))

    assert get_blob(store, kept[there]) == b"model"
    with pytest.raises(InvalidJob, match="there is no base"):
        keep_bases(job(there.replace("base.", "none."), s3_bucket), store, LAYOUT, log, str(tmp_path))
