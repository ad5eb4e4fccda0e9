"""Numbers, times and counts in words, as progress and status tell them."""

from __future__ import annotations

import math
from collections.abc import Mapping


def figures_text(logs: Mapping[str, float]) -> str:
    """`loss 0.3100 accuracy 0.9000 val_loss …`: training before validation, the loss first in each."""
    names = sorted(logs, key=lambda name: (name.startswith("val_"), name.removeprefix("val_") != "loss", name))
    return " ".join(f"{name} {number_text(logs[name])}" for name in names)


def validation_first(logs: Mapping[str, float]) -> Mapping[str, float]:
    """The validation metrics alone where there are some: a table's row has little room."""
    return {name: value for name, value in logs.items() if name.startswith("val_")} or logs


def number_text(value: float) -> str:
    """`0.3100`; very small and large ones as `2.5e-07`."""
    return f"{value:.4f}" if value == 0 or 1e-3 <= abs(value) < 1e4 else f"{value:.3g}"


def duration_text(seconds: float) -> str:
    """`12 s`, `3 min 05 s`, `2 h 05 min`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


def age_text(seconds: float) -> str:
    """`12 s`, `3 min`, `2 h 5 min`, `3 d 4 h`: whole ones, the rest left out."""
    minutes, hours, days = int(seconds // 60), int(seconds // 3600), int(seconds // 86400)
    if days:
        return f"{days} d {hours % 24} h"
    if hours:
        return f"{hours} h {minutes % 60} min"
    return f"{minutes} min" if minutes else f"{int(seconds)} s"


def ago(seconds: float | None) -> str | None:
    """An age: `12 s ago`, `3 min ago`, `2 h 5 min ago`, `3 d 4 h ago`."""
    return None if seconds is None else f"{age_text(seconds)} ago"


def at_most_text(seconds: float) -> str:
    """`≤ 50 s`, `≤ 3 min`, `≤ 2 h 5 min`: whole ones, a rest rounded up."""
    return f"≤ {age_text(math.ceil(seconds) if seconds <= 59 else math.ceil(seconds / 60) * 60)}"


def counted(count: int, noun: str) -> str:
    """`1 member`, `3 members`."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
