"""The Cluster port over Ray: a session, the data's one copy, workers as actors, their events."""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import ray
from ray import exceptions as rex

from orchestrator.cluster.submission import read_excludes
from orchestrator.cluster.worker import Worker, WorkerProgram
from orchestrator.errors import AccessDenied, ClusterUnavailable, OrchestratorError
from orchestrator.models.build import import_function
from orchestrator.planning import commands as cmd
from orchestrator.planning import events as ev
from orchestrator.planning.placement import ClusterShape, NodeShape, Placement
from orchestrator.planning.seeds import split_seed
from orchestrator.spec import Job
from orchestrator.training.data import Dataset, load_dataset
from orchestrator.training.program import Program, WorkerSetup

EVENTS_TIMEOUT_S = 1.0
"""How long a worker holds an empty call for events; also how often `Progress` is told."""

REACH_S = 20.0
"""How long a named cluster is tried; Ray itself goes on for a quarter of an hour where nothing listens."""


_WORKERS_ENVIRONMENT = "workers have the environment in which Ray was started on their node, not that of this process"
_NAMES = ("class_name:", "actor_id:", "pid:", "namespace:", "ip:")


@dataclass(frozen=True)
class Session:
    """A connection to Ray.

    Attributes:
        opened_here: this run opened it and closes it; a session that was open before stays open.
        can_grow: false for a Ray of the job's own, which no node will ever join.
        code_root: folder of the job's own modules on every node; None: the workers' working directory, where Ray has
            put them.
    """

    opened_here: bool
    can_grow: bool
    code_root: str | None

    def shape(self) -> ClusterShape:
        """The nodes alive now."""
        nodes = tuple(
            NodeShape(node["Resources"].get("CPU", 0.0), node["Resources"].get("GPU", 0.0))
            for node in ray.nodes()
            if node["Alive"]
        )
        return ClusterShape(nodes, can_grow=self.can_grow)

    def num_machines(self) -> int:
        """How many machines the living nodes are on."""
        return len({node["NodeManagerAddress"] for node in ray.nodes() if node["Alive"]})

    def close(self) -> None:
        """Leave Ray if this run connected to it; a Ray that it started ends with that."""
        if self.opened_here:
            ray.shutdown()


def connect(address: str | None, code_root: str) -> Session:
    """Connect to Ray, or start one on this machine.

    Args:
        address: of a running cluster (`auto`, `host:port`, `ray://…`); None starts a Ray of the job's own, unless
            this process is connected already: then that session is used and never shut down.
        code_root: folder of the job's own modules; shipped to a cluster unless this process runs as a submitted
            job, whose code Ray has shipped already.

    Raises:
        ClusterUnavailable: nothing answers at the address.
        AccessDenied: Ray's token authentication refuses us.
    """
    if ray.is_initialized():
        return Session(opened_here=False, can_grow=True, code_root=code_root)
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # Ray's coming default; silences its warning
    try:
        if address is None:
            with _own_signal_handler():
                ray.init(address="local", include_dashboard=False, **quiet)
            return Session(opened_here=True, can_grow=False, code_root=code_root)
        _check_reachable(address)
        submitted = "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ
        runtime_env = None if submitted else {"working_dir": code_root, "excludes": list(read_excludes(code_root))}
        with _own_signal_handler():
            ray.init(address=address, runtime_env=runtime_env, **quiet)
        return Session(opened_here=True, can_grow=True, code_root=None)
    except rex.AuthenticationError as error:
        raise AccessDenied(
            f"Ray refused the token: {_brief(error)}",
            where=f"ray.address {address}",
            hint="set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH to the cluster's token",
        ) from error
    except (OSError, rex.RayError, RuntimeError) as error:
        raise ClusterUnavailable(
            f"Ray cannot be reached: {_brief(error)}",
            where=f"ray.address {address}" if address else "a Ray of the job's own",
            hint="is the cluster up, and the address right? Without ray.address a Ray is started on this machine",
        ) from error


@contextmanager
def _own_signal_handler() -> Iterator[None]:
    """Keep the caller's handler of SIGTERM: `ray.init` puts one there that exits on the spot, without a record."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if callable(before) and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)


def _check_reachable(address: str) -> None:
    """Knock at a cluster's door, for Ray waits without end before a closed one. Raises OSError when nobody opens."""
    if address == "auto":
        address = os.environ.get("RAY_ADDRESS", "")
    host, _, port = address.rpartition(":")
    if "://" in address or not host or not port.isdecimal():
        return  # Ray's client has a deadline of its own, and Ray finds a local cluster by itself
    socket.create_connection((host.strip("[]"), int(port)), timeout=REACH_S).close()


# One call per process: Ray keeps the processes of tasks, and the next run would find its module as it was imported.
@ray.remote(num_cpus=0, max_retries=3, max_calls=1)  # type: ignore[untyped-decorator]  # ray is untyped here
def _load_data(job: Job, code_root: str | None) -> tuple[Dataset | None, ev.Event]:
    """Load the data once; a task's result, unlike an actor's, is rebuilt by Ray when its node goes."""
    import sys

    root = code_root or str(Path.cwd())
    if root not in sys.path:
        sys.path.insert(0, root)
    try:
        dataset = load_dataset(
            import_function(job.data.source),
            job.data.source,
            validation_split=job.data.validation_split,
            seed=split_seed(job.seed),
        )
    except OrchestratorError as error:
        return None, ev.DataFailed(error)
    except Exception as error:  # or Ray's wrapping of it would pass for a cluster out of reach
        return None, ev.DataFailed(OrchestratorError(f"{type(error).__name__}: {error}", where=job.data.source))
    return dataset, ev.DataLoaded(dataset.fingerprint, {name: split.num_rows for name, split in dataset.splits()})


