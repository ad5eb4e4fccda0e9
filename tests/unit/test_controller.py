"""The controller on fakes: from nothing, or from what a predecessor left, to one result or a documented error."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from orchestrator.controller import Controller, RunRequest
from orchestrator.errors import (
    AccessDenied,
    ClusterUnavailable,
    CredentialsExpired,
    DamagedStore,
    Fenced,
    IdentityChanged,
    Interrupted,
    InvalidData,
    InvalidModel,
    OrchestratorError,
    QuorumMissed,
    StoreUnavailable,
    TimedOut,
)
from orchestrator.planning import commands as cmd
from orchestrator.planning.placement import Crew
from orchestrator.planning.plan import make_plan
from orchestrator.planning.ports import Store
from orchestrator.reporting.ending import RECORD_END_S, record_end
from orchestrator.reporting.progress import SilentProgress
from orchestrator.reporting.result import Result, RunsBefore, to_json
from orchestrator.reporting.status import status_of
from orchestrator.spec import Job, parse_job
from orchestrator.storage.layout import RunLayout
from orchestrator.storage.log import Log
from orchestrator.storage.looks import Looks, mark_look, other_looks
from orchestrator.storage.stops import CONTROL_EVERY_S
from orchestrator.testing import FakeClock, FakeCluster, Fault, FaultyStore, MemoryStore
from orchestrator.testing.cluster import row_digests

LAYOUT = RunLayout("digits", "digits-run")
BUILDER = "jobs.digits:build_model"


class Notes(SilentProgress):
    """Remembers what the user was told."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def note(self, text: str) -> None:
        self.told.append(text)

    def member(self, member: int, status: str, message: str | None = None) -> None:
        self.told.append(f"member {member} {status}")


@dataclass
class Site:
    """A store in which coordinators follow one another."""

    job: dict[str, Any] = field(default_factory=dict)
    store: Store = field(default_factory=MemoryStore)
    clock: FakeClock = field(default_factory=FakeClock)
    notes: Notes = field(default_factory=Notes)

    def start(
        self,
        *,
        num_workers: int = 2,
        timeout_s: float | None = None,
        interruption: Callable[[], OrchestratorError | None] = lambda: None,
        log: Log | None = None,
        claim: Mapping[str, Any] | None = None,
        **cluster: Any,
    ) -> Result:
        """A coordinator claims the run and works on it to its end; `self.cluster` is what it had."""
        job = self.parsed()
        plan = make_plan(job, {BUILDER: True})
        request = RunRequest(job, plan, LAYOUT, run_id="tuesday", spec_digest="5" * 64, code_digest="c" * 64)
        log = log or self.log()
        self.cluster = FakeCluster(
            self.store,
            LAYOUT,
            plan,
            coord_term=log.claim(at=self.clock.epoch(), **(claim or {})),
            clock=self.clock,
            **cluster,
        )
        controller = Controller(
            request,
            store=self.store,
            log=log,
            cluster=self.cluster,
            clock=self.clock,
            progress=self.notes,
            crew=Crew(num_workers),
            give_up_at=None if timeout_s is None else self.clock.monotonic() + timeout_s,
            interruption=interruption,
        )
        return controller.run()

    def parsed(self) -> Job:
        base = {"name": "digits", "model": BUILDER, "data": "jobs.digits:load_data", "members": 3}
        return parse_job({**base, "report": {"html": False}, **self.job})

    def log(self) -> Log:
        return Log.open(self.store, LAYOUT.coord_log, sleep=self.clock.sleep, monotonic=self.clock.monotonic)

    def kinds(self) -> list[str]:
        return [record.kind for record in self.log().records()]

    def body(self, kind: str) -> Any:
        """Body of the newest record of that kind in the coordinator's log."""
        return next(record.body for record in reversed(self.log().records()) if record.kind == kind)

    def member_kinds(self, member: int) -> list[str]:
        return [record.kind for record in Log.open(self.store, LAYOUT.member_log(member)).records()]

    def trained(self) -> list[int]:
        """Members that the newest coordinator sent to training."""
        return [i for command in self.cluster.sent if isinstance(command, cmd.TrainPack) for i in command.members]


class Killed(BaseException):
    """Stands for SIGKILL: nothing of ours may catch it."""


