"""The thin actor around training's program: commands in, events out, alive between members."""

from __future__ import annotations

import os
import queue
import threading
from collections import deque
from collections.abc import Callable
from typing import Protocol

import ray

from orchestrator.errors import Fenced, OrchestratorError
from orchestrator.planning import events as ev
from orchestrator.planning.commands import WorkerCommand
from orchestrator.training.data import Dataset
from orchestrator.training.program import WorkerSetup


class WorkerProgram(Protocol):
    """What a worker does: `training.program.Program`, or a light one in tests."""

    def start(self) -> None:
        """Get ready, once."""

    def handle(self, command: WorkerCommand, dataset: Dataset) -> None:
        """Carry out one command; outcomes are events. Raises Fenced when this worker must end."""


class Worker:
    """One long-lived worker process.

    A thread of its own does the work, TensorFlow's import first; the actor's methods only pass messages, so that the
    coordinator hears from a worker whatever its work is doing.

    Args:
        setup: what to work on.
        make_program: called as `Program` is, with the setup, a taker of events, and a taker of signs of life.
    """

    def __init__(self, setup: WorkerSetup, make_program: Callable[..., WorkerProgram]) -> None:
        self._name = setup.worker
        self._events: deque[ev.Event] = deque()
        self._news = threading.Condition()
        self._progressed = False
        self._commands: queue.Queue[tuple[WorkerCommand, Dataset]] = queue.Queue()
        node = ray.get_runtime_context().get_node_id()
        self._emit(ev.WorkerReady(setup.worker, node, os.getpid()))
        threading.Thread(target=self._work, args=(setup, make_program), name="work", daemon=True).start()

    def command(self, command: WorkerCommand, dataset: Dataset) -> None:
        """Queue a command; its outcome comes as events. `dataset` is a view of the node's one copy."""
        self._commands.put((command, dataset))

    def events(self, timeout_s: float) -> list[ev.Event]:
        """What happened since the last call; waits up to `timeout_s` seconds for the first event."""
        with self._news:
            self._news.wait_for(lambda: self._events, timeout_s)
            happened = list(self._events)
            self._events.clear()
        if self._progressed:
            self._progressed = False
            happened.append(ev.Progress(self._name))
        return happened

    def _work(self, setup: WorkerSetup, make_program: Callable[..., WorkerProgram]) -> None:
        try:
            program = make_program(setup, self._emit, self._progress)
            program.start()
        except Exception as error:
            failure = error if isinstance(error, OrchestratorError) else _cannot_start(setup.worker, error)
            self._emit(ev.WorkerFailed(setup.worker, failure))
            return
        while True:
            command, dataset = self._commands.get()
            try:
                program.handle(command, dataset)
            except Fenced:  # told as an event; a superseded worker does nothing more
                return

    def _emit(self, event: ev.Event) -> None:
        with self._news:
            self._events.append(event)
            self._news.notify_all()

    def _progress(self) -> None:
        self._progressed = True


def _cannot_start(worker: str, error: Exception) -> OrchestratorError:
    return OrchestratorError(
        f"the worker cannot start: {type(error).__name__}: {error}",
        where=worker,
        hint="TensorFlow and this package must be installed on every node",
    )
