"""The same promises on a second real S3 server, Ceph RGW (opt-in: `pytest -m ceph`).

It ignores preconditions where SeaweedFS does not, which is why it is here. Without its programs the tests fail, and say
what to install.
"""

from __future__ import annotations

import inspect
import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.errors import UnsupportedStore
from orchestrator.planning.ports import Store
from orchestrator.storage.open import open_store
from orchestrator.storage.probe import probe
from tests.contract import test_store_contract as contract
from tests.support.ceph_server import CephServer, start_ceph_server
from tests.support.chaos_scenes import chaos_on_a_member, chaos_on_a_run, s3_site
from tests.support.s3_server import client

pytestmark = pytest.mark.ceph


@pytest.fixture(scope="module")
def ceph(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CephServer]:
    server = start_ceph_server(tmp_path_factory.mktemp("ceph"))
    yield server
    server.stop()


@pytest.fixture
def bucket(ceph: CephServer, s3_credentials: None) -> str:
    """URL of a fresh bucket."""
    name = f"test-{secrets.token_hex(6)}"
    client(ceph.endpoint_url).mkdir(name)
    return f"s3://{name}"


@pytest.fixture
def store(ceph: CephServer, bucket: str) -> Store:
    return open_store(f"{bucket}/team/runs", endpoint_url=ceph.endpoint_url)


# Every test of the contract that asks for a store gets this one.
globals().update(
    {
        name: test
        for name, test in vars(contract).items()
        if name.startswith("test_") and "store" in inspect.signature(test).parameters
    }
)


def test_the_probe_refuses_a_versioned_bucket_in_which_preconditions_are_ignored(
    ceph: CephServer, bucket: str, store: Store
) -> None:
    client(ceph.endpoint_url).call_s3(
        "put_bucket_versioning",
        Bucket=bucket.removeprefix("s3://"),
        VersioningConfiguration={"Status": "Enabled"},
    )
    assert [store.create("twice", b"first"), store.create("twice", b"second")] == [True, True], "it mends itself"
    with pytest.raises(UnsupportedStore, match="cannot be used") as refusal:
        probe(store, "digits/run/probe")
    assert "versioning off" in str(refusal.value.hint)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_no_kill_freeze_or_lost_answer_breaks_a_members_log(
    ceph: CephServer, bucket: str, tmp_path: Path, seed: int
) -> None:
    scene = chaos_on_a_member(s3_site(bucket, ceph.endpoint_url), tmp_path, seed)
    assert not scene.violations, scene
    assert scene.stale == 0, scene
    assert min(scene.budget[fault] for fault in ("kills", "superseded_thaws", "faults")) > 0, scene


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_run_has_one_selection_and_one_result_whatever_its_coordinators_die_of(
    ceph: CephServer, bucket: str, tmp_path: Path, seed: int
) -> None:
    scene = chaos_on_a_run(s3_site(bucket, ceph.endpoint_url), tmp_path, seed)
    assert not scene.violations, scene
    assert scene.stale == 0, scene
    assert scene.budget["kills"] > 0, scene
