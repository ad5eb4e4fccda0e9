"""The thin actor around training's program: commands in, events out, alive between members."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable
from typing import Protocol

import ray

from orchestrator.errors import Fenced, OrchestratorError
from orchestrator.planning import events as ev
from orchestrator.planning.commands import SaveNow, WorkerCommand
from orchestrator.training.data import Dataset
from orchestrator.training.printing import teed
from orchestrator.training.setup import WorkerSetup

DESERTED_S = 600.0
"""How long nobody may listen to a worker before it ends itself: longer than any bounded wait of a coordinator."""

TOGETHER_S = 0.005
"""How long news waits for `WorkerIdle`, which mostly follows at once: one answer then tells both."""

FENCED_S = 3.0
"""How long a superseded worker stays for its coordinator to hear why."""


class WorkerProgram(Protocol):
    """What a worker does: `training.program.Program`, or a light one in tests."""

    def start(self) -> None:
        """Get ready, once."""

    def handle(self, command: WorkerCommand, dataset: Dataset) -> None:
        """Carry out one command; outcomes are events. Raises Fenced when this worker must end."""

    def interrupt(self, command: SaveNow) -> None:
        """Have the command at work save, and with `stop` give up, at its next chance; told as events.

        Called from another thread while `handle` runs; returns soon and raises nothing.
        """


class Worker:
    """One long-lived worker process.

    A thread of its own does the work, TensorFlow's import first; the actor's methods only pass messages, so that the
    coordinator hears from a worker whatever its work is doing.

    A worker on a node that was cut off outlives its node's end, where no `ray.kill` reaches it (measured). So one that
    is superseded, or that nobody listens to any more, ends its own process.

    Args:
        setup: what to work on.
        make_program: called as `Program` is, with the setup, a taker of events, and a taker of signs of life.
        deserted_s: how long nobody may listen before the worker ends itself.
    """

    def __init__(
        self, setup: WorkerSetup, make_program: Callable[..., WorkerProgram], *, deserted_s: float = DESERTED_S
    ) -> None:
        self._name = setup.worker
        self._events: deque[ev.Event] = deque()
        self._news = threading.Condition()
        self._progressed = False
        self._commands: deque[tuple[WorkerCommand, Dataset]] = deque()
        self._at_work: WorkerProgram | None = None  # while it has a command in hand
        self._orders = threading.Condition()  # of what the two above say
        node = ray.get_runtime_context().get_node_id()
        self._emit(ev.WorkerReady(setup.worker, node, os.getpid()))
        self._listened_to = threading.Event()
        threading.Thread(target=self._work, args=(setup, make_program), name="work", daemon=True).start()
        threading.Thread(target=self._end_when_deserted, args=(deserted_s,), name="listeners", daemon=True).start()

    def command(self, command: WorkerCommand, dataset: Dataset) -> None:
        """Queue a command; its outcome comes as events. `dataset` is a view of the node's one copy."""
        with self._orders:
            self._commands.append((command, dataset))
            self._orders.notify_all()

    def interrupt(self, command: SaveNow) -> None:
        """Bring `SaveNow`, past whatever is at work; what was not begun yet is not begun any more with `stop`."""
        with self._orders:
            program = self._at_work
            withdrawn = program is None and command.stop and bool(self._commands)
            if withdrawn:
                self._commands.clear()
        if program is not None:
            program.interrupt(command)
            return
        self._emit(ev.Saved(self._name))
        if withdrawn:
            self._emit(ev.WorkerIdle(self._name))

    def events(self, timeout_s: float) -> list[ev.Event]:
        """What happened since the last call; waits up to `timeout_s` seconds for the first event."""
        self._listened_to.set()
        with self._news:
            if self._news.wait_for(lambda: self._events, timeout_s):
                self._news.wait_for(self._says_idle, TOGETHER_S)
            happened = list(self._events)
            self._events.clear()
        if self._progressed:
            self._progressed = False
            happened.append(ev.Progress(self._name))
        return happened

    def _says_idle(self) -> bool:
        return any(isinstance(event, ev.WorkerIdle) for event in self._events)

    def _work(self, setup: WorkerSetup, make_program: Callable[..., WorkerProgram]) -> None:
        with teed():  # before TensorFlow is there, whose logs keep the stream that they find
            self._work_on(setup, make_program)

    def _work_on(self, setup: WorkerSetup, make_program: Callable[..., WorkerProgram]) -> None:
        try:
            program = make_program(setup, self._emit, self._progress)
            program.start()
        except Exception as error:
            failure = error if isinstance(error, OrchestratorError) else _cannot_start(setup.worker, error)
            self._emit(ev.WorkerFailed(setup.worker, failure))
            return
        while True:
            with self._orders:
                self._at_work = None
                self._orders.wait_for(lambda: self._commands)
                command, dataset = self._commands.popleft()
                self._at_work = program
            try:
                program.handle(command, dataset)
            except Fenced:  # told as an event; a superseded worker does nothing more
                threading.Event().wait(FENCED_S)
                os._exit(0)

    def _end_when_deserted(self, deserted_s: float) -> None:
        while self._listened_to.wait(deserted_s):
            self._listened_to.clear()
        os._exit(0)

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