def killed_at(site: Site, at_s: float) -> Callable[[], OrchestratorError | None]:
    """Kills the coordinator once its clock has come that far."""

    def check() -> None:
        if site.clock.monotonic() >= at_s:
            raise Killed

    return check


def accuracy(labels: Any, probabilities: Any) -> float:
    return float(np.mean(np.argmax(probabilities, axis=1) == labels))


def nll(labels: Any, probabilities: Any) -> float:
    p = np.asarray(probabilities, np.float64)
    return float(-np.mean(np.log(np.clip((p / p.sum(1, keepdims=True))[np.arange(len(labels)), labels], 1e-7, 1))))


def test_a_run_averages_what_its_members_predict_and_publishes_one_result() -> None:
    site = Site()
    result = site.start()

    assert (result.status, result.exit_code, result.missing) == ("succeeded", 0, ())
    for split, scores in (("validation", result.validation), ("test", result.test)):
        labels = site.cluster.labels(split)
        stacked = np.stack([site.cluster.predictions(member, split).astype(np.float64) for member in range(3)])
        accuracies = [accuracy(labels, predictions) for predictions in stacked]
        mean = stacked.mean(axis=0)
        assert scores is not None
        assert scores.ensemble.accuracy == accuracy(labels, mean)
        assert scores.ensemble.nll == pytest.approx(nll(labels, mean), rel=1e-12)
        assert scores.ensemble.n == len(labels)
        assert scores.members_mean.accuracy == pytest.approx(np.mean(accuracies), rel=1e-12)
        assert [getattr(member, split).accuracy for member in result.members] == accuracies
        if split == "validation":
            weights = np.array(accuracies) / sum(accuracies)
        weighted = np.tensordot(weights, stacked, axes=1)
        assert scores.weighted is not None
        if split == "validation":  # where they were fitted, this is the naive figure
            assert scores.weighted.naive["nll"] == pytest.approx(nll(labels, weighted), rel=1e-12)
            assert scores.weighted.nll != scores.weighted.naive["nll"]
        else:
            assert scores.weighted.accuracy == accuracy(labels, weighted)
            assert scores.weighted.nll == pytest.approx(nll(labels, weighted), rel=1e-12)
    assert result.weights is not None
    assert result.weights.values == pytest.approx(weights, rel=1e-12)
    assert result.weights.fitted_on == "validation"


def test_the_log_of_a_run_tells_its_story_in_order() -> None:
    site = Site()
    site.start()
    assert site.kinds() == ["claim", "opened", "packed", "selection", "done"]
    assert [site.member_kinds(member) for member in range(3)] == [["claim", *["checkpoint"] * 3, "final"]] * 3
    assert site.body("packed")["packs"] == [{"members": [i], "engine": "solo"} for i in range(3)]


def test_result_json_is_the_blob_that_done_names() -> None:
    site = Site()
    result = site.start()
    assert site.store.get(LAYOUT.result) == site.store.get(site.body("done")["result"]["key"]) == to_json(result)
    assert site.body("done")["exit_code"] == 0


def test_readable_copies_are_what_the_result_says() -> None:
    site = Site()
    result = site.start()
    copies = [key for key in site.store.list(LAYOUT.members) if "/log/" not in key]
    names = ["best.keras", "history.parquet", "test.parquet", "validation.parquet"]
    assert copies == [LAYOUT.member_copy(member, name) for member in range(3) for name in names]
    for member in result.members:
        assert member.model is not None
        assert len(site.store.get(member.model.key)) == member.model.size


@pytest.mark.parametrize("num_workers", [1, 2, 3])
@pytest.mark.parametrize("seed", [1, 2])
def test_neither_workers_nor_the_order_of_finishing_change_the_figures(num_workers: int, seed: int) -> None:
    def figures(result: Result) -> object:
        return result.validation, result.test, result.weights, [member.weights_sha256 for member in result.members]

    assert figures(Site().start(num_workers=num_workers, seed=seed)) == figures(Site().start(num_workers=1, seed=0))


def test_given_weights_are_used_and_said_to_be_given() -> None:
    site = Site({"ensemble": {"weights": [2, 1, 1]}})
    result = site.start()
    assert result.weights is not None
    assert (result.weights.values, result.weights.fitted_on) == ((0.5, 0.25, 0.25), "given")


