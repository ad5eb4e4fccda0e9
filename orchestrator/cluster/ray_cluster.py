"""The Cluster port over Ray: the data's one copy, workers as actors, their events."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import ray
from ray import exceptions as rex

from orchestrator.cluster.head import Head
from orchestrator.cluster.session import Session, brief
from orchestrator.cluster.worker import Worker, WorkerProgram
from orchestrator.errors import AccessDenied, ClusterUnavailable, OrchestratorError
from orchestrator.planning import commands as cmd
from orchestrator.planning import events as ev
from orchestrator.planning.placement import ClusterShape, NodeShape, Placement, fits
from orchestrator.spec import Job
from orchestrator.training.data import Dataset
from orchestrator.training.program import Program
from orchestrator.training.setup import WorkerSetup
from orchestrator.training.sources.load import load_job_data

EVENTS_TIMEOUT_S = 1.0
"""How long a worker holds an empty call for events; also how often `Progress` is told."""

_WORKERS_ENVIRONMENT = "workers have the environment in which Ray was started on their node, not that of this process"


# One call per process: Ray keeps the processes of tasks, and the next run would find its module as it was imported.
@ray.remote(num_cpus=0, max_retries=-1, max_calls=1)  # type: ignore[untyped-decorator]  # ray is untyped here
def _load_data(job: Job, code_root: str | None) -> tuple[Dataset | None, ev.Event]:
    """Load the data once; a task's result, unlike an actor's, is rebuilt by Ray when its node goes.

    However often that is: nodes may be taken away without number. `faults.data_wait_s` ends a function that never
    comes to its end, and a worker that waits for data in vain is found by its silence.
    """
    import sys

    root = code_root or str(Path.cwd())
    if root not in sys.path:
        sys.path.insert(0, root)
    try:
        dataset = load_job_data(job)
    except OrchestratorError as error:
        return None, ev.DataFailed(error)
    except Exception as error:  # or Ray's wrapping of it would pass for a cluster out of reach
        return None, ev.DataFailed(OrchestratorError(f"{type(error).__name__}: {error}", where="data.source"))
    return dataset, dataset.loaded(held_out=job.members.folds is not None)


class RayCluster:
    """Workers as Ray actors. The coordinator owns every restart, so Ray gets none to make.

    Args:
        session: an open Ray session.
        setup: what each worker is told; its `worker` is filled in per worker.
        placement: GPUs of one worker; its CPUs are those of `setup`, or what `StartWorker` says. It goes to nodes with
            the labels that the job asks for.
        program: what a worker does with its commands; importable on every node.
        head: the cluster's head; default the one to which this process is connected.
        shape: the nodes from which the placement was decided; default those that are there now. What changes is told.
    """

    def __init__(
        self,
        session: Session,
        setup: WorkerSetup,
        placement: Placement,
        *,
        program: Callable[..., WorkerProgram] = Program,
        head: Head | None = None,
        shape: ClusterShape | None = None,
    ) -> None:
        self._session = session
        self._head = head or Head()
        self._setup = setup
        self._program = program
        self._placement = placement
        self._shape = shape or session.shape()
        self._actors: dict[str, Any] = {}
        self._nodes: dict[str, str] = {}
        self._warned: set[str] = set()
        self._waiting: dict[Any, str | None] = {}  # what will be told: reference → worker; None: the data
        self._sent: dict[Any, str] = {}  # what was ordered, the same way: its answer says nothing, unless it failed
        self._unheard: set[str] = set()  # who told something and is not listened to yet
        self._dataset: Any = None
        self._asked_for_data = False

    def shape(self) -> ClusterShape:
        return self._session.shape()

    def send(self, commands: Iterable[cmd.WorkerCommand]) -> None:
        for command in commands:
            match command:
                case cmd.StartWorker():
                    self._start(command)
                case cmd.KillWorker(worker=worker):
                    self._nodes.pop(worker, None)
                    actor = self._actors.pop(worker, None)
                    if actor is not None:
                        self._head.kill(actor)
                case cmd.SaveNow(worker=worker):
                    actor = self._actors.get(worker)
                    if actor is not None:
                        self._sent[actor.interrupt.remote(command)] = worker
                case _:
                    self._ask_for_data()
                    actor = self._actors.get(command.worker)
                    if actor is not None:
                        self._sent[actor.command.remote(command, self._dataset)] = command.worker

    def _start(self, command: cmd.StartWorker) -> None:
        num_cpus = command.num_cpus or self._setup.num_cpus
        setup = replace(self._setup, worker=command.worker, num_cpus=num_cpus)
        actor_class = ray.remote(Worker).options(
            num_cpus=num_cpus,
            num_gpus=self._placement.num_gpus,
            label_selector=self._setup.job.resources.labels,
            max_restarts=0,
            max_task_retries=0,
            max_concurrency=3,  # one call waits for events while others bring a command and interrupt the work
            scheduling_strategy="SPREAD",
        )
        self._actors[command.worker] = self._head.answer(lambda: actor_class.remote(setup, self._program))
        self._unheard.add(command.worker)

    def poll(self, timeout_s: float) -> Sequence[ev.Event]:
        """Events since the last call. Raises ClusterUnavailable when the cluster's head is gone."""
        self._head.listen()
        changed = self._changes()
        if self._places():
            self._ask_for_data()
        self._listen()
        if not self._waiting:
            if not changed:
                time.sleep(timeout_s)
            return changed
        ready, rest = ray.wait(list(self._waiting), num_returns=1, timeout=timeout_s)
        rest += self._sent
        if rest:
            more, _ = ray.wait(rest, num_returns=len(rest), timeout=0)
            ready += more
        happened: list[ev.Event] = []
        for reference in ready:
            happened += self._take(reference)
        return [*changed, *happened, *self._warnings()]

    def close(self) -> None:
        for actor in self._actors.values():
            self._head.kill(actor)
        self._actors.clear()
        self._waiting.clear()
        self._sent.clear()
        self._asked_for_data = True
        self._dataset = None
        self._session.close()

    def _ask_for_data(self) -> None:
        """Start loading, once; only when the first workers have taken the processes that Ray keeps ready, because
        TensorFlow takes longest to load; and only when there is a place for a worker: what the data need is there.

        Not on the cluster's head, where workers have other nodes: it need have neither the memory nor Keras. There
        too, where those nodes are gone: when it is loaded again the head may be all that is left, and work there.
        """
        if self._asked_for_data:
            return
        self._asked_for_data = True
        where = dict(self._setup.job.resources.labels)
        head = next((node.node for node in self._shape.nodes if node.is_head), None)
        if head is not None and any(not node.is_head for node in self._places()):
            where.setdefault("ray.io/node-id", f"!{head}")
        otherwise = [{"label_selector": dict(self._setup.job.resources.labels)}]
        load = _load_data.options(num_returns=2, label_selector=where, fallback_strategy=otherwise)
        self._dataset, loaded = load.remote(self._setup.job, self._setup.code_root)
        self._waiting[loaded] = None

    def _places(self) -> list[NodeShape]:
        """The nodes that take workers."""
        num_cpus, num_gpus = self._setup.num_cpus, self._placement.num_gpus
        return [node for node in self._shape.nodes if fits(node, self._setup.job.resources, num_cpus, num_gpus)]

    def _changes(self) -> list[ev.Event]:
        """Tell what nodes there are, when that has changed."""
        newest = self._head.newest
        shape = self._shape if newest is None else self._session.shape_of(newest)
        if shape == self._shape:
            return []
        self._shape = shape
        return [ev.NodesChanged(shape)]

    def _warnings(self) -> Iterator[ev.Event]:
        """Tell each worker's notice once: its node will be taken away."""
        for worker, node in self._nodes.items():
            if node in self._head.leaving and worker not in self._warned:
                self._warned.add(worker)
                at = self._head.leaving[node]
                yield ev.NodeDraining(worker, None if at is None else max(0.0, at - time.time()))

    def _listen(self) -> None:
        """Ask all for news who are not asked yet: after commands were sent, which a worker waits for."""
        for worker in self._unheard & self._actors.keys():
            self._waiting[self._actors[worker].events.remote(EVENTS_TIMEOUT_S)] = worker
        self._unheard.clear()

    def _take(self, reference: Any) -> list[ev.Event]:
        worker = self._sent.pop(reference) if reference in self._sent else self._waiting.pop(reference)
        try:
            answer = ray.get(reference)
        except rex.RayError as error:
            return self._lost(worker, error)
        if worker is None:
            return [answer]
        if answer is None or worker not in self._actors:  # a command has arrived; or a worker that is given up speaks
            return []
        for event in answer:
            if isinstance(event, ev.WorkerReady):
                self._nodes[worker] = event.node
            if isinstance(event, ev.WorkerFailed) and isinstance(event.error, AccessDenied):
                event.error.hint = f"{event.error.hint}; {_WORKERS_ENVIRONMENT}"
        self._unheard.add(worker)
        return list(answer)

    def _lost(self, worker: str | None, error: rex.RayError) -> list[ev.Event]:
        if worker is None:
            failure = ClusterUnavailable(f"the data could not be loaded on the cluster: {brief(error)}")
            return [ev.DataFailed(failure)]
        actor = self._actors.pop(worker, None)
        if actor is None:  # killed by us, or told already
            return []
        self._head.kill(actor)  # it may live on, beyond a broken network or after an error of its own: free its place
        node = self._nodes.pop(worker, None)
        cause = cause_of(
            error,
            node_alive=node is None or self._head.is_alive(node),
            node_leaving=node in self._head.leaving,
        )
        return [ev.WorkerLost(worker, cause, brief(error))]


def cause_of(error: BaseException, *, node_alive: bool, node_leaving: bool) -> ev.Cause:
    """Why a worker is gone, from the error that Ray gives in its place.

    Args:
        error: what Ray says.
        node_alive: whether the worker's node lives.
        node_leaving: whether that node is, or was, being taken away.
    """
    if isinstance(error, rex.OutOfMemoryError):
        return ev.Cause.OUT_OF_MEMORY
    if node_leaving or getattr(error, "preempted", False):
        return ev.Cause.PREEMPTED
    # Ray tells at once of a process that died on a living node. Where it cannot tell, the node is cut off or gone; that
    # it says so takes a minute, for which no member should wait.
    cut_off = isinstance(error, rex.NodeDiedError | rex.ActorUnavailableError)
    if not node_alive or cut_off or "its node has died" in str(error):  # the last: before we heard where it was
        return ev.Cause.NODE_LOST
    return ev.Cause.CRASH
