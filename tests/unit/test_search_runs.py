"""A search on fakes: generations, what is kept, and coordinators that die between any two records."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from orchestrator.controller import Controller, RunRequest
from orchestrator.errors import IdentityChanged, QuorumMissed
from orchestrator.planning import commands as cmd
from orchestrator.planning.outputs import ONLY
from orchestrator.planning.placement import Crew
from orchestrator.planning.plan import make_plan
from orchestrator.planning.ports import Sampler, Store
from orchestrator.planning.recovery import read_member
from orchestrator.reporting.again import evaluate_again
from orchestrator.reporting.html.search import search_section
from orchestrator.reporting.kept import search_result
from orchestrator.reporting.progress import SilentProgress
from orchestrator.reporting.report import collect
from orchestrator.reporting.result import Result
from orchestrator.reporting.status import status_of
from orchestrator.search.samplers import make_sampler
from orchestrator.spec import Job, parse_job
from orchestrator.storage.layout import RunLayout
from orchestrator.storage.log import Log
from orchestrator.storage.looks import other_looks
from orchestrator.testing import FakeClock, FakeCluster, MemoryStore
from orchestrator.testing.cluster import row_digests
from tests.support.report_pages import parse

LAYOUT = RunLayout("digits", "digits-run")
SEARCH = {"space": {"units": [16, 32, 64], "rate": {"min": 0.001, "max": 0.1, "log": True}}, "trials": 10}


class Killed(BaseException):
    """Stands for SIGKILL: nothing of ours may catch it."""


class FragileStore(MemoryStore):
    """Dies at the n-th record that is appended to the coordinator's log, before or after it is there."""

    def __init__(self) -> None:
        super().__init__()
        self.dies_at: int | None = None
        self.too_late = False  # dies with the record, else before it

    def create(self, key: str, body: bytes) -> bool:
        counts = key.startswith(LAYOUT.coord_log) and json.loads(body)["kind"] != "claim"
        if counts and self.dies_at is not None:
            self.dies_at -= 1
        if counts and self.dies_at == 0 and not self.too_late:
            raise Killed
        created = super().create(key, body)
        if counts and self.dies_at == 0:
            raise Killed
        return created


class CountsEpochs(SilentProgress):
    """Counts what is trained."""

    def __init__(self, site: Site) -> None:
        self.site = site

    def epoch(self, member: int, epoch: int, epochs: int, logs: Mapping[str, float]) -> None:
        self.site.num_epochs += 1


@dataclass
class Site:
    """A store in which coordinators of a search follow one another."""

    search: Mapping[str, Any] = field(default_factory=lambda: SEARCH)
    parts: Mapping[str, Any] = field(default_factory=dict)
    store: Store = field(default_factory=FragileStore)
    clock: FakeClock = field(default_factory=FakeClock)
    num_epochs: int = 0

    def job(self) -> Job:
        base = {"name": "digits", "model": "m:f", "data": "m:d", "members": 3, "report": {"html": False}}
        return parse_job({**base, "search": self.search, **self.parts})

    def start(self, *, num_workers: int = 2, sampler: Sampler | None = None, **cluster: Any) -> Result:
        """A coordinator claims the run and works on it to its end."""
        job = self.job()
        assert job.search is not None
        plan = make_plan(job, {}, make_sampler(job.search, job.seed).ask(job.search.generation))
        request = RunRequest(job, plan, LAYOUT, run_id="tuesday", spec_digest="5" * 64, code_digest="c" * 64)
        log = self.log(LAYOUT.coord_log)
        term = log.claim(at=self.clock.epoch())
        self.cluster = FakeCluster(self.store, LAYOUT, plan, coord_term=term, clock=self.clock, **cluster)
        controller = Controller(
            request,
            store=self.store,
            log=log,
            cluster=self.cluster,
            clock=self.clock,
            progress=CountsEpochs(self),
            crew=Crew(num_workers),
            sampler=sampler or make_sampler(job.search, job.seed),
        )
        return controller.run()

    def log(self, prefix: str) -> Log:
        return Log.open(self.store, prefix, sleep=self.clock.sleep, monotonic=self.clock.monotonic)

    def bodies(self, kind: str) -> list[Any]:
        return [record.body for record in self.log(LAYOUT.coord_log).records() if record.kind == kind]

    def asked(self) -> list[list[Mapping[str, Any]]]:
        return [body["params"] for body in self.bodies("generation")]

    def commands(self, kind: type) -> list[Any]:
        return [command for command in self.cluster.sent if isinstance(command, kind)]


