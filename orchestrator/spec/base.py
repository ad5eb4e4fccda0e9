"""What all parts of a job share: strictness, short forms, JSON values, unions told apart by their shape."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    JsonValue,
    PlainValidator,
    Tag,
    WithJsonSchema,
    WrapValidator,
    model_validator,
)
from pydantic_core import PydanticCustomError

MAX_JSON_DEPTH = 50

REFERENCE = r"^[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*$"
"""`module:function`; the module may be dotted."""


def is_reference(text: str) -> bool:
    """Whether the text has the form `module:function`."""
    return re.fullmatch(REFERENCE, text) is not None


class Spec(BaseModel):
    """Base of all parts of a job: frozen, no unknown keys, no conversions but from whole numbers to floats."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    short_form: ClassVar[str | None] = None
    """The key that a plain text or number stands for, where there is one."""

    @model_validator(mode="before")
    @classmethod
    def _expand_short_form(cls, value: object) -> object:
        if cls.short_form is not None and shape(value) in ("<text>", "<number>"):
            return {cls.short_form: value}
        return value


@dataclass(frozen=True)
class Problem:
    """What is wrong with the value at a path, relative to the part of the job that was checked."""

    path: tuple[str | int, ...]
    what: str


def refuse(problems: Sequence[Problem]) -> None:
    """Raise all problems as one validation error that keeps their paths; nothing to raise is fine."""
    if problems:
        text = "; ".join(f"{'.'.join(map(str, problem.path))} {problem.what}".strip() for problem in problems)
        raise PydanticCustomError("problems", "{text}", {"text": text, "problems": tuple(problems)})


def shape(value: object) -> str:
    """The shape of a value in words. Unions are told apart by it, so that an error names the shapes that are right."""
    if value is None:
        return "<nothing>"
    if isinstance(value, bool):
        return "<true or false>"
    if isinstance(value, int | float):
        return "<number>"
    if isinstance(value, str):
        return "<text>"
    if isinstance(value, list | tuple):
        return "<list>"
    return "<mapping>" if isinstance(value, Mapping | BaseModel) else "<something else>"


def shape_or_outputs(value: object) -> str:
    """As `shape`, but a mapping that names no class is one by output name."""
    found = shape(value)
    by_output = found == "<mapping>" and isinstance(value, Mapping) and "class_name" not in value
    return "<mapping by output>" if by_output else found


SHAPES = (
    *("<nothing>", "<true or false>", "<number>", "<text>", "<list>", "<mapping>", "<mapping by output>"),
    "<something else>",
)
BY_SHAPE = Discriminator(shape)
BY_SHAPE_OR_OUTPUTS = Discriminator(shape_or_outputs)
IS_BOOL = Tag("<true or false>")
IS_NUMBER = Tag("<number>")
IS_TEXT = Tag("<text>")
IS_LIST = Tag("<list>")
IS_MAPPING = Tag("<mapping>")
IS_BY_OUTPUT = Tag("<mapping by output>")


def _checked_json(value: object) -> JsonValue:
    refuse([Problem(path, what) for path, what in _json_problems(value, ())])
    return _json_copy(value)


def _json_problems(value: object, path: tuple[str | int, ...]) -> Iterator[tuple[tuple[str | int, ...], str]]:
    if len(path) > MAX_JSON_DEPTH:
        yield path, f"is nested deeper than {MAX_JSON_DEPTH} levels"
    elif isinstance(value, Mapping):
        for key, item in value.items():
            if isinstance(key, str):
                yield from _json_problems(item, (*path, key))
            else:
                yield path, f"has the key {key!r}, but keys must be text here: quote it"
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            yield from _json_problems(item, (*path, index))
    elif isinstance(value, float) and not math.isfinite(value):
        yield path, "must be a finite number"
    elif type(value) is int and value not in range(-(2**63), 2**64):
        yield path, "must fit 64 bits"
    elif value is not None and type(value) not in (bool, int, float, str):
        yield path, f"must be null, true, false, a number, text, a list or a mapping, not {type(value).__name__}"


def _json_copy(value: Any) -> JsonValue:
    if isinstance(value, Mapping):
        return {key: _json_copy(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_json_copy(item) for item in value]
    scalar: JsonValue = value
    return scalar


def _keep_whole(value: Any, check: Any) -> Any:
    """Checks as a float, but keeps a whole number whole: both ends whole make an axis of whole numbers."""
    checked = check(value)
    return value if isinstance(value, int) else checked


def _false_is_none(value: object) -> object:
    return None if value is False else value


Json = Annotated[JsonValue, PlainValidator(_checked_json), WithJsonSchema({})]
"""Any value that JSON can say; numbers are finite, whole numbers fit 64 bits. Always a copy."""

Number = Annotated[float, WrapValidator(_keep_whole)]
"""A finite number; whole numbers stay `int`."""

OFF_BY_FALSE = BeforeValidator(_false_is_none)
"""`false` means the same as null: off."""

Verbosity = Annotated[int, Field(ge=0, le=1)]
Mode = Literal["auto", "min", "max"]


class Range(Spec):
    """All values between two ends, both included. Whole ends make an axis of whole numbers."""

    min: Number = Field(description="Smallest value.")
    max: Number = Field(description="Largest value, above `min`.")
    log: bool = Field(default=False, description="Spread evenly over orders of magnitude; needs `min` above 0.")

    @model_validator(mode="after")
    def _check(self) -> Range:
        problems = []
        if self.min >= self.max:
            problems.append(Problem(("max",), f"must be above min ({self.min:g}), not {self.max:g}"))
        if self.log and self.min <= 0:
            problems.append(Problem(("min",), f"must be above 0 on a log scale, not {self.min:g}"))
        refuse(problems)
        return self


class KerasObject(Spec):
    """A Keras object as Keras itself writes it: its class and its arguments."""

    class_name: str = Field(min_length=1, description="Name of the class, such as `Adam`.")
    config: dict[str, Json] = Field(default={}, description="Arguments of its constructor.")


_Name = Annotated[str, Field(min_length=1), IS_TEXT]

NameOrObject = Annotated[_Name | Annotated[KerasObject, IS_MAPPING], BY_SHAPE]
"""A Keras object by its name, or by class name and arguments."""

NamesOrObjects = Annotated[tuple[NameOrObject, ...], Field(strict=False)]
"""A list of them."""

PerOutput = Annotated[
    _Name | Annotated[KerasObject, IS_MAPPING] | Annotated[dict[str, NameOrObject], Field(min_length=1), IS_BY_OUTPUT],
    BY_SHAPE_OR_OUTPUTS,
]
"""One Keras object, or one for each output by name."""

ListPerOutput = Annotated[
    Annotated[NamesOrObjects, IS_LIST] | Annotated[dict[str, NamesOrObjects], Field(min_length=1), IS_MAPPING],
    BY_SHAPE,
]
"""A list of Keras objects, or one for each output by name."""