def test_without_a_validation_set_the_test_set_alone_is_scored() -> None:
    result = Site().start(rows={"train": 10, "test": 8})
    assert (result.validation, result.weights) == (None, None)
    assert result.test is not None
    assert any("no validation set" in note for note in result.notes)


def test_a_failed_member_leaves_a_partial_result_where_the_quorum_allows_it() -> None:
    site = Site({"ensemble": {"quorum": 2}})
    result = site.start(faults={(1, 1): "user_error"})
    assert site.cluster.fired == [(1, 1, "user_error")]
    assert (result.status, result.exit_code, result.missing) == ("partial", 0, (1,))
    assert [member.status for member in result.members] == ["succeeded", "failed", "succeeded"]
    assert result.members[1].message == "injected"
    assert result.members[1].model is None
    labels = site.cluster.labels("validation")
    mean = (site.cluster.predictions(0, "validation") + site.cluster.predictions(2, "validation")) / 2
    assert result.validation is not None
    assert result.validation.ensemble.accuracy == accuracy(labels, mean)


def test_a_missed_quorum_is_recorded_and_a_later_start_trains_only_the_missing_member() -> None:
    site = Site()
    with pytest.raises(QuorumMissed, match="member 1: injected") as caught:
        site.start(faults={(1, 1): "user_error"})
    assert caught.value.exit_code == 4
    assert site.kinds()[-1] == "failed"
    assert site.body("failed")["exit_code"] == 4
    assert LAYOUT.result not in site.store.list(LAYOUT.root)

    result = site.start()
    assert site.trained() == [1]
    assert (result.status, result.attempt) == ("succeeded", 2)
    assert [member.attempts for member in result.members] == [1, 2, 1]
    assert site.kinds().count("opened") == 1


def test_a_diverged_member_is_reported_and_not_averaged_in() -> None:
    site = Site({"ensemble": {"quorum": 1}})
    result = site.start(faults={(0, 1): "diverge"})
    assert [member.status for member in result.members] == ["diverged", "succeeded", "succeeded"]
    assert result.members[0].attempts == 1
    assert result.members[0].validation is None
    assert result.weights is not None
    assert result.weights.members == (1, 2)


def test_a_diverged_member_is_not_trained_again_by_a_later_start() -> None:
    site = Site()
    with pytest.raises(QuorumMissed):
        site.start(faults={(0, 1): "diverge"})
    with pytest.raises(QuorumMissed, match="member 0: injected"):
        site.start()
    assert site.trained() == []


@pytest.mark.parametrize("fault", ["crash", "preempted", "node_lost", "stall", "out_of_memory", "fenced"])
def test_a_member_whose_attempt_was_lost_is_trained_again(fault: Any) -> None:
    site = Site()
    result = site.start(faults={(1, 1): fault})
    assert site.cluster.fired == [(1, 1, fault)]
    assert result.status == "succeeded"
    assert sorted(site.trained()) == [0, 1, 1, 2]
    assert result.members[1].attempts == 2 + (fault == "fenced"), "what fences is a worker's claim too"
    assert result.members[1].preemptions == (fault in ("preempted", "node_lost"))
    assert result.members[1].message is None
    assert [record.body["cause"] for record in site.log().records() if record.kind == "ended"] == [
        "crash" if fault == "fenced" else fault
    ]


@pytest.mark.parametrize("fault", ["crash", "node_lost", "stall", "out_of_memory"])
def test_a_lost_prediction_is_made_again_without_training_again(fault: Any) -> None:
    site = Site()
    result = site.start(predict_faults={(1, 1): fault})
    assert site.cluster.fired == [(1, 1, fault)]
    assert sorted(site.trained()) == [0, 1, 2]
    assert result.status == "succeeded"


def test_a_member_that_cannot_predict_has_no_model_in_the_result() -> None:
    site = Site({"ensemble": {"quorum": 2}})
    result = site.start(predict_faults={(1, 1): "user_error"})
    assert result.members[1].status == "failed"
    assert (result.members[1].model, result.members[1].history) == (None, None)


