"""Transfer learning: the saved model that members start from, and the stages in which they are trained."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from orchestrator.spec.base import (
    BY_SHAPE,
    IS_BOOL,
    IS_LIST,
    IS_MAPPING,
    IS_NUMBER,
    IS_TEXT,
    KerasObject,
    NameOrObject,
    Problem,
    Spec,
    refuse,
)
from orchestrator.spec.train import EarlyStoppingSpec
from orchestrator.spec.urls import storage_problem

BestOver = Literal["last", "all"]
WhichMember = Annotated[
    Annotated[Literal["best"], IS_TEXT] | Annotated[int, Field(ge=0), IS_NUMBER],
    BY_SHAPE,
]
LayerNames = Annotated[tuple[Annotated[str, Field(min_length=1)], ...], Field(min_length=1, strict=False)]


class BaseSpec(Spec):
    """A saved model, and what of it is reused. A plain text is the file."""

    short_form: ClassVar[str | None] = "file"

    file: str | None = Field(
        default=None,
        description="A `.keras` file: a path, from the working directory, or `s3://…` on the server of `storage`.",
    )
    run: str | None = Field(
        default=None, min_length=1, description="An earlier run in the same storage, by its run id or run key."
    )
    member: WhichMember = Field(
        default="best", description="Which member of that run: its index, or the one that was `best` on validation."
    )
    layers: int | None = Field(
        default=None,
        ge=1,
        description="Reuse the first layers only, so many (inputs do not count); by default all.",
    )
    up_to: str | None = Field(
        default=None, min_length=1, description="Reuse the layers up to the one of this name, and with it."
    )

    @property
    def source(self) -> str:
        """Where the model comes from, in words that tell one from another."""
        return self.file if self.file is not None else f"run {self.run}, member {self.member}"

    @model_validator(mode="after")
    def _check(self) -> BaseSpec:
        problems = []
        if (self.file is None) == (self.run is None):
            problems.append(Problem((), "needs either `file` or `run`"))
        if self.run is None and self.member != "best":
            problems.append(Problem(("member",), "is a member of a run: give `run` too"))
        if self.layers is not None and self.up_to is not None:
            problems.append(Problem(("up_to",), "stands beside `layers`: say one of them"))
        if self.file is not None:
            wrong = storage_problem(self.file)
            if wrong is None and not self.file.endswith(".keras"):
                wrong = "must be a whole model as Keras saves it, with a name that ends in .keras"
            problems += [Problem(("file",), wrong)] if wrong else []
        refuse(problems)
        return self


class AllButLast(Spec):
    """All layers of the base but the last ones."""

    all_but_last: int = Field(ge=1, description="How many layers at the end of the base stay trainable.")


Freeze = Annotated[
    Annotated[Literal["all", "none"], IS_TEXT] | Annotated[LayerNames, IS_LIST] | Annotated[AllButLast, IS_MAPPING],
    BY_SHAPE,
]


class StageSpec(Spec):
    """One stage of training. What it does not say is as under `train`."""

    freeze: Freeze = Field(
        default="none",
        description="Which of the base's layers are not trained: `all`, `none`, those named, or {all_but_last: n}. "
        "BatchNormalization that is frozen keeps its statistics.",
    )
    epochs: int | None = Field(default=None, ge=1, description="Largest number of epochs of this stage.")
    batch_size: int | None = Field(default=None, ge=1, description="Examples per gradient step.")
    optimizer: NameOrObject | None = Field(default=None, description="Optimizer of this stage.")
    learning_rate: float | None = Field(
        default=None, gt=0, description="Learning rate of this stage, for whichever optimizer it has."
    )
    early_stopping: (
        Annotated[Annotated[Literal[False], IS_BOOL] | Annotated[EarlyStoppingSpec, IS_MAPPING], BY_SHAPE] | None
    ) = Field(default=None, description="Keras' EarlyStopping of this stage, which begins to count anew; false: off.")

    @model_validator(mode="after")
    def _check(self) -> StageSpec:
        rated = isinstance(self.optimizer, KerasObject) and "learning_rate" in self.optimizer.config
        if rated and self.learning_rate is not None:
            refuse([Problem(("learning_rate",), "stands beside `optimizer.config.learning_rate`: say it once")])
        return self

    @property
    def train_values(self) -> dict[str, Any]:
        """What this stage says of `train`, by key."""
        said = self.model_dump(mode="json", exclude={"freeze"})
        values = {key: value for key, value in said.items() if value is not None}
        if self.optimizer is not None:  # the rate belongs to the optimizer that it replaces
            values.setdefault("learning_rate", None)
        return values
