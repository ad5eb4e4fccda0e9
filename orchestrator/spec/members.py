"""Who the members are: the build function, the data, and what differs from member to member."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, Field, model_validator

from orchestrator.spec.base import (
    BY_SHAPE,
    IS_BOOL,
    IS_LIST,
    IS_MAPPING,
    IS_NUMBER,
    IS_TEXT,
    REFERENCE,
    Json,
    Problem,
    Range,
    Spec,
    is_reference,
    refuse,
)
from orchestrator.spec.preprocess import Preprocess
from orchestrator.spec.sources import (
    Column,
    Features,
    FilesSpec,
    Label,
    Stream,
    StreamSpec,
    column_problems,
    location_problem,
)
from orchestrator.spec.transfer import BaseSpec, BestOver, StageSpec

MAX_MEMBERS = 10_000
MAX_KERAS_SEED = 2**32 - 1


def _check_reference(value: str) -> str:
    if not is_reference(value):
        refuse([Problem((), f"must be a reference such as `jobs.digits:build_model` (module:function), not {value!r}")])
    return value


Reference = Annotated[str, AfterValidator(_check_reference), Field(json_schema_extra={"pattern": REFERENCE})]
DropoutRate = Annotated[float, Field(ge=0, lt=1)]
Dropout = Annotated[
    Annotated[DropoutRate, IS_NUMBER]
    | Annotated[tuple[DropoutRate, ...], Field(min_length=1, strict=False), IS_LIST]
    | Annotated[Range, IS_MAPPING],
    BY_SHAPE,
]
Axis = Annotated[
    Annotated[tuple[Json, ...], Field(min_length=1, strict=False), IS_LIST] | Annotated[Range, IS_MAPPING], BY_SHAPE
]
Names = Annotated[
    tuple[Annotated[str, Field(min_length=1)], ...],
    Field(min_length=1, strict=False, json_schema_extra={"uniqueItems": True}),
]
ClassNames = Annotated[
    Annotated[Names, IS_LIST] | Annotated[dict[Annotated[str, Field(min_length=1)], Names], IS_MAPPING], BY_SHAPE
]


class ModelSpec(Spec):
    """The build function and its arguments. A plain text is the builder."""

    short_form: ClassVar[str | None] = "builder"

    builder: Reference = Field(
        description="`module:function`, imported from the working directory; returns a `keras.Model`."
    )
    kwargs: dict[str, Json] = Field(
        default={}, description="Arguments of the build function, the same for all members."
    )
    base: BaseSpec | None = Field(
        default=None,
        description="A saved model to start from, handed to the build function as `base`: a copy for each member. A "
        "plain text is its file.",
    )
    stages: Annotated[tuple[StageSpec, ...], Field(strict=False)] = Field(
        default=(),
        description="Training in stages, one after another: each compiles the model anew and begins with the weights "
        "that `fit` of the one before it ended with.",
    )
    best_over: BestOver = Field(
        default="last",
        description="The best model is that of the `last` stage, or the best of `all` stages.",
    )

    @model_validator(mode="after")
    def _check(self) -> ModelSpec:
        problems = [
            Problem(("stages", number, "freeze"), "names layers of the base, and there is none: give `base` too")
            for number, stage in enumerate(self.stages)
            if self.base is None and stage.freeze != "none"
        ]
        if self.best_over == "all" and len(self.stages) < 2:
            problems.append(Problem(("best_over",), "chooses among stages, and there are not several"))
        if "base" in self.kwargs:
            problems.append(Problem(("kwargs", "base"), "is what `model.base` is handed over as: name the model there"))
        refuse(problems)
        return self


def _check_source(value: str) -> str:
    if not is_reference(value):
        problem = location_problem(value)
        refuse([Problem((), f"{problem}; a function is module:function")] if problem else [])
    return value


Source = Annotated[
    Annotated[str, AfterValidator(_check_source), Field(min_length=1), IS_TEXT] | Annotated[FilesSpec, IS_MAPPING],
    BY_SHAPE,
]


OneHotLabels = Annotated[
    Annotated[bool, IS_BOOL] | Annotated[tuple[str, ...], Field(min_length=1, strict=False), IS_LIST], BY_SHAPE
]


class ValidationSplitSpec(Spec):
    """Which of the training rows become the validation set. A plain number is the share."""

    short_form: ClassVar[str | None] = "share"

    share: float = Field(
        default=0.2, ge=0, lt=1, description="Part of the training rows; 0 trains without a validation set."
    )
    take: Literal["stratified", "last"] = Field(
        default="stratified",
        description="`stratified`: drawn with the job's seed, as many of each class; `last`: the last rows, as Keras' "
        "`validation_split` takes them.",
    )


class DataSpec(Spec):
    """Where the examples come from. A plain text is the source."""

    short_form: ClassVar[str | None] = "source"

    source: Source = Field(
        description='`module:function`, which returns `{"train": (x, y), "validation": …, "test": …}` or `(x, y)`, '
        "x and y arrays or dictionaries of arrays by the names of inputs and outputs; or a `tf.data.Dataset` or "
        "`PyDataset` in the place of such a tuple; the location of an .npz, .csv or .parquet "
        "file, or of a folder of them, local or `s3://`; or a location for each of `train`, `validation` and `test`."
    )
    features: Features | None = Field(
        default=None,
        description="Columns that are the model's input: a list, side by side; one column as it is; or a mapping from "
        "the names of inputs to columns. By default all that nothing else is said of, side by side.",
    )
    label: Label | None = Field(
        default=None,
        description="Column to predict, a list of them, or a mapping from the names of outputs to columns. Texts "
        "become codes 0, 1, … in sorted order, or in that of `class_names`.",
    )
    weight: Column | None = Field(default=None, description="Column of sample weights.")
    groups: Column | None = Field(
        default=None,
        description="Column that tells which training rows belong together, by whole numbers or texts: no group is "
        "split over `members.folds`, or between training and validation rows that are drawn from them.",
    )
    stream: Stream = Field(
        default=False,
        description="Read the training rows of each epoch anew instead of keeping them in memory: for tables that are "
        "too large for it. Their order is shuffled within windows; the other sets stay in memory.",
    )
    validation_split: ValidationSplitSpec | None = Field(
        default=None,
        description="Part of the training rows that becomes the validation set when the data has none; 0 trains "
        "without one. By default 0.2; with `members.folds` 0, for there the rows held out serve.",
    )
    max_rows: int | None = Field(
        default=None,
        ge=1,
        description="Use at most so many rows of each set (training, validation, test), drawn with the job's seed, of "
        "each class in proportion where labels are classes; streamed rows from all parts of their files alike. By "
        "default all.",
    )
    preprocess: Preprocess = Field(
        default=(),
        description="How raw rows are prepared: a list of steps (`min_max`, `standardize`, `one_hot`, `flatten`, "
        "`normalize_images`; with arguments as `{min_max: {feature_range: [-1, 1]}}`), or a mapping from input name to "
        "such a list. Fitted on each member's training rows alone, and saved in its model, which takes raw rows.",
    )
    one_hot_labels: OneHotLabels = Field(
        default=False,
        description="Labels that are class numbers become one-hot rows, as `categorical_crossentropy` takes them; for "
        "models of several outputs a list of those whose labels do.",
    )
    class_names: ClassNames | None = Field(
        default=None,
        description="Names of the classes for the report, in the order of the labels 0, 1, …; for models of several "
        "outputs a list for each output that tells classes, by its name.",
    )

    @model_validator(mode="after")
    def _check(self) -> DataSpec:
        keys = {name: getattr(self, name) for name in ("features", "label", "weight", "groups", "stream")}
        asked = {name: value for name, value in keys.items() if value not in (None, False)}
        refuse(list(column_problems(self.source, is_function=self.function is not None, keys=asked)))
        if self.stream is not False and self.validation_split is not None and self.validation_split.take == "last":
            what = "cannot be told of streamed rows: leave it out, or name a validation set in data.source"
            refuse([Problem(("validation_split", "take"), what)])
        if self.stream is not False and self.one_hot_labels is not False:
            what = "cannot be made of streamed rows: leave it out, and use sparse_categorical_crossentropy"
            refuse([Problem(("one_hot_labels",), what)])
        given = self.class_names or ()
        lists = [((key,), names) for key, names in given.items()] if isinstance(given, dict) else [((), given)]
        refuse(
            [
                Problem(("class_names", *output, index), f"{name!r} stands there twice")
                for output, names in lists
                for index, name in enumerate(names)
                if name in names[:index]
            ]
        )
        return self

    @property
    def function(self) -> str | None:
        """The data function's reference; None where the data lie in files."""
        return self.source if isinstance(self.source, str) and is_reference(self.source) else None

    @property
    def streaming(self) -> StreamSpec | None:
        """How training rows are streamed; None: they are not."""
        return StreamSpec() if self.stream is True else self.stream or None