def test_a_worker_that_published_and_died_before_saying_so_costs_no_training_and_no_second_claim() -> None:
    site = Site()
    result = site.start(faults={(1, 1): "unheard"})
    assert site.cluster.fired == [(1, 1, "unheard")]
    assert [kind for kind in site.member_kinds(1) if kind != "checkpoint"] == ["claim", "final"]
    assert sorted(site.trained()) == [0, 1, 2]
    assert result.status == "succeeded"


def test_a_worker_sent_to_predict_and_to_train_whom_another_had_published_predicts_nevertheless() -> None:
    site = Site({"members": 7})
    result = site.start(faults={(1, 1): "unheard"})
    assert site.cluster.fired == [(1, 1, "unheard")]
    assert site.kinds().count("ended") == 1, "nobody else was given up"
    assert [member.attempts for member in result.members] == [1] * 7


def test_the_budgets_of_a_killed_coordinator_are_its_successors() -> None:
    site = Site({"members": 1, "faults": {"max_crashes": 2}})
    with pytest.raises(Killed):
        site.start(faults={(0, 1): "crash", (0, 2): "crash", (0, 3): "stall"}, interruption=killed_at(site, 20))
    assert len(site.cluster.fired) == 3
    assert site.kinds().count("ended") == 2, "the third attempt hangs when the coordinator is killed"
    with pytest.raises(QuorumMissed):
        site.start(faults={(0, 4): "crash"})
    assert site.trained() == [0], "one attempt was left, not three"


def test_an_attempt_that_died_with_its_coordinator_is_counted_in_result_and_status() -> None:
    site = Site({"members": 1})
    with pytest.raises(Killed):
        site.start(faults={(0, 1): "stall"}, interruption=killed_at(site, 8))
    assert site.cluster.fired == [(0, 1, "stall")]
    result = site.start()
    assert "ended" not in site.kinds()
    assert [member.attempts for member in result.members] == [2]
    assert_status_agrees(site, result)


def assert_status_agrees(site: Site, result: Result) -> None:
    """`status` tells of each member what the result tells."""
    spec = {"run_id": "tuesday", "job": site.parsed().model_dump(mode="json")}
    site.store.create(LAYOUT.spec, json.dumps(spec).encode())
    told = status_of(site.store, LAYOUT, now=site.clock.epoch()).members
    assert [(m.status, m.attempts, m.preemptions) for m in told] == [
        (m.status, m.attempts, m.preemptions) for m in result.members
    ]


def test_a_recorded_end_renews_the_budgets() -> None:
    site = Site({"members": 1, "faults": {"max_crashes": 0}})
    for term in (1, 3):  # 2 is the coordinator's, which recorded that the member is given up
        with pytest.raises(QuorumMissed):
            site.start(faults={(0, term): "crash"})
    result = site.start()
    assert result.status == "succeeded"
    assert result.members[0].attempts == 3


def test_a_killed_coordinator_loses_no_published_member() -> None:
    site = Site()
    with pytest.raises(Killed):
        site.start(num_workers=1, interruption=killed_at(site, 8))
    published = [member for member in range(3) if "final" in site.member_kinds(member)]
    assert published
    assert len(published) < 3
    assert site.start().status == "succeeded"
    assert sorted(site.trained()) == [member for member in range(3) if member not in published]
    assert f"member {published[0]} trained" in site.notes.told


def leave_a_selection(site: Site) -> None:
    """A coordinator that dies between `selection` and `done`: the store refuses when it keeps the copies."""
    faulty = FaultyStore(site.store, [Fault("put", "before", key="best.keras", error=AccessDenied)])
    whole, site.store = site.store, faulty
    with pytest.raises(CredentialsExpired):
        site.start()
    site.store = whole
    assert faulty.fired.total() == 1


def test_a_selection_that_a_predecessor_left_is_finished_and_no_other_is_made() -> None:
    site = Site()
    leave_a_selection(site)
    assert site.kinds()[-2:] == ["selection", "failed"]
    assert site.start(data_error=InvalidData("nobody asks for data any more")).status == "succeeded"
    assert site.cluster.sent == [], "no worker is needed"
    assert site.kinds().count("selection") == 1
    assert site.kinds()[-2:] == ["claim", "done"]


