"""`jobs/bucket_policy.json` is enough for everything that storage does, and no right in it can be left out.

The test server enforces it, but for s3:AbortMultipartUpload: a user with exactly these rights passes the contract of
stores.
"""

from __future__ import annotations

import inspect
import secrets
from collections.abc import Callable
from pathlib import Path

import pytest

from orchestrator.errors import AccessDenied
from orchestrator.planning.ports import Store
from orchestrator.storage.probe import probe
from orchestrator.storage.rights import check_rights
from orchestrator.storage.s3 import S3Store
from tests.contract import test_store_contract as contract
from tests.support.bucket_policy import BUCKET, NODE, RIGHTS, secret_of, user_without
from tests.support.fault_proxy import FaultProxy
from tests.support.fault_rules import Rule, Status
from tests.support.s3_server import S3Server, client

MORE_THAN_ONE_PART = 33 * 2**20


@pytest.fixture(scope="module")
def bucket(s3_server: S3Server) -> str:
    """The URL of a folder in the one bucket that the policy names."""
    server = client(s3_server.endpoint_url)
    if not server.exists(BUCKET):
        server.mkdir(BUCKET)
    return f"s3://{BUCKET}/{secrets.token_hex(6)}"


@pytest.fixture
def log_in(s3_credentials: None, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Puts a user's credentials into the environment."""

    def log_in(user: str) -> None:
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", user)
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", secret_of(user))

    return log_in


@pytest.fixture
def store(s3_server: S3Server, bucket: str, log_in: Callable[[str], None]) -> Store:
    log_in(NODE)
    return S3Store(f"{bucket}/{secrets.token_hex(6)}", endpoint_url=s3_server.endpoint_url)


# Every test of the contract that asks for a store gets this one, but for races, which need no rights of their own.
globals().update(
    {
        name: test
        for name, test in vars(contract).items()
        if name.startswith("test_") and "racing" not in name and "store" in inspect.signature(test).parameters
    }
)


def test_another_bucket_is_out_of_reach(store: Store, s3_server: S3Server) -> None:
    other = S3Store("s3://ready", endpoint_url=s3_server.endpoint_url)
    with pytest.raises(AccessDenied, match=r"s3:GetObject on bucket 'ready'"):
        other.get("object")


USES: dict[str, Callable[[Store], object]] = {
    "s3:ListBucket": lambda store: store.list(""),
    "s3:GetObject": lambda store: store.get("there"),
    "s3:PutObject": lambda store: store.create("new", b""),
    "s3:DeleteObject": lambda store: store.delete("there"),
}


@pytest.mark.parametrize("right", USES)
def test_a_right_that_is_missing_is_named(
    s3_server: S3Server, bucket: str, log_in: Callable[[str], None], right: str
) -> None:
    client(s3_server.endpoint_url).pipe_file(f"{bucket}/there", b"")
    log_in(user_without(right))
    with pytest.raises(AccessDenied) as denied:
        USES[right](S3Store(bucket, endpoint_url=s3_server.endpoint_url))
    assert f"grant {right} on bucket {BUCKET!r}" in str(denied.value)


def test_a_broken_upload_that_may_not_be_cleared_away_names_the_right(
    s3_server: S3Server, bucket: str, log_in: Callable[[str], None], tmp_path: Path
) -> None:
    (tmp_path / "large").write_bytes(bytes(MORE_THAN_ONE_PART))
    log_in(NODE)
    breaks = Rule(Status(501, "NotImplemented"), method="PUT", key="partNumber=2")
    forbids = Rule(Status(403, "AccessDenied"), method="DELETE", key="uploadId=")  # as AWS does
    with FaultProxy(s3_server.endpoint_url, [breaks, forbids]) as proxy, pytest.raises(AccessDenied) as denied:
        S3Store(bucket, endpoint_url=proxy.endpoint_url).put_file("large", str(tmp_path / "large"))
    assert proxy.fired(forbids) == 1
    assert f"grant s3:AbortMultipartUpload on bucket {BUCKET!r}" in str(denied.value)


def test_there_is_no_right_in_it_that_nothing_needs() -> None:
    assert sorted(RIGHTS) == sorted([*USES, "s3:AbortMultipartUpload"])


@pytest.mark.parametrize("right", ["s3:ListBucket", "s3:GetObject", "s3:PutObject"])
def test_what_a_run_cannot_do_without_is_refused_before_it_starts(
    s3_server: S3Server, bucket: str, log_in: Callable[[str], None], right: str
) -> None:
    log_in(user_without(right))
    with pytest.raises(AccessDenied, match=right):
        probe(S3Store(bucket, endpoint_url=s3_server.endpoint_url), "probe")


@pytest.mark.parametrize("right", ["s3:DeleteObject", "s3:AbortMultipartUpload"])
def test_what_only_clears_away_keeps_no_run_from_starting(
    s3_server: S3Server, bucket: str, log_in: Callable[[str], None], right: str
) -> None:
    log_in(user_without(right))
    store = S3Store(bucket, endpoint_url=s3_server.endpoint_url)
    probe(store, "probe")
    denied = [each.name for each in check_rights(store, "probe", None) if each.error]
    assert denied == (["delete"] if right == "s3:DeleteObject" else []), "doctor warns of it"
