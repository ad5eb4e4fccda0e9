"""`data.preprocess`: how raw rows are prepared, by steps that are fitted on each member's training rows alone."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from typing import Annotated, Any

from pydantic import AfterValidator, Field, model_validator

from orchestrator.spec.base import BY_SHAPE, IS_LIST, IS_MAPPING, IS_TEXT, Number, Problem, Spec, refuse

_AXIS = (
    "The axis that keeps figures of its own for each place, counted as Keras' Normalization does (0 are the examples, "
    "-1 is the last); several as a list; null takes one figure for all."
)
Axis = int | Annotated[tuple[int, ...], Field(min_length=1, strict=False)] | None


class MinMaxSpec(Spec):
    """Smallest and largest training value become the ends of a range; what is constant becomes its lower end."""

    axis: Axis = Field(default=-1, description=_AXIS)
    feature_range: Annotated[tuple[Number, Number], Field(strict=False)] = Field(
        default=(0, 1), description="The range, lower end first. Values beyond the training rows' land beyond it."
    )

    @model_validator(mode="after")
    def _check(self) -> MinMaxSpec:
        low, high = self.feature_range
        if low >= high:
            refuse([Problem(("feature_range",), f"must go up, not from {low:g} to {high:g}")])
        return self


class StandardizeSpec(Spec):
    """Mean 0 and standard deviation 1 over the training rows; what is constant there becomes 0."""

    axis: Axis = Field(default=-1, description=_AXIS)


class OneHotSpec(Spec):
    """Whole numbers from 0, below 2³¹, become rows with a single 1; one beyond `num_classes` a row of 0."""

    num_classes: int | None = Field(
        default=None, ge=1, description="How many; by default one more than the largest number in the training rows."
    )


class FlattenSpec(Spec):
    """All numbers of a row in one line."""


class NormalizeImagesSpec(Spec):
    """Grey values from 0 to 255 become 0 to 1; rows [height, width] get an axis for their one channel."""


SETTINGS: dict[str, type[Spec]] = {
    "min_max": MinMaxSpec,
    "standardize": StandardizeSpec,
    "one_hot": OneHotSpec,
    "flatten": FlattenSpec,
    "normalize_images": NormalizeImagesSpec,
}
_FIRST = ("one_hot", "normalize_images")
"""Steps that need the numbers as they come from the data."""


class StepSpec(Spec):
    """One step with its arguments: exactly one of these keys."""

    min_max: MinMaxSpec | None = Field(default=None, description="Scale to a range by smallest and largest value.")
    standardize: StandardizeSpec | None = Field(default=None, description="Subtract the mean, divide by the deviation.")
    one_hot: OneHotSpec | None = Field(default=None, description="Categories that are numbered from 0.")
    flatten: FlattenSpec | None = Field(default=None, description="One line of numbers for each row.")
    normalize_images: NormalizeImagesSpec | None = Field(default=None, description="Grey values to numbers up to 1.")

    @model_validator(mode="after")
    def _check(self) -> StepSpec:
        named = [name for name in SETTINGS if getattr(self, name) is not None]
        if len(named) != 1:
            what = f"must name exactly one step, not {' and '.join(named) or 'none'}: steps stand in a list"
            refuse([Problem((), what)])
        return self


def _check_name(value: str) -> str:
    if value not in SETTINGS:
        close = difflib.get_close_matches(value, SETTINGS, n=1, cutoff=0.5)
        means = f"did you mean {close[0]}?" if close else f"there are {', '.join(SETTINGS)}"
        refuse([Problem((), f"{value!r} is no step of preprocessing: {means}")])
    return value


def _check_order(steps: tuple[Any, ...]) -> tuple[Any, ...]:
    names = [name for name, _ in settings_of(steps)]
    late = [place for place, name in enumerate(names) if place > 0 and name in _FIRST]
    refuse([Problem((place,), f"{names[place]} must be the first step: it needs raw numbers") for place in late])
    return steps


StepName = Annotated[str, AfterValidator(_check_name), Field(json_schema_extra={"enum": list(SETTINGS)})]
Step = Annotated[Annotated[StepName, IS_TEXT] | Annotated[StepSpec, IS_MAPPING], BY_SHAPE]
Steps = Annotated[tuple[Step, ...], Field(min_length=1, strict=False), AfterValidator(_check_order)]
Preprocess = Annotated[
    Annotated[tuple[Step, ...], Field(strict=False), AfterValidator(_check_order), IS_LIST]
    | Annotated[dict[str, Steps], IS_MAPPING],
    BY_SHAPE,
]


def settings_of(steps: Sequence[str | StepSpec]) -> Iterator[tuple[str, Any]]:
    """Name and settings of each step; a bare name has the defaults."""
    for step in steps:
        if isinstance(step, str):
            yield step, SETTINGS[step]()
        else:
            yield next((name, getattr(step, name)) for name in SETTINGS if getattr(step, name) is not None)