@pytest.fixture(scope="module")
def straight() -> tuple[Site, Result]:
    """A search that nothing interrupts."""
    site = Site()
    return site, site.start()


def selected(site: Site) -> Any:
    """What the selection fixes, without when and by whom."""
    selection = dict(site.bodies("selection")[-1])
    for entry in (*selection["members"], *selection["search"]["others"]):
        for key in ("final", "predictions", "seq", "attempts", "preemptions", "message"):
            entry.pop(key)
    return {key: selection[key] for key in ("members", "search", "weights", "used_for")}


def test_each_generation_is_recorded_before_it_trains_and_told_of_the_one_before(
    straight: tuple[Site, Result],
) -> None:
    site, _ = straight
    assert [len(params) for params in site.asked()] == [3, 3, 3, 1]
    told = [body["told"] for body in site.bodies("generation")]
    assert [len(each) for each in told] == [0, 3, 3, 3]
    assert all(isinstance(score, float) for each in told for score in each)
    trained = [command.members for command in site.commands(cmd.TrainPack)]
    assert sorted(index for members in trained for index in members) == list(range(10))
    assert [command.trials for command in site.commands(cmd.LookAtTrials)] == [(3, 4, 5), (6, 7, 8), (9,)]
    assert len(site.commands(cmd.StartWorker)) == 2, "workers stay warm from generation to generation"


def test_the_best_trials_are_the_members_and_the_others_are_only_trials(straight: tuple[Site, Result]) -> None:
    site, result = straight
    assert result.status == "succeeded"
    assert result.search is not None
    trials = result.search.trials
    assert [trial.index for trial in trials] == list(range(10))
    assert [trial.generation for trial in trials] == [0, 0, 0, 1, 1, 1, 2, 2, 2, 3]
    assert [dict(trial.hyperparameters) for trial in trials] == [each for g in site.asked() for each in g]
    best = sorted(trials, key=lambda trial: trial.score if trial.score is not None else np.inf)[:3]
    assert [m.index for m in result.members] == sorted(trial.index for trial in best)
    assert [trial.index for trial in trials if trial.kept] == [m.index for m in result.members]
    for trial, member in ((trials[m.index], m) for m in result.members):
        assert member.validation is not None
        assert trial.score == member.validation.nll
        assert member.hyperparameters == trial.hyperparameters
    assert set(result.search.importance) == {"units", "rate"}
    assert result.validation is not None
    assert "search" in result.validation.ensemble.scored_on
    copies = {key.split("/")[3] for key in site.store.list(LAYOUT.members) if key.endswith("best.keras")}
    assert copies == {str(member.index) for member in result.members}


def test_other_runs_count_the_trials(straight: tuple[Site, Result]) -> None:
    site, _ = straight
    looks = other_looks(site.store, RunLayout("digits", "another"), row_digests("f" * 64).values())
    assert (looks.runs, looks.members, looks.trials) == (1, 3, 10)


@pytest.mark.parametrize("num_workers", [1, 4])
def test_the_number_of_workers_changes_no_trial(straight: tuple[Site, Result], num_workers: int) -> None:
    other = Site()
    other.start(num_workers=num_workers, seed=5)
    assert other.asked() == straight[0].asked()
    assert selected(other) == selected(straight[0])


@pytest.mark.parametrize(
    ("dies_at", "too_late"), [*((n, False) for n in range(1, 11)), (1, True), (4, True), (10, True)]
)
def test_a_search_killed_at_any_record_goes_on_with_the_same_trials(
    straight: tuple[Site, Result], dies_at: int, too_late: bool
) -> None:
    site = Site()
    assert isinstance(site.store, FragileStore)
    site.store.dies_at, site.store.too_late = dies_at, too_late
    with pytest.raises(Killed):
        site.start()
    site.store.dies_at = None
    result = site.start(num_workers=1, seed=3)
    assert [body["params"] for body in site.bodies("generation")] == straight[0].asked()
    assert selected(site) == selected(straight[0])
    assert result.search == straight[1].search


