"""What surrounds training: the ensemble's rules, resources, faults, storage and Ray."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from orchestrator.spec.base import BY_SHAPE, IS_LIST, IS_NUMBER, IS_TEXT, Problem, Spec, refuse
from orchestrator.spec.deadline import deadline_problem
from orchestrator.spec.labels import label_problems
from orchestrator.spec.urls import endpoint_problem, ray_address_problem, storage_problem

Weight = Annotated[float, Field(ge=0)]
Weights = Annotated[
    Annotated[Literal["accuracy", "nll", "greedy"], IS_TEXT]
    | Annotated[tuple[Weight, ...], Field(min_length=1, strict=False), IS_LIST],
    BY_SHAPE,
]


def _checked_deadline(value: float | str) -> float | str:
    _refuse_if(deadline_problem(value))
    return value


Deadline = Annotated[Annotated[float, IS_NUMBER] | Annotated[str, IS_TEXT], BY_SHAPE, AfterValidator(_checked_deadline)]


Combine = Literal["mean", "logits", "weighted", "stacking"]
_OF_ENSEMBLES = {"auc", "top_k", "r2"}
_FRACTIONS = {"accuracy", "auc", "top_k", "r2"}


class GateSpec(Spec):
    """The quality that a run must reach; a run that misses it says so by its exit code."""

    metric: Literal["accuracy", "nll", "brier", "ece", "auc", "top_k", "rmse", "mae", "r2"] = Field(
        description="What is measured; it has to fit the task."
    )
    of: Literal["ensemble", "weighted", "best_member", "members_mean"] = Field(
        default="ensemble", description="Whose metric."
    )
    on: Literal["validation", "test", "out_of_fold"] = Field(
        default="validation", description="On which rows; `out_of_fold` with `members.folds`."
    )
    min: float | None = Field(default=None, description="Smallest value that passes.")
    max: float | None = Field(default=None, description="Largest value that passes.")

    @model_validator(mode="after")
    def _check(self) -> GateSpec:
        problems = []
        if self.min is None and self.max is None:
            problems.append(Problem((), "needs `min`, `max` or both"))
        if self.min is not None and self.max is not None and self.min > self.max:
            problems.append(
                Problem(("max",), f"must not be below min ({self.min:g}), not {self.max:g}: nothing passes")
            )
        if self.metric in _FRACTIONS and self.min is not None and self.min > 1:
            problems.append(Problem(("min",), f"{self.metric} is a fraction and never above 1, so never {self.min:g}"))
        if self.of == "members_mean" and self.metric in _OF_ENSEMBLES:
            problems.append(
                Problem(("metric",), f"is told of ensembles and of the best member, not of the mean: {self.metric}")
            )
        if self.metric != "r2" and self.max is not None and self.max < 0:
            problems.append(Problem(("max",), f"{self.metric} is never below 0, so nothing passes {self.max:g}"))
        refuse(problems)
        return self


class StopWhenSpec(Spec):
    """When the ensemble has enough members: its own score decides, on validation, member by member in their order."""

    metric: Literal["accuracy", "nll", "brier", "auc", "top_k", "rmse", "mae", "r2"] = Field(
        default="nll", description="Score of the ensemble that is watched; it has to fit the task."
    )
    min_delta: float = Field(default=0.001, ge=0, description="An improvement is more than this.")
    patience: int = Field(
        default=4,
        ge=1,
        description="So many members one after another that bring no improvement, and no further member starts. A pack "
        "is no larger than that.",
    )


class EnsembleSpec(Spec):
    """How the members' predictions are put together."""

    combine: Combine = Field(
        default="mean",
        description="What is delivered: the `mean` of the members' probabilities, that of their `logits`, the average "
        "`weighted` as `weights` says, or `stacking`: a logistic regression on the members' outputs.",
    )
    weights: Weights | None = Field(
        default=None,
        description="Weights of the weighted average: in proportion to validation `accuracy` (for regression, to the "
        "inverse of the squared error), those of the best likelihood (`nll`), `greedy` selection with replacement, or "
        "one number per member; by default `accuracy` where there is a validation set.",
    )
    calibrate: bool = Field(
        default=False, description="Scale what is delivered by a temperature that is fitted on the validation set."
    )
    output: str | None = Field(
        default=None,
        min_length=1,
        description="Of a model with several outputs the one that decides: the best member, `gate`, `stop_when`, the "
        "headline figure; by default the model's first. Members are combined, and scored, in each output by itself.",
    )
    quorum: int | None = Field(
        default=None,
        ge=1,
        description="Fewest members for a result, with `members.folds` fewest whole configurations; by default all.",
    )
    deadline: Deadline | None = Field(
        default=None,
        description="When training ends: seconds or a duration (`6h30m`) from the run's first start, or a time with "
        "its zone (`2026-11-22T06:00:00+01:00`). Members that are late count with their best epoch so far.",
    )
    stop_when: StopWhenSpec | None = Field(
        default=None, description="No further member starts once the ensemble's own score has stopped improving."
    )
    gate: GateSpec | None = Field(default=None, description="Quality that the run must reach.")

    @model_validator(mode="after")
    def _check(self) -> EnsembleSpec:
        if self.combine == "stacking" and self.weights is not None:
            what = "stand beside `combine: stacking`, which has none: leave stacking, or say `weights: null`"
            refuse([Problem(("weights",), what)])
        if self.stop_when is not None:
            refuse(list(_unstoppable(self, self.stop_when)))
        if isinstance(self.weights, tuple):
            total = sum(self.weights)
            if not 0 < total < float("inf"):
                refuse([Problem(("weights",), f"must add up to a finite number above 0, not {total:g}")])
            zeros = self.weights.count(0.0)
            if self.quorum is not None and zeros >= self.quorum:
                what = f"{self.quorum} is too few: {zeros} weights are 0, so the members left could weigh nothing"
                refuse([Problem(("quorum",), what)])
        return self


