"""A guess from source alone: does a build function name convolutions or recurrent layers? Nothing is imported.

It only decides with how many cores the first workers start; how members are trained is decided when their models are
there.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from orchestrator.spec.references import FoundFunction

_SLOW_FUSED_ON_CPU = re.compile(r"\w*Conv\w*[123]D\w*|\w*LSTM\w*|\w*GRU\w*|\w*RNN\w*|applications|hub|Bidirectional")


def names_slow_layers(builder: FoundFunction) -> bool:
    """Whether the function, or what it names of its own file, names layers that are slow when fused on a CPU.

    Args:
        builder: the build function; one whose source is unknown names nothing.
    """
    if builder.line == 0 or not builder.file:
        return False
    tree = ast.parse(Path(builder.file).read_bytes())
    defined = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    start = next((node for node in defined.values() if node.lineno == builder.line), None)
    todo: list[ast.AST] = [] if start is None else [start]
    seen: set[ast.AST] = set()
    while todo:
        node = todo.pop()
        seen.add(node)
        for name in _names(node):
            if _SLOW_FUSED_ON_CPU.fullmatch(name):
                return True
            if name in defined and defined[name] not in seen:
                todo.append(defined[name])
    return False


def _names(node: ast.AST) -> Iterator[str]:
    for part in ast.walk(node):
        if isinstance(part, ast.Name):
            yield part.id
        elif isinstance(part, ast.Attribute):
            yield part.attr
        elif isinstance(part, ast.alias):
            yield part.name.rpartition(".")[2]
