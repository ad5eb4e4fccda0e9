"""What surrounds training: the ensemble's rules, resources, faults, storage and Ray."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from orchestrator.spec.base import BY_SHAPE, IS_LIST, IS_NUMBER, IS_TEXT, Problem, Spec, refuse
from orchestrator.spec.deadline import deadline_problem
from orchestrator.spec.urls import endpoint_problem, ray_address_problem, storage_problem

Weight = Annotated[float, Field(ge=0)]
Weights = Annotated[
    Annotated[Literal["accuracy"], IS_TEXT] | Annotated[tuple[Weight, ...], Field(min_length=1, strict=False), IS_LIST],
    BY_SHAPE,
]


def _checked_deadline(value: float | str) -> float | str:
    _refuse_if(deadline_problem(value))
    return value


Deadline = Annotated[Annotated[float, IS_NUMBER] | Annotated[str, IS_TEXT], BY_SHAPE, AfterValidator(_checked_deadline)]


class GateSpec(Spec):
    """The quality that a run must reach; a run that misses it says so by its exit code."""

    metric: Literal["accuracy", "nll"] = Field(description="What is measured.")
    of: Literal["ensemble", "weighted", "best_member", "members_mean"] = Field(
        default="ensemble", description="Whose metric."
    )
    on: Literal["validation", "test"] = Field(default="validation", description="On which rows.")
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
        if self.metric == "accuracy" and self.min is not None and self.min > 1:
            problems.append(Problem(("min",), f"accuracy is a fraction and never above 1, so never {self.min:g}"))
        if self.max is not None and self.max < 0:
            problems.append(Problem(("max",), f"{self.metric} is never below 0, so nothing passes {self.max:g}"))
        refuse(problems)
        return self


class EnsembleSpec(Spec):
    """How the members' predictions are put together."""

    weights: Weights | None = Field(
        default=None,
        description="Weights of the weighted average: `accuracy` (by validation accuracy) or one number per member; "
        "by default `accuracy` where there is a validation set.",
    )
    quorum: int | None = Field(default=None, ge=1, description="Fewest members for a result; by default all of them.")
    deadline: Deadline | None = Field(
        default=None,
        description="When training ends: seconds or a duration (`6h30m`) from the run's first start, or a time with "
        "its zone (`2026-11-22T06:00:00+01:00`). Members that are late count with their best epoch so far.",
    )
    gate: GateSpec | None = Field(default=None, description="Quality that the run must reach.")

    @model_validator(mode="after")
    def _check(self) -> EnsembleSpec:
        if isinstance(self.weights, tuple):
            total = sum(self.weights)
            if not 0 < total < float("inf"):
                refuse([Problem(("weights",), f"must add up to a finite number above 0, not {total:g}")])
            zeros = self.weights.count(0.0)
            if self.quorum is not None and zeros >= self.quorum:
                what = f"{self.quorum} is too few: {zeros} weights are 0, so the members left could weigh nothing"
                refuse([Problem(("quorum",), what)])
        return self


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
        description="CPU cores per worker, and its thread budget; by default one, and all of this machine's where it "
        "trains fused packs without a GPU.",
    )
    concurrency: int | None = Field(
        default=None, ge=1, description="Members that train at the same time; by default as many as fit."
    )

    @model_validator(mode="after")
    def _check(self) -> ResourcesSpec:
        if self.num_gpus is not None and self.num_gpus > 1 and not self.num_gpus.is_integer():
            refuse([Problem(("num_gpus",), f"must be a fraction below 1 or a whole number, not {self.num_gpus:g}")])
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


class RaySpec(Spec):
    """Which Ray."""

    address: Annotated[str, AfterValidator(_ray_address)] | None = Field(
        default=None,
        description="Address of a Ray cluster, or `auto`; by default a Ray of the job's own on this machine.",
    )