def _unstoppable(ensemble: EnsembleSpec, rule: StopWhenSpec) -> Iterator[Problem]:
    """What contradicts `stop_when`: it may leave `fewest` members."""
    fewest = rule.patience + 1
    if ensemble.quorum is not None and ensemble.quorum > fewest:
        what = f"must be at most patience + 1 ({fewest}), for stop_when may leave no more, not {ensemble.quorum}"
        yield Problem(("quorum",), what)
    if isinstance(ensemble.weights, tuple) and not any(ensemble.weights[:fewest]):
        what = f"are 0 for the first {fewest} members, and stop_when may leave no others"
        yield Problem(("weights",), what)


class ResourcesSpec(Spec):
    """What each worker takes."""

    num_gpus: float | None = Field(
        default=None,
        ge=0,
        description="GPUs per worker: a fraction below 1 or a whole number; by default 1 where the cluster has GPUs.",
    )
    num_cpus: int | None = Field(
        default=None,
        ge=1,
        description="CPU cores per worker, and its thread budget; by default one; where fused packs are "
        "trained on this machine without a GPU, they share out its cores.",
    )
    concurrency: int | None = Field(
        default=None,
        ge=1,
        description="Members that train at the same time; by default as many as fit, on a cluster that starts nodes on "
        "demand as many as are useful.",
    )
    labels: dict[str, str] = Field(
        default={},
        description="Labels that a node must have to carry a worker, by key: a value (`spot`), one that it must not "
        "be (`!spot`), or several (`in(a, b)`, `!in(a, b)`), as in Ray's label selectors.",
    )

    @model_validator(mode="after")
    def _check(self) -> ResourcesSpec:
        if self.num_gpus is not None and self.num_gpus > 1 and not self.num_gpus.is_integer():
            refuse([Problem(("num_gpus",), f"must be a fraction below 1 or a whole number, not {self.num_gpus:g}")])
        wrong = [(key, what) for key, value in self.labels.items() for what in label_problems(key, value)]
        refuse([Problem(("labels", key), what) for key, what in wrong])
        return self


