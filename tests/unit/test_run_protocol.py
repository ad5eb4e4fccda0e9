"""The protocol of a run under arbitrary interleavings, kills, freezes and lost answers: one selection, one result.

Coordinators and workers are threads that stop before each operation of their store; Hypothesis decides who goes on, who
is never heard of again, and whose answer is lost. Whoever is not chosen is frozen, with the view that it has. Log,
recovery, selection and publishing are the product's own; members are published without being trained.
"""

from __future__ import annotations

import hashlib
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from queue import SimpleQueue
from typing import Any, ClassVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from hypothesis.stateful import run_state_machine_as_test as run_machine

from orchestrator.controller import Controller, RunRequest
from orchestrator.errors import DamagedStore, Fenced
from orchestrator.planning.placement import Crew
from orchestrator.planning.plan import make_plan
from orchestrator.planning.ports import Store
from orchestrator.planning.recovery import read_member, read_run
from orchestrator.reporting.progress import SilentProgress
from orchestrator.reporting.publish import finish, finished_result
from orchestrator.reporting.result import to_json
from orchestrator.reporting.selection import MemberFacts, RunFacts, make_selection, tasks_of
from orchestrator.spec import parse_job
from orchestrator.storage import parallel
from orchestrator.storage.blobs import get_blob, put_blob
from orchestrator.storage.layout import RunLayout
from orchestrator.storage.log import Log
from orchestrator.storage.records import BlobRef
from orchestrator.testing import FakeClock, FakeCluster, MemoryStore
from tests.support.chaos_checker import faults_of_log, faults_of_run, read_records
from tests.support.chaos_gate import GatedStore, InTurn, OverwritingStore, Verdict

LAYOUT = RunLayout("digits", "digits-run")
BUILDER = "jobs.digits:build_model"
MEMBERS = 2
MOMENTS = ["claim", "opened", "checkpoint", "final", "selection", "done", "result.json", "end"]
WAIT_S = 30.0
"""Longer than any operation in memory takes: a wait that comes to its end is a failure."""


class Killed(BaseException):
    """Stands for SIGKILL: nothing of the product's may catch it."""


class Player:
    """A coordinator or worker in a thread of its own, which asks before each operation of its store.

    Attributes:
        waiting_at: the operation that it would do next; None once it has ended.
        outcome: what it returned or raised; None while it lives.
    """

    def __init__(self, store: Store, play: Callable[[Store, Player], object]) -> None:
        self.outcome: object = None
        self.term = 0
        self._asked: SimpleQueue[str | None] = SimpleQueue()
        self._verdicts: SimpleQueue[Verdict | None] = SimpleQueue()
        self._play = play
        self._thread = threading.Thread(target=self._run, args=(GatedStore(store, self._ask),), daemon=True)
        self._thread.start()
        self.waiting_at = self._asked.get(timeout=WAIT_S)

    def go(self, verdict: Verdict = "go") -> None:
        """One operation further."""
        self._verdicts.put(verdict)
        self.waiting_at = self._asked.get(timeout=WAIT_S)

    def go_to_the_end(self) -> object:
        while self.waiting_at is not None:
            self.go()
        return self.outcome

    def kill(self) -> None:
        """It does not come back from where it waits."""
        if self.waiting_at is not None:
            self._verdicts.put(None)
            self._thread.join(WAIT_S)
            self.waiting_at = None

    def _ask(self, operation: str) -> Verdict:
        self._asked.put(operation)
        verdict = self._verdicts.get()
        if verdict is None:
            raise Killed
        return verdict

    def _run(self, store: Store) -> None:
        try:
            self.outcome = self._play(store, self)
        except (Exception, Killed) as error:
            self.outcome = error
        self._asked.put(None)


@dataclass(frozen=True)
class Template:
    """What a run's members and selection are made of, from a run that nothing disturbed."""

    request: RunRequest
    objects: dict[str, bytes]
    selection: dict[str, Any]

    def final(self, member: int) -> dict[str, Any]:
        body: dict[str, Any] = dict(self.selection["members"][member]["final"])
        return body


@pytest.fixture(autouse=True)
def _one_operation_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parallel, "ThreadPoolExecutor", InTurn)


