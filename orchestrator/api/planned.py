"""A job worked out up to its start, without Ray and without any of the job's own code."""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.controller import RunRequest
from orchestrator.errors import InvalidJob
from orchestrator.planning.alike import may_share_packs
from orchestrator.planning.labels import selector_text
from orchestrator.planning.members import MemberPlan
from orchestrator.planning.packs import FEW_STEPS, packing_rules
from orchestrator.planning.placement import ClusterShape, NodeShape, Placement, place_workers
from orchestrator.planning.plan import Plan, make_plan
from orchestrator.planning.search import Params
from orchestrator.planning.stages import stages_text
from orchestrator.reporting.facts import ranges
from orchestrator.search.samplers import sampler_of
from orchestrator.spec import (
    Job,
    SearchSpec,
    check_job,
    code_digest,
    default_run_id,
    exactness,
    identity,
    identity_digest,
    names_slow_layers,
    smoke_job,
)
from orchestrator.spec.sources import FilesSpec
from orchestrator.storage.layout import RunLayout, run_key

MOST_TOLD = 4
"""Groups of members that a plan names."""


@dataclass(frozen=True)
class RunPlan:
    """A job worked out up to its start.

    Attributes:
        request: job (its storage location absolute), members, packs and keys.
        identity: what the run id stands for.
        root: folder from which the job's own modules are imported.
        placement: how the members would be placed on this machine; on a cluster that is decided at the start.
        may_fuse: members may be trained as one program on a CPU, as far as can be known without importing them.
        inexact: why a member that is interrupted may end differently from one that is not; empty: it will not.
    """

    request: RunRequest
    identity: Mapping[str, Any]
    root: str
    placement: Placement
    may_fuse: bool
    inexact: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """The plan as plain values. What has to be measured (`api.measure`) is told as such.

        Keys, besides what the job says: `workers` (as they would be on this machine), `packs` (`decided`; before,
        `may_share`: groups of members that might be one program; then, `packs`), `time` and `memory` (of what was
        measured), `keys` (where the run's files will be, below `storage`), `notes` (what its result will say of it).
        """
        request = self.request
        unmeasured = {"measured": False, "reason": "not measured: --measure"}
        return {
            "name": request.job.name,
            "run_id": request.run_id,
            "storage": request.job.storage.url,
            "run": request.layout.root,
            "spec_digest": request.spec_digest,
            "code_digest": request.code_digest,
            "placement": self.placement_text(),
            "workers": workers_json(self.placement),
            "engine": self.engine_text(),
            "packs": {
                "decided": False,
                "may_share": [list(group) for group in self.may_share()],
                "reason": self.packs_text(),
            },
            "time": unmeasured,
            "memory": unmeasured,
            "max_rows": request.job.data.max_rows,
            "notes": list(request.notes),
            "keys": {name: getattr(request.layout, name) for name in ("result", "report", "spec", "members")},
            "stop_when": self.stop_text(),
            "search": self.search_text(),
            "folds": self.folds_text(),
            "stages": stages_text(self.request.job.model, self.request.job.train),
            "exact": not self.inexact,
            "inexact_because": list(self.inexact),
            "members": [_member_json(member, request.layout) for member in request.plan.members],
        }

    def placement_text(self) -> str:
        """Where the members would train."""
        address, labels = self.request.job.ray.address, self.request.job.resources.labels
        if address is not None:
            on = f", on nodes with {selector_text(labels)}" if labels else ""
            return f"decided at the start, on the cluster at {address}{on}"
        return f"{self.placement.reason}, on this machine (GPUs are counted at the start)"

    def why_solo(self) -> str | None:
        """Why members are trained one by one, whatever their models are; None: that is not known yet."""
        job = self.request.job
        if job.train.engine == "solo":
            return "the job says so"
        if job.train.engine == "auto" and job.data.streaming is not None:
            return "training rows are streamed"
        if job.train.engine == "auto" and all(member.stages for member in self.request.plan.members):
            return "members are trained in stages"
        return None

    def may_share(self) -> tuple[tuple[int, ...], ...]:
        """Groups of members that might be trained as one program; one of each where none are."""
        members = self.request.plan.members
        return may_share_packs(members) if self.why_solo() is None else tuple((member.index,) for member in members)

    def packs_text(self) -> str:
        """Which members might be trained as one program."""
        groups = [group for group in self.may_share() if len(group) > 1]
        if self.why_solo() is not None:
            return "none: each member is trained by itself"
        if not groups:
            return "no two members look alike: decided when the models are there, or by --measure"
        told = "; ".join(ranges(group) for group in groups[:MOST_TOLD])
        more = f"; and {len(groups) - MOST_TOLD} further groups" if len(groups) > MOST_TOLD else ""
        rule = packing_rules(self.request.job).max_members
        most = "" if rule is None else f", at most {rule} in one, as ensemble.stop_when says"
        return f"members {told}{more} might share packs{most}: decided when the models are there, or by --measure"

    def stop_text(self) -> str | None:
        """When no further member would start; None: when all have."""
        rule = self.request.job.ensemble.stop_when
        if rule is None:
            return None
        return (
            f"no further member starts once {rule.patience} in a row have improved the ensemble's {rule.metric} on "
            f"validation by no more than {rule.min_delta:g}: at least {rule.patience + 1} are trained"
        )

    def search_text(self) -> str | None:
        """What a search would try, and what becomes of it; None: there is none."""
        job = self.request.job
        search = job.search
        if search is None:
            return None
        known = len(self.request.plan.members)
        later = "all of which are shown"
        if known < search.num_trials:
            later = f"in generations of {search.generation}, of which the first is shown; each later one is decided "
            later += "when all before it are scored"
        count, metric = job.members.count, search.metric or "nll, of regression by rmse,"
        chosen = f"the {count} best by {metric} on the validation set become members"
        if search.keep == "greedy":
            among = "all trials" if search.pruning is None else "those that reach the last"
            chosen = f"greedy selection among {among} makes the best ensemble of at most {count} members"
        pruned = _pruning_text(search, job.train.epochs)
        return f"{search.num_trials} trials by {search.sampler}, {later}; {pruned}{chosen}"

    def folds_text(self) -> str | None:
        """How the rows are dealt into folds, and on which ones callbacks watch a member; None: they are not."""
        members = self.request.job.members
        folds = members.folds
        if folds is None:
            return None
        repeats = f", {folds.repeats} times anew" if folds.repeats > 1 else ""
        watched = "the validation set, where there is one, or else the rows held out"
        if folds.inner_validation > 0:
            watched = f"{folds.inner_validation:g} of its own rows"
        return (
            f"{members.count} configuration{'s' if members.count > 1 else ''} × {folds.count} "
            f"{'stratified ' if folds.stratified else ''}folds{repeats}; each member is watched on {watched}"
        )

    def engine_text(self) -> str:
        """How the members would be trained."""
        engine, why = self.request.job.train.engine, self.why_solo()
        if why is not None:
            return f"solo: {why}"
        guess = "solo, should there be no GPU: the build function names layers that are slower fused on a CPU"
        if engine == "fused":
            guess = "fused, where the models can be"
        elif self.may_fuse:
            guess = f"fused on a GPU, or from {FEW_STEPS:,} gradient steps of a pack on"
        return f"decided at the start, when the models are there; as far as can be told now: {guess}"


