"""What commands leave for people (stderr), for pipes (stdout) and for schedulers (files)."""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
from collections.abc import Mapping
from itertools import product
from pathlib import Path
from typing import Any, get_args

from orchestrator.errors import InvalidJob, OrchestratorError, TryAgain
from orchestrator.reporting.outputs import deciding
from orchestrator.reporting.result import Result, to_json
from orchestrator.reporting.scores import FigureName, Metric, SplitName
from orchestrator.reporting.tables import render


def tell(text: str) -> None:
    """For people."""
    sys.stderr.write(text.rstrip("\n") + "\n")


def answer(text: str) -> None:
    """For pipes: what the command returns. A reader that has heard enough, such as `head`, is no error."""
    try:
        sys.stdout.write(text.rstrip("\n") + "\n")
        sys.stdout.flush()
    except BrokenPipeError:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


def answer_result(result: Result, *, as_json: bool) -> None:
    """A result, for pipes: as JSON, or as tables for people who look."""
    if as_json:
        answer(to_json(result).decode())
        return
    color = use_color(os.environ, isatty=sys.stdout.isatty())
    answer(render(result, width=shutil.get_terminal_size((110, 24)).columns, color=color))


def json_line(value: Any) -> str:
    """One line of JSON, keys sorted."""
    return json.dumps(value, sort_keys=True, ensure_ascii=False)


def error_json(error: OrchestratorError) -> dict[str, Any]:
    """An error as plain values; stands where the result would."""
    return {
        "error": type(error).__name__,
        "what": error.what,
        "where": error.where,
        "hint": error.hint,
        "exit_code": error.exit_code,
        "retryable": error.retryable,
    }


def leave_result(result: Result, result_file: Path | None, output_dir: Path | None) -> None:
    """Leave a result where a scheduler looks for it; each file is whole or not there.

    Args:
        result: of the run.
        result_file: gets the result as JSON; None: nowhere.
        output_dir: gets one file for each value (see `result_values`) and `result.json`; None: nowhere.

    Raises:
        TryAgain: a file cannot be written; the result itself is in storage.
    """
    try:
        _leave(to_json(result), result_values(result), result_file, output_dir)
    except OSError as error:
        raise TryAgain(
            f"the run has its result, which cannot be written here: {error.strerror}",
            where=error.filename,
            hint="make room for it and start again: that returns the recorded result",
        ) from error


def leave_error(error: OrchestratorError, result_file: Path | None, output_dir: Path | None) -> None:
    """Leave an error where its result would be; of an earlier start's values none is left beside it."""
    leave_told(error_json(error), result_file, output_dir)


def leave_told(told: Mapping[str, Any], result_file: Path | None, output_dir: Path | None) -> None:
    """Leave an error that another process told, as `error_json` has it, where its result would be."""
    values = {name: value for name, value in told.items() if value is not None}
    try:
        _leave(f"{json_line(told)}\n".encode(), values, result_file, output_dir)
    except OSError as unwritable:
        tell(f"could not write {unwritable.filename}: {unwritable.strerror}")


def result_values(result: Result) -> dict[str, object]:
    """A result's single values by the names of their files in `--output-dir`.

    Those of the run, and `<split>_<figure>_<metric>` for each metric that its task has; of several outputs those of the
    deciding one.
    """
    values: dict[str, object] = {
        "run_id": result.run_id,
        "status": result.status,
        "exit_code": result.exit_code,
        "num_members": len(result.members) - len(result.missing),
    }
    own = deciding(result)
    for split_name, figure_name, metric in _FIGURES:
        figure = getattr(getattr(own, split_name, None), figure_name, None)
        value = getattr(figure, metric, None)
        if value is not None:
            values[f"{split_name}_{figure_name}_{metric}"] = value
    return values


_FIGURES = tuple(product(get_args(SplitName), get_args(FigureName), get_args(Metric)))
_FILES = (
    *("run_id", "status", "exit_code", "num_members", "error", "what", "where", "hint", "retryable"),
    *("_".join(names) for names in _FIGURES),
)
"""Every file but `result.json` that one start or another leaves in `--output-dir`, as Argo and its like read them."""


def _leave(document: bytes, values: Mapping[str, object], result_file: Path | None, output_dir: Path | None) -> None:
    if result_file is not None:
        _write(result_file, document)
    if output_dir is not None:
        for name in _FILES:
            if name in values:
                _write(output_dir / name, str(values[name]).encode())
            else:
                (output_dir / name).unlink(missing_ok=True)
        _write(output_dir / "result.json", document)


def check_writable(path: Path | None, option: str) -> None:
    """Refuse a place for results before hours of training, not after.

    Raises:
        InvalidJob: the folder cannot be created or written.
    """
    if path is None:
        return
    folder = path if option == "--output-dir" else path.parent
    if option == "--result-file" and path.is_dir():
        raise InvalidJob(f"{path} is a folder", where=option, hint="name a file")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise InvalidJob(f"cannot write to {folder}: {error.strerror}", where=option) from error


def use_color(environ: Mapping[str, str], *, isatty: bool) -> bool:
    """Colours on a terminal, unless NO_COLOR is set."""
    return isatty and not environ.get("NO_COLOR")


def _write(path: Path, body: bytes) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_bytes(body)
    temporary.replace(path)
