"""From the members' records to the run's one result: the selection fixes everything, the result follows from it.

`make_selection` reads what is stored and fixes members, bytes, weights and every fact that the result tells. From then
on nothing is decided any more: whoever finishes a selection gets the same result, on the same machine byte for byte, on
another type of CPU up to the rounding of sums.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy.typing as npt

from orchestrator.ensemble.asked import FEWEST_ROWS, check_rows
from orchestrator.ensemble.fitting import fit_weights
from orchestrator.ensemble.metrics import Scores
from orchestrator.ensemble.tasks import TaskKind
from orchestrator.ensemble.weights import Weights, given
from orchestrator.planning.members import MemberPlan
from orchestrator.planning.outputs import ONLY
from orchestrator.planning.packs import Engine
from orchestrator.reporting.evaluate import Evaluated, evaluate_split
from orchestrator.reporting.fitted import Chosen, Rules
from orchestrator.reporting.gate import judge_gate
from orchestrator.reporting.kept import greedy_weights, is_short, keep_trials, scored_trials, search_result
from orchestrator.reporting.predictions import Predictions, Read
from orchestrator.reporting.result import (
    MemberResult,
    MemberScores,
    Result,
    RunsBefore,
    SplitName,
    StoppedResult,
    StoredFile,
    WeightsResult,
)
from orchestrator.spec import Job, KerasObject, TrainSpec
from orchestrator.spec.callbacks import callback_name
from orchestrator.spec.members import is_reference
from orchestrator.spec.varied import PREFIX, train_with
from orchestrator.storage.layout import RunLayout
from orchestrator.storage.records import BlobRef
from orchestrator.storage.tables import labels_from_parquet

Json = Any

COUNTED = ("succeeded", "late")
"""Members of these statuses have a published model and make the ensemble."""

_SCORED: tuple[SplitName, ...] = ("validation", "test")
"""Validation first: it chooses the best member, which test only names."""


@dataclass(frozen=True)
class MemberFacts:
    """What is known of one member when the selection is made.

    `final` is the body of its `final` record or None; `engine` is that of its pack, which counts where there is none.
    """

    plan: MemberPlan
    status: str
    attempts: int
    preemptions: int
    message: str | None
    final: Mapping[str, Any] | None
    final_seq: int | None
    predictions: Mapping[str, Mapping[str, object]]
    engine: Engine = "solo"


@dataclass(frozen=True)
class RunFacts:
    """What is known of the run when the selection is made; see `Result` for what each field means."""

    run_id: str
    attempt: int
    tasks: Mapping[str, TaskKind]
    labels: Mapping[str, Mapping[str, object]]
    timing: Mapping[str, float]
    spec_digest: str
    code_digest: str
    data_fingerprint: str
    versions: Mapping[str, str]
    notes: tuple[str, ...]
    stop_when: Mapping[str, Json] | None = None
    search: Mapping[str, Json] | None = None
    runs_before: Mapping[str, int] = field(default_factory=dict)
    examples: Mapping[str, Mapping[str, object]] = field(default_factory=dict)


def make_selection(job: Job, run: RunFacts, members: Sequence[MemberFacts], read: Read) -> dict[str, Json]:
    """The body of the `selection` record.

    Args:
        job: the job.
        run, members: what is known now.
        read: gives the verified bytes of a blob; called from several threads.
    """
    facts = {key: value for key, value in asdict(run).items() if key not in ("tasks", "labels")}
    body = {
        **facts,
        "outputs": list(run.tasks),  # a record keeps no order of keys
        "tasks": {output: task.value for output, task in run.tasks.items()},
        "labels": run.labels,
        "seed": job.seed,
        "used_for": list(uses_of_validation(job, _trains(job, members))) if "validation" in run.labels else [],
        "report": job.report.html,
        "tensorboard": job.report.tensorboard,
        "members": [_member_json(member) for member in members],
    }
    body |= _kept(job, body, read)
    return {**body, **_ensemble_part(job, body, read)}


def reselect(selection: Mapping[str, Json], job: Job, read: Read) -> dict[str, Json]:
    """The same members and predictions under other rules of the job's `ensemble` part: for looking, never recorded.

    Args:
        selection: body of the `selection` record.
        job: whose `ensemble.combine`, `weights`, `calibrate` and `gate` count, and whose `search.keep`.
        read: gives the verified bytes of a blob; called from several threads.
    """
    check_rows(
        job.ensemble, {name: len(labels_of(selection, name, read)) for name in _SCORED if name in selection["labels"]}
    )
    body = {**selection, **_kept(job, selection, read)}
    return {**body, **_ensemble_part(job, body, read)}


def _kept(job: Job, body: Mapping[str, Json], read: Read) -> dict[str, Json]:
    """The trials of a search that become the members; the others are remembered beside them."""
    if job.search is None:
        return {}

    def greedy(trials: Sequence[Mapping[str, Json]]) -> Sequence[float]:
        targets = labels_of(body, "validation", read)
        predictions = Predictions(trials, "validation", read)
        return fit_weights("greedy", tasks_of(body)[ONLY], targets, predictions, most=job.members.count).values

    return keep_trials(body, job.search.keep, job.members.count, greedy)


def _ensemble_part(job: Job, body: Mapping[str, Json], read: Read) -> dict[str, Json]:
    """How the members are combined and judged."""
    weights = _fit_weights(job, body, read)
    return {
        "combine": job.ensemble.combine,
        "calibrate": job.ensemble.calibrate,
        "weights": None if weights is None else asdict(weights),
        "gate": None if job.ensemble.gate is None else job.ensemble.gate.model_dump(mode="json"),
    }


def _fit_weights(job: Job, body: Mapping[str, Json], read: Read) -> Weights | None:
    chosen = [member for member in body["members"] if member["status"] in COUNTED]
    asked = job.ensemble.weights
    if isinstance(asked, list | tuple):
        return given(asked, [member["index"] for member in chosen])
    if "validation" not in body["labels"] or job.ensemble.combine == "stacking":
        return None
    found = greedy_weights(body)
    if found is not None:
        return Weights(tuple(found), method="greedy", fitted_on="validation")
    targets = labels_of(body, "validation", read)
    if len(targets) < FEWEST_ROWS:  # only the default comes so far: what a job asks for is refused
        return None
    predictions = Predictions(chosen, "validation", read)
    return fit_weights(asked or "accuracy", tasks_of(body)[ONLY], targets, predictions)


def _trains(job: Job, members: Sequence[MemberFacts]) -> list[TrainSpec]:
    own = {repr(member.plan.train_values): member.plan.train_values for member in members}
    return [train_with(job.train, values) for values in own.values()]


def uses_of_validation(job: Job, trains: Iterable[TrainSpec]) -> Iterator[str]:
    """What else the validation rows were used for while members trained, with these settings; the job has such rows."""
    found = {use for train in trains for use in _uses_in_training(train)}
    yield from (use for use in _IN_TRAINING if use in found)
    if job.ensemble.stop_when is not None:
        yield "the choice of how many members"
    if job.search is not None:
        yield "search"


_IN_TRAINING = ("early stopping", "choice of the best epoch", "learning rate", "perhaps callbacks of the job's own")


def _uses_in_training(train: TrainSpec) -> Iterator[str]:
    stopping, checkpoint = train.early_stopping, train.checkpoint
    if stopping is not None and (stopping.monitor or "val_loss").startswith("val_"):
        yield "early stopping"
    if checkpoint.save_best_only and (checkpoint.monitor or "val_loss").startswith("val_"):
        yield "choice of the best epoch"
    if any(_sets_learning_rate(callback) for callback in train.callbacks):
        yield "learning rate"
    if any(is_reference(callback_name(callback)) for callback in train.callbacks):
        yield "perhaps callbacks of the job's own"


def _sets_learning_rate(callback: str | KerasObject) -> bool:
    """Whether a callback changes the learning rate by what it sees of validation rows, which it watches by default."""
    monitor = "val_loss" if isinstance(callback, str) else callback.config.get("monitor", "val_loss")
    return callback_name(callback) == "ReduceLROnPlateau" and str(monitor).startswith("val_")


def _member_json(member: MemberFacts) -> dict[str, Json]:
    plan = member.plan
    return {
        "index": plan.index,
        "seed": plan.seed,
        "builder": plan.builder,
        "kwargs": dict(plan.kwargs),
        "train": dict(plan.train_values),
        "status": member.status,
        "attempts": member.attempts,
        "preemptions": member.preemptions,
        "message": member.message,
        "seq": member.final_seq,
        "final": None if member.final is None else dict(member.final),
        "predictions": member.predictions,
        "engine": member.engine,
    }


def result_of(selection: Mapping[str, Json], layout: RunLayout, read: Read) -> Result:
    """The result that a selection stands for: a function of its record and the blobs that it names.

    Args:
        selection: body of the `selection` record.
        layout: for the keys of the readable copies.
        read: gives the verified bytes of a blob; called from several threads.
    """
    indices = [member["index"] for member in selection["members"] if member["status"] in COUNTED]
    rules = rules_of(selection)
    found = evaluate_selection(selection, read)
    decided = Chosen() if not found else list(found.values())[-1].chosen
    splits = {name: each.split for name, each in found.items()}
    scores: dict[str, dict[int, MemberScores]] = {
        name: dict(zip(indices, map(_member_scores, each.members), strict=True)) for name, each in found.items()
    }
    gate = selection["gate"]
    judged = gate and judge_gate(**gate, validation=splits.get("validation"), test=splits.get("test"))
    stopped = StoppedResult.model_validate(told) if (told := selection.get("stop_when")) else None
    missing = tuple(member["index"] for member in _wanted(selection, stopped) if member["status"] not in COUNTED)
    late = tuple(member["index"] for member in selection["members"] if member["status"] == "late")
    failed_gate = judged is not None and not judged.passed
    return Result(
        run_id=selection["run_id"],
        run_key=layout.run_key,
        attempt=selection["attempt"],
        status="gate_failed" if failed_gate else "partial" if missing or late or is_short(selection) else "succeeded",
        exit_code=3 if failed_gate else 0,
        task=tasks_of(selection)[ONLY].value,
        combine=rules.combine,
        delivered=rules.delivered,
        temperature=decided.temperature if rules.calibrate else None,
        runs_before=RunsBefore(**before) if (before := selection.get("runs_before")) else None,
        validation=splits.get("validation"),
        test=splits.get("test"),
        members=tuple(_member_result(member, layout, scores) for member in selection["members"]),
        weights=_weights_result(rules, indices),
        gate=judged,
        missing=missing,
        late=late,
        stop_when=stopped,
        search=search_result(selection),
        artifacts=_artifacts(selection, layout),
        timing=selection["timing"],
        spec_digest=selection["spec_digest"],
        code_digest=selection["code_digest"],
        data_fingerprint=selection["data_fingerprint"],
        versions=selection["versions"],
        notes=tuple(selection["notes"]),
    )


def _artifacts(selection: Mapping[str, Json], layout: RunLayout) -> dict[str, str]:
    """Keys of what is kept of the run; of a report, whether or not it could be made: it can be made again."""
    keys = {"result": layout.result, "spec": layout.spec, "members": layout.members}
    made = {"report": layout.report, "tensorboard": layout.tensorboard}
    return {**keys, **{name: key for name, key in made.items() if selection.get(name)}}


def evaluate_selection(selection: Mapping[str, Json], read: Read) -> dict[SplitName, Evaluated]:
    """What the predictions that a selection names are worth, on each split that has labels. Arguments as `result_of`.

    Raises:
        DamagedStore: predictions or labels are gone.
    """
    chosen = [member for member in selection["members"] if member["status"] in COUNTED]
    indices = [member["index"] for member in chosen]
    task, rules, decided = tasks_of(selection)[ONLY], rules_of(selection), Chosen()
    found: dict[SplitName, Evaluated] = {}
    for name in _SCORED:
        if name in selection["labels"]:
            targets, predictions = labels_of(selection, name, read), Predictions(chosen, name, read)
            library = _library(selection, name, read) if name == "validation" else None
            found[name] = evaluate_split(name, task, targets, predictions, indices, rules, decided, library)
            decided = found[name].chosen
    return found


def _library(selection: Mapping[str, Json], name: SplitName, read: Read) -> Predictions | None:
    """The trials among which greedy selection chose the members; None where it did not."""
    return None if greedy_weights(selection) is None else Predictions(scored_trials(selection), name, read)


def tasks_of(selection: Mapping[str, Json]) -> dict[str, TaskKind]:
    """What each output is asked to tell, by its name in the order of the model (`planning.outputs`).

    A selection that was written before there could be several outputs has the task of its only one.
    """
    if "tasks" not in selection:
        return {ONLY: TaskKind(selection["task"])}
    return {output: TaskKind(selection["tasks"][output]) for output in selection["outputs"]}


def labels_of(selection: Mapping[str, Json], split: SplitName, read: Read) -> npt.NDArray[Any]:
    """The true values of a split's rows, as `orchestrator.ensemble.tasks.to_targets` gave them.

    Raises:
        DamagedStore: they are gone.
    """
    return labels_from_parquet(read(labels_ref(selection, split)))


def labels_ref(selection: Mapping[str, Json], split: SplitName) -> BlobRef:
    """Names the bytes that `labels_of` reads; the selection has labels of this split."""
    return BlobRef.from_json(selection["labels"][split], where=f"selection, labels of {split}")


def _wanted(selection: Mapping[str, Json], stopped: StoppedResult | None) -> Sequence[Mapping[str, Json]]:
    """The members that the ensemble is to have: all, or those before the point where `stop_when` had enough."""
    decided_at = None if stopped is None else stopped.decided_at
    return [member for member in selection["members"] if decided_at is None or member["index"] < decided_at]


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
        hyperparameters=_hyperparameters(member),
        dropout=member["kwargs"].get("dropout"),
        status=member["status"],
        attempts=member["attempts"],
        preemptions=member["preemptions"],
        engine=final.get("engine", member.get("engine", "solo")),
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


def _hyperparameters(member: Mapping[str, Json]) -> dict[str, Json]:
    """What differs by member but its dropout rate, which has a place of its own."""
    own = {f"{PREFIX}{key}": value for key, value in member.get("train", {}).items()}
    return {name: value for name, value in member["kwargs"].items() if name != "dropout"} | own


def rules_of(selection: Mapping[str, Json]) -> Rules:
    """How a selection combines its members; one that was written before there was a choice takes the mean."""
    stored = selection["weights"]
    return Rules(
        combine=selection.get("combine", "mean"),
        weights=stored and Weights(tuple(stored["values"]), method=stored["method"], fitted_on=stored["fitted_on"]),
        calibrate=selection.get("calibrate", False),
        seed=selection.get("seed", 0),
        used_for=tuple(selection["used_for"]),
        most_chosen=None if greedy_weights(selection) is None else selection["search"]["count"],
    )


def _weights_result(rules: Rules, indices: Sequence[int]) -> WeightsResult | None:
    members = tuple(indices)
    if rules.combine == "stacking":
        return WeightsResult(members=members, values=(), method="stacking", fitted_on="validation")
    weights = rules.weights
    if weights is None:
        return None
    return WeightsResult(members=members, values=weights.values, method=weights.method, fitted_on=weights.fitted_on)


def _member_scores(scores: Scores) -> MemberScores:
    return MemberScores(**{name: value for name, value in vars(scores).items() if name != "n"})
