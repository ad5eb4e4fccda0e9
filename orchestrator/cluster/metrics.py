"""A run in figures for Prometheus, through Ray: the coordinator tells them, Ray's agent on its node exports them.

Ray puts `ray_` before each name and its own labels beside ours:

    orchestrator_run_info{run, job, status}                         1 for the status that the run has
    orchestrator_members{run, status}                               how many members have it
    orchestrator_member_epoch{run, member}                          the newest epoch that it finished
    orchestrator_member_score{run, member, name}                    what Keras reported of it: loss, val_accuracy, …
    orchestrator_member_examples_per_second{run, member}            training rows; 0 after its training
    orchestrator_attempts_total{run, member}                        times that a worker was told to train it
    orchestrator_preemptions_total{run, member}                     attempts that ended because a node was taken or lost
    orchestrator_failures_total{run, member, cause}                 attempts that ended for another reason
    orchestrator_uploads_total{run}                                 checkpoints and models brought to storage
    orchestrator_upload_seconds_total{run}                          what that took

A gauge that is not set again is forgotten by Ray (after twenty seconds, unless `RAY_metrics_report_interval_ms` says
otherwise), so those of the run and of members in training are told every few seconds. With the process that
coordinates the run they end.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, get_args

import ray
from ray.util import metrics as ray_metrics
from ray.util.client import ray as ray_client

from orchestrator.planning import commands as cmd
from orchestrator.planning import events as ev
from orchestrator.planning.schedule_state import MemberState, MemberStatus

MAX_MEMBERS = 1_000
"""Members that have figures of their own; each is a handful of time series in Prometheus. The others are counted."""

TELL_EVERY_S = 5.0
"""How often gauges are set again, and members counted; Ray exports every ten seconds."""

_ALL_STATUSES: tuple[str, ...] = (*get_args(MemberStatus), "stopped")
_SETTLED = frozenset({"done", "failed", "diverged", "not_started", "unneeded"})
_PREEMPTIONS = (ev.Cause.PREEMPTED, ev.Cause.NODE_LOST)


def endpoint() -> str | None:
    """Where Prometheus finds what this process tells: at Ray's agent on its node, on a Ray of a job's own, too.

    None: nowhere. Through Ray's client (`ray://`) this process is on no node.
    """
    if ray_client.is_connected():
        return None
    own = ray.get_runtime_context().get_node_id()
    for node in ray.nodes():
        if node["NodeID"] == own and node.get("MetricsExportPort", 0) > 0:
            return f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
    return None


class RayMetrics:
    """The `Observer` that tells Ray.

    Whatever Ray makes of it, the run goes on: the first error is noted, and nothing is measured any more.

    Args:
        run_id, job: which run.
        note: tells people.
        registry: has `Gauge` and `Counter` as `ray.util.metrics` does.
        monotonic: seconds that never go back.
        find: where Prometheus finds all this, for people to know.
    """

    def __init__(
        self,
        run_id: str,
        job: str,
        note: Callable[[str], None],
        *,
        registry: Any = ray_metrics,
        monotonic: Callable[[], float] = time.monotonic,
        find: Callable[[], str | None] = endpoint,
    ) -> None:
        self._run, self._job, self._note = {"run": run_id}, job, note
        self._monotonic = monotonic
        self._tell_at = monotonic()
        self._members: Mapping[int, MemberState] = {}
        self._training: dict[int, ev.EpochEnded] = {}  # the newest epoch of each member that has a row of its own
        self._status = "running"
        self._broken = False
        self._guarded(self._make, registry)
        self._guarded(self._tell)
        self._guarded(self._announce, find)

    def happened(self, event: ev.Event) -> None:
        self._guarded(self._take, event)

    def ordered(self, command: cmd.Command) -> None:
        self._guarded(self._carry, command)

    def stands(self, members: Mapping[int, MemberState]) -> None:
        self._members = members
        if self._monotonic() >= self._tell_at:
            self._tell_at = self._monotonic() + TELL_EVERY_S
            self._guarded(self._tell)

    def ended(self, status: str) -> None:
        self._guarded(self._end, status)

    def _guarded(self, call: Callable[..., None], *arguments: object) -> None:
        if self._broken:
            return
        try:
            call(*arguments)
        except Exception as error:  # whatever is wrong with metrics, the run is not to suffer
            self._broken = True
            self._note(f"no metrics from here on: {type(error).__name__}: {error}")

    def _announce(self, find: Callable[[], str | None]) -> None:
        place = find()
        self._note(f"metrics for Prometheus: {place or 'none, for this process is on no node of Ray'}")

    def _make(self, registry: Any) -> None:
        gauge, counter = registry.Gauge, registry.Counter
        of_member = ("run", "member")
        self._info = gauge("orchestrator_run_info", "1 for the status that a run has.", ("run", "job", "status"))
        self._counts = gauge("orchestrator_members", "Members of a run by status.", ("run", "status"))
        self._epoch = gauge("orchestrator_member_epoch", "The newest epoch that a member finished.", of_member)
        self._score = gauge(
            "orchestrator_member_score", "What Keras reported of a member's newest epoch.", (*of_member, "name")
        )
        self._rate = gauge(
            "orchestrator_member_examples_per_second", "Training rows in a second; 0 after its training.", of_member
        )
        self._attempts = counter("orchestrator_attempts_total", "Times that a worker was to train it.", of_member)
        self._preemptions = counter(
            "orchestrator_preemptions_total", "Attempts that ended because a node was taken or lost.", of_member
        )
        self._failures = counter(
            "orchestrator_failures_total", "Attempts that ended for another reason.", (*of_member, "cause")
        )
        self._uploads = counter("orchestrator_uploads_total", "Checkpoints and models brought to storage.", ("run",))
        self._upload_s = counter("orchestrator_upload_seconds_total", "Seconds that uploads took.", ("run",))

    def _take(self, event: ev.Event) -> None:
        match event:
            case ev.EpochEnded(member=member) if member < MAX_MEMBERS:
                self._training[member] = event
                self._tell_epoch(event)
            case ev.Checkpointed(upload_s=float(upload_s)):
                self._uploaded(upload_s)
            case ev.MemberTrained(member=member, upload_s=upload_s):
                self._rest(member)
                if upload_s is not None:
                    self._uploaded(upload_s)
            case ev.MemberDiverged(member=member) | ev.AttemptFailed(member=member):
                self._rest(member)

    def _carry(self, command: cmd.Command) -> None:
        match command:
            case cmd.TrainPack(members=members):
                for member in members:
                    self._attempts.inc(1, self._tags(member))
            case cmd.RecordEnded(member=member, cause=cause):
                self._rest(member)
                if cause in _PREEMPTIONS:
                    self._preemptions.inc(1, self._tags(member))
                else:
                    self._failures.inc(1, {**self._tags(member), "cause": cause.value})

    def _uploaded(self, upload_s: float) -> None:
        self._uploads.inc(1, self._run)
        if upload_s > 0:  # Ray refuses to count by nothing
            self._upload_s.inc(upload_s, self._run)

    def _rest(self, member: int) -> None:
        if self._training.pop(member, None) is not None:
            self._rate.set(0, self._tags(member))

    def _tags(self, member: int) -> dict[str, str]:
        return {**self._run, "member": str(member) if member < MAX_MEMBERS else "further"}

    def _tell(self) -> None:
        """Set the gauges of the run, and of whom is trained."""
        self._info.set(1, {**self._run, "job": self._job, "status": self._status})
        if self._members:  # there are none known where a predecessor has trained them all
            self._count()
        for event in self._training.values():
            self._tell_epoch(event)

    def _tell_epoch(self, event: ev.EpochEnded) -> None:
        tags = self._tags(event.member)
        self._epoch.set(event.epoch, tags)
        for name, value in event.logs.items():
            self._score.set(float(value), {**tags, "name": name})
        if event.examples_per_s is not None:
            self._rate.set(event.examples_per_s, tags)

    def _count(self) -> None:
        """Tell how many members have each status; of a run that is over nobody works on one any more."""
        over = self._status != "running"
        told = (member.status for member in self._members.values())
        counts = Counter("stopped" if over and status not in _SETTLED else status for status in told)
        for status in _ALL_STATUSES:
            self._counts.set(counts[status], {**self._run, "status": status})

    def _end(self, status: str) -> None:
        for member in list(self._training):
            self._rest(member)
        self._info.set(0, {**self._run, "job": self._job, "status": self._status})
        self._status = status
        self._tell()
