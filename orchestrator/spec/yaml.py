"""The one YAML loader: YAML 1.2 core-schema scalars, strict about everything that hides mistakes.

PyYAML alone reads `1e-4` as text, `on` and `no` as booleans, `12:30` as a number and `2026-01-01` as a date, keeps the
last of two equal keys, and lets a kilobyte of aliases grow to gigabytes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import yaml

from orchestrator.errors import InvalidJob

MAX_BYTES = 1 << 20
MAX_DEPTH = 50
MAX_VALUES = 100_000
"""Values after aliases are expanded: what bounds a "billion laughs"."""

Path = tuple[str | int, ...]
Scalar = None | bool | int | float | str

_NULL = {"", "~", "null", "Null", "NULL"}
_BOOL = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
_INT = re.compile(r"[-+]?[0-9]+")
_OCTAL = re.compile(r"0o[0-7]+")
_HEX = re.compile(r"0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_SPECIAL_FLOAT = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
_MAX_DIGITS = 20
_INT_RANGE = range(-(2**63), 2**64)


@dataclass(frozen=True)
class Document:
    """A parsed job file, before validation.

    Attributes:
        data: the document as dictionaries, lists and scalars.
        filename: its name, for messages.
        lines: 1-based line of every key and list entry, by path.
        overridden: the override that set a path, for messages; it stands above `lines`.
    """

    data: Any
    filename: str
    lines: Mapping[Path, int] = field(default_factory=dict)
    overridden: Mapping[Path, str] = field(default_factory=dict)

    def where(self, path: Path) -> str:
        """`file:line` of the path or of its nearest ancestor in the document; the override that set it, if any."""
        for length in range(len(path), -1, -1):
            if path[:length] in self.overridden:
                return self.overridden[path[:length]]
            if path[:length] in self.lines:
                return f"{self.filename}:{self.lines[path[:length]]}"
        return self.filename


def load_yaml(text: str, filename: str) -> Document:
    """Parse one YAML document.

    Keys are text or whole numbers. Tags, merge keys (`<<` is a plain key in YAML 1.2) and several documents in one text
    are not supported; whole numbers must fit 64 bits.

    Args:
        text: the document, at most 1 MiB as UTF-8.
        filename: its name, for messages.

    Raises:
        InvalidJob: not YAML, or one of the limits above is passed; `where` is `file:line`.
    """
    if len(text) > MAX_BYTES or len(text.encode("utf-8", "surrogatepass")) > MAX_BYTES:
        raise InvalidJob(f"the document is larger than {MAX_BYTES // 1024} KiB", where=filename)
    try:
        loader = _Loader(text)
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        what = f"the character U+{error.character:04X} is not allowed in YAML"
        raise InvalidJob(what, where=f"{filename}:{line}") from None
    try:
        root = loader.get_single_node()
    except yaml.MarkedYAMLError as error:
        raise _syntax_error(error, filename) from None
    except (ValueError, OverflowError) as error:  # an escape such as "\\UFFFFFFFF": PyYAML lets chr() fail
        raise InvalidJob(f"not valid YAML: {error}", where=f"{filename}:{loader.line + 1}") from None
    if root is None:
        return Document(None, filename)
    builder = _Builder(filename)
    return Document(builder.build(root, ()), filename, builder.lines)


def parse_scalar(text: str) -> Scalar:
    """A plain (unquoted) scalar by the core schema of YAML 1.2: `1e-4` is a float, `on` is text, `0o17` is 15.

    Raises:
        ValueError: a whole number that does not fit 64 bits.
    """
    if text in _NULL:
        return None
    if text in _BOOL:
        return _BOOL[text]
    for pattern, base in ((_INT, 10), (_OCTAL, 8), (_HEX, 16)):
        if pattern.fullmatch(text):
            return _whole(text, base)
    if _FLOAT.fullmatch(text):
        return float(text)
    if _SPECIAL_FLOAT.fullmatch(text):
        return float(text.lower().replace(".", ""))
    return text


def _whole(text: str, base: int) -> int:
    digits = text.lstrip("+-") if base == 10 else text[2:]
    # The length is looked at first: Python refuses to convert, and later to print, numbers of thousands of digits.
    significant = len(digits.lstrip("0"))
    sign = -1 if text.startswith("-") else 1
    number = sign * int(digits, base) if significant <= _MAX_DIGITS + 2 else None
    if number is None or number not in _INT_RANGE:
        raise ValueError("whole numbers must fit 64 bits")
    return number


class _Loader(yaml.SafeLoader):
    """Composes nodes only; refuses tags, and nesting that would end in a RecursionError."""

    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        event: Any = cast(Any, self).peek_event()  # untyped in the stubs
        if getattr(event, "tag", None) is not None:
            raise yaml.composer.ComposerError(None, None, f"the tag {event.tag!r} is not allowed", event.start_mark)
        if self.depth >= MAX_DEPTH:
            raise yaml.composer.ComposerError(None, None, f"nested deeper than {MAX_DEPTH} levels", event.start_mark)
        self.depth += 1
        try:
            return super().compose_node(parent, index)
        finally:
            self.depth -= 1


class _Builder:
    """Turns nodes into data, and remembers the line of every path."""

    def __init__(self, filename: str) -> None:
        self.filename = filename
        self.lines: dict[Path, int] = {}
        self.count = 0

    def build(self, node: yaml.Node, path: Path) -> Any:
        self.count += 1
        if self.count > MAX_VALUES:
            raise self.error(node, f"more than {MAX_VALUES} values (aliases count each time they are used)")
        if len(path) > MAX_DEPTH:
            raise self.error(node, f"nested deeper than {MAX_DEPTH} levels (an alias that contains itself?)")
        self.lines.setdefault(path, node.start_mark.line + 1)
        if isinstance(node, yaml.ScalarNode):
            return self.scalar(node)
        if isinstance(node, yaml.MappingNode):
            return self.build_mapping(node, path)
        return [self.build(item, (*path, index)) for index, item in enumerate(node.value)]

    def build_mapping(self, node: yaml.MappingNode, path: Path) -> dict[str | int, Any]:
        mapping: dict[str | int, Any] = {}
        for key_node, value_node in node.value:
            key = self.scalar(key_node) if isinstance(key_node, yaml.ScalarNode) else None
            if isinstance(key, bool) or not isinstance(key, str | int):
                raise self.error(key_node, "a key must be text or a whole number (quote it to make it text)")
            if key in mapping:
                first = self.lines[(*path, key)]
                raise self.error(key_node, f"the key {key!r} stands here twice, first in line {first}")
            # The line of the key, not of its value, which may start on a later line.
            self.lines[(*path, key)] = key_node.start_mark.line + 1
            mapping[key] = self.build(value_node, (*path, key))
        return mapping

    def scalar(self, node: yaml.ScalarNode) -> Scalar:
        text: str = node.value
        try:
            text.encode("utf-8")
            return parse_scalar(text) if node.style is None else text
        except UnicodeEncodeError:
            raise self.error(node, "half of a surrogate pair is not a character") from None
        except ValueError as error:
            raise self.error(node, str(error)) from None

    def error(self, node: yaml.Node, what: str) -> InvalidJob:
        return InvalidJob(what, where=f"{self.filename}:{node.start_mark.line + 1}")


def _syntax_error(error: yaml.MarkedYAMLError, filename: str) -> InvalidJob:
    mark = error.problem_mark or error.context_mark
    problem = ", ".join(part for part in (error.context, error.problem) if part)
    if mark is None:
        return InvalidJob(f"not valid YAML: {problem}", where=filename)
    hint = "YAML indents with spaces, never with tabs" if "'\\t'" in problem else None
    what = f"not valid YAML at column {mark.column + 1}: {problem}"
    return InvalidJob(what, where=f"{filename}:{mark.line + 1}", hint=hint)
