"""Finds the functions and classes that a job names, and reads their parameters, without importing the user's code."""

from __future__ import annotations

import ast
import difflib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from orchestrator.errors import InvalidJob
from orchestrator.spec.base import is_reference
from orchestrator.spec.modules import FoundModule, find_module, imported_from, locate, parse

MAX_FILES = 100
"""Files read for one function before its parameters count as unknown."""

_TRANSPARENT_DECORATORS = {"cache", "lru_cache"}
Binding = (
    ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Assign | ast.AnnAssign | ast.Import | ast.ImportFrom
)


@dataclass(frozen=True)
class FoundFunction:
    """A function that exists, and what it can be called with by keyword.

    Attributes:
        module: dotted name of the module that the reference names.
        name: its name there.
        file: where it is defined, or the furthest place that could be followed.
        line: 1-based line there; 0 where there is no source.
        parameters: names that it takes by keyword; None when they cannot be known without importing it.
        required: those of its parameters that have no default.
        accepts_any: whether it takes `**kwargs`.
        methods: of a class, those that its own source and that of its bases define; None when they cannot all be known
            without importing it, or it is no class.
    """

    module: str
    name: str
    file: str
    line: int
    parameters: tuple[str, ...] | None
    required: tuple[str, ...]
    accepts_any: bool
    methods: frozenset[str] | None = None

    def accepts(self, keyword: str) -> bool:
        """Whether it can be called with that keyword, as far as can be known."""
        return self.parameters is None or self.accepts_any or keyword in self.parameters


def find_function(ref: str, root: str, *, where: str | None = None, kind: str = "function") -> FoundFunction:
    """Find the function, or the class, of a reference.

    Looks at top-level definitions, inside `if`, `try`, `with` and loops too, and follows `from … import` statically.

    Args:
        ref: `module:function`.
        root: folder that comes first on the import path, normally the working directory.
        where: how messages name the place; the reference itself by default.
        kind: how messages call what is looked for: a `function` or a `class`.

    Raises:
        InvalidJob: malformed, no such module or function (with the nearest names), or the file is not valid Python.
    """
    where = where or repr(ref)
    if not is_reference(ref):
        raise InvalidJob("not a reference", where=where, hint="write module:function, such as jobs.digits:build_model")
    module_name, _, name = ref.partition(":")
    module = find_module(module_name, root, where=where)
    if module.file is None:
        if module.folders:
            what = f"{module_name} is a folder without __init__.py: it holds no functions"
            raise InvalidJob(what, where=where, hint="name a module in it: package.module:function")
        return FoundFunction(module_name, name, module_name, 0, None, (), False)
    found = _Search(root).look_up(name, module)
    if found is None:
        raise _missing(kind, name, module, where)
    return replace(found, module=module_name, name=name)


class _Search:
    """Follows a name from module to module; each (file, name) is looked at once, so circles end."""

    def __init__(self, root: str) -> None:
        self.root = root
        self.known: dict[tuple[str | None, str], FoundFunction | None] = {}

    def look_up(self, name: str, module: FoundModule) -> FoundFunction | None:
        """The function bound to `name` at the top level of a module with source; None where nothing binds it."""
        key = (module.file, name)
        if key not in self.known:
            if len(self.known) >= MAX_FILES:
                return _unknown(name, module, 1)
            self.known[key] = None  # what a circle of imports finds
            self.known[key] = self._bound(name, module)
        return self.known[key]

    def _bound(self, name: str, module: FoundModule) -> FoundFunction | None:
        tree = parse(module)
        candidates = [self._describe(binding, name, module) for binding in _bindings(tree.body, name)]
        if not candidates:
            return self._starred(name, tree, module)
        first = candidates[0]
        signatures = {(each.parameters, each.required, each.accepts_any, each.methods) for each in candidates}
        # Which branch runs is known only when it runs: different signatures count as unknown.
        return first if len(signatures) == 1 else _unknown(name, module, first.line)

    def _describe(self, binding: Binding, name: str, module: FoundModule) -> FoundFunction:
        unknown = _unknown(name, module, binding.lineno)
        match binding:
            case ast.FunctionDef() if all(_is_transparent(decorator) for decorator in binding.decorator_list):
                return _with_signature(unknown, binding.args)
            case ast.AsyncFunctionDef():
                what = f"{name} is an async function: it would return a coroutine"
                raise InvalidJob(what, where=f"{module.file}:{binding.lineno}", hint="define it with `def`")
            case ast.ClassDef():
                return replace(_with_constructor(unknown, binding), methods=self._methods(binding, module))
            case ast.ImportFrom():
                return self._follow(binding, name, module) or unknown
            case _:
                return unknown

    def _methods(self, node: ast.ClassDef, module: FoundModule) -> frozenset[str] | None:
        """Methods of a class and of its bases; Keras' own `Callback` counts as known, and has no state."""
        methods = {statement.name for statement in node.body if isinstance(statement, ast.FunctionDef)}
        for base in node.bases:
            found = self.look_up(base.id, module) if isinstance(base, ast.Name) else None
            if found is not None and found.methods is not None:
                methods |= found.methods
            elif ast.unparse(base).rpartition(".")[2] != "Callback":
                return None
        return frozenset(methods)

    def _follow(self, node: ast.ImportFrom, name: str, module: FoundModule) -> FoundFunction | None:
        """The imported function where it was defined; None where the way cannot be followed."""
        source = self._source_of(node, module)
        if source is None:
            return None
        original = next(alias.name for alias in node.names if (alias.asname or alias.name) == name)
        try:
            return self.look_up(original, source)
        except InvalidJob:  # it may stand in a `try` that has another way
            return None

    def _starred(self, name: str, tree: ast.Module, module: FoundModule) -> FoundFunction | None:
        """The function where `from … import *` or a module's own `__getattr__` may bring it in."""
        imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
        for node in reversed([node for node in imports if node.names[0].name == "*"]):  # the last one wins
            source = self._source_of(node, module)
            found = _unknown(name, module, node.lineno) if source is None else self.look_up(name, source)
            if found is not None:
                return found
        for statement in tree.body:
            if isinstance(statement, ast.FunctionDef) and statement.name == "__getattr__":
                return _unknown(name, module, statement.lineno)
        return None

    def _source_of(self, node: ast.ImportFrom, module: FoundModule) -> FoundModule | None:
        imported = imported_from(node, module)
        source = locate(imported, self.root) if imported else None
        return source if source is not None and source.file is not None else None


