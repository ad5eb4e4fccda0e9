"""A result as each output of the models tells it alone: what readers of figures read, of however many outputs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar, get_args

from orchestrator.planning.outputs import ONLY
from orchestrator.reporting.result import MemberResult, Result, WeightsResult
from orchestrator.reporting.scores import MemberScores, SplitName, SplitScores

T = TypeVar("T")

_SCORES = get_args(SplitName)
_BY_OUTPUT = ("task", "temperature", "weights", *_SCORES)


class OutputMember(MemberResult):
    """A member, with its scores in one output."""

    out_of_fold: MemberScores | None = None
    validation: MemberScores | None = None
    test: MemberScores | None = None


class OutputResult(Result):
    """The result of one output. All that is not by output is that of the run.

    `decides` names the output that decides: by it the best member was chosen.
    """

    decides: str = ONLY
    task: str
    temperature: float | None
    out_of_fold: SplitScores | None = None
    validation: SplitScores | None
    test: SplitScores | None
    members: tuple[OutputMember, ...]
    weights: WeightsResult | None

    @property
    def output(self) -> str:
        """Its name; `orchestrator.planning.outputs.ONLY` where there is no other."""
        return self.outputs[0]


def by_output(result: Result) -> dict[str, OutputResult]:
    """The result of each output by its name, the one that decides first."""
    return {output: of_output(result, output) for output in result.outputs}


def deciding(result: Result) -> OutputResult:
    """The result of the output that decides."""
    return of_output(result, result.outputs[0])


def of_output(result: Result, output: str) -> OutputResult:
    """The result of one output."""

    def own(value: Any) -> Any:
        return value.get(output) if isinstance(value, Mapping) else value

    fields = {name: getattr(result, name) for name in Result.model_fields}
    fields |= {name: own(fields[name]) for name in _BY_OUTPUT}
    members = tuple(
        _member(member, {name: own(getattr(member, name)) for name in _SCORES}) for member in result.members
    )
    # Every value has been checked where the result was made or read.
    named = {"outputs": (output,), "decides": result.outputs[0]}
    return OutputResult.model_construct(**{**fields, **named, "members": members})


def _member(member: MemberResult, scores: Mapping[str, Any]) -> OutputMember:
    fields = {name: getattr(member, name) for name in MemberResult.model_fields}
    return OutputMember.model_construct(**{**fields, **scores})


def gathered(values: Mapping[str, T | None]) -> T | dict[str, T] | None:
    """What a result says of values by output: that of the only output itself, else those that there are by output."""
    if tuple(values) == (ONLY,):
        return values[ONLY]
    return {output: value for output, value in values.items() if value is not None} or None


def for_output(output: str) -> str:
    """` for <output>` in a sentence; nothing where there is no other output."""
    return f" for {output}" if output else ""