@cache
def template() -> Template:
    job = parse_job({"name": "digits", "model": BUILDER, "data": "jobs.digits:load_data", "members": MEMBERS})
    plan = make_plan(job, {BUILDER: True})
    request = RunRequest(job, plan, LAYOUT, run_id="tuesday", spec_digest="5" * 64, code_digest="c" * 64)
    store, clock = MemoryStore(), FakeClock()
    log = open_log(store, LAYOUT.coord_log)
    rows = {"train": 4, "validation": 6}
    cluster = FakeCluster(store, LAYOUT, plan, coord_term=log.claim(), clock=clock, epochs=1, rows=rows)
    Controller(
        request, store=store, log=log, cluster=cluster, clock=clock, progress=SilentProgress(), crew=Crew(1)
    ).run()
    memory = read_run(log.records())
    blobs = {key: store.get(key) for key in store.list(f"{LAYOUT.root}/blobs")}
    return Template(request, blobs, dict(memory.selection or {}))


def open_log(store: Store, prefix: str) -> Log:
    clock = FakeClock()
    return Log.open(store, prefix, sleep=clock.sleep, monotonic=clock.monotonic)


def fresh_store() -> MemoryStore:
    store = MemoryStore()
    for key, body in template().objects.items():
        store.put(key, body)
    return store


def coordinate(store: Store, player: Player) -> str:
    """A coordinator, from its first look to its result; returns the digest of the result."""
    log = open_log(store, LAYOUT.coord_log)
    while True:  # a start claims only the log that it saw
        memory = read_run(log.records())
        if memory.done is not None:
            return digest(to_json(finished_result(store, LAYOUT, memory)))
        term = log.claim_if_unchanged()
        if term is not None:
            break
    player.term = term
    selection = memory.selection
    if selection is None:
        if memory.opened is None:
            log.append("opened", started_at=0.0)
        for member in range(MEMBERS):
            publish(store, term, member)
        selection = log.append("selection", **select(store, term)).body
    return digest(to_json(finish(store, LAYOUT, log, selection)))


def work(coordinator: int, member: int) -> Callable[[Store, Player], object]:
    """A worker that the coordinator of that term has sent."""
    return lambda store, _: publish(store, coordinator, member)


def publish(store: Store, coordinator: int, member: int) -> None:
    """Claim and publish a member, unless it is published; a `final` whose model is gone is taken back first."""
    log = open_log(store, LAYOUT.member_log(member))
    while True:
        final = read_member(log.records()).final
        if final is not None and is_there(store, final):
            return
        if log.claim_if_unchanged(coord_term=coordinator) is not None:
            break
    if final is not None:
        log.append("void", reason="its model is gone")
    model = put_blob(store, LAYOUT, f"trained for coordinator {coordinator}".encode())
    log.append("checkpoint", epoch=1, state=model.to_json())
    log.append("final", **{**template().final(member), "model": model.to_json()})


def is_there(store: Store, final: Any) -> bool:
    try:
        get_blob(store, BlobRef.from_json(final["model"], where="final"))
    except DamagedStore:
        return False
    return True


def select(store: Store, term: int) -> dict[str, Any]:
    """What `Controller` selects; another coordinator's would differ in `attempt`."""
    made = template()
    members = []
    for plan in made.request.plan.members:
        memory = read_member(open_log(store, LAYOUT.member_log(plan.index)).records())
        predictions = made.selection["members"][plan.index]["predictions"]
        members.append(MemberFacts(plan, "succeeded", 1, 0, None, memory.final, memory.final_seq, predictions))
    run = RunFacts(
        run_id="tuesday",
        attempt=term,
        tasks=tasks_of(made.selection),
        labels=made.selection["labels"],
        timing={},
        spec_digest="5" * 64,
        code_digest="c" * 64,
        data_fingerprint="f" * 64,
        versions={},
        notes=(),
    )
    return make_selection(made.request.job, run, members, lambda ref: get_blob(store, ref))


