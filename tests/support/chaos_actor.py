"""Processes that chaos kills and freezes: they wait at each operation of their store for the conductor's go-ahead.

A process that is told to go on while it is frozen (SIGSTOP) does the operation at the moment when it thaws, with a view
of the world as old as its sleep. Nothing here waits for a time to pass: pipes tell when something happened.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from multiprocessing import get_context
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

from orchestrator.errors import OrchestratorError
from orchestrator.planning.ports import Store
from orchestrator.storage.open import open_store
from orchestrator.storage.records import Record
from tests.support.chaos_gate import OverwritingStore, Verdict

WAIT_S = 180.0
"""Longer than any operation takes on a busy machine: a wait that comes to its end is a failure."""

_PRELOAD = ["pytest", "s3fs", "tests.support.chaos_writer", "tests.support.chaos_coordinator"]
_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class Site:
    """Where actors write; it travels to their processes.

    Attributes:
        url, endpoint_url: of the store.
        environ: credentials.
        overwriting: the negative control.
    """

    url: str
    endpoint_url: str | None = None
    environ: Mapping[str, str] = field(default_factory=dict)
    overwriting: bool = False

    def open(self) -> Store:
        store = open_store(self.url, endpoint_url=self.endpoint_url)
        return OverwritingStore(store) if self.overwriting else store  # type: ignore[return-value]  # it forwards


@dataclass(frozen=True)
class Wire:
    """An actor's end of the pipe to the conductor, and its journal."""

    name: str
    connection: Connection
    journal: Path

    def ask(self, operation: str) -> Verdict:
        """Wait for the go-ahead. Raises EOFError when the conductor is gone."""
        self.connection.send(("at", operation))
        verdict: Verdict = self.connection.recv()
        return verdict

    def tell(self, what: str, *details: Any) -> None:
        self.connection.send((what, *details))

    def acknowledged(self, record: Record) -> None:
        """Keep an acknowledgement where a kill cannot take it back."""
        entry = {"seq": record.seq, "kind": record.kind, "term": record.term, "nonce": record.nonce}
        with self.journal.open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")
            file.flush()
            os.fsync(file.fileno())
        self.tell("acknowledged", entry)


Program = Callable[[Wire, Site], object]
"""What an actor does; what it returns is told as its outcome, and an `OrchestratorError` as its exit code."""


class Actor:
    """A process, seen by its conductor.

    Attributes:
        name: for events.
        waiting_at: the operation that it asks for; None while it works, and once it has ended.
        outcome: what its program returned, or the exit code of its error; None while it lives or when it was killed.
        crash: the traceback of an error that no program should raise.
        acknowledged: what it told of its records, in order.
    """

    def __init__(self, name: str, program: Program, site: Site, folder: Path) -> None:
        context = get_context("forkserver")
        context.set_forkserver_preload(_PRELOAD)
        self.name = name
        self.waiting_at: str | None = None
        self.outcome: object = None
        self.crash: str | None = None
        self.acknowledged: list[dict[str, Any]] = []
        self.told: list[str] = []
        self.journal = folder / f"{name}.journal"
        self.journal.touch()
        self._connection, theirs = context.Pipe()
        self._process: ForkServerProcess = context.Process(
            target=_main, args=(program, Wire(name, theirs, self.journal), site), daemon=True
        )
        self._process.start()
        theirs.close()  # so that the end of the process is the end of the pipe
        self.has_ended = False

    @property
    def term(self) -> int:
        """The term of its newest acknowledged record; 0 before its claim."""
        return int(self.acknowledged[-1]["term"]) if self.acknowledged else 0

    @property
    def exit_code(self) -> int | None:
        return self._process.exitcode

    def wait(self, *, news: str | None = None) -> None:
        """Until it asks for an operation, has told `news`, or has ended.

        Raises:
            AssertionError: nothing of that within `WAIT_S`.
        """
        while self.waiting_at is None and not self.has_ended and news not in self.told:
            assert self._connection.poll(WAIT_S), f"{self.name} said nothing for {WAIT_S:g} s"
            self._listen()

    def go(self, verdict: Verdict = "go") -> None:
        """Let it do what it waits for; returns at once."""
        self.waiting_at = None
        self._connection.send(verdict)

    def freeze(self) -> None:
        """Stop it where it waits. Its next operation is under way: it happens when it thaws, not before."""
        os.kill(self._pid, signal.SIGSTOP)
        self.go()

    def thaw(self) -> None:
        os.kill(self._pid, signal.SIGCONT)

    def kill(self) -> None:
        """SIGKILL, frozen or not, and wait for its end; what it had told before is heard."""
        if not self.has_ended:
            self._process.kill()
            while not self.has_ended:
                assert self._connection.poll(WAIT_S), f"{self.name} does not die"
                self._listen()
        self._process.join(WAIT_S)

    @property
    def _pid(self) -> int:
        pid = self._process.pid
        assert pid is not None
        return pid

    def _listen(self) -> None:
        try:
            what, *details = self._connection.recv()
        except (EOFError, ConnectionResetError):
            self.has_ended = True
            self.waiting_at = None
            self._process.join(WAIT_S)
            return
        match what:
            case "at":
                self.waiting_at = details[0]
            case "acknowledged":
                self.acknowledged.append(details[0])
            case "outcome":
                self.outcome = details[0]
            case "crash":
                self.crash = details[0]
            case _:
                self.told.append(what)


def _main(program: Program, wire: Wire, site: Site) -> None:
    if sys.platform == "linux":  # the conductor's end must be the end of a frozen process too
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    os.environ.update(site.environ)
    try:
        wire.tell("outcome", program(wire, site))
    except EOFError:
        return  # the conductor is gone
    except OrchestratorError as error:
        wire.tell("outcome", error.exit_code)
        wire.tell(f"{type(error).__name__}: {error}")
    except Exception:
        wire.tell("crash", traceback.format_exc())