def _unknown(name: str, module: FoundModule, line: int) -> FoundFunction:
    return FoundFunction(module.name, name, module.file or "", line, None, (), False)


def _bindings(body: Iterable[ast.stmt], name: str) -> list[Binding]:
    """What binds the name, without what a later unconditional binding replaces."""
    found: list[Binding] = []
    for statement in body:
        if isinstance(statement, Binding):
            if name in _bound_names(statement):
                found = [statement]
        else:
            found += [binding for branch in _branches(statement) for binding in _bindings(branch, name)]
    return found


def _bound_names(statement: Binding) -> Iterator[str]:
    match statement:
        case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
            yield statement.name
        case ast.Import():
            yield from (alias.asname or alias.name.partition(".")[0] for alias in statement.names)
        case ast.ImportFrom():
            yield from (alias.asname or alias.name for alias in statement.names)
        case ast.Assign():
            for target in statement.targets:
                yield from (node.id for node in ast.walk(target) if isinstance(node, ast.Name))
        case ast.AnnAssign() if statement.value is not None and isinstance(statement.target, ast.Name):
            yield statement.target.id


def _branches(statement: ast.stmt) -> Iterator[list[ast.stmt]]:
    """The bodies of a compound statement, which run in the same scope, if they run."""
    for field in ("body", "orelse", "finalbody"):
        yield getattr(statement, field, [])
    for part in (*getattr(statement, "handlers", ()), *getattr(statement, "cases", ())):
        yield part.body


def _with_signature(found: FoundFunction, arguments: ast.arguments) -> FoundFunction:
    positional = [*arguments.posonlyargs, *arguments.args]
    without_default = positional[: len(positional) - len(arguments.defaults)]
    keyword_only = [
        argument
        for argument, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)
        if default is None
    ]
    return replace(
        found,
        parameters=tuple(argument.arg for argument in (*arguments.args, *arguments.kwonlyargs)),
        required=tuple(argument.arg for argument in (*without_default, *keyword_only)),
        accepts_any=arguments.kwarg is not None,
    )


def _with_constructor(found: FoundFunction, node: ast.ClassDef) -> FoundFunction:
    """The parameters of a class' own `__init__`, where it has one and nothing else decides on them."""
    own = {statement.name: statement for statement in node.body if isinstance(statement, ast.FunctionDef)}
    init = own.get("__init__")
    if init is None or init.decorator_list or node.decorator_list or node.keywords or "__new__" in own:
        return found
    described = _with_signature(found, init.args)
    this = [*init.args.posonlyargs, *init.args.args][:1]
    drop = {argument.arg for argument in this}
    return replace(
        described,
        parameters=tuple(name for name in described.parameters or () if name not in drop),
        required=tuple(name for name in described.required if name not in drop),
    )


def _is_transparent(decorator: ast.expr) -> bool:
    """Whether a decorator is known to keep the signature."""
    target = decorator.func if isinstance(decorator, ast.Call) else decorator
    last = target.attr if isinstance(target, ast.Attribute) else getattr(target, "id", "")
    return last in _TRANSPARENT_DECORATORS


def _missing(kind: str, name: str, module: FoundModule, where: str) -> InvalidJob:
    callables = list(dict.fromkeys(_top_level_names(parse(module).body)))
    close = difflib.get_close_matches(name, callables, n=3, cutoff=0.6) or callables[:5]
    hint = f"did you mean {' or '.join(close)}?" if close else f"{module.file} defines no functions"
    return InvalidJob(f"there is no {kind} {name} in {module.file}", where=where, hint=hint)


def _top_level_names(body: Iterable[ast.stmt]) -> Iterator[str]:
    for statement in body:
        if isinstance(statement, ast.FunctionDef | ast.ClassDef):
            yield statement.name
        elif isinstance(statement, ast.ImportFrom):
            yield from (alias.asname or alias.name for alias in statement.names if alias.name != "*")
        elif not isinstance(statement, Binding):
            for branch in _branches(statement):
                yield from _top_level_names(branch)
