"""What S3 answers, and the error it becomes; no answer brings a secret into a message or a log."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable
from pathlib import Path

import pytest

from orchestrator.errors import AccessDenied, InvalidInput, OrchestratorError, StoreUnavailable, UnsupportedStore
from orchestrator.storage.blobs import get_blob_file, put_blob, put_blob_file
from orchestrator.storage.layout import RunLayout
from orchestrator.storage.log import Log
from orchestrator.storage.probe import probe
from orchestrator.storage.s3 import S3Store
from tests.support.fault_proxy import FaultProxy
from tests.support.fault_rules import Rule, Status
from tests.support.s3_server import ACCESS_KEY, SECRET_KEY

Connect = Callable[..., S3Store]

LAYOUT = RunLayout("digits", "digits-0123456789ab")
LOG = LAYOUT.member_log(0)


@pytest.mark.parametrize(
    ("status", "code", "expected", "text"),
    [
        (409, "ConditionalRequestConflict", StoreUnavailable, "409"),
        (503, "SlowDown", StoreUnavailable, "503"),
        (500, "InternalError", StoreUnavailable, "500"),
        (400, "RequestTimeout", StoreUnavailable, "RequestTimeout"),
        (400, "BadDigest", StoreUnavailable, "BadDigest"),
        (404, "NoSuchUpload", StoreUnavailable, "NoSuchUpload"),
        (403, "AccessDenied", AccessDenied, "s3:PutObject"),
        (403, "ExpiredToken", AccessDenied, "ExpiredToken"),
        (400, "ExpiredToken", AccessDenied, "ExpiredToken"),
        (401, "Unauthorized", AccessDenied, "401"),
        (501, "NotImplemented", UnsupportedStore, "conditional writes"),
        (400, "InvalidBucketName", UnsupportedStore, "InvalidBucketName"),
        (404, "NoSuchBucket", UnsupportedStore, "aws s3 mb"),
        (301, "PermanentRedirect", UnsupportedStore, "region"),
    ],
)
def test_each_answer_to_a_create_has_its_error(
    fault_proxy: FaultProxy, connect: Connect, status: int, code: str, expected: type[OrchestratorError], text: str
) -> None:
    store = connect()
    fault_proxy.set_rules(Rule(Status(status, code, "key SECRET-IN-MESSAGE"), "PUT", "/k$"))
    with pytest.raises(expected) as raised:
        store.create("k", b"v")
    assert text in str(raised.value)
    assert "SECRET-IN-MESSAGE" not in str(raised.value)
    assert raised.value.hint
    assert len(fault_proxy.seen("PUT", "/k$")) == 1  # what was answered is never repeated by a library


def test_a_failed_precondition_is_a_lost_create_even_when_the_server_does_not_name_the_condition(
    fault_proxy: FaultProxy, connect: Connect
) -> None:
    store = connect()
    fault_proxy.set_rules(Rule(Status(412, "PreconditionFailed"), "PUT", "/k$"))
    assert store.create("k", b"v") is False
    assert len(fault_proxy.seen("PUT", "/k$")) == 1


def test_everything_but_a_create_is_repeated(fault_proxy: FaultProxy, connect: Connect, direct: S3Store) -> None:
    direct.put("k", b"v")
    store = connect(timeout_s=30.0)
    calls: dict[str, Callable[[], object]] = {
        "PUT": lambda: store.put("k", b"v"),
        "GET": lambda: (store.get("k"), store.list("")),
        "DELETE": lambda: store.delete("k"),
    }
    for method, call in calls.items():
        fault_proxy.set_rules(Rule(Status(503, "SlowDown"), method, times=1))
        call()


def test_the_probe_names_the_permission_that_tells_missing_from_forbidden(
    fault_proxy: FaultProxy, connect: Connect
) -> None:
    store = connect()
    fault_proxy.set_rules(Rule(Status(403, "AccessDenied")))
    with pytest.raises(AccessDenied, match="s3:ListBucket"):
        probe(store, LAYOUT.probe)


def test_wrong_credentials_end_the_probe_at_once_with_the_code_that_no_scheduler_retries(
    s3_url: str, fault_proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fault 34 at the start."""
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong-and-secret")
    with pytest.raises(AccessDenied) as denied:
        probe(S3Store(s3_url, endpoint_url=fault_proxy.endpoint_url), LAYOUT.probe)
    assert denied.value.exit_code == 2
    assert isinstance(denied.value, InvalidInput)
    assert "wrong-and-secret" not in told(denied.value)
    assert {each.method for each in fault_proxy.seen()} <= {"GET", "DELETE"}


def test_credentials_that_expire_in_mid_run_end_every_kind_of_call_at_once_and_are_never_told(
    fault_proxy: FaultProxy, connect: Connect, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Fault 34: what the coordinator turns into exit 75; the libraries' own debug logs are looked at, too."""
    caplog.set_level(logging.DEBUG)
    store = connect()
    (tmp_path / "weights").write_bytes(b"weights")
    ref = put_blob(store, LAYOUT, b"weights")
    log = Log.open(store, LOG)
    log.claim()
    before = len(fault_proxy.seen())
    fault_proxy.set_rules(Rule(Status(403, "ExpiredToken", f"the token of {ACCESS_KEY} has expired")))

    calls: list[Callable[[], object]] = [
        lambda: log.append("checkpoint", epoch=1),
        lambda: put_blob(store, LAYOUT, b"weights"),
        lambda: put_blob_file(store, LAYOUT, str(tmp_path / "weights")),
        lambda: get_blob_file(store, ref, str(tmp_path / "back")),
        lambda: store.list(LOG),
    ]
    for call in calls:
        with pytest.raises(AccessDenied, match="ExpiredToken") as denied:
            call()
        assert SECRET_KEY not in told(denied.value)
        assert ACCESS_KEY not in told(denied.value)

    assert len(fault_proxy.seen()) - before == len(calls), "a call that cannot succeed was repeated"
    assert SECRET_KEY not in caplog.text
    assert "Sending http request" in caplog.text, "the libraries' debug logs were not on"
    assert not [
        record for record in caplog.records if record.levelno > logging.DEBUG and ACCESS_KEY in record.getMessage()
    ]

    fault_proxy.set_rules()
    log.append("checkpoint", epoch=1)
    assert [record.kind for record in Log.open(store, LOG).records()] == ["claim", "checkpoint"]


def test_a_clock_that_is_wrong_is_named_with_the_remedy_and_has_no_effect_on_the_log(
    fault_proxy: FaultProxy, connect: Connect, direct: S3Store
) -> None:
    """Fault 35."""
    log = Log.open(connect(), LOG)
    log.claim()
    fault_proxy.set_rules(Rule(Status(403, "RequestTimeTooSkewed"), times=2))
    with pytest.raises(AccessDenied, match="RequestTimeTooSkewed") as skewed:
        log.append("checkpoint", epoch=1)
    assert skewed.value.hint == "synchronise the clock (NTP)"
    with pytest.raises(AccessDenied):
        log.refresh()

    log.append("checkpoint", epoch=1)
    assert [record.kind for record in Log.open(direct, LOG).records()] == ["claim", "checkpoint"]


def told(error: BaseException) -> str:
    """All that a traceback of the error would show, causes and notes included."""
    return "".join(traceback.format_exception(error))
