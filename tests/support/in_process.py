"""The whole flow with real Keras in this process: all but Ray is the product's own."""

from __future__ import annotations

import queue
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from orchestrator import api
from orchestrator.api.bases import keep_bases
from orchestrator.api.running import keep_spec
from orchestrator.controller import Controller
from orchestrator.errors import OrchestratorError
from orchestrator.planning import commands as cmd
from orchestrator.planning import events as ev
from orchestrator.planning.placement import ClusterShape, Crew, NodeShape
from orchestrator.planning.ports import Clock
from orchestrator.reporting.progress import SilentProgress
from orchestrator.reporting.result import Result
from orchestrator.search.samplers import sampler_of
from orchestrator.spec import Job
from orchestrator.storage.log import Log
from orchestrator.storage.open import open_store
from orchestrator.storage.probe import probe
from orchestrator.training.data import Dataset
from orchestrator.training.program import Program
from orchestrator.training.setup import WorkerSetup
from orchestrator.training.sources.load import load_job_data


def load(job: Job) -> Dataset:
    """The job's data, loaded as the cluster's data task does."""
    return load_job_data(job)


class InProcessCluster:
    """The `Cluster` port with one worker at a time, whose program runs in `send`."""

    def __init__(self, setup: WorkerSetup) -> None:
        self._events: queue.SimpleQueue[ev.Event] = queue.SimpleQueue()
        self._dataset: Dataset | None = None
        try:
            self._dataset = load(setup.job)
            self._events.put(self._dataset.loaded(held_out=setup.job.members.folds is not None))
        except OrchestratorError as error:
            self._events.put(ev.DataFailed(error))
        self._setup = setup
        self._program: Program | None = None

    def shape(self) -> ClusterShape:
        return ClusterShape((NodeShape(num_cpus=1, num_gpus=0),), can_grow=False)

    def send(self, commands: Iterable[cmd.WorkerCommand]) -> None:
        for command in commands:
            if isinstance(command, cmd.StartWorker):
                setup = replace(self._setup, worker=command.worker)
                self._program = Program(setup, self._events.put, lambda: None)
                self._program.start()
                self._events.put(ev.WorkerReady(command.worker, node="here", pid=1))
            elif isinstance(command, cmd.SaveNow) and self._program:
                self._program.interrupt(command)
            elif not isinstance(command, cmd.KillWorker) and self._program and self._dataset:
                self._program.handle(command, self._dataset)

    def poll(self, timeout_s: float) -> Sequence[ev.Event]:
        happened: list[ev.Event] = []
        with suppress(queue.Empty):
            happened.append(self._events.get(timeout=timeout_s))
            while True:
                happened.append(self._events.get_nowait())
        return happened

    def close(self) -> None:
        if self._program is not None:
            self._program.close()
        self._program = None


def run_in_process(
    job: Job,
    root: Path,
    *,
    run_id: str | None = None,
    smoke: bool = False,
    progress: SilentProgress | None = None,
    interruption: Callable[[], OrchestratorError | None] = lambda: None,
    clock: Clock | None = None,
) -> Result:
    """What `orchestrator.api.run` does, with an `InProcessCluster` in the place of Ray."""
    planned = api.plan(job, root=str(root), run_id=run_id, smoke=smoke)
    request = planned.request
    storage = request.job.storage
    store = open_store(storage.url, endpoint_url=storage.endpoint_url, region=storage.region)
    log = Log.open(store, request.layout.coord_log)
    probe(store, request.layout.probe)
    keep_spec(store, planned, must_exist=False, accept_code_change=False)
    term = log.claim(run_id=request.run_id)
    setup = WorkerSetup(
        worker="",
        job=request.job,
        plan=request.plan,
        layout=request.layout,
        coord_term=term,
        code_root=planned.root,
        num_cpus=1,
        num_gpus=0,
        bases=keep_bases(request.job, store, request.layout, log, planned.root),
    )
    cluster = InProcessCluster(setup)
    controller = Controller(
        request,
        store=store,
        log=log,
        cluster=cluster,
        clock=clock or api.SystemClock(),
        progress=progress or SilentProgress(),
        crew=Crew(1),
        interruption=interruption,
        sampler=sampler_of(request.job),
    )
    try:
        return controller.run()
    finally:
        cluster.close()
