"""From pydantic's errors to plain words: what is wrong at which path, and the nearest right name."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from orchestrator.errors import InvalidJob
from orchestrator.spec.base import SHAPES, Problem, shape
from orchestrator.spec.job import NAME
from orchestrator.spec.keys import kinds_at, nearest_key, spec_at
from orchestrator.spec.yaml import Document, Path

MAX_SHOWN = 50
_MAX_VALUE_CHARS = 60

_PATTERNS = {
    NAME: "must start with a lower-case letter or digit and go on with those or `.`, `_`, `-`; at most 63 characters",
}
_WORDS: dict[str, Callable[[Mapping[str, Any]], str]] = {
    "missing": lambda ctx: "is missing",
    "string_type": lambda ctx: "must be text",
    "string_too_short": lambda ctx: "must not be empty",
    "string_pattern_mismatch": lambda ctx: _PATTERNS.get(ctx["pattern"], f"must match {ctx['pattern']}"),
    "string_unicode": lambda ctx: "must be valid Unicode",
    "int_type": lambda ctx: "must be a whole number",
    "int_from_float": lambda ctx: "must be a whole number",
    "float_type": lambda ctx: "must be a number",
    "finite_number": lambda ctx: "must be a finite number",
    "bool_type": lambda ctx: "must be true or false",
    "dict_type": lambda ctx: "must be a mapping of keys",
    "model_type": lambda ctx: "must be a mapping of keys",
    "model_attributes_type": lambda ctx: "must be a mapping of keys",
    "tuple_type": lambda ctx: "must be a list",
    "too_short": lambda ctx: "must not be empty",
    "literal_error": lambda ctx: f"must be {ctx['expected']}",
    "greater_than": lambda ctx: f"must be above {ctx['gt']:g}",
    "greater_than_equal": lambda ctx: f"must be at least {ctx['ge']:g}",
    "less_than": lambda ctx: f"must be below {ctx['lt']:g}",
    "less_than_equal": lambda ctx: f"must be at most {ctx['le']}",
    "union_tag_invalid": lambda ctx: f"must be {_alternatives(ctx['expected_tags'])}",
}
_WITHOUT_VALUE = {"missing", "string_too_short", "too_short", "string_unicode"}
_ARTICLES = {
    "<number>": "a number",
    "<list>": "a list",
    "<mapping>": "a mapping",
    "<mapping by output>": "a mapping by output",
    "<something else>": "something else",
}


def invalid_job(error: ValidationError, document: Document) -> InvalidJob:
    """All of pydantic's errors as one InvalidJob with file, line, dotted path, plain words and hints."""
    told = [details for details in error.errors(include_url=False) if not _is_echo(details)]
    found = [problem for details in told for problem in _translate(details, document.data)]
    return report(found, document)


def report(found: Sequence[tuple[Problem, str | None]], document: Document) -> InvalidJob:
    """One InvalidJob that lists problems, each with an optional hint, in the order of the document."""
    if len(found) == 1:
        [(problem, hint)] = found
        return InvalidJob(_sentence(problem), where=document.where(problem.path), hint=hint)
    # Fields are checked in the models' order; a reader goes through the file from top to bottom.
    ordered = sorted(found, key=lambda item: _line(document, item[0].path))
    lines = [
        f"  {document.where(problem.path)}: {_sentence(problem)}{f' ({hint})' if hint else ''}"
        for problem, hint in ordered[:MAX_SHOWN]
    ]
    if len(ordered) > MAX_SHOWN:
        lines.append(f"  … and {len(ordered) - MAX_SHOWN} more")
    return InvalidJob("\n".join([f"{len(found)} problems:", *lines]), where=document.filename)


def _is_echo(details: ErrorDetails) -> bool:
    """Whether a list is too short only because items of it are wrong, which is told anyway."""
    return details["type"] == "too_short" and len(details["input"]) >= details.get("ctx", {})["min_length"]


def _translate(details: ErrorDetails, data: object) -> list[tuple[Problem, str | None]]:
    kind, context = details["type"], details.get("ctx", {})
    loc = details["loc"]
    path = _without_tags(loc)
    if kind == "problems":
        return [(Problem((*path, *part.path), part.what), None) for part in context["problems"]]
    if kind in ("extra_forbidden", "invalid_key"):
        path = (*_without_tags(loc[:-1]), loc[-1])
        nearest = nearest_key(path)
        return [(Problem(path, "is not a key of a job"), f"did you mean {nearest}?" if nearest else _keys_here(path))]
    words = _WORDS[kind](context) if kind in _WORDS else details["msg"]
    if kind == "literal_error":
        words = " or ".join([words, *kinds_at(path)])
    if path and path[-1] == "[key]":
        return [(Problem(path[:-1], f"is not a good key here: a key {words}"), None)]
    if kind not in _WITHOUT_VALUE:
        words += f", not {_shown(details['input'])}"
    return [(Problem(path, words), None)]


def _sentence(problem: Problem) -> str:
    return f"{'.'.join(map(str, problem.path))} {problem.what}".strip() if problem.path else f"the job {problem.what}"


def _keys_here(path: Path) -> str | None:
    spec = spec_at(path[:-1])
    return f"the keys here are {', '.join(spec.model_fields)}" if spec else None


def _line(document: Document, path: Path) -> int:
    known = (document.lines.get(path[:length]) for length in range(len(path), -1, -1))
    return next((line for line in known if line is not None), 0)


def _without_tags(loc: Sequence[str | int]) -> Path:
    """The location without the tags that pydantic adds for the branch of a union (`<list>`)."""
    return tuple(part for part in loc if part not in SHAPES)


def _alternatives(expected_tags: str) -> str:
    names = [tag.strip().strip("'").strip("<>") for tag in expected_tags.split(",")]
    words = [_ARTICLES.get(f"<{name}>", name) for name in names]
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} or {words[-1]}"


def _shown(value: object) -> str:
    kind = shape(value)
    if kind in ("<text>", "<number>"):
        text = repr(value)
        cut = text if len(text) <= _MAX_VALUE_CHARS else text[:_MAX_VALUE_CHARS] + "…"
        return f"the text {cut}" if kind == "<text>" else cut
    if isinstance(value, bool):
        return "true" if value else "false"
    return _ARTICLES.get(kind, kind.strip("<>"))
