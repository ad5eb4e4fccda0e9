"""What commands leave for people (stderr), for pipes (stdout) and for schedulers (files)."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

from orchestrator.errors import InvalidJob, OrchestratorError
from orchestrator.reporting.outputs import deciding
from orchestrator.reporting.result import Result, to_json
from orchestrator.reporting.scores import FigureName, SplitName


def tell(text: str) -> None:
    """For people."""
    sys.stderr.write(text.rstrip("\n") + "\n")


def answer(text: str) -> None:
    """For pipes: what the command returns."""
    sys.stdout.write(text.rstrip("\n") + "\n")
    sys.stdout.flush()


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


def write_result_file(path: Path, body: bytes) -> None:
    """Write the result for a scheduler; never half-written."""
    _write(path, body)


def write_output_dir(folder: Path, result: Result) -> None:
    """One value per file, as Argo and its like read output parameters; of several outputs that of the deciding one."""
    values: dict[str, object] = {
        "run_id": result.run_id,
        "status": result.status,
        "exit_code": result.exit_code,
        "num_members": len(result.members) - len(result.missing),
    }
    own = deciding(result)
    for split_name in get_args(SplitName):
        split = getattr(own, split_name, None)
        for figure_name in get_args(FigureName):
            figure = getattr(split, figure_name, None)
            if figure is not None:
                values[f"{split_name}_{figure_name}_accuracy"] = figure.accuracy
                values[f"{split_name}_{figure_name}_nll"] = figure.nll
    for name, value in values.items():
        _write(folder / name, str(value).encode())
    _write(folder / "result.json", to_json(result))


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