def test_whoever_finishes_a_selection_publishes_the_same_bytes() -> None:
    """A coordinator frozen between `selection` and `done` thaws after its successor has finished."""
    site = Site()
    leave_a_selection(site)
    old = site.log()
    old.claim()
    result = site.start()
    with pytest.raises(Fenced):
        old.append("done", result={}, exit_code=0)
    assert site.store.get(LAYOUT.result) == to_json(result)

    twin = Site()
    twin.store = MemoryStore()
    for key in site.store.list(""):
        if key != LAYOUT.result and not key.startswith(LAYOUT.coord_log):
            twin.store.put(key, site.store.get(key))
    log = twin.log()
    log.claim()
    log.append("selection", **site.body("selection"))
    assert to_json(twin.start()) == to_json(result)


class FreezesBeforeDone(MemoryStore):
    """The process that writes `done` is frozen right before it reaches the store; meanwhile `successor` works."""

    def __init__(self) -> None:
        super().__init__()
        self.successor: Callable[[], object] | None = None

    def create(self, key: str, body: bytes) -> bool:
        if key.startswith(LAYOUT.coord_log) and b'"kind":"done"' in body and self.successor is not None:
            successor, self.successor = self.successor, None
            successor()
        return super().create(key, body)


def test_a_coordinator_frozen_between_selection_and_done_thaws_after_its_successor_finished() -> None:
    """The first story of the protocol."""
    store = FreezesBeforeDone()
    frozen, successor = Site(store=store), Site(store=store)
    results: list[Result] = []
    store.successor = lambda: results.append(successor.start())
    with pytest.raises(Fenced):
        frozen.start()
    assert successor.cluster.sent == [], "the selection was made: nobody trains"
    assert frozen.kinds()[-3:] == ["selection", "claim", "done"], "one selection, finished by the successor"
    assert store.get(LAYOUT.result) == to_json(results[0])


def test_a_finished_run_returns_its_recorded_result_and_appends_no_second_done() -> None:
    site = Site()
    first = site.start()
    site.store.delete(LAYOUT.result)
    again = site.start(data_error=InvalidData("nobody asks for data any more"))
    assert to_json(again) == to_json(first) == site.store.get(LAYOUT.result)
    assert site.kinds().count("done") == site.kinds().count("selection") == 1
    assert site.cluster.sent == []


def test_a_copy_that_cannot_be_written_after_done_fails_nobody_and_is_made_by_the_next_start() -> None:
    site = Site()
    whole = site.store
    faulty = FaultyStore(whole, [Fault("create", "before", key="result.json")])
    site.store = faulty
    assert site.start().status == "succeeded"
    assert sum(faulty.fired.values()) == 1
    site.store = whole
    assert site.kinds()[-1] == "done"
    assert LAYOUT.result not in whole.list("")
    result = site.start()
    assert whole.get(LAYOUT.result) == to_json(result)


def test_a_missed_gate_is_a_result_with_exit_code_3() -> None:
    site = Site({"ensemble": {"gate": {"metric": "accuracy", "min": 1.0}}})
    result = site.start()
    assert (result.status, result.exit_code) == ("gate_failed", 3)
    assert result.gate is not None
    assert not result.gate.passed
    assert site.body("done")["exit_code"] == 3
    assert site.start().exit_code == 3, "a second start says the same"


def test_a_stop_request_ends_the_run_and_is_recorded() -> None:
    site = Site()

    def ask() -> None:
        if site.clock.monotonic() >= 3:
            site.store.create(LAYOUT.stop_request("n1"), b"{}")

    with pytest.raises(Interrupted) as caught:
        site.start(interruption=ask, epochs=100)
    assert caught.value.exit_code == 143
    assert site.clock.monotonic() < 3 + 2 * CONTROL_EVERY_S
    assert site.kinds()[-1] == "stopped"
    assert site.body("stopped")["exit_code"] == 143


def test_a_stop_request_that_a_predecessor_has_obeyed_does_not_stop_its_successor() -> None:
    site = Site()
    site.store.create(LAYOUT.stop_request("n1"), b"{}")
    assert site.start().status == "succeeded"


def test_a_stop_request_that_comes_between_the_claim_and_the_first_look_ends_the_run() -> None:
    site = Site()
    obeyed, meant_for_us = LAYOUT.stop_request("a"), LAYOUT.stop_request("b")
    site.store.create(obeyed, b"{}")
    site.store.create(meant_for_us, b"{}")
    with pytest.raises(Interrupted) as caught:
        site.start(claim={"stops": [obeyed]}, epochs=100)
    assert caught.value.where == meant_for_us