def _pruning_text(search: SearchSpec, epochs: int) -> str:
    """How far trials are trained, and how many of them reach the end; nothing where all do."""
    if search.pruning is None:
        return ""
    first, *later = search.rungs(epochs)
    return (
        f"of each generation all trials train to epoch {first}, and one in {search.pruning.reduction_factor}, at least "
        f"one, goes on to epoch {', then to '.join(map(str, later))}: {search.num_unpruned(epochs)} reach the last; "
    )


def workers_json(placement: Placement) -> dict[str, Any]:
    """The workers of a plan as plain values."""
    return {name: getattr(placement, name) for name in ("num_workers", "num_cpus", "num_gpus", "reason")}


def _member_json(member: MemberPlan, layout: RunLayout) -> dict[str, Any]:
    """A member as plain values; where it stands among the folds, if there are any."""
    fold = member.fold
    place = {} if fold is None else {"configuration": fold.configuration, "repeat": fold.repeat, "fold": fold.fold}
    return {
        "index": member.index,
        "seed": member.seed,
        "dropout": member.dropout,
        "builder": member.builder,
        "kwargs": dict(member.kwargs),
        "train": dict(member.train_values),
        "key": f"{layout.members}/{member.index}",
        **place,
    }


def validate(job: Job, *, root: str | None = None) -> None:
    """Check what can be known without importing the job's code.

    Args:
        job: the job.
        root: folder from which its modules are imported; default the working directory.

    Raises:
        InvalidJob: a module, function or parameter does not exist.
    """
    check_job(job, root or str(Path.cwd()))