class FaultsSpec(Spec):
    """How much may go wrong before a member, or the run, is given up."""

    max_crashes: int = Field(default=3, ge=0, description="Retries of one member after a crash or a stall.")
    max_out_of_memory: int = Field(default=2, ge=0, description="Retries of one member after it ran out of memory.")
    backoff_min_s: float = Field(default=1.0, gt=0, description="Seconds before the first retry.")
    backoff_max_s: float = Field(default=60.0, gt=0, description="Most seconds before a retry.")
    node_wait_s: float = Field(default=1800.0, gt=0, description="Seconds to wait for a usable node.")
    data_wait_s: float = Field(default=3600.0, gt=0, description="Seconds that loading the data may take.")
    stall_s: float = Field(
        default=600.0,
        gt=0,
        description="Most seconds without progress before a worker is ended; sooner, once its pace is known.",
    )
    stop_grace_s: float = Field(
        default=10.0, ge=0, description="Seconds that workers have to save their newest epoch when the run is stopped."
    )
    takeover_s: float = Field(
        default=15.0, ge=1, description="Seconds without a sign of life after which a start takes a run over."
    )
    checkpoint_every_s: float = Field(
        default=30.0, ge=0, description="Seconds between the checkpoints of a member, at least one epoch."
    )
    checkpoint_every_epochs: int | None = Field(
        default=None, ge=1, description="Epochs between the checkpoints of a member, instead of seconds."
    )

    @model_validator(mode="after")
    def _check(self) -> FaultsSpec:
        if self.backoff_max_s < self.backoff_min_s:
            what = f"must not be below backoff_min_s ({self.backoff_min_s:g}), not {self.backoff_max_s:g}"
            refuse([Problem(("backoff_max_s",), what)])
        return self


def _storage_url(value: str) -> str:
    _refuse_if(storage_problem(value))
    return value


def _endpoint(value: str) -> str:
    _refuse_if(endpoint_problem(value))
    return value


def _ray_address(value: str) -> str:
    _refuse_if(ray_address_problem(value))
    return value


def _refuse_if(problem: str | None) -> None:
    refuse([Problem((), problem)] if problem else [])


class StorageSpec(Spec):
    """Where runs are kept. Credentials never stand here: they come from the environment, a profile or a role."""

    url: Annotated[str, AfterValidator(_storage_url)] = Field(
        default="runs", description="A local folder or `s3://bucket/prefix`."
    )
    endpoint_url: Annotated[str, AfterValidator(_endpoint)] | None = Field(
        default=None, description="URL of an S3-compatible server; by default AWS."
    )
    region: Annotated[str, Field(pattern=r"^[A-Za-z0-9-]{1,64}$")] | None = Field(
        default=None, description="Region of the bucket."
    )


class ReportSpec(Spec):
    """What is made of the result for people and other tools. Never part of what a run is."""

    html: bool = Field(default=True, description="Write `report.html`: one file that needs no network.")
    top: int = Field(
        default=12, ge=0, le=100, description="How many of the most uncertain and most disputed examples are shown."
    )
    tensorboard: bool = Field(
        default=False, description="Write TensorBoard's event files of all members and of the ensemble."
    )
    mlflow: bool = Field(
        default=False,
        description="Log the run to MLflow (extra `mlflow`): a parent run with one nested run per member. Where to is "
        "MLflow's own business: MLFLOW_TRACKING_URI.",
    )


class RaySpec(Spec):
    """Which Ray."""

    address: Annotated[str, AfterValidator(_ray_address)] | None = Field(
        default=None,
        description="Address of a Ray cluster, or `auto`; by default a Ray of the job's own on this machine.",
    )
