"""Parts: what labels and predictions are kept under where a model has several outputs."""

from __future__ import annotations

from collections.abc import Iterable

ONLY = ""
"""The output of a model that has no other: a part of it is named as its split."""


def part(split: str, output: str) -> str:
    """The name of one output's rows in a split.

    Args:
        split: `validation`, `test` or another split; without a slash.
        output: name of the output; `ONLY` where the model has no other.

    Returns:
        `validation` for the only output, else `validation/<output>`.
    """
    return f"{split}/{output}" if output else split


def split_of(part: str) -> str:
    """The split of a part: what `part` was given first."""
    return part.partition("/")[0]


def output_of(part: str) -> str:
    """The output of a part: what `part` was given second."""
    return part.partition("/")[2]


def owner_of(metric: str, outputs: Iterable[str]) -> str | None:
    """The output that a metric is of, as Keras names both; None: of the model as a whole.

    Args:
        metric: such as `val_species_accuracy`, which begins with the output's name but for `val_`.
        outputs: all of them: of those whose names the metric begins with, the longest has it.
    """
    found = [each for each in outputs if each and metric.removeprefix("val_").startswith(f"{each}_")]
    return max(found, key=len, default=None)