def test_the_end_of_a_run_is_recorded_without_secrets_and_without_long_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_SECRET_KEY", "hunter2hunter2")
    site = Site()
    log = site.log()
    log.claim()
    record_end(log, OrchestratorError("no such user: hunter2hunter2"), site.clock, site.notes)
    assert "hunter2" not in str(site.body("failed")["message"])
    rule = Fault("create", "before", times=None, error=StoreUnavailable)
    store = FaultyStore(site.store, [rule])
    away = Log.open(store, LAYOUT.coord_log, sleep=site.clock.sleep, monotonic=site.clock.monotonic)
    store.heal()
    away.claim()
    store.inject(rule)
    began = site.clock.monotonic()
    record_end(away, OrchestratorError("storage is away"), site.clock, site.notes)
    assert store.fired[rule] > 1
    assert site.clock.monotonic() - began <= RECORD_END_S + 5
    assert "could not record the end" in site.notes.told[-1]


def harm(site: Site, named: Mapping[str, Any]) -> None:
    site.store.delete(named["key"])


def test_a_result_whose_bytes_are_lost_comes_back_from_its_copy_or_from_the_selection() -> None:
    site = Site()
    result = site.start()
    harm(site, site.body("done")["result"])
    assert site.start() == result, "from the copy"
    site.store.delete(LAYOUT.result)
    assert site.start() == result, "from the selection"
    site.store.put(LAYOUT.result, b"garbage")
    assert site.start() == result, "a copy that does not match is no source"
    for key in site.store.list(LAYOUT.blobs):
        site.store.delete(key)
    site.store.delete(LAYOUT.result)
    with pytest.raises(DamagedStore, match="is gone") as caught:
        site.start()
    assert caught.value.exit_code == 2
    assert caught.value.hint


def test_a_readable_copy_that_cannot_be_made_does_not_keep_the_result_back() -> None:
    site = Site()
    leave_a_selection(site)
    selection = site.body("selection")
    harm(site, selection["members"][1]["final"]["history"])
    assert site.start().status == "succeeded"


def test_a_store_that_cannot_list_stop_requests_for_a_while_does_not_end_the_run() -> None:
    rule = Fault("list", "before", key="control", nth=2)
    site = Site(store=FaultyStore(MemoryStore(), [rule]))
    assert site.start(epochs=20).status == "succeeded"
    assert site.store.fired[rule] == 1  # type: ignore[attr-defined]
    assert any("cannot look for requests to stop" in note for note in site.notes.told)


def test_a_signal_ends_the_run_with_its_exit_code() -> None:
    site = Site()
    with pytest.raises(Interrupted) as caught:
        site.start(interruption=lambda: Interrupted("Ctrl-C", signal_number=2))
    assert caught.value.exit_code == 130
    assert site.body("stopped")["exit_code"] == 130


def test_a_signal_that_ends_the_workers_too_has_no_others_started_in_their_place() -> None:
    """Of a signal to the whole process group: where Ray's head goes as well, starting one would wait for it."""
    site = Site()

    def press() -> OrchestratorError | None:
        return Interrupted("SIGTERM", signal_number=15) if site.cluster.fired else None

    with pytest.raises(Interrupted):
        site.start(interruption=press, faults={(0, 1): "crash"})
    assert sum(isinstance(command, cmd.StartWorker) for command in site.cluster.sent) == 2


def test_ctrl_c_in_a_notebook_is_recorded_too() -> None:
    site = Site()

    def press() -> None:
        raise KeyboardInterrupt

    with pytest.raises(Interrupted) as caught:
        site.start(interruption=press)
    assert caught.value.exit_code == 130
    assert site.kinds()[-1] == "stopped"


def test_the_timeout_ends_the_run_and_a_later_start_goes_on() -> None:
    site = Site()
    with pytest.raises(TimedOut):
        site.start(num_workers=1, timeout_s=8)
    assert site.body("stopped")["exit_code"] == 124
    assert site.start().status == "succeeded"
    assert len(site.trained()) < 3