def test_the_kill_points_are_all_the_records_there_are(straight: tuple[Site, Result]) -> None:
    kinds = [record.kind for record in straight[0].log(LAYOUT.coord_log).records() if record.kind != "claim"]
    assert len(kinds) == 11
    assert kinds.count("generation") == 4
    assert kinds.count("packed") == 4


def test_failed_and_diverged_trials_are_told_as_failed_and_break_nothing() -> None:
    site = Site()
    result = site.start(faults={(1, 1): "diverge", (4, 1): "user_error"})
    assert {fault for *_, fault in site.cluster.fired} == {"diverge", "user_error"}
    told = [score for body in site.bodies("generation") for score in body["told"]]
    assert [index for index, score in enumerate(told) if score is None] == [1, 4]
    assert result.status == "succeeded"
    assert result.search is not None
    assert {t.index: t.status for t in result.search.trials if t.score is None} == {1: "diverged", 4: "failed"}
    assert len(result.members) == 3


def test_a_search_with_too_few_usable_trials_misses_its_quorum() -> None:
    site = Site({**SEARCH, "sampler": "random", "trials": 4}, {"members": 4})
    with pytest.raises(QuorumMissed, match="only 3 of 4 members, 4 needed"):
        site.start(faults={(2, 1): "diverge"})


def test_with_a_quorum_fewer_usable_trials_make_a_partial_result() -> None:
    site = Site({**SEARCH, "sampler": "random", "trials": 4}, {"members": 4, "ensemble": {"quorum": 2}})
    result = site.start(faults={(2, 1): "diverge"})
    assert (result.status, result.exit_code, [m.index for m in result.members]) == ("partial", 0, [0, 1, 3])


def test_greedy_selection_keeps_few_trials_with_their_weights_and_is_cross_fitted() -> None:
    site = Site({**SEARCH, "keep": "greedy"}, {"ensemble": {"combine": "weighted"}})
    result = site.start()
    assert result.weights is not None
    assert result.weights.method == "greedy"
    assert result.weights.members == tuple(member.index for member in result.members)
    assert 1 <= len(result.members) <= 3
    assert all(weight > 0 for weight in result.weights.values)
    assert sum(result.weights.values) == pytest.approx(1)
    assert result.status == "succeeded"
    assert result.validation is not None
    weighted = result.validation.weighted
    assert weighted is not None
    assert "cross-fitted" in weighted.scored_on
    # What chooses among ten trials of noise flatters itself: the honest figure is worse than the naive one.
    assert weighted.nll is not None
    assert weighted.naive["nll"] < weighted.nll


def test_evaluate_can_choose_anew_from_all_trials(straight: tuple[Site, Result]) -> None:
    site, result = straight
    spec = {"job": site.job().model_dump(mode="json")}
    site.store.put(LAYOUT.spec, json.dumps(spec).encode())
    greedy, _ = evaluate_again(site.store, LAYOUT, ["search.keep=greedy"])
    assert greedy.weights is not None
    assert greedy.weights.method == "greedy"
    straight_greedy = Site({**SEARCH, "keep": "greedy"}).start()
    assert [m.index for m in greedy.members] == [m.index for m in straight_greedy.members]
    same, differences = evaluate_again(site.store, LAYOUT)
    assert differences == ()
    assert [m.index for m in same.members] == [m.index for m in result.members]


def test_status_tells_of_all_trials(straight: tuple[Site, Result]) -> None:
    site, _ = straight
    spec = {"run_id": "tuesday", "job": site.job().model_dump(mode="json")}
    site.store.put(LAYOUT.spec, json.dumps(spec).encode())
    told = status_of(site.store, LAYOUT, now=site.clock.epoch())
    assert (told.num_members, told.num_done, len(told.members)) == (3, 3, 10)
    assert {member.status for member in told.members} == {"succeeded"}


