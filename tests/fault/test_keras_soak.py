"""Long chaos on the whole product (opt-in): random kills, freezes and stops of drivers and workers, real Ray and Keras.

`ORCHESTRATOR_SOAK_S` says for how long (default 300 s), `ORCHESTRATOR_SEED` replays a run's events. What was survived
is printed: run with `-s`.
"""

from __future__ import annotations

import os
import random
import signal
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.support.held_job import Driver, HeldJob, held_job, weights
from tests.support.waiting import wait_until

pytestmark = pytest.mark.soak

EPOCHS = 40
SETTINGS: dict[str, Any] = {
    "members": 3,
    "train": {"epochs": EPOCHS, "callbacks": ["holding:Pace"], "early_stopping": {"patience": 25}},
    "faults": {"checkpoint_every_s": 1.0, "takeover_s": 5.0, "max_crashes": 1000, "backoff_max_s": 1.0},
}
STRIKES = ("kill driver", "kill worker", "freeze driver", "freeze worker", "terminate driver")


@dataclass
class Tally:
    """What one life of a run went through."""

    strikes: Counter[str] = field(default_factory=Counter)
    redone: list[int] = field(default_factory=list)
    back_after_s: list[float] = field(default_factory=list)

    def __str__(self) -> str:
        redone, back = sorted(self.redone), sorted(self.back_after_s)
        return (
            f"{dict(self.strikes)}; epochs redone in a life: median {redone[len(redone) // 2]}, most {redone[-1]}; "
            f"seconds until the next checkpoint: median {back[len(back) // 2]:.1f}, most {back[-1]:.1f}"
        )


def newest_epochs(job: HeldJob) -> dict[int, int]:
    """The newest checkpoint's epoch of each member; a published member counts as having all."""
    epochs = {}
    for member in range(3):
        records = job.records(member)
        found = [int(str(record.body["epoch"])) for record in records if record.kind == "checkpoint"]
        epochs[member] = EPOCHS if any(record.kind == "final" for record in records) else max(found, default=0)
    return epochs


def num_claims(job: HeldJob) -> int:
    """How many coordinators the run has had."""
    return [record.kind for record in job.records()].count("claim")


def strike(job: HeldJob, what: str, driver: Driver, frozen: list[Driver]) -> Driver:
    """Do it; returns the driver that goes on with the run."""
    if what.endswith("worker"):
        with suppress(ProcessLookupError):
            os.kill(job.trainer(), signal.SIGKILL if what.startswith("kill") else signal.SIGSTOP)
        return driver
    number = {"kill": signal.SIGKILL, "freeze": signal.SIGSTOP, "terminate": signal.SIGTERM}[what.split()[0]]
    driver.signal(number)
    if number == signal.SIGSTOP:
        frozen.append(driver)
    else:
        assert driver.ends() in (-signal.SIGKILL, 143), driver.told()
    return job.start()


def test_random_chaos_on_the_whole_product_changes_no_bit(tmp_path: Path) -> None:
    seed = int(os.environ.get("ORCHESTRATOR_SEED") or time.time())
    budget_s = float(os.environ.get("ORCHESTRATOR_SOAK_S") or 300)
    print(f"replay with ORCHESTRATOR_SEED={seed}")
    chance = random.Random(seed)
    settings = {**SETTINGS, "faults": {**SETTINGS["faults"], "stall_s": 15.0}}
    with held_job(tmp_path / "straight", str(tmp_path / "straight-runs"), **settings) as job:
        straight_driver = job.start()
        assert straight_driver.process.wait(timeout=600) == 0, straight_driver.told()
        straight = straight_driver.result()
    ends_at = time.monotonic() + budget_s
    lives, tally = 0, Tally()
    while lives == 0 or time.monotonic() < ends_at:
        lives += 1
        with held_job(tmp_path / f"life-{lives}", str(tmp_path / f"runs-{lives}"), **settings) as job:
            live_through(job, chance, tally, straight)
        print(f"life {lives}: {tally}", flush=True)
    assert sum(tally.strikes.values()) > 0


def live_through(job: HeldJob, chance: random.Random, tally: Tally, straight: Any) -> None:
    """One run from its start to its result, with a strike whenever it has got on by some epochs."""
    driver, frozen = job.start(), list[Driver]()
    wait_until(lambda: job.has_checkpoint(0, epoch=1), "the first checkpoint")
    strikes_left = 6
    while strikes_left and driver.process.poll() is None:
        before = newest_epochs(job)
        wanted = sum(before.values()) + chance.randint(2, 12)
        wait_until(
            lambda wanted=wanted, driver=driver: (
                sum(newest_epochs(job).values()) >= wanted or driver.process.poll() is not None
            ),
            f"progress beyond {before}",
        )
        if driver.process.poll() is not None:
            break
        what = chance.choice(STRIKES)
        tally.strikes[what] += 1
        strikes_left -= 1
        at, told, claims = newest_epochs(job), time.monotonic(), num_claims(job)
        driver = strike(job, what, driver, frozen)
        wait_until(
            lambda at=at, driver=driver, claims=claims: (
                # The workers of a frozen driver go on for a while: only a claim says that it has a successor.
                (sum(newest_epochs(job).values()) > sum(at.values()) and (not frozen or num_claims(job) > claims))
                or driver.process.poll() is not None
            ),
            f"progress after {what}",
        )
        tally.back_after_s.append(time.monotonic() - told)
        for old in frozen:
            old.signal(signal.SIGCONT)
            assert old.ends() == 75, old.told()
        frozen.clear()
    assert driver.process.wait(timeout=600) == 0, driver.told()
    result = driver.result()
    assert weights(result) == weights(straight)
    assert result["validation"] == straight["validation"]
    assert [record.kind for record in job.records()].count("done") == 1
    trained = sum(
        line.startswith("[member") and " epoch " in line for each in job.drivers for line in each.told().splitlines()
    )
    needed = sum(member["epochs"] for member in result["members"])
    tally.redone.append(trained - needed)