class RayCluster:
    """Workers as Ray actors. The coordinator owns every restart, so Ray gets none to make.

    Args:
        session: an open Ray session.
        setup: what each worker is told; its `worker` is filled in per worker.
        placement: CPUs and GPUs of one worker.
        program: what a worker does with its commands; importable on every node.
    """

    def __init__(
        self,
        session: Session,
        setup: WorkerSetup,
        placement: Placement,
        *,
        program: Callable[..., WorkerProgram] = Program,
    ) -> None:
        self._session = session
        self._setup = setup
        self._program = program
        self._actor_class = ray.remote(Worker).options(
            num_cpus=placement.num_cpus,
            num_gpus=placement.num_gpus,
            max_restarts=0,
            max_task_retries=0,
            max_concurrency=2,  # one call waits for events while another brings a command
            scheduling_strategy="SPREAD",
        )
        self._actors: dict[str, Any] = {}
        self._nodes: dict[str, str] = {}
        self._waiting: dict[Any, str | None] = {}  # reference → worker; None: the data
        self._dataset, loaded = _load_data.options(num_returns=2).remote(setup.job, setup.code_root)
        self._waiting[loaded] = None

    def shape(self) -> ClusterShape:
        return self._session.shape()

    def send(self, commands: Iterable[cmd.WorkerCommand]) -> None:
        for command in commands:
            match command:
                case cmd.StartWorker(worker=worker):
                    actor = self._actor_class.remote(replace(self._setup, worker=worker), self._program)
                    self._actors[worker] = actor
                    self._listen(worker)
                case cmd.KillWorker(worker=worker):
                    self._nodes.pop(worker, None)
                    actor = self._actors.pop(worker, None)
                    if actor is not None:
                        ray.kill(actor)
                case _:
                    actor = self._actors.get(command.worker)
                    if actor is not None:
                        self._waiting[actor.command.remote(command, self._dataset)] = command.worker

    def poll(self, timeout_s: float) -> Sequence[ev.Event]:
        if not self._waiting:
            time.sleep(timeout_s)
            return ()
        ready, rest = ray.wait(list(self._waiting), num_returns=1, timeout=timeout_s)
        if ready and rest:
            more, _ = ray.wait(rest, num_returns=len(rest), timeout=0)
            ready += more
        happened: list[ev.Event] = []
        for reference in ready:
            happened += self._take(reference)
        return happened

    def close(self) -> None:
        for actor in self._actors.values():
            ray.kill(actor)
        self._actors.clear()
        self._waiting.clear()
        self._dataset = None
        self._session.close()

    def _listen(self, worker: str) -> None:
        self._waiting[self._actors[worker].events.remote(EVENTS_TIMEOUT_S)] = worker

    def _take(self, reference: Any) -> list[ev.Event]:
        worker = self._waiting.pop(reference)
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
        self._listen(worker)
        return list(answer)

    def _lost(self, worker: str | None, error: rex.RayError) -> list[ev.Event]:
        if worker is None:
            failure = ClusterUnavailable(f"the data could not be loaded on the cluster: {_brief(error)}")
            return [ev.DataFailed(failure)]
        actor = self._actors.pop(worker, None)
        if actor is None:  # killed by us, or told already
            return []
        if isinstance(error, rex.ActorUnavailableError):  # it may live on beyond a broken network: free its place
            ray.kill(actor)
        alive = {node["NodeID"] for node in ray.nodes() if node["Alive"]}
        node = self._nodes.pop(worker, None)
        cause = cause_of(error, node_alive=node is None or node in alive)
        return [ev.WorkerLost(worker, cause, _brief(error))]


def cause_of(error: BaseException, *, node_alive: bool) -> ev.Cause:
    """Why a worker is gone, from the error that Ray gives in its place."""
    if isinstance(error, rex.OutOfMemoryError):
        return ev.Cause.OUT_OF_MEMORY
    if getattr(error, "preempted", False):
        return ev.Cause.PREEMPTED
    # Ray tells at once of a process that died on a living node. Where it cannot tell, the node is cut off or gone; that
    # it says so takes a minute, for which no member should wait.
    if not node_alive or isinstance(error, rex.NodeDiedError | rex.ActorUnavailableError):
        return ev.Cause.NODE_LOST
    return ev.Cause.CRASH


def _brief(error: BaseException) -> str:
    """The telling lines of Ray's text; those of an actor's death begin with its names and numbers."""
    text = str(error).partition("Some common causes include")[0]
    lines = [line.strip() for line in text.splitlines()]
    return " ".join(line for line in lines if line and not line.startswith(_NAMES))[:300]


def versions() -> Mapping[str, str]:
    """Version of Ray, for the result."""
    return {"ray": ray.__version__}
