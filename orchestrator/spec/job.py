"""The job: what one YAML file asks for. Its parts live in `members.py`, `train.py` and `settings.py`."""

from __future__ import annotations

from collections.abc import Iterator

from pydantic import Field, model_validator

from orchestrator.spec.base import Problem, Range, Spec, refuse
from orchestrator.spec.members import DataSpec, MembersSpec, ModelSpec, ValidationSplitSpec
from orchestrator.spec.search import SearchSpec, wrong_beside_search
from orchestrator.spec.settings import EnsembleSpec, FaultsSpec, RaySpec, ReportSpec, ResourcesSpec, StorageSpec
from orchestrator.spec.train import TrainSpec
from orchestrator.spec.varied import PREFIX, wrong_train_value

NAME = r"^[a-z0-9][a-z0-9._-]{0,62}$"
MAX_SEED = 2**63 - 1
DEFAULT_SPLIT = 0.2


class Job(Spec):
    """Train an ensemble of Keras models in parallel and report what it is worth."""

    name: str = Field(
        pattern=NAME, description="Name of the job: lower-case letters, digits, `.`, `_` and `-`, at most 63 of them."
    )
    seed: int = Field(default=0, ge=0, le=MAX_SEED, description="Root of all randomness: members' seeds and the split.")
    model: ModelSpec = Field(description="The build function, or just its `module:function`.")
    data: DataSpec = Field(
        description="Where rows come from, or just a data function's `module:function` or a location."
    )
    members: MembersSpec = Field(default=MembersSpec(), description="The members, or just how many.")
    train: TrainSpec = Field(default=TrainSpec(), description="How each member is trained.")
    search: SearchSpec | None = Field(
        default=None, description="Search hyperparameters: trials are trained, and the best of them are the members."
    )
    ensemble: EnsembleSpec = Field(default=EnsembleSpec(), description="How predictions are put together and judged.")
    resources: ResourcesSpec = Field(default=ResourcesSpec(), description="What each worker takes.")
    faults: FaultsSpec = Field(default=FaultsSpec(), description="How much may go wrong.")
    storage: StorageSpec = Field(default=StorageSpec(), description="Where runs are kept.")
    report: ReportSpec = Field(default=ReportSpec(), description="What is made of the result.")
    ray: RaySpec = Field(default=RaySpec(), description="Which Ray.")

    @property
    def validation_split(self) -> ValidationSplitSpec:
        """`data.validation_split`, or its default: with folds none, for there the rows held out serve."""
        if self.data.validation_split is not None:
            return self.data.validation_split
        return ValidationSplitSpec(share=DEFAULT_SPLIT if self.members.folds is None else 0.0)

    @model_validator(mode="after")
    def _check(self) -> Job:
        count, folds = self.members.count, self.members.folds
        what_counts = "members" if folds is None else "configurations"
        problems = []
        if isinstance(self.ensemble.weights, tuple) and len(self.ensemble.weights) != count:
            what = f"must have one number for each of the {count} {what_counts}, not {len(self.ensemble.weights)}"
            problems.append(Problem(("ensemble", "weights"), what))
        if self.ensemble.quorum is not None and self.ensemble.quorum > count:
            what = f"must be at most the number of {what_counts} ({count}), not {self.ensemble.quorum}"
            problems.append(Problem(("ensemble", "quorum"), what))
        if folds is None and self.ensemble.gate is not None and self.ensemble.gate.on == "out_of_fold":
            problems.append(Problem(("ensemble", "gate", "on"), "is out_of_fold, but there are no `members.folds`"))
        if folds is not None and self.data.streaming is not None:
            what = "keeps no rows in memory to deal into folds: leave out one of it and `members.folds`"
            problems.append(Problem(("data", "stream"), what))
        if folds is not None and self.data.max_rows is not None and self.data.max_rows < folds.count:
            what = f"must be at least the number of folds ({folds.count}), not {self.data.max_rows}"
            problems.append(Problem(("data", "max_rows"), what))
        if folds is not None and self.ensemble.stop_when is not None:
            what = "watches members one by one, but with `members.folds` only whole configurations can be scored"
            problems.append(Problem(("ensemble", "stop_when"), what))
        if "dropout" in self.model.kwargs and (self.members.dropout is not None or "dropout" in self.members.vary):
            problems.append(Problem(("model", "kwargs", "dropout"), "stands beside the members' dropout: say it once"))
        if self.search is not None:
            problems += wrong_beside_search(self.search, self.model, self.members, self.train, self.ensemble)
        refuse([*problems, *self._wrong_train_values()])
        return self

    def _wrong_train_values(self) -> Iterator[Problem]:
        """Members' own settings that `train` does not have, each looked at alone."""
        space = {} if self.search is None else self.search.space
        axes = [(("members", "vary", name), axis) for name, axis in self.members.vary.items()]
        axes += [(("search", "space", name), axis) for name, axis in space.items()]
        for path, axis in axes:
            name = path[-1]
            if "." in name:
                ends = (axis.min, axis.max) if isinstance(axis, Range) else axis
                for value in ends:
                    what = (
                        wrong_train_value(self.train, name.removeprefix(PREFIX), value)
                        if name.startswith(PREFIX)
                        else f"names neither a keyword of the build function nor a setting below `{PREFIX}`"
                    )
                    if what is not None:
                        yield Problem(path, what)
                        break
        for index, override in self.members.overrides.items():
            for name, value in override.train.items():
                what = wrong_train_value(self.train, name, value)
                if what is not None:
                    yield Problem(("members", "overrides", index, "train", name), what)