def plan(
    job: Job, *, run_id: str | None = None, fresh: bool = False, smoke: bool = False, root: str | None = None
) -> RunPlan:
    """Work out members, packs and keys without starting anything. Arguments and errors as for `run`."""
    root = root or str(Path.cwd())
    if smoke and run_id is not None:
        raise InvalidJob("a smoke run has a run id of its own", where="--run-id", hint="leave out one of the two")
    small = smoke_job(job) if smoke else None
    job = job if small is None else small.job
    checked = check_job(job, root)
    asked, job = job, _with_absolute_places(job, root)
    made: Plan = make_plan(job, checked.builder_takes_dropout, _first_trials(job))
    code = code_digest(job, root).digest
    what = identity(asked, code)
    digest = identity_digest(what)
    default = default_run_id(job.name, digest)
    if run_id is not None and not run_id.strip():
        raise InvalidJob("the run id is empty", where="--run-id", hint="leave it out for the default one")
    if run_id is not None and fresh:
        raise InvalidJob("--fresh makes a run id of its own", hint="give either --fresh or --run-id")
    if fresh:
        default = f"{default}-{secrets.token_hex(4)}"
    # What `run` and `list` show as the id of a default or fresh run names that run, when it is given.
    is_default = run_id is None or re.fullmatch(rf"{re.escape(default)}(-[0-9a-f]{{8}})?", run_id) is not None
    key = run_key(job.name, run_id if run_id is not None else default, is_default=is_default)
    layout = RunLayout(job.name, key)
    notes = () if small is None else small.notes
    request = RunRequest(job, made, layout, run_id if run_id is not None else default, digest, code, notes)
    here = ClusterShape((NodeShape(os.cpu_count() or 1, job.resources.num_gpus or 0),), can_grow=False)
    slow = any(names_slow_layers(builder) for builder in checked.builders.values())
    wanted = job.train.engine == "fused" or (job.train.engine == "auto" and not slow)
    may_fuse = wanted and job.data.streaming is None and not all(member.stages for member in made.members)
    placement = place_workers(here, job.resources, len(made.members), may_fuse=may_fuse)
    return RunPlan(request, what, root, placement, may_fuse, exactness(job, checked))


def _first_trials(job: Job) -> Sequence[Params]:
    """What the first generation of a search tries; of a grid and of random draws that is all."""
    sampler = sampler_of(job)
    return () if sampler is None or job.search is None else sampler.ask(job.search.generation)


def _with_absolute_places(job: Job, root: str) -> Job:
    """Workers have other working directories: relative folders are taken from the job's root, once, here."""

    def absolute(place: str) -> str:
        if "://" in place:
            return place
        # A slash at the end says that a name with a dot is a folder's.
        return str(Path(root, Path(place).expanduser()).resolve()) + ("/" if place.endswith("/") else "")

    storage = job.storage.model_copy(update={"url": absolute(job.storage.url).rstrip("/")})
    source = job.data.source
    if isinstance(source, FilesSpec):
        source = source.model_copy(update={name: absolute(place) for name, place in source.locations()})
    elif job.data.function is None:
        source = absolute(source)
    return job.model_copy(update={"storage": storage, "data": job.data.model_copy(update={"source": source})})
