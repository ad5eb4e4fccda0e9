"""The run in figures: what is told to Ray of each event, and that nothing of it can fail a run."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from orchestrator.cluster.metrics import MAX_MEMBERS, TELL_EVERY_S, RayMetrics
from orchestrator.planning import commands as cmd
from orchestrator.planning import events as ev
from orchestrator.planning.packs import Pack
from orchestrator.planning.schedule_state import MemberState

RUN = "scheduled__2026-11-21"
URL = "http://127.0.0.1:8080/metrics"


class Registry:
    """Stands for `ray.util.metrics`: keeps what it was told, and refuses what Ray refuses."""

    def __init__(self, broken: Callable[[str], bool] = lambda name: False) -> None:
        self.values: dict[tuple[str, frozenset[tuple[str, str]]], float] = {}
        self.calls = 0
        self._broken = broken

    def Gauge(self, name: str, description: str, tag_keys: tuple[str, ...]) -> Any:  # noqa: N802  # Ray's name
        return _Instrument(self, name, description, tag_keys)

    Counter = Gauge

    def record(self, name: str, tags: Mapping[str, str], value: float, *, add: bool) -> None:
        self.calls += 1
        if self._broken(name):
            raise RuntimeError("the metrics agent is gone")
        key = name, frozenset(tags.items())
        self.values[key] = self.values.get(key, 0.0) + value if add else value

    def value(self, name: str, /, **tags: str) -> float | None:
        return self.values.get((f"orchestrator_{name}", frozenset({"run": RUN, **tags}.items())))


class _Instrument:
    def __init__(self, registry: Registry, name: str, description: str, tag_keys: tuple[str, ...]) -> None:
        assert description
        self._registry, self._name, self._tag_keys = registry, name, set(tag_keys)

    def set(self, value: float, tags: Mapping[str, str]) -> None:
        self._record(value, tags, add=False)

    def inc(self, value: float, tags: Mapping[str, str]) -> None:
        assert value > 0
        self._record(value, tags, add=True)

    def _record(self, value: float, tags: Mapping[str, str], *, add: bool) -> None:
        assert set(tags) == self._tag_keys
        assert all(isinstance(tag, str) for tag in tags.values())
        assert isinstance(value, int | float)
        self._registry.record(self._name, tags, value, add=add)


class Site:
    """A run that is measured."""

    def __init__(self, registry: Registry | None = None) -> None:
        self.registry = registry or Registry()
        self.value = self.registry.value
        self.notes: list[str] = []
        self.now = 0.0
        self.metrics = RayMetrics(
            RUN, "digits", self.notes.append, registry=self.registry, monotonic=lambda: self.now, find=lambda: URL
        )

    def stands(self, *statuses: Any) -> None:
        self.now += TELL_EVERY_S
        self.metrics.stands({index: MemberState(status) for index, status in enumerate(statuses)})


@pytest.fixture
def site() -> Site:
    return Site()


def train(*members: int) -> cmd.TrainPack:
    return cmd.TrainPack("w0", Pack(0, members, "solo"), members)


def test_a_run_is_running_from_its_beginning_and_ends_as_its_result_says(site: Site) -> None:
    assert site.value("run_info", job="digits", status="running") == 1
    site.metrics.ended("partial")
    assert site.value("run_info", job="digits", status="running") == 0
    assert site.value("run_info", job="digits", status="partial") == 1


def test_where_prometheus_finds_it_is_said(site: Site) -> None:
    assert site.notes == [f"metrics for Prometheus: {URL}"]


def test_members_are_counted_by_status_those_that_none_has_included(site: Site) -> None:
    site.stands("done", "running", "running", "waiting")
    assert [site.value("members", status=s) for s in ("done", "running", "waiting", "failed")] == [1, 2, 1, 0]
    site.stands("done", "done", "failed", "running")
    assert [site.value("members", status=s) for s in ("done", "running", "waiting", "failed")] == [2, 1, 0, 1]


def test_gauges_are_set_again_and_again_for_ray_forgets_them(site: Site) -> None:
    for member in range(3):
        site.metrics.happened(ev.EpochEnded("w0", member, 1, 20, {"loss": 0.5}, examples_per_s=100.0))
    site.metrics.happened(ev.MemberTrained("w0", 2))
    site.registry.values.clear()
    site.stands("running", "running", "trained")
    assert site.value("run_info", job="digits", status="running") == 1
    assert [site.value("member_epoch", member=member) for member in "012"] == [1, 1, None]
    assert site.value("member_score", member="1", name="loss") == 0.5
    assert site.value("member_examples_per_second", member="1") == 100.0


def test_members_are_counted_every_five_seconds_however_often_the_loop_turns(site: Site) -> None:
    site.stands("waiting")
    before = site.registry.calls
    for _ in range(1000):
        site.metrics.stands({0: MemberState("running")})
    assert site.registry.calls == before


def test_an_epoch_tells_its_number_its_figures_by_keras_names_and_its_speed(site: Site) -> None:
    logs = {"loss": 0.5, "val_species_accuracy": 0.9}
    site.metrics.happened(ev.EpochEnded("w0", 3, 4, 20, logs, examples_per_s=1200.5))
    assert site.value("member_epoch", member="3") == 4
    assert site.value("member_score", member="3", name="loss") == 0.5
    assert site.value("member_score", member="3", name="val_species_accuracy") == 0.9
    assert site.value("member_examples_per_second", member="3") == 1200.5


def test_a_first_epoch_has_no_speed(site: Site) -> None:
    site.metrics.happened(ev.EpochEnded("w0", 3, 1, 20, {}))
    assert site.value("member_examples_per_second", member="3") is None


@pytest.mark.parametrize(
    "end",
    [
        ev.MemberTrained("w0", 3),
        ev.MemberDiverged("w0", 3, "NaN"),
        ev.AttemptFailed("w0", 3, ev.Cause.USER_ERROR, "it raises"),
        cmd.RecordEnded(3, 1, ev.Cause.CRASH, "killed"),
        "stopped",
    ],
)
def test_a_member_that_trains_no_more_has_no_speed_but_keeps_its_figures(site: Site, end: Any) -> None:
    site.metrics.happened(ev.EpochEnded("w0", 3, 4, 20, {"loss": 0.5}, examples_per_s=100.0))
    if isinstance(end, str):
        site.metrics.ended(end)
    elif isinstance(end, cmd.RecordEnded):
        site.metrics.ordered(end)
    else:
        site.metrics.happened(end)
    assert site.value("member_examples_per_second", member="3") == 0
    assert site.value("member_score", member="3", name="loss") == 0.5


def test_attempts_preemptions_and_failures_are_counted_by_member(site: Site) -> None:
    for cause in (ev.Cause.PREEMPTED, ev.Cause.NODE_LOST, ev.Cause.CRASH):
        site.metrics.ordered(train(0, 1))
        site.metrics.ordered(cmd.RecordEnded(1, 1, cause, "gone"))
    assert [site.value("attempts_total", member=member) for member in ("0", "1")] == [3, 3]
    assert site.value("preemptions_total", member="1") == 2
    assert site.value("failures_total", member="1", cause="crash") == 1
    assert site.value("preemptions_total", member="0") is None


def test_uploads_are_counted_with_their_seconds_whatever_they_brought(site: Site) -> None:
    site.metrics.happened(ev.Checkpointed("w0", 0, 2, upload_s=0.5))
    site.metrics.happened(ev.Checkpointed("w0", 1, 2))  # it went with the first
    site.metrics.happened(ev.MemberTrained("w0", 0, upload_s=0.25))
    site.metrics.happened(ev.MemberTrained("w0", 1, upload_s=0.0))  # a clock of large steps
    assert site.value("uploads_total") == 3
    assert site.value("upload_seconds_total") == 0.75


def test_after_the_end_nobody_is_running(site: Site) -> None:
    site.stands("done", "running", "publishing", "failed", "waiting")
    site.metrics.ended("stopped")
    assert [site.value("members", status=s) for s in ("done", "failed", "stopped")] == [1, 1, 3]
    assert [site.value("members", status=s) for s in ("running", "publishing", "waiting")] == [0, 0, 0]


def test_a_run_whose_members_a_predecessor_trained_claims_no_number_of_them(site: Site) -> None:
    site.metrics.ended("succeeded")
    assert site.value("members", status="done") is None
    assert site.value("run_info", job="digits", status="succeeded") == 1


def test_of_very_many_members_the_first_have_series_of_their_own_and_all_are_counted(site: Site) -> None:
    for member in range(MAX_MEMBERS - 1, MAX_MEMBERS + 500):
        site.metrics.happened(ev.EpochEnded("w0", member, 1, 2, {"loss": 0.5}, examples_per_s=1.0))
        site.metrics.ordered(train(member))
        site.metrics.ordered(cmd.RecordEnded(member, 1, ev.Cause.CRASH, "killed"))
    tagged = {dict(tags)["member"] for _, tags in site.registry.values if "member" in dict(tags)}
    assert tagged == {str(MAX_MEMBERS - 1), "further"}
    assert site.value("attempts_total", member="further") == 500
    assert site.value("member_epoch", member=str(MAX_MEMBERS)) is None


@pytest.mark.parametrize("broken", ["run_info", "members", "member_epoch", "attempts_total"])
def test_broken_metrics_are_noted_once_and_the_run_goes_on(broken: str) -> None:
    site = Site(Registry(lambda name: name == f"orchestrator_{broken}"))
    for member in range(3):
        site.stands("running")
        site.metrics.ordered(train(member))
        site.metrics.happened(ev.EpochEnded("w0", member, 1, 2, {"loss": math.nan}))
    site.metrics.ended("succeeded")
    assert site.notes[-1] == "no metrics from here on: RuntimeError: the metrics agent is gone"
    assert len([note for note in site.notes if "from here on" in note]) == 1


def test_metrics_that_cannot_even_be_made_fail_nothing() -> None:
    class Nothing(Registry):
        Gauge = None  # type: ignore[assignment]

    site = Site(Nothing())
    site.stands("running")
    site.metrics.ended("succeeded")
    assert len(site.notes) == 1
