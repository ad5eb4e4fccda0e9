"""From the members' records to the run's one result: the selection fixes everything, the result follows from it.

`make_selection` reads what is stored and fixes members, bytes, weights and every fact that the result tells. From then
on nothing is decided any more: whoever finishes a selection gets the same result, on the same machine byte for byte, on
another type of CPU up to the rounding of sums.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from orchestrator.ensemble.asked import FEWEST_ROWS, check_calibrated, check_rows, deciding_output, deciding_split
from orchestrator.ensemble.fitting import fit_weights
from orchestrator.ensemble.tasks import TaskKind
from orchestrator.ensemble.weights import Weights, given
from orchestrator.planning.folds import OUT_OF_FOLD
from orchestrator.planning.members import MemberPlan
from orchestrator.planning.outputs import ONLY, part, split_of
from orchestrator.planning.packs import Engine
from orchestrator.planning.stages import stages_of
from orchestrator.reporting.fitted import Rules
from orchestrator.reporting.kept import greedy_weights, keep_trials
from orchestrator.reporting.predictions import Predictions, Read, by_configuration
from orchestrator.spec import Job, KerasObject, TrainSpec
from orchestrator.spec.base import is_reference
from orchestrator.spec.callbacks import callback_name
from orchestrator.spec.varied import train_with
from orchestrator.storage.records import BlobRef
from orchestrator.storage.tables import groups_from_parquet, labels_from_parquet

Json = Any

COUNTED = ("succeeded", "late")
"""Members of these statuses have a published model and make the ensemble."""


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
    bases: Mapping[str, Mapping[str, Json]] = field(default_factory=dict)
    codes: Mapping[str, object] | None = None


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
        "used_for": _uses(job, run, members),
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
        job: whose `ensemble.combine`, `weights`, `calibrate`, `output` and `gate` count, and whose `search.keep`.
        read: gives the verified bytes of a blob; called from several threads.

    Raises:
        InvalidJob: the predictions, or their rows, do not allow it.
    """
    check_calibrated(job.ensemble, tasks_of(selection))
    num_rows = {split_of(name): len(labels_of(selection, name, read)) for name in selection["labels"]}
    check_rows(job.ensemble, num_rows)
    body = {**selection, **_kept(job, selection, read)}
    return {**body, **_ensemble_part(job, body, read)}


def _kept(job: Job, body: Mapping[str, Json], read: Read) -> dict[str, Json]:
    """The trials of a search that become the members; the others are remembered beside them."""
    if job.search is None:
        return {}
    tasks = tasks_of(body)
    output = deciding_output(job.ensemble, list(tasks))
    rows = part("validation", output)

    def greedy(trials: Sequence[Mapping[str, Json]]) -> Sequence[float]:
        targets, predictions = labels_of(body, rows, read), Predictions(trials, rows, read)
        return fit_weights("greedy", tasks[output], targets, predictions, most=job.members.count).values

    return keep_trials(body, job.search.keep, job.members.count, greedy)


def _ensemble_part(job: Job, body: Mapping[str, Json], read: Read) -> dict[str, Json]:
    """How the members are combined and judged; weights by output."""
    weights = {output: _fit_weights(job, body, output, read) for output in tasks_of(body)}
    return {
        "output": deciding_output(job.ensemble, list(weights)),
        "combine": job.ensemble.combine,
        "calibrate": job.ensemble.calibrate,
        "weights": {output: None if found is None else asdict(found) for output, found in weights.items()},
        "gate": None if job.ensemble.gate is None else job.ensemble.gate.model_dump(mode="json"),
    }


def _fit_weights(job: Job, body: Mapping[str, Json], output: str, read: Read) -> Weights | None:
    chosen, decides = in_ensemble(body), deciding_split(set(map(split_of, body["labels"])))
    asked, rows = job.ensemble.weights, part(decides, output)
    if isinstance(asked, list | tuple):
        return given(asked, list(by_configuration(chosen)))
    if rows not in body["labels"] or job.ensemble.combine == "stacking":
        return None
    of_trials = greedy_weights(body)
    if of_trials is not None and output == deciding_output(job.ensemble, list(tasks_of(body))):
        return Weights(tuple(of_trials), method="greedy", fitted_on="validation")
    targets = labels_of(body, rows, read)
    if len(targets) < FEWEST_ROWS:  # only the default comes so far: what a job asks for is refused
        return None
    found = fit_weights(asked or "accuracy", tasks_of(body)[output], targets, Predictions(chosen, rows, read))
    return replace(found, fitted_on=decides)