def test_the_report_and_the_table_show_the_search() -> None:
    site = Site(parts={"report": {"html": True}})
    result = site.start(faults={(5, 1): "diverge"})
    page = parse(site.store.get(LAYOUT.report))
    assert (page.mistakes, page.unclosed, page.handlers()) == ([], [], [])
    section = page.section("search").text
    assert result.search is not None
    for told in ("TPE (Bayesian)", "10 of 10, 9 of them with a usable model", "the 3 best of 10 trials", "diverged"):
        assert told in section
    for trial in result.search.trials:
        assert f"{trial.hyperparameters['rate']:g}" in section
    assert "of worker time for 9 trained trials" in page.section("size").text, "not for the members alone"
    charts = [svg.attributes["aria-label"] for svg in page.all("svg") if svg.attributes["class"] == "chart"]
    assert any(label.startswith("nll of 9 trials in their order; the lowest is") for label in charts)
    assert any(label.startswith("importance of parameters: ") for label in charts)
    assert any(label.startswith("timeline of 10 attempts") for label in charts)
    table = str(result)
    assert "search: 10 trials by tpe, compared by nll on validation" in table
    assert "members are the 3 best of 10 trials" in table


def test_the_output_by_which_trials_are_compared_is_told(straight: tuple[Site, Result]) -> None:
    site, result = straight
    records = site.log(LAYOUT.coord_log).records()
    selection = next(record.body for record in records if record.kind == "selection")
    assert selection["search"]["output"] == ONLY
    told = search_result({**selection, "search": {**selection["search"], "output": "mass"}})
    several = result.model_copy(update={"search": told})
    assert "compared by nll for mass on validation" in str(several)
    section = search_section(collect(site.store, LAYOUT, several))
    assert section is not None
    assert "nll for mass on the validation set" in str(section.parts[0])


def test_a_deadline_ends_the_search_with_what_there_is() -> None:
    site = Site(parts={"ensemble": {"deadline": 8.0, "quorum": 1}})
    result = site.start()
    assert result.search is not None
    assert 3 <= len(result.search.trials) < 10
    assert result.search.planned == 10
    assert result.members


def test_a_sampler_that_asks_otherwise_than_the_records_say_is_refused() -> None:
    site = Site()
    assert isinstance(site.store, FragileStore)
    site.store.dies_at = 3
    with pytest.raises(Killed):
        site.start()
    site.store.dies_at = None
    job = site.job()
    assert job.search is not None
    with pytest.raises(IdentityChanged, match="generation 0 tried"):
        site.start(sampler=make_sampler(job.search, seed=99))


@pytest.mark.parametrize("fault", ["crash", "preempted", "unheard", "out_of_memory"])
def test_trials_are_retried_as_members_are(straight: tuple[Site, Result], fault: Any) -> None:
    site = Site()
    site.start(faults={(4, 1): fault})
    assert site.cluster.fired
    assert site.asked() == straight[0].asked()
    assert selected(site) == selected(straight[0])


def test_the_report_tells_who_was_pruned() -> None:
    site = Site(PRUNED, {**EIGHT_EPOCHS, "report": {"html": True}})
    site.start(epochs=8)
    section = parse(site.store.get(LAYOUT.report)).section("search").text
    assert "16 trials, at the score that they had then" in section
    assert "pruned: its score then" in section


PRUNED = {"space": SEARCH["space"], "trials": 18, "parallel": 9, "pruning": {"min_epochs": 1}}
EIGHT_EPOCHS = {"members": 2, "train": {"epochs": 8}}


@pytest.fixture(scope="module")
def halved() -> tuple[Site, Result]:
    """A search with successive halving that nothing interrupts."""
    site = Site(PRUNED, EIGHT_EPOCHS)
    return site, site.start(epochs=8)


def epochs_of(site: Site, trial: int) -> int:
    final = read_member(site.log(LAYOUT.member_log(trial)).records()).final
    assert final is not None
    return int(final["epochs"])


