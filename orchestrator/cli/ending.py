"""How a command ends: signals become errors, errors become messages and exit codes."""

from __future__ import annotations

import functools
import signal
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import typer

from orchestrator.cli.output import answer, error_json, json_line, tell, write_result_file
from orchestrator.errors import Interrupted, OrchestratorError

Returned = TypeVar("Returned")


def with_exit_code(command: Callable[..., Returned]) -> Callable[..., Returned]:
    """Turn an error into its message and its exit code; the JSON of an error stands where the result would."""

    @functools.wraps(command)
    def wrapped(*args: Any, **kwargs: Any) -> Returned:
        try:
            return command(*args, **kwargs)
        except OrchestratorError as caught:
            error = caught
        except (typer.Exit, KeyboardInterrupt):
            raise
        except Exception as bug:
            traceback.print_exc()
            error = OrchestratorError(
                f"{type(bug).__name__}: {bug}",
                hint="this is a bug of orchestrator: please report it with the lines above",
            )
        tell(f"error: {error}")
        if kwargs.get("as_json"):
            answer(json_line(error_json(error)))
        if kwargs.get("result_file") is not None:
            _leave_error(kwargs["result_file"], error)
        raise typer.Exit(error.exit_code)

    return wrapped


def _leave_error(path: Path, error: OrchestratorError) -> None:
    try:
        write_result_file(path, f"{json_line(error_json(error))}\n".encode())
    except OSError as unwritable:
        tell(f"could not write {path}: {unwritable.strerror}")


class Signals:
    """Turns SIGTERM and SIGINT into an orderly end: the first lets workers save, another does not wait for that.

    A second SIGINT ends even a process that is waiting for something else.
    """

    def __init__(self) -> None:
        self._received: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Signals:
        for number in (signal.SIGTERM, signal.SIGINT):
            self._before[number] = signal.signal(number, self._receive)
        return self

    def __exit__(self, *exc: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _receive(self, number: int, frame: object) -> None:
        self._received = number
        signal.signal(signal.SIGINT, signal.default_int_handler)

    def interruption(self) -> OrchestratorError | None:
        number, self._received = self._received, None
        if number is None:
            return None
        name = signal.Signals(number).name
        return Interrupted(f"{name}: the run ends here", hint="start again to resume", signal_number=number)
