"""Which nodes `resources.labels` selects: Ray's rules for its label selectors. Pure."""

from __future__ import annotations

from collections.abc import Mapping


def selects(selector: Mapping[str, str], labels: Mapping[str, str]) -> bool:
    """Whether a node with these labels may carry a worker.

    A value is what the label must be (`spot`), must not be (`!spot`), or one of several (`in(a, b)`, `!in(a, b)`). A
    node without the label is selected by what it must not be alone, as Ray has it.
    """
    return all(_accepts(value, labels.get(key)) for key, value in selector.items())


def selector_text(selector: Mapping[str, str]) -> str:
    """For people: `market=spot, zone=in(a, b)`."""
    return ", ".join(f"{key}={value}" for key, value in selector.items())


def _accepts(asked: str, value: str | None) -> bool:
    refused, asked = asked.startswith("!"), asked.removeprefix("!")
    among = asked.removeprefix("in").strip("()").split(",") if asked.endswith(")") else [asked]
    return (value in [each.strip() for each in among]) is not refused
