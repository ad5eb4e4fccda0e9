"""From the members' records to the run's one result: the selection fixes everything, the result follows from it.

`make_selection` reads what is stored and fixes members, bytes, weights and every fact that the result tells. From then
on nothing is decided any more: whoever finishes a selection gets the same result, byte for byte.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from orchestrator.ensemble.metrics import TaskKind, score
from orchestrator.ensemble.weights import Weights, by_accuracy, given
from orchestrator.planning.members import MemberPlan
from orchestrator.reporting.evaluate import evaluate_split, judge_gate
from orchestrator.reporting.result import (
    MemberResult,
    MemberScores,
    Result,
    SplitName,
    SplitScores,
    StoredFile,
    WeightsResult,
)
from orchestrator.spec import Job
from orchestrator.storage.layout import RunLayout
from orchestrator.storage.parallel import in_order
from orchestrator.storage.records import BlobRef
from orchestrator.storage.tables import labels_from_parquet, predictions_from_parquet

Read = Callable[[BlobRef], bytes]
Json = Any

COUNTED = ("succeeded", "late")
"""Members of these statuses have a published model and make the ensemble."""

_SCORED: tuple[SplitName, ...] = ("validation", "test")
"""Validation first: it chooses the best member, which test only names."""


@dataclass(frozen=True)
class MemberFacts:
    """What is known of one member when the selection is made; `final` is the body of its `final` record or None."""

    plan: MemberPlan
    status: str
    attempts: int
    preemptions: int
    message: str | None
    final: Mapping[str, Any] | None
    final_seq: int | None
    predictions: Mapping[str, Mapping[str, object]]


@dataclass(frozen=True)
class RunFacts:
    """What is known of the run when the selection is made; see `Result` for what each field means."""

    run_id: str
    attempt: int
    task: TaskKind
    labels: Mapping[str, Mapping[str, object]]
    timing: Mapping[str, float]
    spec_digest: str
    code_digest: str
    data_fingerprint: str
    versions: Mapping[str, str]
    notes: tuple[str, ...]


def make_selection(job: Job, run: RunFacts, members: Sequence[MemberFacts], read: Read) -> dict[str, Json]:
    """The body of the `selection` record.

    Args:
        job: the job.
        run, members: what is known now.
        read: gives the verified bytes of a blob; called from several threads.
    """
    chosen = [member for member in members if member.status in COUNTED]
    weights = _fit_weights(job, run, chosen, read)
    facts = {key: value for key, value in asdict(run).items() if key not in ("task", "labels")}
    return {
        **facts,
        "task": run.task.value,
        "labels": run.labels,
        "weights": None if weights is None else asdict(weights),
        "used_for": list(uses_of_validation(job)),
        "gate": None if job.ensemble.gate is None else job.ensemble.gate.model_dump(mode="json"),
        "members": [_member_json(member) for member in members],
    }


def _fit_weights(job: Job, run: RunFacts, chosen: Sequence[MemberFacts], read: Read) -> Weights | None:
    asked = job.ensemble.weights
    if isinstance(asked, list | tuple):
        return given(asked, [member.plan.index for member in chosen])
    if "validation" not in run.labels:
        return None
    labels = _labels(run.labels, "validation", read)
    predictions = _predictions([member.predictions for member in chosen], "validation", read)
    return by_accuracy([score(run.task, labels, prediction).accuracy for prediction in predictions])


def uses_of_validation(job: Job) -> Iterator[str]:
    """What else the validation rows were used for while members trained."""
    stopping, checkpoint = job.train.early_stopping, job.train.checkpoint
    if stopping is not None and (stopping.monitor or "val_loss").startswith("val_"):
        yield "early stopping"
    if checkpoint.save_best_only and (checkpoint.monitor or "val_loss").startswith("val_"):
        yield "choice of the best epoch"


def _member_json(member: MemberFacts) -> dict[str, Json]:
    plan = member.plan
    return {
        "index": plan.index,
        "seed": plan.seed,
        "builder": plan.builder,
        "kwargs": dict(plan.kwargs),
        "status": member.status,
        "attempts": member.attempts,
        "preemptions": member.preemptions,
        "message": member.message,
        "seq": member.final_seq,
        "final": None if member.final is None else dict(member.final),
        "predictions": member.predictions,
    }


def result_of(selection: Mapping[str, Json], layout: RunLayout, read: Read) -> Result:
    """The result that a selection stands for: a function of its record and the blobs that it names.

    Args:
        selection: body of the `selection` record.
        layout: for the keys of the readable copies.
        read: gives the verified bytes of a blob; called from several threads.
    """
    task = TaskKind(selection["task"])
    chosen = [member for member in selection["members"] if member["status"] in COUNTED]
    indices = [member["index"] for member in chosen]
    weights = None if selection["weights"] is None else _weights(selection["weights"])
    splits: dict[str, SplitScores] = {}
    scores: dict[str, dict[int, MemberScores]] = {}
    best: int | None = None
    for name in _SCORED:
        if name not in selection["labels"]:
            continue
        splits[name], members = evaluate_split(
            name,
            task,
            _labels(selection["labels"], name, read),
            _predictions([member["predictions"] for member in chosen], name, read),
            indices,
            weights=weights,
            best_member=best,
            used_for=selection["used_for"] if name == "validation" else (),
        )
        scores[name] = {i: MemberScores(accuracy=s.accuracy, nll=s.nll) for i, s in zip(indices, members, strict=True)}
        figure = splits[name].best_member
        best = best if figure is None else figure.member
    gate = selection["gate"]
    judged = gate and judge_gate(**gate, validation=splits.get("validation"), test=splits.get("test"))
    missing = tuple(member["index"] for member in selection["members"] if member["status"] not in COUNTED)
    late = tuple(member["index"] for member in selection["members"] if member["status"] == "late")
    failed_gate = judged is not None and not judged.passed
    return Result(
        run_id=selection["run_id"],
        run_key=layout.run_key,
        attempt=selection["attempt"],
        status="gate_failed" if failed_gate else "partial" if missing or late else "succeeded",
        exit_code=3 if failed_gate else 0,
        validation=splits.get("validation"),
        test=splits.get("test"),
        members=tuple(_member_result(member, layout, scores) for member in selection["members"]),
        weights=weights
        and WeightsResult(
            members=tuple(indices), values=weights.values, method=weights.method, fitted_on=weights.fitted_on
        ),
        gate=judged,
        missing=missing,
        late=late,
        artifacts={"result": layout.result, "spec": layout.spec, "members": layout.members},
        timing=selection["timing"],
        spec_digest=selection["spec_digest"],
        code_digest=selection["code_digest"],
        data_fingerprint=selection["data_fingerprint"],
        versions=selection["versions"],
        notes=tuple(selection["notes"]),
    )


COPIES = {"model": "best.keras", "history": "history.parquet"}
"""The readable copies of each member: part of its `final` record → name of the file."""


def _member_result(
    member: Mapping[str, Json], layout: RunLayout, scores: Mapping[str, Mapping[int, MemberScores]]
) -> MemberResult:
    index, final = member["index"], member["final"] or {}
    at_best = final.get("at_best", {})
    files = {
        part: StoredFile(key=layout.member_copy(index, name), sha256=final[part]["sha256"], size=final[part]["size"])
        for part, name in COPIES.items()
        if part in final and member["status"] in COUNTED  # copies are made of the selected members alone
    }
    return MemberResult(
        index=index,
        seed=member["seed"],
        builder=member["builder"],
        hyperparameters={name: value for name, value in member["kwargs"].items() if name != "dropout"},
        dropout=member["kwargs"].get("dropout"),
        status=member["status"],
        attempts=member["attempts"],
        preemptions=member["preemptions"],
        engine=final.get("engine", "solo"),
        epochs=final.get("epochs"),
        best_epoch=final.get("best_epoch"),
        stopped_epoch=final.get("stopped_epoch"),
        validation=scores.get("validation", {}).get(index),
        test=scores.get("test", {}).get(index),
        loss=at_best.get("val_loss", at_best.get("loss")),
        message=member["message"],
        weights_sha256=final.get("weights_sha256"),
        **files,
    )


def _weights(stored: Mapping[str, Json]) -> Weights:
    return Weights(values=tuple(stored["values"]), method=stored["method"], fitted_on=stored["fitted_on"])


def _labels(labels: Mapping[str, Mapping[str, object]], split: str, read: Read) -> npt.NDArray[np.int64]:
    return labels_from_parquet(read(BlobRef.from_json(labels[split], where=f"selection, labels of {split}")))


def _predictions(
    members: Sequence[Mapping[str, Mapping[str, object]]], split: str, read: Read
) -> Iterator[npt.NDArray[np.float32]]:
    """One member's predictions [N, C] after another: never all in memory, the next ones read ahead."""
    refs = [BlobRef.from_json(member[split], where=f"selection, {split}") for member in members]
    return in_order(lambda ref: predictions_from_parquet(read(ref)), refs, num_bytes=lambda ref: ref.size)
