"""How a command ends: signals become errors, errors become messages and exit codes."""

from __future__ import annotations

import functools
import os
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import Any, NoReturn, TypeVar

import typer

from orchestrator.cli.output import answer, error_json, json_line, leave_error, tell
from orchestrator.errors import Interrupted, InvalidJob, OrchestratorError

Returned = TypeVar("Returned")


def with_exit_code(command: Callable[..., Returned]) -> Callable[..., Returned]:
    """Turn an error into its message and its exit code; the JSON of an error stands where the result would."""

    @functools.wraps(command)
    def wrapped(*args: Any, **kwargs: Any) -> Returned:
        try:
            return command(*args, **kwargs)
        except OrchestratorError as caught:
            error = caught
        except typer.Exit:
            raise
        except KeyboardInterrupt:
            error = _interrupted_by(signal.SIGINT)
        except Exception as bug:
            traceback.print_exc()
            error = OrchestratorError(
                f"{type(bug).__name__}: {bug}",
                hint="this is a bug of orchestrator: please report it with the lines above",
            )
        tell(f"error: {error}")
        leave_error(error, kwargs.get("result_file"), kwargs.get("output_dir"))
        if kwargs.get("as_json"):  # last: schedulers read the last line, also of both streams in one
            answer(json_line(error_json(error)))
        raise typer.Exit(error.exit_code)

    return wrapped


def sigterm_is_an_error() -> None:
    """From here on SIGTERM ends a command as an error does: with its files, its JSON and its exit code.

    Without a handler it would end the process on the spot, or, where that is a container's first, do nothing.
    """

    def end(number: int, frame: object) -> NoReturn:
        raise _interrupted_by(number)

    signal.signal(signal.SIGTERM, end)


def answer_usage_error(end: SystemExit, arguments: Sequence[str]) -> None:
    """Answer a command line that could not be read, and was told so, as other errors are where it asks for JSON.

    Args:
        end: how the command ended.
        arguments: the command line.
    """
    explain = getattr(end.__context__, "format_message", None)
    if explain is not None and "--json" in arguments:
        answer(json_line(error_json(InvalidJob(explain(), where="the command line", hint="--help tells the options"))))


def say_no_more() -> None:
    """The command has ended: its answer is the last line, also of both streams in one, and its exit code stands.

    Libraries may speak while the interpreter ends, and a late SIGTERM would be an error of that.
    """
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
        os.dup2(nowhere, stream.fileno())
    os.close(nowhere)


def _interrupted_by(number: int, what: str = "the run ends here", hint: str = "start again to resume") -> Interrupted:
    return Interrupted(f"{signal.Signals(number).name}: {what}", hint=hint, signal_number=number)


class Signals:
    """Turns SIGTERM and SIGINT into an orderly end: the first lets workers save, another does not wait for that.

    A second SIGINT ends even a process that is waiting for something else.

    Args:
        what, hint: of the error that a signal becomes.
    """

    def __init__(self, what: str = "the run ends here", hint: str = "start again to resume") -> None:
        self._what = what
        self._hint = hint
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
        return None if number is None else _interrupted_by(number, self._what, self._hint)