def in_ensemble(selection: Mapping[str, Json]) -> list[Mapping[str, Json]]:
    """The entries of the members that make the ensemble: all that have a model, with folds of whole configurations."""
    members = by_configuration(selection["members"]).values()
    whole = (each for each in members if all(member["status"] in COUNTED for member in each))
    return [member for each in whole for member in each]


def chose_greedily(selection: Mapping[str, Json], output: str) -> bool:
    """Whether greedy selection has chosen the members among trials by this output."""
    return greedy_weights(selection) is not None and output == outputs_of(selection)[0]


def _trains(job: Job, members: Sequence[MemberFacts]) -> list[TrainSpec]:
    own = {repr((member.plan.train_values, member.plan.stages)): member.plan for member in members}
    return [
        stage.train
        for plan in own.values()
        for stage in stages_of(train_with(job.train, plan.train_values), plan.stages)
    ]


def _uses(job: Job, run: RunFacts, members: Sequence[MemberFacts]) -> dict[str, list[str]]:
    """What else the rows of the split were used for on which callbacks watched the members, by its name."""
    scored, folds = set(map(split_of, run.labels)), job.members.folds
    if folds is not None and folds.inner_validation > 0:
        return {}
    watched = "validation" if "validation" in scored else OUT_OF_FOLD
    return {watched: list(uses_of_validation(job, _trains(job, members)))} if watched in scored else {}


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
        **({} if plan.fold is None else {"fold": {name: getattr(plan.fold, name) for name in _FOLD}}),
    }


_FOLD = ("configuration", "repeat", "fold")


def tasks_of(selection: Mapping[str, Json]) -> dict[str, TaskKind]:
    """What each output is asked to tell, by its name in the order of the model (`planning.outputs`).

    A selection that was written before there could be several outputs has the task of its only one.
    """
    if "tasks" not in selection:
        return {ONLY: TaskKind(selection["task"])}
    return {output: TaskKind(selection["tasks"][output]) for output in selection["outputs"]}


def outputs_of(selection: Mapping[str, Json]) -> tuple[str, ...]:
    """Names of the outputs, first the one that decides, then as the model has them."""
    tasks = tasks_of(selection)
    first = selection.get("output", next(iter(tasks)))
    return first, *(output for output in tasks if output != first)


def labels_of(selection: Mapping[str, Json], part: str, read: Read) -> npt.NDArray[Any]:
    """The true values of an output's rows in a split, as `orchestrator.ensemble.tasks.to_targets` gave them.

    Raises:
        DamagedStore: they are gone.
    """
    return labels_from_parquet(read(labels_ref(selection, part)))


def groups_of(selection: Mapping[str, Json], part: str, read: Read) -> npt.NDArray[np.int64] | None:
    """Which of an output's rows in a split belong together, [N]; None: each is for itself. Raises as `labels_of`."""
    return groups_from_parquet(read(labels_ref(selection, part)))


def labels_ref(selection: Mapping[str, Json], part: str) -> BlobRef:
    """Names the bytes that `labels_of` reads; the selection has labels of this part (`planning.outputs`)."""
    return BlobRef.from_json(selection["labels"][part], where=f"selection, labels of {part}")


def rules_of(selection: Mapping[str, Json], output: str) -> Rules:
    """How a selection combines its members in an output; one that was written before there was a choice takes the mean.

    One that was written before there could be several outputs has the weights of its only one.
    """
    used_for = selection["used_for"]  # a list where validation rows were all that could be used
    stored = selection["weights"][output] if "output" in selection else selection["weights"]
    return Rules(
        combine=selection.get("combine", "mean"),
        weights=stored and Weights(tuple(stored["values"]), method=stored["method"], fitted_on=stored["fitted_on"]),
        calibrate=selection.get("calibrate", False),
        seed=selection.get("seed", 0),
        used_for=used_for if isinstance(used_for, Mapping) else {"validation": used_for},
        decides=deciding_split(set(map(split_of, selection["labels"]))),
        most_chosen=selection["search"]["count"] if chose_greedily(selection, output) else None,
    )
