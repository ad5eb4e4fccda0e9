"""What a second start does: return, attach, take over. One process, a clock moved by hand."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from orchestrator.attach import Start, become_coordinator
from orchestrator.errors import Fenced, Interrupted, OrchestratorError, RunEnded, RunHeld, TimedOut
from orchestrator.planning.ports import Store
from orchestrator.reporting.progress import SilentProgress
from orchestrator.reporting.result import Result
from orchestrator.storage.layout import RunLayout
from orchestrator.storage.log import Log
from orchestrator.testing import FakeClock, Fault, FaultyStore, MemoryStore

LAYOUT = RunLayout("digits", "digits-run")


class Notes(SilentProgress):
    def __init__(self) -> None:
        self.told: list[str] = []

    def note(self, text: str) -> None:
        self.told.append(text)


@dataclass
class Site:
    """A run in a store; `at_pause` is what the world does while the start waits for its next look."""

    store: Store = field(default_factory=MemoryStore)
    clock: FakeClock = field(default_factory=FakeClock)
    notes: Notes = field(default_factory=Notes)
    probes: int = 0
    at_pause: Callable[[int], object] = lambda number: None

    def log(self) -> Log:
        return Log.open(self.store, LAYOUT.coord_log, sleep=self.clock.sleep, monotonic=self.clock.monotonic)

    def beat(self, term: int, n: int) -> None:
        self.store.put(LAYOUT.beat, json.dumps({"term": term, "n": n, "at": 0}).encode())

    def start(
        self,
        *,
        attach: bool = True,
        before_claim: Callable[[], None] | None = None,
        interruption: Callable[[], OrchestratorError | None] = lambda: None,
        give_up_at: float | None = None,
    ) -> Result | int:
        pauses = 0

        def pause(seconds: float) -> None:
            nonlocal pauses
            pauses += 1
            assert pauses < 1000, "it never ends"
            self.clock.advance(seconds)
            self.at_pause(pauses)

        def probe() -> None:
            self.probes += 1
            if before_claim:
                before_claim()

        return become_coordinator(
            Start(self.store, LAYOUT, "tuesday", takeover_s=15.0, attach=attach, claim={"code_digest": "c" * 64}),
            self.log(),
            clock=self.clock,
            progress=self.notes,
            before_claim=probe,
            interruption=interruption,
            give_up_at=give_up_at,
            pause=pause,
        )


def test_the_first_start_claims_at_once_after_one_probe() -> None:
    site = Site()
    assert site.start() == 1
    claim = site.log().records()[0]
    assert (site.probes, site.clock.monotonic()) == (1, 0.0)
    assert claim.body == {"run_id": "tuesday", "code_digest": "c" * 64, "at": site.clock.epoch(), "stops": []}


def test_a_dead_coordinator_is_taken_over_after_the_time_and_fenced() -> None:
    site = Site()
    dead = site.log()
    dead.claim()
    assert site.start() == 2
    assert 15.0 <= site.clock.monotonic() < 18.0
    assert any("no sign of life" in note for note in site.notes.told)
    with pytest.raises(Fenced):
        dead.append("opened")


def test_a_run_that_ended_without_a_result_is_taken_over_at_once() -> None:
    site = Site()
    earlier = site.log()
    earlier.claim()
    earlier.append("stopped", exit_code=143, message="SIGTERM")
    assert (site.start(), site.clock.monotonic()) == (2, 0.0)


def test_a_start_follows_a_live_coordinator_and_takes_over_when_it_dies() -> None:
    site = Site()
    site.log().claim()
    site.at_pause = lambda number: site.beat(1, number) if number <= 40 else None
    assert site.start() == 2
    assert 55.0 <= site.clock.monotonic() < 58.0
    assert any("attached to run tuesday" in note for note in site.notes.told)


def test_a_start_that_may_not_attach_says_that_the_run_is_held() -> None:
    site = Site()
    site.log().claim()
    site.at_pause = lambda number: site.beat(1, number)
    with pytest.raises(RunHeld, match="term 1") as caught:
        site.start(attach=False)
    assert (caught.value.exit_code, site.log().term) == (75, 1)


@pytest.mark.parametrize(("kind", "code"), [("failed", 4), ("stopped", 143)])
def test_who_followed_ends_with_the_recorded_exit_code(kind: str, code: int) -> None:
    site = Site()
    live = site.log()
    live.claim()

    def world(number: int) -> None:
        site.beat(1, number)
        if number == 5:
            live.append(kind, exit_code=code, message="only 1 of 3 members")

    site.at_pause = world
    with pytest.raises(RunEnded, match="only 1 of 3") as caught:
        site.start()
    assert (caught.value.exit_code, site.log().term) == (code, 1)
    assert caught.value.retryable == (code == 143)


def test_of_starts_that_saw_the_same_one_claims_and_the_others_follow_it() -> None:
    """While this start was probing, a rival claimed: the next look sees it, and this start does not fence it."""
    site = Site()
    rival = site.log()
    site.at_pause = lambda number: site.beat(1, number) if number <= 3 else None

    def overtaken() -> None:
        rival.claim()

    assert site.start(before_claim=overtaken) == 2
    assert site.clock.monotonic() >= 18.0, "the rival was not given its time"


def test_a_claim_that_loses_the_race_for_its_slot_follows_the_winner() -> None:
    """Between the last look and the create: the slot decides."""

    class Raced(MemoryStore):
        raced = False

        def create(self, key: str, body: bytes) -> bool:
            if not self.raced and key.startswith(LAYOUT.coord_log):
                self.raced = True
                Log.open(self, LAYOUT.coord_log).claim()
            return super().create(key, body)

    site = Site(store=Raced())
    assert site.start() == 2
    assert [record.term for record in site.log().records()] == [1, 2]
    assert site.clock.monotonic() >= 15.0


def test_a_beat_that_cannot_be_read_is_no_sign_of_life() -> None:
    store = FaultyStore(MemoryStore())
    site = Site(store=store)
    site.log().claim()
    site.beat(1, 1)
    rule = Fault("get", "before", key=LAYOUT.beat, times=None)
    site.at_pause = lambda number: store.inject(rule) if number == 3 else None
    assert site.start() == 2
    assert store.fired[rule] > 0
    assert site.clock.monotonic() < 18.0


def test_waiting_ends_with_the_timeout_and_leaves_the_run_alone() -> None:
    site = Site()
    site.log().claim()
    site.at_pause = lambda number: site.beat(1, number)
    with pytest.raises(TimedOut):
        site.start(give_up_at=30.0)
    assert site.log().term == 1


def test_a_signal_ends_the_waiting_and_not_the_run() -> None:
    site = Site()
    live = site.log()
    live.claim()
    site.at_pause = lambda number: site.beat(1, number)
    errors = iter([None, None, Interrupted("SIGTERM: the run ends here")])
    with pytest.raises(Interrupted) as caught:
        site.start(interruption=lambda: next(errors))
    assert "goes on without it" in str(caught.value)
    live.append("opened")