def test_a_superseded_coordinator_ends_and_writes_nothing_more() -> None:
    site = Site()
    rival: list[int] = []

    def supersede() -> None:
        if not rival and site.clock.monotonic() >= 3:
            rival.append(site.log().claim())

    with pytest.raises(Fenced):
        site.start(interruption=supersede)
    assert site.kinds()[-1] == "claim"
    assert site.log().term == rival[0]
    assert not any("could not record" in note for note in site.notes.told), "it does not even try"
    assert LAYOUT.result not in site.store.list(LAYOUT.root)


def test_a_coordinator_whose_worker_is_superseded_looks_whether_it_is_superseded_itself() -> None:
    site = Site()

    def supersede() -> None:
        if site.log().term == 1 and site.clock.monotonic() >= 3:
            site.log().claim()

    with pytest.raises(Fenced, match="another coordinator has taken the run over"):
        site.start(interruption=supersede, faults={(0, 1): "fenced"})
    assert site.kinds()[-1] == "claim"


def test_other_data_under_the_same_run_is_refused_before_any_member_trains() -> None:
    site = Site()
    with pytest.raises(QuorumMissed):
        site.start(faults={(0, 1): "user_error"})
    with pytest.raises(IdentityChanged, match="the data has changed") as caught:
        site.start(fingerprint="0" * 64)
    assert caught.value.exit_code == 2
    assert site.trained() == []
    assert site.start().status == "succeeded"


@pytest.mark.parametrize(
    "what", [{"data_error": InvalidData("NaN in x")}, {"preflight_error": InvalidModel("no output")}]
)
def test_bad_data_or_a_bad_model_ends_the_run_before_any_member_trains(what: dict[str, Any]) -> None:
    site = Site()
    with pytest.raises((InvalidData, InvalidModel)):
        site.start(**what)
    assert site.trained() == []
    assert site.body("failed")["exit_code"] == 2
    looks = other_looks(site.store, RunLayout("digits", "next"), row_digests("f" * 64).values())
    assert looks == Looks(), "nobody has looked at a row"
    site.start()
    assert other_looks(site.store, RunLayout("digits", "next"), row_digests("f" * 64).values()).runs == 1


def test_a_worker_that_cannot_reach_the_store_ends_the_run_with_75() -> None:
    """The blob with a model is out of reach when it is read back for predicting."""
    site = Site(store=FaultyStore(MemoryStore(), [Fault("get", "before", key="blobs/", times=None)]))
    with pytest.raises(StoreUnavailable) as caught:
        site.start()
    assert caught.value.exit_code == 75
    assert site.kinds()[-1] == "failed"


def test_workers_that_never_come_up_end_the_run_with_75() -> None:
    site = Site({"faults": {"node_wait_s": 0.4}})
    with pytest.raises(ClusterUnavailable) as caught:
        site.start()
    assert caught.value.exit_code == 75


def test_timing_is_the_runs_own_clock_and_the_sum_over_members() -> None:
    site = Site()
    result = site.start(num_workers=1)
    assert result.timing["total_s"] == pytest.approx(site.clock.monotonic(), abs=0.001)
    assert 3 * 3 * 0.5 <= result.timing["members_s"] <= 3 * 3 * 1.5


def test_the_runs_time_counts_from_its_first_claim_although_no_data_was_loaded_then() -> None:
    site = Site()
    with pytest.raises(Killed):
        site.start(interruption=killed_at(site, 0.0))
    assert site.kinds() == ["claim"]
    site.clock.advance(14.0)
    result = site.start()
    assert result.timing["total_s"] == pytest.approx(site.clock.monotonic(), abs=0.001)


def test_runs_that_score_on_one_split_of_the_same_rows_are_counted() -> None:
    site = Site()
    mark_look(site.store, RunLayout("digits", "same-test"), [row_digests("f" * 64)["test"]], members=5)
    mark_look(site.store, RunLayout("digits", "same-both"), row_digests("f" * 64).values(), members=7)
    mark_look(site.store, RunLayout("digits", "stranger"), row_digests("e" * 64).values(), members=100)
    assert site.start().runs_before == RunsBefore(runs=2, members=12)