class MemberOverride(Spec):
    """What is different for one member."""

    model: ModelSpec | None = Field(
        default=None, description="Another build function with its own arguments, instead of the job's."
    )
    kwargs: dict[str, Json] = Field(default={}, description="Arguments that replace or join the member's others.")
    dropout: DropoutRate | None = Field(default=None, description="Dropout rate of this member.")
    train: dict[str, Json] = Field(
        default={},
        description="This member's settings of `train`, by dotted key: `{early_stopping.patience: 3}`.",
    )
    seed: int | None = Field(
        default=None,
        ge=0,
        le=MAX_KERAS_SEED,
        description="Seed of this member, instead of the one drawn from the job's; with `members.folds`, of all "
        "members of this configuration.",
    )

    @model_validator(mode="after")
    def _check(self) -> MemberOverride:
        if self.dropout is not None and "dropout" in self.kwargs:
            refuse([Problem(("kwargs", "dropout"), "stands beside `dropout` of the same member: say it once")])
        return self


class FoldsSpec(Spec):
    """Train each configuration once per fold, held out from it. A plain number is the count."""

    short_form: ClassVar[str | None] = "count"

    count: int = Field(ge=2, le=MAX_MEMBERS, description="Number of folds.")
    stratified: bool = Field(
        default=True, description="Spread each class evenly over the folds, where the labels are classes."
    )
    repeats: int = Field(
        default=1, ge=1, le=MAX_MEMBERS, description="How often the rows are dealt anew, each time into other folds."
    )
    inner_validation: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="Part of a member's own rows on which its callbacks watch it, so that the rows held out are used "
        "for nothing but scoring; 0: they watch it on the validation set, or where there is none on the held-out rows.",
    )


