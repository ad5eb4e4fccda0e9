"""Coordinators that are killed, frozen, doubled and stopped: real command lines, real Ray, real Keras."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.support.fault_proxy import FaultProxy
from tests.support.fault_rules import Corrupt, LostResponse, Reset, Rule, Status
from tests.support.held_job import HeldJob, held_job, living, weights
from tests.support.s3_server import REGION, SECRET_KEY, S3Server
from tests.support.waiting import wait_until

pytestmark = pytest.mark.slow

EVERY_EPOCH = {"checkpoint_every_epochs": 1, "takeover_s": 3.0}
NEVER = {"checkpoint_every_s": 36_000.0, "takeover_s": 3.0}


@pytest.fixture(scope="module")
def started_twice(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[HeldJob, list[Any]]]:
    """The job when nothing happens to it but a second start at the same time, and what both starts give."""
    folder = tmp_path_factory.mktemp("straight")
    with held_job(folder / "job", str(folder / "runs"), faults={"takeover_s": 30.0}) as job:
        both = [job.start(), job.start()]
        wait_until(lambda: any("attached to run" in driver.told() for driver in both), "one of them attaches")
        refused = job.start("--no-attach")
        assert refused.ends() == 75, refused.told()
        job.go(99)
        assert [driver.ends() for driver in both] == [0, 0], "\n\n".join(driver.told() for driver in both)
        yield job, [driver.result() for driver in both]


@pytest.fixture(scope="module")
def straight(started_twice: tuple[HeldJob, list[Any]]) -> Any:
    """The result of the job when nothing happens to it."""
    return started_twice[1][0]


@pytest.fixture
def job(tmp_path: Path) -> Iterator[HeldJob]:
    with held_job(tmp_path / "job", str(tmp_path / "runs"), faults=EVERY_EPOCH) as held:
        yield held


def epochs_told(told: str, member: int) -> list[int]:
    """The epochs of a member that a driver saw end."""
    lines = (line for line in told.splitlines() if line.startswith(f"[member {member}] epoch "))
    return [int(line.split("epoch ")[1].split("/")[0]) for line in lines]


def test_kills_and_freezes_of_driver_and_worker_cost_one_epoch_each_and_change_nothing(
    job: HeldJob, straight: Any
) -> None:
    """Faults 1, 11, 15 and 16 in one life of a run."""
    job.go(2)
    first = job.start()
    wait_until(lambda: job.has_checkpoint(0, epoch=2), "the second checkpoint")
    first.signal(signal.SIGKILL)  # in the middle of epoch 3
    assert first.ends() == -signal.SIGKILL
    orphan = job.trainer()
    wait_until(lambda: not Path(f"/proc/{orphan}").exists(), "the end of the worker whose driver is dead")

    job.go(3)
    second = job.start()
    wait_until(lambda: job.has_checkpoint(0, epoch=3), "the third checkpoint")
    second.wait_for("[member 0] epoch 3/5")
    assert epochs_told(second.told(), 0) == [3], "what the first had finished was trained again"
    second.signal(signal.SIGSTOP)

    third = job.start()
    third.wait_for("no sign of life")
    wait_until(lambda: job.records()[-1].term >= 3 and job.records(0)[-1].term >= 3, "the third worker's claim")
    trainer = wait_until(lambda: job.trainer() if len(set(pids(job))) >= 3 else None, "the third worker")
    os.kill(trainer, signal.SIGKILL)
    job.go(99)
    assert third.ends() == 0, third.told()
    assert min(epochs_told(third.told(), 0)) == 4
    assert "attempt" in third.told()

    before = job.records()
    second.signal(signal.SIGCONT)
    assert second.ends() == 75, second.told()
    assert job.records() == before, "a coordinator that was superseded wrote a record"

    result = third.result()
    assert weights(result) == weights(straight)
    assert result["validation"] == straight["validation"]
    for ours, theirs in zip(result["members"], straight["members"], strict=True):
        assert (ours["best_epoch"], ours["epochs"]) == (theirs["best_epoch"], theirs["epochs"])
    assert result["members"][0]["attempts"] == 4  # one of each of the two that died or froze, two of the third

    again = job.start()
    assert again.ends() == 0
    assert again.result() == result
    assert "Ray" not in again.told()


def pids(job: HeldJob) -> list[str]:
    file = job.folder / "pids"
    return file.read_text().split() if file.exists() else []


def test_sigterm_publishes_the_newest_finished_epoch_and_the_next_start_goes_on_from_it(
    tmp_path: Path, straight: Any
) -> None:
    """Fault 44; checkpoints by time alone would have come in ten hours."""
    with held_job(tmp_path / "job", str(tmp_path / "runs"), faults=NEVER) as job:
        job.go(2)
        first = job.start()
        first.wait_for("[member 0] epoch 2/5")
        assert not job.has_checkpoint(0, epoch=1)
        first.signal(signal.SIGTERM)
        assert first.ends() == 143, first.told()
        assert first.result()["exit_code"] == 143
        wait_until(lambda: not living(first.pid), "the end of all its processes")
        assert job.has_checkpoint(0, epoch=2)
        assert job.records()[-1].kind == "stopped"

        job.go(3)
        second = job.start()
        second.wait_for("[member 0] epoch 3/5")
        stopped = job.tell("stop", "night", "--storage", job.storage)
        assert stopped.returncode == 0, stopped.stderr
        assert second.ends() == 143, second.told()
        assert job.has_checkpoint(0, epoch=3)

        job.go(99)
        third = job.start()
        assert third.ends() == 0, third.told()
        assert epochs_told(second.told(), 0) == [3]
        assert epochs_told(third.told(), 0) == [4, 5]
        assert weights(third.result()) == weights(straight)


def test_two_starts_at_once_give_one_coordinator_and_the_same_result_to_both(
    started_twice: tuple[HeldJob, list[Any]],
) -> None:
    """Fault 14, with the whole product; twenty at once run on the protocol alone. Its weights are those to which the
    other tests compare theirs."""
    job, (one, other) = started_twice
    assert one == other
    assert [record.kind for record in job.records()].count("claim") == 1
    assert [member["attempts"] for member in one["members"]] == [1, 1]


def test_at_the_deadline_late_members_count_with_their_best_epoch_so_far(tmp_path: Path) -> None:
    """Two members that would train for a year, a third that never gets its turn."""
    train = {"epochs": 10_000_000, "callbacks": [], "engine": "solo"}
    settings: dict[str, Any] = {
        "members": 3,
        "train": train,
        "resources": {"concurrency": 2},
        "ensemble": {"quorum": 2},
        "faults": EVERY_EPOCH | {"stop_grace_s": 30.0},
    }
    with held_job(tmp_path / "job", str(tmp_path / "runs"), **settings) as job:
        first = job.start()
        wait_until(
            lambda: job.has_checkpoint(0, epoch=1) and job.has_checkpoint(1, epoch=1), "both members' checkpoints"
        )
        first.signal(signal.SIGKILL)  # the deadline then counts for whoever takes over, too
        first.ends()
        last = max(int(str(record.body["epoch"])) for record in job.records(0) if record.kind == "checkpoint")

        soon = datetime.now(UTC) + timedelta(seconds=12)
        second = job.start(f"ensemble.deadline={soon.isoformat()}")
        assert second.ends() == 0, second.told()
        result = second.result()
        assert (result["status"], result["late"], result["missing"]) == ("partial", [0, 1], [2])
        assert [member["status"] for member in result["members"]] == ["late", "late", "not_started"]
        cut = result["members"][0]
        assert last <= cut["epochs"] < 10_000_000
        assert 1 <= cut["best_epoch"] <= cut["epochs"]
        assert cut["validation"]["accuracy"] > 0.5
        assert job.start().ends() == 0, "a finished run stays finished, deadline or not"


TROUBLE = (
    Rule(Status(409, "ConditionalRequestConflict"), "PUT", "/log/", times=2),
    Rule(Corrupt(), "GET", "/blobs/", times=2),
    Rule(Status(503, "SlowDown"), probability=0.05),
    Rule(LostResponse(), "PUT", probability=0.1),
    Rule(Reset(), probability=0.05),
)
OUTAGE = Rule(Status(503, "SlowDown"))
EXPIRED = Rule(Status(403, "ExpiredToken"))


def test_a_run_outlives_bad_storage_an_outage_and_expired_credentials_with_the_same_bits(
    tmp_path: Path, fault_proxy: FaultProxy, s3_server: S3Server, s3_url: str, straight: Any
) -> None:
    """Faults 23, 26 to 29 and 34 around the whole product, on a real S3 server."""
    storage = {"url": s3_url, "endpoint_url": fault_proxy.endpoint_url, "region": REGION}
    with held_job(
        tmp_path / "job", s3_url, looks_at=s3_server.endpoint_url, storage=storage, faults=EVERY_EPOCH
    ) as job:
        fault_proxy.set_rules(*TROUBLE)
        job.go(2)
        first = job.start()
        wait_until(lambda: job.has_checkpoint(0, epoch=2), "the second checkpoint")
        fault_proxy.set_rules(OUTAGE)
        job.go(3)
        fault_proxy.wait_until_fired(OUTAGE, times=12)
        assert first.process.poll() is None, first.told()
        fault_proxy.set_rules(*TROUBLE)
        wait_until(lambda: job.has_checkpoint(0, epoch=3), "the checkpoint that the outage held up")
        fault_proxy.set_rules(EXPIRED)
        job.go(99)
        assert first.ends() == 75, first.told()
        assert SECRET_KEY not in first.told()

        fault_proxy.set_rules(*TROUBLE)
        second = job.start()
        assert second.ends() == 0, second.told()
        assert weights(second.result()) == weights(straight)
        assert second.result()["validation"] == straight["validation"]
        logs = "".join(job.store.get(key).decode() for key in job.store.list(f"{job.layout.root}/attempts"))
        assert "goes on from the checkpoint of epoch" in logs
        assert SECRET_KEY not in logs
