"""`result.json`: the run's answer, as frozen models and as canonical bytes."""

from __future__ import annotations

import html
import json
from collections.abc import Mapping
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError

from orchestrator.errors import DamagedStore, OrchestratorError

RunStatus = Literal["succeeded", "partial", "gate_failed"]
MemberStatus = Literal["succeeded", "late", "diverged", "failed", "not_started", "stopped"]
Metric = Literal["accuracy", "nll"]
FigureName = Literal["ensemble", "weighted", "best_member", "members_mean"]
SplitName = Literal["validation", "test"]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, populate_by_name=True)


class Figure(_Frozen):
    """One scored prediction.

    Attributes:
        accuracy: share of right examples.
        nll: mean negative log-likelihood, nats per example.
        n: number of rows.
        member: the member's index where the figure is of one member.
        scored_on: which rows, and what else they were used for.
    """

    accuracy: float
    nll: float
    n: int
    scored_on: str
    member: int | None = None


class SplitScores(_Frozen):
    """What a split says. `weighted` is None without weights, `best_member` where no validation rows chose one."""

    ensemble: Figure
    members_mean: Figure
    weighted: Figure | None = None
    best_member: Figure | None = None


class MemberScores(_Frozen):
    """One member's scores on a split."""

    accuracy: float
    nll: float


class StoredFile(_Frozen):
    """A readable copy in storage; `key` is relative to the storage URL."""

    key: str
    sha256: str
    size: int


class MemberResult(_Frozen):
    """One member. Epochs are 1-based; `stopped_epoch` is None where training did not stop early.

    `weights_sha256` is of the best model's weights: two runs trained the same member exactly when it is equal.
    `attempts` counts the workers' claims of its log to train it, those that died with their coordinator included.
    `loss` is the validation loss (the training loss without a validation set) at the best epoch, from the history.
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
    validation: MemberScores | None = None
    test: MemberScores | None = None
    loss: float | None = None
    model: StoredFile | None = None
    history: StoredFile | None = None
    weights_sha256: str | None = None
    preemptions: int = 0
    message: str | None = None


class WeightsResult(_Frozen):
    """The weights used: `values[k]` is that of member `members[k]`; they sum to 1."""

    members: tuple[int, ...]
    values: tuple[float, ...]
    method: str
    fitted_on: str


class GateResult(_Frozen):
    """The quality gate's decision and its reason; `value` is None where there was no such figure."""

    passed: bool
    reason: str
    metric: Metric
    of: FigureName
    on: SplitName
    value: float | None
    min: float | None
    max: float | None


class Result(_Frozen):
    """What a run found. `timing` is in seconds.

    `missing` are the members that the ensemble lacks, `late` those in it that the deadline cut short: they count with
    their best epoch so far.
    """

    schema_version: Literal[1] = Field(default=1, alias="schema")
    run_id: str
    run_key: str
    attempt: int
    status: RunStatus
    exit_code: int
    validation: SplitScores | None
    test: SplitScores | None
    members: tuple[MemberResult, ...]
    weights: WeightsResult | None
    gate: GateResult | None
    missing: tuple[int, ...]
    late: tuple[int, ...] = ()
    artifacts: Mapping[str, str]
    timing: Mapping[str, float]
    spec_digest: str
    code_digest: str
    data_fingerprint: str
    versions: Mapping[str, str]
    notes: tuple[str, ...]

    def __str__(self) -> str:
        # Imported here: tables need these models, and reading a result needs no terminal library.
        from orchestrator.reporting.tables import render

        return render(self)

    def _repr_html_(self) -> str:
        return f"<pre>{html.escape(str(self))}</pre>"


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
