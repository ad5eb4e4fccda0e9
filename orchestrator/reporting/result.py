"""`result.json`: the run's answer, as frozen models and as canonical bytes."""

from __future__ import annotations

import html
import json
from collections.abc import Collection, Mapping
from typing import Any, Literal

from pydantic import (
    Field,
    JsonValue,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
)

from orchestrator.errors import DamagedStore, OrchestratorError
from orchestrator.planning.outputs import ONLY
from orchestrator.reporting.scores import FigureName, Frozen, MemberScores, Metric, SplitName, SplitScores

RunStatus = Literal["succeeded", "partial", "gate_failed"]
MemberStatus = Literal["succeeded", "late", "diverged", "failed", "not_started", "stopped"]


class StoredFile(Frozen):
    """A readable copy in storage; `key` is relative to the storage URL."""

    key: str
    sha256: str
    size: int


class FoldResult(Frozen):
    """Of which configuration a member is, and from which fold of which repeat it is held out; all from 0 on."""

    configuration: int
    repeat: int
    fold: int


class ConfigurationResult(Frozen):
    """The members that differ in nothing but their rows and seeds, as one member of the ensemble.

    Its prediction of a training row is that of the members which did not learn from it, of other rows the mean of all
    its members'. Scores are by output where there are several; None where a member is missing.
    """

    index: int
    members: tuple[int, ...]
    out_of_fold: MemberScores | Mapping[str, MemberScores] | None = None
    validation: MemberScores | Mapping[str, MemberScores] | None = None
    test: MemberScores | Mapping[str, MemberScores] | None = None