def digest(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()


def broken_promises(store: Store) -> Iterator[str]:
    """What must hold at any moment, whoever is in the middle of what."""
    records = read_records(store, LAYOUT.coord_log)
    yield from faults_of_log(records, ())
    kinds = [record.kind for record in records]
    if kinds.count("selection") > 1:
        yield f"two selections: {kinds}"
    if "done" in kinds and kinds.index("done") != len(kinds) - 1:
        yield f"something follows `done`: {kinds}"
    if LAYOUT.result in store.list(LAYOUT.root):
        result: Any = records[-1].body.get("result", {})
        if result.get("sha256") != digest(store.get(LAYOUT.result)):
            yield "result.json is not what `done` says"
    for member in range(MEMBERS):
        standing = False
        member_records = read_records(store, LAYOUT.member_log(member))
        yield from faults_of_log(member_records, ())
        for record in member_records:
            if record.kind == "final" and standing:
                yield f"member {member} is published twice"
            standing = record.kind == "final" or (standing and record.kind != "void")


class Run(RuleBasedStateMachine):
    """Coordinators and workers of one run, in any order."""

    happened: ClassVar[Counter[str]] = Counter()
    """What the model met in all its runs: a model that meets no fault proves nothing."""

    @initialize()
    def begin(self) -> None:
        self.store = fresh_store()
        self.coordinators: list[Player] = []
        self.workers: list[Player] = []

    @property
    def alive(self) -> list[Player]:
        return [each for each in self.coordinators + self.workers if each.waiting_at is not None]

    @property
    def kinds(self) -> list[str]:
        return [record.kind for record in read_records(self.store, LAYOUT.coord_log)]

    @property
    def published(self) -> list[str]:
        """Keys of the models that stand and may still go: no selection names them."""
        if "selection" in self.kinds:
            return []
        logs = [read_records(self.store, LAYOUT.member_log(member)) for member in range(MEMBERS)]
        finals: list[Any] = [read_member(records).final for records in logs]
        keys = [str(final["model"]["key"]) for final in finals if final is not None]
        return [key for key in keys if key in self.store.list(f"{LAYOUT.root}/blobs")]

    @precondition(lambda self: sum(each.waiting_at is not None for each in self.coordinators) < 3)
    @rule(point=st.sampled_from(["list", *MOMENTS]))
    def start_a_coordinator(self, point: str) -> None:
        """It is then in front of its first operation of that kind, or behind its end."""
        self.coordinators.append(Player(self.store, coordinate))
        self.advance_to(self.coordinators[-1], point)

    @precondition(lambda self: any(each.term for each in self.coordinators))
    @precondition(lambda self: sum(each.waiting_at is not None for each in self.workers) < 3)
    @rule(data=st.data(), member=st.integers(0, MEMBERS - 1), point=st.sampled_from(["claim", "checkpoint", "final"]))
    def start_a_worker(self, data: st.DataObject, member: int, point: str) -> None:
        coordinator = data.draw(st.sampled_from([each.term for each in self.coordinators if each.term]))
        self.workers.append(Player(self.store, work(coordinator, member)))
        self.advance_to(self.workers[-1], point)

    @precondition(lambda self: self.alive)
    @rule(data=st.data(), operations=st.integers(1, 40))
    def go_on(self, data: st.DataObject, operations: int) -> None:
        self.advance(data.draw(st.sampled_from(self.alive)), operations)

    @precondition(lambda self: self.alive)
    @rule(data=st.data(), point=st.sampled_from(MOMENTS))
    def go_on_to_a_create(self, data: st.DataObject, point: str) -> None:
        """Where the interesting moments are; it stops there, in front of the operation or behind it."""
        player = data.draw(st.sampled_from(self.alive))
        self.advance_to(player, point)
        if data.draw(st.booleans()):
            self.advance(player, 1)

    @precondition(lambda self: any(fallible(each.waiting_at) for each in self.alive))
    @rule(data=st.data(), verdict=st.sampled_from(["unsent", "lost"]))
    def lose(self, data: st.DataObject, verdict: Verdict) -> None:
        player = data.draw(st.sampled_from([each for each in self.alive if fallible(each.waiting_at)]))
        player.go(verdict)
        self.happened[verdict] += 1
        self.note_end(player)

    @precondition(lambda self: len(self.alive) > 1)
    @rule(data=st.data())
    def kill(self, data: st.DataObject) -> None:
        data.draw(st.sampled_from(self.alive)).kill()
        self.happened["kill"] += 1
        if self.kinds[-1:] == ["selection"]:
            self.happened["kill between selection and done"] += 1

    @precondition(lambda self: self.published)
    @rule(data=st.data())
    def lose_a_published_model(self, data: st.DataObject) -> None:
        """Everybody dies, too: a model that goes while it is being selected ends the run, which is another story."""
        for each in self.alive:
            each.kill()
        self.store.delete(data.draw(st.sampled_from(self.published)))
        self.happened["model lost"] += 1

    @precondition(lambda self: "done" in self.kinds)
    @rule()
    def go_on_with_another_run(self) -> None:
        """Nothing much can happen to this one any more."""
        self.teardown()
        self.begin()

    @invariant()
    def promises_hold(self) -> None:
        assert not list(broken_promises(self.store))

    def advance(self, player: Player, operations: int) -> None:
        for _ in range(operations):
            if player.waiting_at is None:
                return
            player.go()
        self.note_end(player)

    def advance_to(self, player: Player, point: str) -> None:
        while player.waiting_at is not None and point not in player.waiting_at:
            self.advance(player, 1)

    def note_end(self, player: Player) -> None:
        """Errors that the protocol does not know end the test."""
        if player.waiting_at is not None:
            return
        if isinstance(player.outcome, Fenced):
            self.happened["coordinator fenced" if player in self.coordinators else "worker fenced"] += 1
        elif isinstance(player.outcome, Exception):
            raise player.outcome

    def teardown(self) -> None:
        """The last start finishes the run; then all who were frozen wake up, and change nothing."""
        selected = self.kinds.count("selection")
        if selected and "done" not in self.kinds:
            self.happened["a successor finds the selection"] += 1
        last, frozen = Player(self.store, coordinate), self.alive
        try:
            assert isinstance(last.go_to_the_end(), str), last.outcome
            for player in frozen:
                player.go_to_the_end()
                self.note_end(player)
                self.happened["frozen until after the end"] += 1
            results = [each.outcome for each in [last, *self.coordinators] if isinstance(each.outcome, str)]
            assert not list(broken_promises(self.store))
            assert not list(faults_of_run(self.store, LAYOUT, MEMBERS, [], results))
        finally:
            for player in self.alive:
                player.kill()
        for member in range(MEMBERS):
            kinds = [record.kind for record in read_records(self.store, LAYOUT.member_log(member))]
            self.happened["void"] += kinds.count("void")


def fallible(operation: str | None) -> bool:
    """Operations whose failures the product retries, or may leave to the next start."""
    return (
        operation is not None and not operation.startswith("created") and ("/log" in operation or "result" in operation)
    )


def test_a_run_has_one_selection_and_one_result_under_any_interleaving_of_coordinators_and_workers() -> None:
    Run.happened.clear()
    run_machine(
        Run,
        settings=settings(
            max_examples=60,
            stateful_step_count=40,
            deadline=None,
            derandomize=True,
            suppress_health_check=[HealthCheck.too_slow],
        ),
    )
    expected = {
        *("kill", "unsent", "lost", "coordinator fenced", "worker fenced", "model lost", "void"),
        *("kill between selection and done", "a successor finds the selection", "frozen until after the end"),
    }
    assert not expected - set(+Run.happened), f"the model never met: {expected - set(+Run.happened)}"


@pytest.mark.parametrize("point", ["selection", "done"])
def test_negative_control_without_create_only_writes_a_frozen_coordinator_breaks_the_run(point: str) -> None:
    """The same checks on the same story, so that checks which could never fail would be noticed."""

    def frozen_until_its_successor_has_finished(store: Store) -> list[str]:
        frozen = Player(store, coordinate)
        while not str(frozen.waiting_at).endswith(f" {point}"):
            frozen.go()
        successor = Player(store, coordinate)
        result = str(successor.go_to_the_end())
        frozen.go_to_the_end()
        return [*broken_promises(store), *faults_of_run(store, LAYOUT, MEMBERS, [], [result])]

    assert not frozen_until_its_successor_has_finished(fresh_store())
    assert frozen_until_its_successor_has_finished(OverwritingStore(fresh_store()))  # type: ignore[arg-type]
