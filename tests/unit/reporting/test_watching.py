"""Watching a run: from storage alone, until it ends, and never for ever."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from rich.console import Console
from run_examples import BEGAN, LAYOUT, RUN_ID, beat, claim_member, create_run, finish

from orchestrator.errors import DamagedStore, StoreUnavailable, TimedOut
from orchestrator.reporting.run_status import RunReader, RunStatus
from orchestrator.reporting.status import find_run_if_there
from orchestrator.reporting.watch_text import changes, shown_members, watch_view
from orchestrator.reporting.watching import QUIET_S, watch_run
from orchestrator.storage.log import Log
from orchestrator.testing import FakeClock, Fault, FaultyStore, MemoryStore


class Watch:
    """Somebody who watches, in whose pauses the run goes on."""

    def __init__(self, **options: Any) -> None:
        self.memory = MemoryStore()
        self.store = FaultyStore(self.memory)
        self.clock = FakeClock()
        self.notes: list[str] = []
        self.pauses: list[Callable[[], object]] = []
        self.options = {"every_s": 5.0, **options}

    def statuses(self) -> Iterator[RunStatus]:
        return watch_run(self._find, clock=self.clock, pause=self._pause, note=self.notes.append, **self.options)

    def told(self) -> list[str]:
        return [status.status for status in self.statuses()]

    def _find(self) -> RunReader | None:
        layout = find_run_if_there(self.store, RUN_ID)
        return None if layout is None else RunReader(self.store, layout, deadline_s=0.0)

    def _pause(self, seconds: float) -> None:
        self.clock.advance(seconds)
        if self.pauses:
            self.pauses.pop(0)()


def checkpoint(log: Log, epoch: int, at: float, **scores: float) -> None:
    log.append("checkpoint", epoch=epoch, state={}, best={}, best_epoch=1, stopped=False, scores=scores, at=at)


def test_a_run_is_watched_until_it_has_ended_with_its_exit_code() -> None:
    watch = Watch()
    log = create_run(watch.memory)
    watch.pauses = [lambda: beat(watch.memory, 1, watch.clock.epoch()), lambda: finish(watch.memory, log, exit_code=3)]
    statuses = list(watch.statuses())
    assert [status.exit_code for status in statuses] == [None, None, 3]
    assert statuses[1].status == "live"
    assert watch.clock.monotonic() == 10.0


def test_a_run_that_has_ended_already_is_told_once() -> None:
    watch = Watch()
    create_run(watch.memory).append("stopped", exit_code=143, message="stopped on request", at=BEGAN)
    assert watch.told() == ["stopped"]
    assert watch.clock.monotonic() == 0.0


def test_nothing_is_written_by_watching() -> None:
    watch = Watch()
    finish(watch.memory, create_run(watch.memory))
    before = watch.memory.list("")
    watch.told()
    assert watch.memory.list("") == before


def test_a_run_that_is_not_there_yet_is_waited_for() -> None:
    watch = Watch()
    watch.pauses = [lambda: None, lambda: finish(watch.memory, create_run(watch.memory), status="partial")]
    assert watch.told() == ["partial"]
    assert watch.notes == ["there is no such run yet: waiting for it"]


@pytest.mark.parametrize("is_there", [False, True])
def test_a_run_of_which_nothing_is_heard_is_not_waited_for_for_ever(is_there: bool) -> None:
    watch = Watch()
    if is_there:
        create_run(watch.memory)
    with pytest.raises(TimedOut, match="nothing has been heard of the run for 10 min") as caught:
        watch.told()
    assert caught.value.exit_code == 124
    assert watch.clock.monotonic() == QUIET_S


def test_a_run_of_which_something_is_heard_now_and_then_is_watched_on() -> None:
    watch = Watch(every_s=400.0)
    log = create_run(watch.memory)
    member = claim_member(watch.memory, 0)
    watch.pauses = [
        lambda: beat(watch.memory, 1, BEGAN + 1),
        lambda: checkpoint(member, 1, BEGAN + 2),
        lambda: log.claim(at=BEGAN + 3),
        lambda: finish(watch.memory, log, status="succeeded"),
    ]
    assert watch.told()[-1] == "succeeded"
    assert watch.clock.monotonic() == 4 * 400.0


def test_a_time_limit_ends_it_though_the_run_lives() -> None:
    watch = Watch(timeout_s=7.0)
    create_run(watch.memory)
    with pytest.raises(TimedOut, match="--timeout"):
        watch.told()
    assert watch.clock.monotonic() == 10.0


def test_storage_out_of_reach_for_a_moment_is_noted_and_no_end() -> None:
    watch = Watch()
    log = create_run(watch.memory)
    fault = Fault("list", "before", key="members", times=2)
    watch.pauses = [lambda: watch.store.inject(fault), lambda: None, lambda: None, lambda: finish(watch.memory, log)]
    assert watch.told() == ["unfinished", "unfinished", "partial"]
    assert watch.store.fired[fault] == 2
    assert [note.partition(":")[0] for note in watch.notes] == [
        "storage is out of reach, trying again",
        "storage answers again",
    ]


def test_storage_out_of_reach_for_good_ends_it_as_what_it_is() -> None:
    watch = Watch()
    create_run(watch.memory)
    watch.store.inject(Fault("list", "before", times=1000))
    with pytest.raises(StoreUnavailable):
        watch.told()
    assert watch.clock.monotonic() == QUIET_S
    assert len(watch.notes) == 1


def test_damage_ends_it_at_once() -> None:
    watch = Watch()
    create_run(watch.memory)
    watch.memory.put(f"{LAYOUT.coord_log}/00000000.json", b"garbage")
    with pytest.raises(DamagedStore):
        watch.told()


def test_a_look_at_a_run_reads_only_what_is_new() -> None:
    class Counting(MemoryStore):
        def __init__(self) -> None:
            super().__init__()
            self.calls: list[str] = []

        def get(self, key: str, *, max_bytes: int | None = None) -> bytes:
            self.calls.append(key)
            return super().get(key, max_bytes=max_bytes)

        def list(self, prefix: str) -> list[str]:
            self.calls.append(prefix)
            return super().list(prefix)

    store = Counting()
    create_run(store, members=100)
    logs = [claim_member(store, index) for index in range(100)]
    reader = RunReader(store, LAYOUT)
    reader.look(BEGAN)
    store.calls.clear()
    checkpoint(logs[7], 1, BEGAN)
    store.calls.clear()
    assert reader.look(BEGAN).members[7].checkpoint_epoch == 1
    assert len(store.calls) <= 6, store.calls
    assert [key for key in store.calls if "/members/" in key and "/members/7/" not in key] == []


def test_a_member_shows_its_figures_who_trains_it_and_how_much_is_left() -> None:
    store = MemoryStore()
    log = create_run(store, train={"epochs": 20})
    log.append("packed", packs=[{"members": [0, 1], "engine": "fused"}, {"members": [2], "engine": "solo"}], reason="")
    member = claim_member(store, 1, worker="w3", at=BEGAN)
    checkpoint(member, 2, BEGAN + 60, loss=0.5)
    checkpoint(member, 4, BEGAN + 100, loss=0.25, val_accuracy=0.875)
    beat(store, 1, BEGAN + 108)
    found = RunReader(store, LAYOUT).look(BEGAN + 110).members[1]
    assert (found.worker, found.engine, found.max_epochs, found.epoch) == ("w3", "fused", 20, 4)
    assert found.scores == {"loss": 0.25, "val_accuracy": 0.875}
    assert (found.sign_at, found.sign_age_s) == (BEGAN + 100, 10.0)
    assert found.left_s == 20.0 * 16 - 10.0


def test_an_attempt_that_went_on_is_timed_from_where_it_went_on() -> None:
    store = MemoryStore()
    create_run(store, train={"epochs": 10})
    checkpoint(claim_member(store, 0, worker="w0", at=BEGAN), 4, BEGAN + 400)
    checkpoint(claim_member(store, 0, worker="w1", at=BEGAN + 1000), 6, BEGAN + 1020)
    beat(store, 1, BEGAN + 1019)
    found = RunReader(store, LAYOUT).look(BEGAN + 1020).members[0]
    assert (found.worker, found.left_s) == ("w1", 40.0)


def test_of_folds_all_members_are_shown() -> None:
    store = MemoryStore()
    create_run(store, members={"count": 2, "folds": 3})
    found = RunReader(store, LAYOUT).look(BEGAN)
    assert (found.num_members, len(found.members)) == (6, 6)


def test_the_run_says_how_much_is_left_at_the_pace_of_this_start() -> None:
    store = MemoryStore()
    create_run(store, members=2, train={"epochs": 10}).claim(at=BEGAN + 1000)
    member = claim_member(store, 0, worker="w0", at=BEGAN)
    checkpoint(member, 2, BEGAN + 900)
    checkpoint(member, 6, BEGAN + 1040)
    beat(store, 2, BEGAN + 1039)
    assert RunReader(store, LAYOUT).look(BEGAN + 1040).left_s == 10.0 * (4 + 10)


def test_of_a_run_on_which_nobody_works_no_time_is_left() -> None:
    store = MemoryStore()
    create_run(store, train={"epochs": 10})
    checkpoint(claim_member(store, 0, worker="w0", at=BEGAN), 4, BEGAN + 400)
    beat(store, 1, BEGAN + 400)
    live, left = (RunReader(store, LAYOUT).look(BEGAN + at) for at in (401, 500))
    assert (live.status, live.left_s is None, live.members[0].left_s is None) == ("live", False, False)
    assert (left.status, left.left_s, left.members[0].left_s) == ("unfinished", None, None)


def test_once_there_is_a_result_its_score_is_shown() -> None:
    store = MemoryStore()
    finish(store, create_run(store))
    score = RunReader(store, LAYOUT).look(BEGAN).score
    assert score is not None
    assert score.scored_on == "validation"


def test_the_scores_of_enough_members_are_shown_before_there_is_a_result() -> None:
    store = MemoryStore()
    log = create_run(store, ensemble={"stop_when": {"metric": "nll", "patience": 1}})
    log.append("enough", num_members=2, scores=[0.5, 0.25], reason="as the test says", at=BEGAN)
    score = RunReader(store, LAYOUT).look(BEGAN).score
    assert score is not None
    assert (score.metric, score.value, score.num_members) == ("nll", 0.25, 2)


def running() -> RunStatus:
    """A run with a member of each kind."""
    store = MemoryStore()
    log = create_run(store, members=4, train={"epochs": 20})
    log.append("packed", packs=[{"members": [0, 1, 2, 3], "engine": "solo"}], reason="")
    checkpoint(claim_member(store, 0, worker="w0", at=BEGAN), 4, BEGAN + 40, loss=0.5, accuracy=0.8, val_accuracy=0.75)
    final = claim_member(store, 1, worker="w1", at=BEGAN)
    final.append("final", epochs=9, best_epoch=7, at_best={"loss": 0.25, "val_accuracy": 0.9}, at=BEGAN + 50)
    claim_member(store, 2, worker="w0", at=BEGAN).append("failed", status="diverged", message="NaN", at=BEGAN + 5)
    beat(store, 1, BEGAN + 58)
    return RunReader(store, LAYOUT).look(BEGAN + 60)


def drawn(run: RunStatus, most: int = 30, width: int = 110) -> list[str]:
    console = Console(file=io.StringIO(), width=width, force_jupyter=False, _environ={})
    with console.capture() as capture:
        console.print(watch_view(run, BEGAN + 60, most))
    return [line.rstrip() for line in capture.get().splitlines()]


def test_the_table_shows_the_run_and_each_member_with_the_age_of_its_figures() -> None:
    head, facts, headings, _, *rows, summary = drawn(running())
    assert head == f"run {RUN_ID}: live"
    assert facts.startswith("start 1 · began 1 min ago · last sign of life 2 s ago · ≤ ")
    assert " ".join(headings.split()) == "member status epoch loss validation age left try by"
    assert "4/20" in rows[0]
    assert "0.5000  accuracy 0.7500" in rows[0]
    assert " 20 s  " in rows[0]
    assert "≤ 3 min" in rows[0]
    assert rows[0].endswith("  1  w0 solo")
    assert "trained" in rows[1]
    assert "9/20" in rows[1]
    assert "diverged" in rows[2]
    assert rows[3].split() == ["3", "not", "started", "–", "–", "–", "–", "–", "–", "solo"]
    assert summary == "4 members: 1 diverged, 1 not started, 1 started, 1 trained"


def test_a_narrow_terminal_takes_from_the_figures_alone() -> None:
    [row] = [line for line in drawn(running(), width=76) if line.lstrip().startswith("0 ")]
    assert row.endswith("20 s  ≤ 3 min    1  w0 solo")
    assert "accuracy " in row
    assert "…" in row


def test_of_many_members_those_at_work_are_shown_then_those_that_are_not_well() -> None:
    run = running()
    assert [member.index for member in shown_members(run.members, 2)] == [0, 2]
    assert "2 more members are not shown" in drawn(run, most=2)


def test_lines_tell_what_has_changed_and_nothing_else() -> None:
    run = running()
    first = changes(None, run, BEGAN + 60)
    assert first[0].startswith(f"run {RUN_ID}: live (start 1, began 1 min ago")
    assert first[1:] == [
        "[member 0] started epoch 4/20 loss 0.5000 val_accuracy 0.7500 (w0 solo, 20 s ago)",
        "[member 1] trained epoch 9/20 loss 0.2500 val_accuracy 0.9000 (w1 solo, 10 s ago)",
        "[member 2] diverged (w0 solo, 55 s ago)",
    ]
    assert changes(run, run, BEGAN + 90) == []


def test_the_end_of_a_run_is_a_line_with_its_score() -> None:
    store = MemoryStore()
    log = create_run(store)
    reader = RunReader(store, LAYOUT)
    before = reader.look(BEGAN)
    finish(store, log, status="succeeded")
    lines = changes(before, reader.look(BEGAN), BEGAN)
    assert lines[0].startswith(f"run {RUN_ID}: succeeded (")
    assert lines[-1].startswith(f"run {RUN_ID}: ensemble of ")
