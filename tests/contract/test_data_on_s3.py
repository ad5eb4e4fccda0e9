"""Rows in a bucket, on a real S3 server: the same as in local files, and what goes wrong says whether to retry."""

from __future__ import annotations

import io
import socket
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from orchestrator.errors import AccessDenied, InvalidData, StoreUnavailable
from orchestrator.spec import parse_job
from orchestrator.training.data import Dataset
from orchestrator.training.sources import files
from orchestrator.training.sources.load import load_job_data
from orchestrator.training.sources.stream import StreamedSplit, StreamReader
from tests.conftest import S3Bucket
from tests.support.s3_server import REGION, SECRET_KEY, client


@pytest.fixture(autouse=True)
def fresh_clients() -> Iterator[None]:
    """As in a new process: credentials are read when a file system is made."""
    files._filesystem.cache_clear()
    yield
    files._filesystem.cache_clear()


def put(bucket: S3Bucket, key: str, body: bytes) -> str:
    client(bucket.endpoint_url).pipe_file(f"{bucket.name}/{key}", body)
    return f"{bucket.url}/{key}"


def parquet(columns: dict[str, Any], **options: Any) -> bytes:
    body = io.BytesIO()
    pq.write_table(pa.table(columns), body, **options)
    return body.getvalue()


def load(source: Any, endpoint_url: str, **data: Any) -> Dataset:
    document = {"name": "a", "model": "m:f", "data": {"source": source, "validation_split": 0, **data}}
    storage = {"url": "s3://elsewhere/runs", "endpoint_url": endpoint_url, "region": REGION}
    return load_job_data(parse_job({**document, "storage": storage}))


def test_files_and_folders_of_every_kind_are_read(s3_bucket: S3Bucket) -> None:
    stored = io.BytesIO()
    np.savez(stored, x=np.arange(6.0).reshape(3, 2), y=[0, 1, 0])
    for year in (2023, 2024):
        put(s3_bucket, f"rows/year={year}/1.parquet", parquet({"a": [1.0, 2.0], "y": ["n", "m"]}))
    source = {"train": f"{s3_bucket.url}/rows", "test": put(s3_bucket, "t/test.csv", b"a,year,y\n3,2025,m\n")}

    tables = load(source, s3_bucket.endpoint_url, label="y")
    arrays = load(put(s3_bucket, "rows.npz", stored.getvalue()), s3_bucket.endpoint_url)

    assert tables.train.x.tolist() == [[1, 2023], [2, 2023], [1, 2024], [2, 2024]]
    assert tables.test is not None
    assert (tables.test.x.tolist(), tables.test.y.tolist()) == ([[3, 2025]], [0])
    assert arrays.train.x.shape == (3, 2)


def test_rows_are_streamed_from_a_bucket(s3_bucket: S3Bucket) -> None:
    numbers = np.arange(500)
    source = put(s3_bucket, "rows.parquet", parquet({"a": numbers, "y": numbers % 2}, row_group_size=50))

    train = load(source, s3_bucket.endpoint_url, label="y", stream={"window_mb": 0.002}).train
    assert isinstance(train, StreamedSplit)
    reader = StreamReader(train.stream)
    reader.start(1, 1)
    seen = np.asarray(reader.rows(0, 500).x)[:, 0]
    reader.close()

    assert sorted(seen.tolist()) == numbers.tolist() != seen.tolist()


def test_what_is_not_there_is_named(s3_bucket: S3Bucket) -> None:
    for source in (f"{s3_bucket.url}/nothing.csv", "s3://no-such-bucket-at-all/rows"):
        with pytest.raises(InvalidData, match="there is no such file") as caught:
            load(source, s3_bucket.endpoint_url, label="y")
        assert source in str(caught.value)

    doubled = f"{s3_bucket.url}//rows.csv"
    with pytest.raises(InvalidData, match="Empty path component") as caught:
        load(doubled, s3_bucket.endpoint_url, label="y")
    assert doubled in str(caught.value)


def test_wrong_credentials_are_told_without_them(s3_bucket: S3Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    source = put(s3_bucket, "rows.csv", b"a,y\n1,0\n")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    with pytest.raises(AccessDenied, match="AWS_ACCESS_KEY_ID") as caught:
        load(source, s3_bucket.endpoint_url, label="y")
    assert SECRET_KEY not in str(caught.value)


def test_a_server_that_is_down_is_worth_a_retry(s3_credentials: None) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{unused.getsockname()[1]}"
        with pytest.raises(StoreUnavailable, match="out of reach"):
            load("s3://bucket/rows.csv", endpoint, label="y")
