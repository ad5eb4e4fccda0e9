"""What makes two runs the same: the parts of the job that change its numbers, and the source of its own modules."""

from __future__ import annotations

import ast
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.errors import InvalidJob
from orchestrator.spec.base import is_reference
from orchestrator.spec.job import Job
from orchestrator.spec.modules import FoundModule, absolute, imported_from, is_below, parse, trail

_PARTS = ("name", "seed", "model", "data", "members", "train", "search", "ensemble")
_INSTALLED = {"site-packages", "dist-packages"}
_OWN_PACKAGE = __name__.partition(".")[0]
_NOT_SET = object()


@dataclass(frozen=True)
class CodeDigest:
    """The source of the job's own modules: sha256 in hex, and their paths relative to the working directory, sorted."""

    digest: str
    files: tuple[str, ...]


def code_digest(job: Job, root: str) -> CodeDigest:
    """Digest of the modules that the job names and of those that they import, as far as they live below `root`.

    Imports are followed in the syntax tree, those inside functions too; what is imported by a name computed at run time
    is not seen. Installed packages, virtual environments and this package are left out: `versions` records them.

    Args:
        job: the job.
        root: folder that comes first on the import path, normally the working directory.
    """
    root = absolute(root)
    return _digest(set(_own_files(job, root)), root)


def needed_modules(job: Job, root: str) -> tuple[str, ...]:
    """The modules that the job names, and those of its own (as for `code_digest`) that they import; sorted."""
    return tuple(sorted({*named_modules(job), *_own_files(job, absolute(root)).values()}))


def named_modules(job: Job) -> tuple[str, ...]:
    """The modules that the job names, in `module:name` references wherever they may stand; sorted."""
    texts = _texts(job.model_dump(mode="json", include=set(_PARTS)))
    return tuple(sorted({text.partition(":")[0] for text in texts if is_reference(text)}))


def identity(job: Job, code: str) -> dict[str, Any]:
    """What a run id stands for: name, seed, model, data, members, train, search, ensemble and code, with defaults.

    The deadline and what is printed are left out.

    Args:
        job: the job.
        code: `digest` of its `CodeDigest`.
    """
    dumped = job.model_dump(mode="json", include=set(_PARTS))
    del dumped["train"]["verbose"]
    del dumped["ensemble"]["deadline"]  # it says how long to wait, not what to train: a run may be given more time
    if job.data.max_rows is None:  # all rows: as before there was a choice
        del dumped["data"]["max_rows"]
    parts = {part: dumped[part] for part in _PARTS if dumped[part] is not None}  # no search: as before there was any
    return {**parts, "code": code}


def identity_digest(identity: Mapping[str, Any]) -> str:
    """sha256, in hex, of the identity as canonical JSON (sorted keys, no spaces, ASCII)."""
    return hashlib.sha256(_canonical(identity).encode("ascii")).hexdigest()


def default_run_id(name: str, digest: str) -> str:
    """`<name>-<12 hex of the identity's digest>`: the same request is the same run."""
    return f"{name}-{digest[:12]}"


def difference(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """What changed between two identities, a line each, such as `train.epochs: 5 → 20`; empty when nothing did."""
    return [f"{key}: {before} → {after}" for key, (before, after) in differing([old, new])]


def differing(specs: Sequence[Mapping[str, Any]]) -> list[tuple[str, tuple[str, ...]]]:
    """The keys, sorted, that do not have the same value in all specs.

    Each comes with its values as JSON texts; `(not set)` stands for none.
    """
    return list(_differences(specs, ""))


def _own_files(job: Job, root: str) -> dict[str, str]:
    """The files of the job's own modules, with the modules' names."""
    waiting = [*named_modules(job)]
    seen: set[str] = set()
    files: dict[str, str] = {}
    while waiting:
        name = waiting.pop()
        if name in seen or name.partition(".")[0] == _OWN_PACKAGE:
            continue
        seen.add(name)
        for module in trail(name, root):
            if module.file is not None and module.file not in files and _is_own(module.file, root):
                files[module.file] = module.name
                waiting += _imports(module)
    return files


def _is_own(file: str, root: str) -> bool:
    if not is_below(file, root):
        return False
    relative = Path(file).relative_to(root)
    folders = [Path(root, *relative.parts[:length]) for length in range(1, len(relative.parts))]
    return not _INSTALLED & set(relative.parts) and not any((folder / "pyvenv.cfg").is_file() for folder in folders)


def _imports(module: FoundModule) -> Iterator[str]:
    """Names of all modules that a module may import; `from a import b` gives `a.b` as well, which may be a module."""
    try:
        tree = parse(module)
    except InvalidJob:  # its bytes count; that it does not import is found where it is imported
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            source = imported_from(node, module)
            if source is not None:
                yield source
                yield from (f"{source}.{alias.name}" for alias in node.names if alias.name != "*")


def _texts(value: Any) -> Iterator[str]:
    """All texts in JSON values: wherever a job may name code of its own, it does so as `module:name`."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping | list):
        for item in value.values() if isinstance(value, Mapping) else value:
            yield from _texts(item)


def _digest(files: set[str], root: str) -> CodeDigest:
    relative = {Path(file).relative_to(root).as_posix(): file for file in files}
    digest = hashlib.sha256()
    for name in sorted(relative):
        content = hashlib.sha256(Path(relative[name]).read_bytes()).hexdigest()
        digest.update(f"{content}  {name}\n".encode())
    return CodeDigest(digest.hexdigest(), tuple(sorted(relative)))


def _canonical(value: object) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def _differences(values: Sequence[Any], path: str) -> Iterator[tuple[str, tuple[str, ...]]]:
    if all(isinstance(value, Mapping) and value for value in values):
        for key in sorted(set().union(*values)):
            below = f"{path}.{key}" if path else str(key)
            yield from _differences([value.get(key, _NOT_SET) for value in values], below)
        return
    shown = tuple(map(_shown, values))
    if len(set(shown)) > 1:
        yield path, shown


def _shown(value: object) -> str:
    return "(not set)" if value is _NOT_SET else json.dumps(value, ensure_ascii=False, sort_keys=True)
