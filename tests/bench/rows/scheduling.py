"""P6: a thousand members that only sleep, on real Ray, against bare Ray actors that sleep as often.

From the first member that is sent to a worker to the last whose predictions are told of; the actors are up by then, the
rival's as well. With the store in memory, workers write nothing (their processes could not see it): the coordinator's
side notes what they would have written, between two polls.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from orchestrator.planning import commands as cmd
from orchestrator.planning import events as ev
from orchestrator.planning.ports import Cluster
from tests.bench.harness import ROOT, Bar, Bench, Contestant, Figure, problem_of, ratios
from tests.bench.rivals.common import NUM_WORKERS
from tests.bench.sleeper import Publisher, Sleeper
from tests.bench.tasks import job_of, make_task


def measure(bench: Bench) -> Iterator[Figure]:
    """1,000 members that sleep 0.05 s, against bare Ray actors"""
    num_members = 40 if bench.quick else 1000

    def run(module: str, *arguments: str) -> Contestant:
        return lambda: bench.process(module, *arguments, str(num_members), deadline_s=900)

    here = "tests.bench.rows.scheduling"
    found = bench.run(
        {
            "bare": run("tests.bench.rivals.ray_sleepers"),
            "memory": run(here, "memory"),
            "folder": run(here, "folder"),
        },
        rounds=3,
    )
    for name, where, bar in (
        ("memory", "store in memory", Bar(1.1, at_most=True)),
        ("folder", "store in a local folder", None),
    ):
        yield Figure(
            "P6",
            f"{num_members} members, {NUM_WORKERS} workers, {where}: time as a multiple",
            "bare Ray actors",
            ratios(found[name], found["bare"], lambda outcome: float(outcome.facts["span_s"])),
            bar=bar,
            problem=problem_of(found[name], found["bare"]),
            facts={"ours": found[name].facts(), "rival": found["bare"].facts()},
        )
    for what, fact, unit, bar in (
        ("coordinator's CPU time per member, last quarter over second", "cost_growth", "×", Bar(1.25, at_most=True)),
        ("coordinator's CPU time per member", "cost_ms", "ms", None),
        ("coordinator's memory, after the last over after a quarter", "memory_growth", "×", Bar(1.05, at_most=True)),
    ):
        yield Figure(
            "P6",
            f"{what} (local folder)",
            values=tuple(float(outcome.facts[fact]) for outcome in found["folder"].outcomes),
            unit=unit,
            bar=bar,
            problem=problem_of(found["folder"]),
        )


@dataclass(frozen=True)
class Mark:
    """The coordinator when one more member was through: CPU seconds of its thread and of its whole process, which Ray's
    own threads share, and its memory in bytes."""

    cpu_s: float
    process_s: float
    memory_bytes: int

    @classmethod
    def now(cls) -> Mark:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return cls(time.thread_time(), time.process_time(), pages * 4096)


class WatchedCluster:
    """The `Cluster` port around another one: it notes when the first member is sent off and when each is through.

    Args:
        inner: the workers.
        publisher: writes what they would have written; None: they write themselves.
        num_workers: how many there are.
    """

    def __init__(self, inner: Cluster, publisher: Publisher | None, num_workers: int = NUM_WORKERS) -> None:
        self._inner, self._publisher, self._num_workers = inner, publisher, num_workers
        self.began: float | None = None
        self.ended = 0.0
        self.marks: list[Mark] = []
        self._unwritten: list[int] = []
        self._ready: list[ev.WorkerReady] = []
        self._are_up = False
        self._predictions: dict[str, Any] = {}
        self._labels: dict[str, Any] = {}

    def shape(self) -> Any:
        return self._inner.shape()

    def send(self, commands: Iterable[cmd.WorkerCommand]) -> None:
        commands = list(commands)
        if self.began is None and any(isinstance(command, cmd.TrainPack) for command in commands):
            self.began = time.perf_counter()
        self._inner.send(commands)

    def poll(self, timeout_s: float) -> Sequence[ev.Event]:
        self._write()
        return [self._seen(event) for event in self._together(self._inner.poll(timeout_s))]

    def close(self) -> None:
        self._inner.close()

    def _together(self, events: Sequence[ev.Event]) -> list[ev.Event]:
        """Workers are ready when all are, as the rival waits for all its actors: what they cost to start is P4."""
        if self._are_up:
            return list(events)
        self._ready += [event for event in events if isinstance(event, ev.WorkerReady)]
        others = [event for event in events if not isinstance(event, ev.WorkerReady)]
        self._are_up = len(self._ready) >= self._num_workers
        return [*self._ready, *others] if self._are_up else others

    def _write(self) -> None:
        if self._publisher is not None:
            for member in self._unwritten:
                self._publisher.final(member)
        self._unwritten.clear()

    def _seen(self, event: ev.Event) -> ev.Event:
        if isinstance(event, ev.MemberTrained):
            self._unwritten.append(event.member)
        if isinstance(event, ev.MemberPredicted):
            self.ended = time.perf_counter()
            self.marks.append(Mark.now())
            self._write()
        if self._publisher is None:
            return event
        if isinstance(event, ev.PreflightPassed):
            from tests.bench import models

            labels = models.pictures()["validation"][1]
            self._predictions = self._publisher.predictions(len(labels))
            return replace(event, labels=self._publisher.labels(labels))
        return replace(event, blobs=self._predictions) if isinstance(event, ev.MemberPredicted) else event


def main(kind: str, num_members: str, report_path: str) -> None:
    """The process that is measured: a whole run on a Ray of its own, its result checked."""
    import ray

    from orchestrator import api
    from orchestrator.cluster.ray_cluster import RayCluster
    from orchestrator.cluster.session import connect
    from orchestrator.controller import Controller
    from orchestrator.planning.placement import Crew, Placement
    from orchestrator.reporting.progress import SilentProgress
    from orchestrator.spec import parse_job
    from orchestrator.storage.log import Log
    from orchestrator.storage.open import open_store
    from orchestrator.testing import MemoryStore
    from orchestrator.training.setup import WorkerSetup

    task = make_task("mlp", "pictures", int(num_members), epochs=1, patience=None)
    with tempfile.TemporaryDirectory() as folder:
        request = api.plan(parse_job(job_of(task, folder, engine="solo")), root=str(ROOT)).request
        store = MemoryStore() if kind == "memory" else open_store(request.job.storage.url)
        log = Log.open(store, request.layout.coord_log)
        term = log.claim(run_id=request.run_id)
        ray.init(address="local", num_cpus=NUM_WORKERS, include_dashboard=False, log_to_driver=False)
        setup = WorkerSetup("", request.job, request.plan, request.layout, term, str(ROOT), 1, 0)
        workers = RayCluster(
            connect(None, str(ROOT)),
            setup,
            Placement(NUM_WORKERS, 1, 0, "bench"),
            program=partial(Sleeper, publishes=kind == "folder"),
        )
        cluster = WatchedCluster(workers, Publisher(store, request.layout, term) if kind == "memory" else None)
        began = time.perf_counter()
        result = Controller(
            request,
            store=store,
            log=log,
            cluster=cluster,
            clock=api.SystemClock(),
            progress=SilentProgress(),
            crew=Crew(NUM_WORKERS, 1),
        ).run()
        assert result.status == "succeeded", result.status
        assert cluster.began is not None
        seconds = time.perf_counter() - began
        cluster.close()
        ray.shutdown()
    report = {"span_s": round(cluster.ended - cluster.began, 3), "run_s": round(seconds, 3), **_growth(cluster.marks)}
    Path(report_path).write_text(json.dumps(report))


def _growth(marks: Sequence[Mark]) -> dict[str, float]:
    num, quarter = len(marks), len(marks) // 4
    second = (marks[2 * quarter].cpu_s - marks[quarter].cpu_s) / quarter
    last = (marks[num - 1].cpu_s - marks[num - 1 - quarter].cpu_s) / quarter
    return {
        "cost_growth": round(last / second, 3),
        "cost_ms": round(1000 * (marks[-1].cpu_s - marks[0].cpu_s) / (num - 1), 3),
        "memory_growth": round(marks[-1].memory_bytes / marks[quarter].memory_bytes, 4),
        "memory_mb": round(marks[-1].memory_bytes / 2**20, 1),
    }


if __name__ == "__main__":
    main(*sys.argv[1:])