class MemberResult(Frozen):
    """One member. Epochs are 1-based; `stopped_epoch` is None where training did not stop early.

    `weights_sha256` is of the best model's weights: two runs trained the same member exactly when it is equal.
    `attempts` counts the workers' claims of its log to train it, those that died with their coordinator included; a
    trial that goes on to a search's next rung is still at the same attempt.
    `loss` is the validation loss (the training loss without a validation set) at the best epoch, from the history.
    Scores are by output where there are several. `fold` and `out_of_fold`, its scores on the rows that it was held out
    from, are there with `members.folds` alone.
    """

    index: int
    seed: int
    builder: str
    hyperparameters: Mapping[str, JsonValue]
    status: MemberStatus
    attempts: int
    engine: str
    dropout: float | None = None
    epochs: int | None = None
    best_epoch: int | None = None
    stopped_epoch: int | None = None
    validation: MemberScores | Mapping[str, MemberScores] | None = None
    test: MemberScores | Mapping[str, MemberScores] | None = None
    loss: float | None = None
    model: StoredFile | None = None
    history: StoredFile | None = None
    weights_sha256: str | None = None
    preemptions: int = 0
    message: str | None = None
    fold: FoldResult | None = None
    out_of_fold: MemberScores | Mapping[str, MemberScores] | None = None

    @property
    def configuration(self) -> int:
        """What it counts as in the ensemble: its configuration; without folds itself."""
        return self.index if self.fold is None else self.fold.configuration

    @model_serializer(mode="wrap")
    def _without_folds_that_there_are_not(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return _without(serialize(self), {"fold", "out_of_fold"} if self.fold is None else set())


class WeightsResult(Frozen):
    """The weights used: `values[k]` is that of member `members[k]`; they sum to 1. Stacking has none to show.

    With folds `members` are configurations.
    """

    members: tuple[int, ...]
    values: tuple[float, ...]
    method: str
    fitted_on: str


class RunsBefore(Frozen):
    """Other runs scored on the same rows: how many, and how many members and trials they planned.

    See `orchestrator.storage.looks` for what is counted.
    """

    runs: int
    members: int
    trials: int = 0


class GateResult(Frozen):
    """The quality gate's decision and its reason; `value` is None where there was no such figure."""

    passed: bool
    reason: str
    metric: Metric
    of: FigureName
    on: SplitName
    value: float | None
    min: float | None
    max: float | None


class StoppedResult(Frozen):
    """What `ensemble.stop_when` decided, from the scores of the ensembles of the first members by index.

    Attributes:
        metric, min_delta, patience: the rule.
        decided_at: the ensemble is made of the members with an index below this; None: the rule stopped nothing.
        reason: why.
        scores: on validation, of the ensemble of the first 1, 2, … members; None where the last of them has no model.
        not_trained: members that the rule left without a model, those that were given up in training included.
        left_out: members that were trained before the decision and are not in the ensemble.
        saved_s: estimated worker-seconds that the members that never began would have taken, at the mean of the others.
    """

    metric: Metric
    min_delta: float
    patience: int
    decided_at: int | None
    reason: str
    scores: tuple[float | None, ...]
    not_trained: tuple[int, ...] = ()
    left_out: tuple[int, ...] = ()
    saved_s: float = 0.0


class TrialResult(Frozen):
    """One trial of a search. Trials that are `kept` are the members, under the same index.

    Attributes:
        generation: 0-based.
        hyperparameters: by the names of `search.space`.
        score: on validation; None for a trial without a usable model.
        epochs: trained.
    """

    index: int
    generation: int
    seed: int
    hyperparameters: Mapping[str, JsonValue]
    status: MemberStatus | Literal["pruned"]
    score: float | None
    kept: bool
    epochs: int | None = None
    message: str | None = None


class SearchResult(Frozen):
    """How the members were found.

    Attributes:
        metric, output: by which trials are compared, on the validation rows; the output that decided then.
        planned: trials in all; a deadline may leave fewer.
        keep: `best` or `greedy`.
        because: which trials were kept, in words.
        importance: share of the spread of the scores that each parameter explains, see `search.samplers.importance`.
        trials: in the order in which they were asked for.
    """

    sampler: str
    metric: Metric
    planned: int
    keep: str
    because: str
    importance: Mapping[str, float] = {}
    trials: tuple[TrialResult, ...] = ()
    output: str = ONLY


class Result(Frozen):
    """What a run found. `timing` is in seconds.

    Models with several outputs: `outputs` names them, first the one that decides (`ensemble.output`: the best member,
    the gate, `stop_when`, the headline); `task`, `validation`, `test`, `weights`, `temperature` and members' scores are
    then by output. With a single output they stand for themselves, and JSON leaves `outputs` out. `scores` reads both.

    `task` is what the models tell; `delivered` names the figure of the prediction that the job asked for
    (`ensemble.combine`), which is scaled by `temperature` where the job says `calibrate`. `runs_before` counts the
    other runs in this storage that were scored on the same validation or test rows, with their members and trials; they
    may have begun before this run or while it was at work. `missing` are the members that the ensemble lacks, but for
    those that `stop_when` says it can do without; `late` those in it that the deadline cut short: they count with their
    best epoch so far. With a `search`, members are the trials that were kept. `bases` are the run's own copies of the
    models that members started from, by where each came from.

    With `members.folds` it is configurations that are compared, weighted and averaged, `configurations` tells them, and
    `out_of_fold` scores them on training rows, each predicted by members that did not learn from it. A configuration
    that lacks a member is left out: all of its members are `missing`. JSON has both keys with folds alone.
    """

    schema_version: Literal[1] = Field(default=1, alias="schema")
    run_id: str
    run_key: str
    attempt: int
    status: RunStatus
    exit_code: int
    outputs: tuple[str, ...] = (ONLY,)
    task: str | Mapping[str, str] = "multiclass"
    combine: str = "mean"
    delivered: FigureName = "ensemble"
    temperature: float | Mapping[str, float] | None = None
    runs_before: RunsBefore | None = None
    validation: SplitScores | Mapping[str, SplitScores] | None
    test: SplitScores | Mapping[str, SplitScores] | None
    members: tuple[MemberResult, ...]
    weights: WeightsResult | Mapping[str, WeightsResult] | None
    gate: GateResult | None
    missing: tuple[int, ...]
    late: tuple[int, ...] = ()
    stop_when: StoppedResult | None = None
    search: SearchResult | None = None
    artifacts: Mapping[str, str]
    timing: Mapping[str, float]
    spec_digest: str
    code_digest: str
    data_fingerprint: str
    bases: Mapping[str, StoredFile] = {}
    versions: Mapping[str, str]
    notes: tuple[str, ...]
    out_of_fold: SplitScores | Mapping[str, SplitScores] | None = None
    configurations: tuple[ConfigurationResult, ...] = ()

    def scores(self, split: SplitName) -> Mapping[str, SplitScores]:
        """What a split says, by output, the one that decides first; empty where the split was not scored.

        The name of a model's only output is empty (`orchestrator.planning.outputs.ONLY`).
        """
        found: SplitScores | Mapping[str, SplitScores] | None = getattr(self, split)
        if isinstance(found, SplitScores):
            return {ONLY: found}
        return {output: found[output] for output in self.outputs if output in found} if found else {}

    @model_serializer(mode="wrap")
    def _without_what_most_runs_have_not(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        absent = {"outputs"} if self.outputs == (ONLY,) else set()
        return _without(serialize(self), absent if self.configurations else absent | {"out_of_fold", "configurations"})

    def __str__(self) -> str:
        # Imported here: tables need these models, and reading a result needs no terminal library.
        from orchestrator.reporting.tables import render

        return render(self)

    def _repr_html_(self) -> str:
        return f"<pre>{html.escape(str(self))}</pre>"


def _without(told: dict[str, Any], names: Collection[str]) -> dict[str, Any]:
    return {name: value for name, value in told.items() if name not in names}


def to_json(result: Result) -> bytes:
    """The result as canonical JSON: one line, keys sorted, UTF-8; equal results give equal bytes.

    Raises:
        OrchestratorError: a value that JSON does not have (NaN, infinity).
    """
    try:
        text = json.dumps(
            result.model_dump(by_alias=True),
            sort_keys=True,
            allow_nan=False,
            ensure_ascii=False,
            separators=(",", ":"),
        )
    except ValueError as error:
        raise OrchestratorError(
            f"the result cannot be written as JSON: {error}",
            where=f"run {result.run_id}",
            hint="a hyperparameter is NaN or infinite: use a finite value",
        ) from error
    return text.encode() + b"\n"


def from_json(body: bytes) -> Result:
    """The result that `to_json` wrote.

    Raises:
        DamagedStore: not JSON, or not this schema.
    """
    try:
        return Result.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        raise DamagedStore(
            f"not a result of schema 1: {first['msg']}",
            where=f"result.json: {place}" if place else "result.json",
            hint="it is damaged, or a newer version wrote it: update, or run `orchestrator run --fresh`",
        ) from error