class MembersSpec(Spec):
    """How many members, and how they differ. A plain number is the count."""

    short_form: ClassVar[str | None] = "count"

    count: int = Field(
        default=5, ge=1, le=MAX_MEMBERS, description="Number of members; with `folds`, of configurations."
    )
    folds: FoldsSpec | None = Field(
        default=None,
        description="K-fold ensemble: each configuration becomes one member per fold (and repeat), which never sees "
        "the rows of that fold and predicts them. Configurations differ by dropout, `vary` and `overrides`.",
    )
    dropout: Dropout | None = Field(
        default=None,
        description="Dropout rate: one for all, a list (cycled), or a range (spread evenly by index). Without it, "
        "members get rates from 0.1 to 0.5 where the build function has a parameter `dropout`.",
    )
    vary: dict[str, Axis] = Field(
        default={},
        description="Other arguments of the build function that differ by member: a list (cycled) or a range each; "
        "settings of `train`, too, by dotted key: `train.optimizer.config.learning_rate`.",
    )
    overrides: dict[Annotated[int, Field(ge=0)], MemberOverride] = Field(
        default={},
        description="What is different for single members, by 0-based index; with `folds`, for configurations.",
    )

    @property
    def per_configuration(self) -> int:
        """How many members each configuration has: one, or with folds one for each of them and each repeat."""
        return 1 if self.folds is None else self.folds.count * self.folds.repeats

    @property
    def total(self) -> int:
        """How many members there are."""
        return self.count * self.per_configuration

    @model_validator(mode="after")
    def _check(self) -> MembersSpec:
        what = "member" if self.folds is None else "configuration"
        problems = [
            Problem(("overrides", index), f"there is no {what} {index}: count is {self.count}, indices start at 0")
            for index in sorted(self.overrides)
            if index >= self.count
        ]
        problems += rate_problems(("dropout",), self.dropout)
        problems += rate_problems(("vary", "dropout"), self.vary.get("dropout"))
        if self.total > MAX_MEMBERS:
            told = f"make {self.total:,} members of {self.count:,} configurations, more than {MAX_MEMBERS:,}"
            problems.append(Problem(("folds",), told))
        if self.dropout is not None and "dropout" in self.vary:
            problems.append(Problem(("vary", "dropout"), "stands beside `members.dropout`: say it once"))
        refuse(problems)
        return self


def rate_problems(path: tuple[str, ...], value: object) -> list[Problem]:
    """What is wrong with a range of dropout rates at a path; nothing where it is no range."""
    problems = []
    if isinstance(value, Range):
        if value.min < 0:
            problems.append(Problem((*path, "min"), f"a dropout rate must be at least 0, not {value.min:g}"))
        if value.max >= 1:
            problems.append(Problem((*path, "max"), f"a dropout rate must be below 1, not {value.max:g}"))
    return problems
