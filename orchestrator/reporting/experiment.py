"""A finished run as experiment trackers see it: members with a curve over epochs each, and figures of the ensemble."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, get_args

from orchestrator.errors import DamagedStore
from orchestrator.planning.outputs import ONLY, part
from orchestrator.planning.ports import Store
from orchestrator.planning.recovery import read_run
from orchestrator.planning.stages import NO_METRICS
from orchestrator.reporting.report import Rows, read_histories
from orchestrator.reporting.result import MemberResult, Result
from orchestrator.reporting.scores import Figure, FigureName, MemberScores, Metrics, SplitName, SplitScores
from orchestrator.storage.blobs import get_blob
from orchestrator.storage.layout import RunLayout
from orchestrator.storage.log import Log

Scalar = str | bool | int | float


@dataclass(frozen=True)
class Trace:
    """One member.

    Attributes:
        member: as the result tells of it.
        history: what Keras reported of each epoch; empty where nothing is left.
        began_at, ended_at: of its last attempt, in UTC epoch seconds; those of the run where nothing is known.
    """

    member: MemberResult
    history: Rows
    began_at: float
    ended_at: float

    @property
    def name(self) -> str:
        return f"member-{self.member.index}"

    def epochs(self) -> Iterator[tuple[int, float, Mapping[str, float]]]:
        """Each epoch with its end in UTC epoch seconds and its metrics.

        When an epoch ended is not recorded: the times are spread evenly over the last attempt.
        """
        step_s = (self.ended_at - self.began_at) / max(1, len(self.history))
        for number, row in enumerate(self.history, start=1):
            metrics = {name: float(value) for name, value in row.items() if name not in NO_METRICS}
            yield int(row["epoch"]), self.began_at + number * step_s, metrics

    def params(self) -> dict[str, Scalar]:
        """Seed, builder, dropout and the hyperparameters; what trackers have no type for is JSON."""
        member = self.member
        values = {"builder": member.builder, "dropout": member.dropout, **member.hyperparameters}
        return {"seed": str(member.seed)} | {
            name: value if isinstance(value, Scalar) else json.dumps(value, sort_keys=True)
            for name, value in values.items()
            if value is not None
        }

    def scores(self) -> dict[str, float]:
        """Of the member's best model, by `<split>/<metric>`; of several outputs, `<split>/<output>/<metric>`."""
        found: dict[str, float] = {}
        for split in get_args(SplitName):
            told: MemberScores | Mapping[str, MemberScores] | None = getattr(self.member, split, None)
            by_output = {ONLY: told} if isinstance(told, MemberScores) else told or {}
            for output, scores in by_output.items():
                found |= {f"{part(split, output)}/{name}": value for name, value in metrics_of(scores).items()}
        return found


@dataclass(frozen=True)
class Experiment:
    """A finished run.

    Attributes:
        result: its result.
        root: the run's own prefix in storage.
        result_sha256: of the result's bytes: other results of the same run, or of one of that name, have another.
        members: all of them, also those that were never trained.
        began_at, ended_at: in UTC epoch seconds.
    """

    result: Result
    root: str
    result_sha256: str
    members: tuple[Trace, ...]
    began_at: float
    ended_at: float

    def parts(self) -> dict[str, SplitScores]:
        """What was scored, by part (`planning.outputs`): split, and output where there are several."""
        return {
            part(split, output): scores
            for split in get_args(SplitName)
            for output, scores in self.result.scores(split).items()
        }

    def scores(self, of: FigureName) -> dict[str, float]:
        """One prediction's scores by `<part>/<metric>`; bounds of 95 % intervals end in `_low` and `_high`."""
        found: dict[str, float] = {}
        for rows, scores in self.parts().items():
            figure: Figure | None = getattr(scores, of)
            if figure is None:
                continue
            found |= {f"{rows}/{name}": value for name, value in metrics_of(figure).items()}
            for name, interval in figure.intervals.items():
                found |= {f"{rows}/{name}_low": interval.low, f"{rows}/{name}_high": interval.high}
        return found

    def curve(self) -> Iterator[tuple[int, dict[str, float]]]:
        """Scores of the plain average over its number of members, by `<part>_by_size/<metric>`.

        With the lowest and highest of the orders that were tried (`_low`, `_high`).
        """
        for rows, scores in self.parts().items():
            for point in scores.curve:
                name = f"{rows}_by_size/{point.metric}"
                yield point.members, {name: point.mean, f"{name}_low": point.low, f"{name}_high": point.high}


def metrics_of(scores: Metrics) -> dict[str, float]:
    """The metrics that apply, by name."""
    found = {name: getattr(scores, name) for name in Metrics.model_fields}
    return {name: value for name, value in found.items() if value is not None}


def read_experiment(store: Store, layout: RunLayout, result: Result) -> Experiment:
    """What trackers are told of a finished run.

    Args:
        store, layout: where it lives.
        result: its result.

    Raises:
        DamagedStore: the run's log cannot be read, or has no end.
        StoreUnavailable: out of reach.
    """
    memory = read_run(Log.open(store, layout.coord_log).records())
    if memory.selection is None or memory.done is None:
        raise DamagedStore("there is a result, and no selection and end that it follows from", where=layout.coord_log)
    began = float(memory.first_claim_at or (memory.opened or {}).get("started_at", 0.0))
    ended = began + result.timing.get("total_s", 0.0)
    stored = {int(member["index"]): member["final"] or {} for member in memory.selection["members"]}
    histories = read_histories(memory.selection["members"], lambda ref: get_blob(store, ref))

    def trace(member: MemberResult) -> Trace:
        final: Mapping[str, Any] = stored.get(member.index, {})
        end = float(final.get("at", ended))
        begin = end - float(final["train_s"]) if "train_s" in final else began
        return Trace(member, histories.get(member.index, ()), begin, end)

    return Experiment(
        result, layout.root, memory.done["result"]["sha256"], tuple(map(trace, result.members)), began, ended
    )