def test_the_best_of_each_rung_go_on_from_their_checkpoints(halved: tuple[Site, Result]) -> None:
    site, result = halved
    rungs = [(len(body["trials"]), body["epochs"]) for body in site.bodies("rung")]
    assert rungs == [(3, 3), (1, 8), (3, 3), (1, 8)]
    assert result.search is not None
    last = [body["trials"] for body in site.bodies("rung") if body["epochs"] == 8]
    assert [member.index for member in result.members] == sorted(trial for trials in last for trial in trials)
    pruned = {trial.index for trial in result.search.trials if trial.status == "pruned"}
    assert len(pruned) == 16
    assert all(result.search.trials[trial].score is not None for trial in pruned)
    assert sorted(epochs_of(site, trial) for trial in range(18)) == [1] * 12 + [3] * 4 + [8] * 2
    assert site.num_epochs == 18 + 6 * 2 + 2 * 5, "no epoch is trained twice"


@pytest.mark.parametrize("dies_at", range(1, 12))
def test_a_halved_search_killed_at_any_record_goes_on_with_the_same_rungs(
    halved: tuple[Site, Result], dies_at: int
) -> None:
    site = Site(PRUNED, EIGHT_EPOCHS)
    assert isinstance(site.store, FragileStore)
    site.store.dies_at, site.store.too_late = dies_at, True
    with pytest.raises(Killed):
        site.start(epochs=8)
    site.store.dies_at = None
    result = site.start(num_workers=1, epochs=8, seed=3)
    assert site.asked() == halved[0].asked()
    assert [body["trials"] for body in site.bodies("rung")] == [body["trials"] for body in halved[0].bodies("rung")]
    assert selected(site) == selected(halved[0])
    assert result.search == halved[1].search


def test_at_the_deadline_trials_on_a_rung_count_with_their_best_epoch_so_far() -> None:
    site = Site(PRUNED, {**EIGHT_EPOCHS, "ensemble": {"deadline": 10.0, "quorum": 1}})
    result = site.start(epochs=8)
    assert result.search is not None
    assert (result.status, result.late, result.search.planned) == ("partial", (4,), 18)
    left = {t.index: (t.status, t.epochs) for t in result.search.trials if t.status != "pruned"}
    assert left == {0: ("succeeded", 3), 2: ("succeeded", 3), 4: ("late", 1)}
    assert [member.attempts for member in result.members] == [1, 1], "neither a rung nor the deadline is an attempt"


def test_a_rung_of_a_dead_coordinator_that_is_past_the_deadline_trains_nobody() -> None:
    """Their models are taken back, and published again from the checkpoints that they have."""
    site = Site(PRUNED, {**EIGHT_EPOCHS, "ensemble": {"deadline": 10.0, "quorum": 1}})
    assert isinstance(site.store, FragileStore)
    site.store.dies_at, site.store.too_late = 4, True
    with pytest.raises(Killed):
        site.start(epochs=8)
    assert site.log(LAYOUT.coord_log).records()[-1].kind == "rung"
    site.store.dies_at = None
    site.clock.advance(60.0)
    trained = site.num_epochs
    result = site.start(epochs=8)
    assert site.num_epochs == trained
    assert [(epochs_of(site, trial)) for trial in site.bodies("rung")[0]["trials"]] == [1, 1, 1]
    assert (result.status, result.late) == ("partial", (0, 4))


def test_a_coordinator_that_dies_between_a_rung_and_its_models_taken_back_has_them_taken_back_later(
    halved: tuple[Site, Result],
) -> None:
    site = Site(PRUNED, EIGHT_EPOCHS)
    assert isinstance(site.store, FragileStore)
    site.store.dies_at, site.store.too_late = 4, True
    with pytest.raises(Killed):
        site.start(epochs=8)
    assert site.log(LAYOUT.coord_log).records()[-1].kind == "rung"
    going_on = site.bodies("rung")[0]["trials"]
    assert {epochs_of(site, trial) for trial in going_on} == {1}
    site.store.dies_at = None
    site.start(epochs=8)
    assert min(epochs_of(site, trial) for trial in going_on) == 3


def test_failed_trials_take_no_place_on_a_rung_and_too_few_miss_the_quorum() -> None:
    parts = {"members": 2, "train": {"epochs": 3}}
    site = Site({**PRUNED, "sampler": "random", "parallel": None, "trials": 6}, parts)
    with pytest.raises(QuorumMissed, match="only 1 of 2 members"):
        site.start(epochs=3, faults={(trial, 1): "diverge" for trial in range(5)})
    assert site.bodies("rung")[0]["trials"] == [5]