def test_the_record_of_a_member_is_the_one_that_the_selection_names() -> None:
    site = Site()
    site.start(faults={(1, 1): "crash"})
    selected = site.body("selection")["members"][1]
    assert [kind for kind in site.member_kinds(1) if kind != "checkpoint"] == ["claim", "claim", "final"]
    record = Log.open(site.store, LAYOUT.member_log(1)).records()[-1]
    assert selected["seq"] == record.seq
    final = record.body
    assert json.dumps(selected["final"], sort_keys=True) == json.dumps(final, sort_keys=True)


def finals(site: Site, member: int) -> list[Any]:
    records = Log.open(site.store, LAYOUT.member_log(member)).records()
    return [record.body for record in records if record.kind == "final"]


def test_at_the_deadline_members_count_with_their_best_epoch_so_far() -> None:
    site = Site({"ensemble": {"deadline": 5.5, "quorum": 2}})
    result = site.start(num_workers=2, epochs=100)
    assert (result.status, result.exit_code) == ("partial", 0)
    assert (result.late, result.missing) == ((0, 1), (2,))
    assert [member.status for member in result.members] == ["late", "late", "not_started"]
    assert all(0 < (member.epochs or 0) < 100 for member in result.members[:2])
    assert [member.attempts for member in result.members] == [1, 1, 0], "publishing late trains nothing"
    assert site.clock.monotonic() < 60
    assert_status_agrees(site, result)


def test_a_successor_knows_which_members_were_late_and_counts_the_deadline_from_the_first_start() -> None:
    site = Site({"ensemble": {"deadline": 5.5, "quorum": 2}})

    def kill_when_one_is_published() -> None:
        if any(finals(site, member) for member in range(3)):
            raise Killed

    with pytest.raises(Killed):
        site.start(num_workers=2, epochs=100, interruption=kill_when_one_is_published)
    late = [member for member in range(3) if finals(site, member)]
    result = site.start(num_workers=2, epochs=100)
    assert (result.late, result.missing) == ((0, 1), (2,))
    assert all(finals(site, member)[0]["late"] for member in late)
    assert not site.trained(), "the deadline was over before the second start"


def test_more_time_brings_a_run_that_missed_its_quorum_at_the_deadline_to_its_end() -> None:
    site = Site({"ensemble": {"deadline": 5.5}})
    with pytest.raises(QuorumMissed):
        site.start(num_workers=2, epochs=20)
    site.job = {"ensemble": {"deadline": "1d"}}
    result = site.start(num_workers=2, epochs=20)
    assert result.members[2].status == "succeeded"


def test_a_model_whose_bytes_are_gone_is_taken_back_and_trained_again() -> None:
    class Losing(MemoryStore):
        """Loses the first model as soon as a record has named it."""

        lost: str | None = None

        def create(self, key: str, body: bytes) -> bool:
            created = super().create(key, body)
            record = json.loads(body) if "/log/" in key else {}
            if record.get("kind") == "final" and self.lost is None:
                self.lost = record["body"]["model"]["key"]
                self.delete(self.lost)
            return created

    store = Losing()
    site = Site(store=store)
    result = site.start()
    assert store.lost is not None
    assert result.status == "succeeded"
    (member,) = (i for i in range(3) if "void" in site.member_kinds(i))
    assert site.member_kinds(member).count("final") == 2
    assert site.body("ended")["cause"] == "damaged"
    twin = Site()
    assert result.validation == twin.start().validation, "the same model came of it"


def test_credentials_that_expire_in_mid_run_are_worth_a_retry() -> None:
    rule = Fault("create", "before", key="members/1/log", nth=2, times=None, error=AccessDenied)
    store = FaultyStore(MemoryStore(), [rule])
    site = Site(store=store)
    with pytest.raises(CredentialsExpired) as caught:
        site.start()
    assert store.fired[rule] > 0
    assert caught.value.exit_code == 75
    assert site.body("failed")["exit_code"] == 75


def test_the_result_says_that_the_code_changed_on_the_way() -> None:
    site = Site()
    before, after = site.log(), site.log()
    before.claim(code_digest="a" * 64)
    with pytest.raises(Killed):
        site.start(log=before, interruption=killed_at(site, 4))
    after.refresh()
    after.claim(code_digest="b" * 64)
    result = site.start(log=after)
    assert any("aaaaaaaaaaaa → bbbbbbbbbbbb" in note for note in result.notes)
