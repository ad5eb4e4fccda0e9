"""Finds a module's file without importing anything: no user code runs, not even a parent package's `__init__`."""

from __future__ import annotations

import ast
import difflib
import importlib
import importlib.util
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path

from orchestrator.errors import InvalidJob


@dataclass(frozen=True)
class FoundModule:
    """A module that exists.

    Attributes:
        name: dotted name.
        file: its Python source, absolute; None where there is none (compiled, built in, a folder without `__init__`).
        folders: where its submodules are looked for; empty when it is not a package.
    """

    name: str
    file: str | None
    folders: tuple[str, ...]


def locate(name: str, root: str) -> FoundModule | None:
    """The module of that dotted name, with `root` first on the path; None where there is none."""
    found = trail(name, root)
    return found[-1] if len(found) == name.count(".") + 1 else None


def trail(name: str, root: str) -> tuple[FoundModule, ...]:
    """The module's parent packages, outermost first, and the module itself: as far as they exist."""
    folders: Sequence[str] = search_path(root)
    found: list[FoundModule] = []
    for part in name.split("."):
        spec = _find(part, folders, top=not found)
        if spec is None:
            break
        # Read at once: a folder without `__init__` computes them anew when the import caches are cleared.
        folders = tuple(absolute(folder) for folder in spec.submodule_search_locations or ())
        dotted = ".".join([*(module.name for module in found[-1:]), part])
        found.append(FoundModule(dotted, _source_file(spec), tuple(folders)))
    return tuple(found)


def find_module(name: str, root: str, *, where: str) -> FoundModule:
    """The module of that dotted name.

    Raises:
        InvalidJob: there is none, or Python would import another one; names the nearest modules and where it looked.
    """
    # A file written a moment ago may be missing from Python's cached listing of its folder.
    importlib.invalidate_caches()
    found = trail(name, root)
    parts = name.split(".")
    if len(found) < len(parts):
        raise _missing(parts, found, root, where)
    top = found[0]
    if parts[0] in sys.stdlib_module_names and is_below(top.file or next(iter(top.folders), ""), root):
        what = f"{parts[0]} is also a module of Python's own, which would be imported instead"
        raise InvalidJob(what, where=where, hint=f"rename {top.file or top.folders[0]}")
    return found[-1]


def parse(module: FoundModule) -> ast.Module:
    """The syntax tree of a module that has a source file.

    Raises:
        InvalidJob: the file cannot be read or is not Python.
    """
    file = module.file or ""
    try:
        return ast.parse(Path(file).read_bytes(), filename=file)
    except SyntaxError as error:
        what = f"not valid Python: {error.msg}"
        raise InvalidJob(what, where=f"{file}:{error.lineno or 1}") from None
    except (OSError, ValueError, RecursionError, MemoryError) as error:
        raise InvalidJob(f"the module cannot be read: {error}", where=file) from None


def imported_from(node: ast.ImportFrom, module: FoundModule) -> str | None:
    """The absolute name of the module in `from <module> import …`; None where the dots lead above the top."""
    if node.level == 0:
        return node.module
    is_package = bool(module.folders)
    parents = module.name.split(".")
    drop = node.level - 1 if is_package else node.level
    if drop >= len(parents):
        return None
    return ".".join([*parents[: len(parents) - drop], *([node.module] if node.module else [])])


def absolute(path: str) -> str:
    """The path from the root, without `..`; symbolic links stay, so that a linked module counts where it is linked."""
    return os.path.abspath(path)  # noqa: PTH100  # `Path.resolve` follows links


def is_below(file: str, folder: str) -> bool:
    """Whether the file stands in the folder or below it."""
    return Path(absolute(file)).is_relative_to(absolute(folder))


def search_path(root: str) -> tuple[str, ...]:
    """The folders that top-level modules are looked for in: `root`, then Python's own path."""
    return tuple(dict.fromkeys(absolute(folder) for folder in (root, *sys.path)))


def _find(part: str, folders: Sequence[str], *, top: bool) -> ModuleSpec | None:
    if top and part in sys.builtin_module_names:
        return importlib.util.find_spec(part)
    # Only the last part of the name: with a dotted one, PathFinder would look its parent up in `sys.modules`.
    spec = PathFinder.find_spec(part, folders)
    if spec is not None or not top:
        return spec
    try:
        # Finders of editable installs and frozen modules; a top-level name has no parent that could be executed.
        return importlib.util.find_spec(part)
    except (ValueError, ImportError):
        return None


def _source_file(spec: ModuleSpec) -> str | None:
    origin = spec.origin
    return absolute(origin) if origin and origin.endswith(".py") and Path(origin).is_file() else None


def _missing(parts: list[str], found: tuple[FoundModule, ...], root: str, where: str) -> InvalidJob:
    name = ".".join(parts[: len(found) + 1])
    if found and not found[-1].folders:
        what = f"there is no module {name}: {found[-1].name} is a module, not a package"
        return InvalidJob(what, where=where, hint=f"{found[-1].file} has no modules below it")
    folders = found[-1].folders if found else search_path(root)
    near_folders = folders if found else (absolute(root),)
    close = difflib.get_close_matches(parts[len(found)], _module_names(near_folders), n=3, cutoff=0.5)
    prefix = f"{found[-1].name}." if found else ""
    means = f"did you mean {' or '.join(prefix + item for item in close)}? " if close else ""
    searched = ", ".join(folder for folder in folders if Path(folder).is_dir())
    return InvalidJob(f"there is no module {name}", where=where, hint=f"{means}searched in {searched}")


def _module_names(folders: Sequence[str]) -> list[str]:
    names = set()
    for folder in filter(os.path.isdir, folders):
        for item in os.scandir(folder):
            name = item.name if item.is_dir() else item.name.removesuffix(".py")
            if name.isidentifier() and (item.is_dir() or item.name.endswith(".py")):
                names.add(name)
    return sorted(names - {"__init__", "__pycache__"})
