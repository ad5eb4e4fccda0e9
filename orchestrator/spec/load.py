"""Reads a job: file → document → overrides → validated job. Whatever is wrong ends in one InvalidJob."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from orchestrator.errors import InvalidJob
from orchestrator.spec.job import Job
from orchestrator.spec.messages import invalid_job, report
from orchestrator.spec.overrides import apply_overrides
from orchestrator.spec.secrets import secret_problems
from orchestrator.spec.yaml import MAX_BYTES, Document, load_yaml

_SECRET_HINT = "give credentials by environment, profile or role; if it is no secret, rename it"


def load_job(path: str | PathLike[str], overrides: Sequence[str] = ()) -> Job:
    """Read and check a job file.

    Args:
        path: the YAML file.
        overrides: `key=value` texts, such as `train.epochs=20`, applied in order before the check.

    Raises:
        InvalidJob: the file cannot be read or is not a job; lists every problem with file and line.
    """
    document = load_yaml(_read(Path(path)), str(path))
    return _validated(apply_overrides(document, overrides))


def parse_job(
    data: Mapping[str, Any],
    *,
    filename: str = "<dict>",
    lines: Mapping[tuple[str | int, ...], int] | None = None,
    overrides: Sequence[str] = (),
) -> Job:
    """Check a job given as a dictionary.

    Args:
        data: what the YAML file would say, short forms allowed.
        filename: its name in messages.
        lines: 1-based line of each path, for messages.
        overrides: as for `load_job`.

    Raises:
        InvalidJob: it is not a job; lists every problem.
    """
    return _validated(apply_overrides(Document(data, filename, lines or {}), overrides))


def _validated(document: Document) -> Job:
    if not isinstance(document.data, Mapping):
        what = "the document is empty" if document.data is None else "a job is a mapping of keys"
        raise InvalidJob(what, where=document.filename, hint="it starts with name:, model:, data:")
    # Secrets first and alone: the other messages show values.
    secrets = [(problem, _SECRET_HINT) for problem in secret_problems(document.data)]
    if secrets:
        raise report(secrets, document)
    try:
        return Job.model_validate(document.data)
    except ValidationError as error:
        raise invalid_job(error, document) from None


def _read(path: Path) -> str:
    try:
        if not path.is_file():
            what = "is a folder, not a job file" if path.is_dir() else "there is no such file"
            raise InvalidJob(what, where=str(path), hint=nearest_file(path))
        with path.open("rb") as file:
            body = file.read(MAX_BYTES + 1)
        if len(body) > MAX_BYTES:
            raise InvalidJob(f"the file is larger than {MAX_BYTES // 1024} KiB", where=str(path))
        return body.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = body.count(b"\n", 0, error.start) + 1
        raise InvalidJob("the file is not UTF-8 text", where=f"{path}:{line}", hint="save it as UTF-8") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise InvalidJob(f"the file cannot be read: {reason}", where=str(path)) from None


def nearest_file(path: Path) -> str:
    """What to do where a YAML file is not there: the file of the nearest name, or the folder that was looked in."""
    folder = path if path.is_dir() else path.parent
    names = (
        sorted(item.name for item in folder.iterdir() if item.suffix in (".yaml", ".yml")) if folder.is_dir() else []
    )
    close = difflib.get_close_matches(path.name, names, n=1, cutoff=0.5) or names[:1]
    return f"did you mean {folder / close[0]}?" if close else f"paths are relative to {Path.cwd()}"
