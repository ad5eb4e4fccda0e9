"""Runs that are planned, started and submitted: real clock, store and cluster around the controller.

Ray is imported inside `run` and `submit`: what only plans answers at once.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.api.bases import keep_bases
from orchestrator.attach import Start, become_coordinator
from orchestrator.controller import Controller, RunRequest
from orchestrator.errors import (
    ClusterUnavailable,
    DamagedStore,
    IdentityChanged,
    InvalidJob,
    MissingObject,
    OrchestratorError,
)
from orchestrator.planning.members import MemberPlan
from orchestrator.planning.packs import FEW_STEPS
from orchestrator.planning.placement import ClusterShape, NodeShape, Placement, place_workers
from orchestrator.planning.plan import Plan, make_plan
from orchestrator.planning.ports import Store
from orchestrator.planning.search import Params
from orchestrator.planning.stages import stages_text
from orchestrator.reporting.ending import record_end
from orchestrator.reporting.mlflow import require_mlflow
from orchestrator.reporting.progress import Progress, SilentProgress
from orchestrator.reporting.result import Result
from orchestrator.search.samplers import sampler_of
from orchestrator.spec import (
    Job,
    SearchSpec,
    check_job,
    code_digest,
    default_run_id,
    difference,
    exactness,
    identity,
    identity_digest,
    names_slow_layers,
)
from orchestrator.spec.sources import FilesSpec
from orchestrator.storage.beat import Beat
from orchestrator.storage.layout import RunLayout, run_key
from orchestrator.storage.log import Log
from orchestrator.storage.open import open_store
from orchestrator.storage.probe import probe
from orchestrator.storage.retry import Patience

if TYPE_CHECKING:
    from orchestrator.cluster.session import Session


BEAT_EVERY_S = 5.0
"""How often a coordinator shows that it lives, unless its job asks for quicker take-overs."""


class SystemClock:
    """The Clock port on this machine's clocks."""

    def monotonic(self) -> float:
        return time.monotonic()

    def epoch(self) -> float:
        return time.time()


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
        """The plan as plain values."""
        request = self.request
        return {
            "name": request.job.name,
            "run_id": request.run_id,
            "storage": request.job.storage.url,
            "run": request.layout.root,
            "spec_digest": request.spec_digest,
            "code_digest": request.code_digest,
            "placement": self.placement_text(),
            "engine": self.engine_text(),
            "stop_when": self.stop_text(),
            "search": self.search_text(),
            "folds": self.folds_text(),
            "stages": stages_text(self.request.job.model, self.request.job.train),
            "exact": not self.inexact,
            "inexact_because": list(self.inexact),
            "members": [
                {
                    "index": member.index,
                    "seed": member.seed,
                    "dropout": member.dropout,
                    "builder": member.builder,
                    "kwargs": dict(member.kwargs),
                    "train": dict(member.train_values),
                    "key": f"{request.layout.members}/{member.index}",
                    **_fold_json(member),
                }
                for member in request.plan.members
            ],
        }

    def placement_text(self) -> str:
        """Where the members would train."""
        address = self.request.job.ray.address
        if address is not None:
            return f"decided at the start, on the cluster at {address}"
        return f"{self.placement.reason}, on this machine (GPUs are counted at the start)"

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
        engine = self.request.job.train.engine
        if engine == "solo":
            return "solo: the job says so"
        if engine == "auto" and self.request.job.data.streaming is not None:
            return "solo: training rows are streamed"
        if engine == "auto" and all(member.stages for member in self.request.plan.members):
            return "solo: members are trained in stages"
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


def _fold_json(member: MemberPlan) -> dict[str, int]:
    """Where a member stands among the folds; nothing without folds."""
    fold = member.fold
    return {} if fold is None else {"configuration": fold.configuration, "repeat": fold.repeat, "fold": fold.fold}


def validate(job: Job, *, root: str | None = None) -> None:
    """Check what can be known without importing the job's code.

    Args:
        job: the job.
        root: folder from which its modules are imported; default the working directory.

    Raises:
        InvalidJob: a module, function or parameter does not exist.
    """
    check_job(job, root or str(Path.cwd()))


def plan(job: Job, *, run_id: str | None = None, fresh: bool = False, root: str | None = None) -> RunPlan:
    """Work out members, packs and keys without starting anything. Arguments and errors as for `run`."""
    root = root or str(Path.cwd())
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
    request = RunRequest(job, made, layout, run_id if run_id is not None else default, digest, code)
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


def run(
    job: Job,
    *,
    run_id: str | None = None,
    fresh: bool = False,
    attach: bool = True,
    accept_code_change: bool = False,
    timeout_s: float | None = None,
    root: str | None = None,
    progress: Progress | None = None,
    interruption: Callable[[], OrchestratorError | None] = lambda: None,
) -> Result:
    """Train the ensemble that a job describes, and return its result.

    The run id is the key: a run that is finished returns its recorded result without asking for a worker; one with a
    live coordinator is attached to until it has one; one whose coordinator died, froze or ended without a result goes
    on from what is stored.

    Args:
        job: from `load_job` or `parse_job`.
        run_id: names the run; default `<name>-<12 hex digits of its identity>`.
        fresh: start a new run of the same job.
        attach: whether to wait for the result of a live coordinator; else `RunHeld`.
        accept_code_change: go on with a run although the job's own code, and nothing else, has changed since.
        timeout_s: give up after that many seconds.
        root: folder from which the job's own modules are imported; default the working directory.
        progress: what people see; default nothing.
        interruption: asked twice a second; an error that it returns ends the run.

    Raises:
        InvalidInput: the job, model, data, storage or credentials are wrong (exit code 2).
        QuorumMissed: too few members (4).
        TryAgain: storage or cluster out of reach, the run taken over, or held with `attach` off (75).
        TimedOut, Interrupted: as asked (124, 130, 143).
    """
    progress = progress or SilentProgress()
    clock = SystemClock()
    give_up_at = None if timeout_s is None else clock.monotonic() + timeout_s
    planned = plan(job, run_id=run_id, fresh=fresh, root=root)
    request = planned.request
    faults = request.job.faults
    store = _open(request.job)
    try:
        store.list(request.layout.control)  # first contact, without the log's patience: a wrong address is told soon
        log = Log.open(store, request.layout.coord_log)
        keep_spec(store, planned, must_exist=log.last is not None, accept_code_change=accept_code_change)
        start = Start(
            store,
            request.layout,
            request.run_id,
            faults.takeover_s,
            attach,
            claim={"code_digest": request.code_digest},
        )
        held = become_coordinator(
            start,
            log,
            clock=clock,
            progress=progress,
            before_claim=lambda: _check_start(store, request),
            interruption=interruption,
            give_up_at=give_up_at,
        )
        if isinstance(held, Result):
            return held
        every_s = min(BEAT_EVERY_S, faults.takeover_s / 3)
        layout = request.layout
        with Beat(store, layout.beat, layout.control, term=held, every_s=every_s, epoch=clock.epoch) as beat:
            return _run_on_ray(planned, store, log, give_up_at, progress, interruption, beat)
    finally:
        progress.close()


def _check_start(store: Store, request: RunRequest) -> None:
    """What must hold before anything trains, and need not for a result that is there."""
    if request.job.report.mlflow:
        require_mlflow()
    probe(store, request.layout.probe)


def _run_on_ray(
    planned: RunPlan,
    store: Store,
    log: Log,
    give_up_at: float | None,
    progress: Progress,
    interruption: Callable[[], OrchestratorError | None],
    beat: Beat,
) -> Result:
    from orchestrator.cluster.ray_cluster import RayCluster
    from orchestrator.cluster.session import connect
    from orchestrator.training.setup import WorkerSetup

    request = planned.request
    address = request.job.ray.address
    progress.note(f"connecting to Ray at {address}" if address else "starting Ray on this machine")
    try:
        bases = keep_bases(request.job, store, request.layout, log, planned.root)
        session = connect(address, planned.root)
    except OrchestratorError as error:
        record_end(log, error, SystemClock(), progress)  # so that the next start need not wait for a sign of life
        raise
    try:
        placement, solo = _place(session, planned, progress)
        if "s3://" not in request.job.storage.url and session.num_machines() > 1:
            progress.note(f"storage is the folder {request.job.storage.url}: all nodes of the cluster must share it")
        setup = WorkerSetup(
            worker="",
            job=request.job,
            plan=request.plan,
            layout=request.layout,
            coord_term=log.term,
            code_root=session.code_root,
            num_cpus=placement.num_cpus,
            num_gpus=placement.num_gpus,
            bases=bases,
        )
        cluster = RayCluster(session, setup, placement)
    except BaseException as error:
        session.close()
        if isinstance(error, OrchestratorError):
            record_end(log, error, SystemClock(), progress)
        raise
    try:
        controller = Controller(
            request,
            store=store,
            log=log,
            cluster=cluster,
            clock=SystemClock(),
            progress=progress,
            crew=placement.crew,
            solo_crew=solo.crew,
            give_up_at=give_up_at,
            interruption=interruption,
            sampler=sampler_of(request.job),
            stop_requests=beat.stop_requests,
        )
        return controller.run()
    finally:
        cluster.close()


def _place(session: Session, planned: RunPlan, progress: Progress) -> tuple[Placement, Placement]:
    """Decide on the first workers, and on those to have where members turn out to be trained one by one.

    Where nothing fits now, a cluster that can grow gets its chance; a lone machine does not.
    """
    shape, request = session.shape(), planned.request
    resources, num_members = request.job.resources, len(request.plan.members)
    placement = place_workers(shape, resources, num_members, may_fuse=planned.may_fuse)
    if placement.num_workers > 0:
        return placement, place_workers(shape, resources, num_members)
    if not shape.can_grow:
        raise ClusterUnavailable(
            f"no worker fits on this machine: {placement.reason}",
            where="resources",
            hint="ask for less under `resources`, or name a cluster that has it with ray.address",
        )
    progress.note(f"waiting for a node: {placement.reason}")
    wanted = min(num_members, resources.concurrency or 1)
    placement = replace(placement, num_workers=wanted)
    return placement, placement


def keep_spec(store: Store, planned: RunPlan, *, must_exist: bool, accept_code_change: bool) -> None:
    """Create the run's `spec.json`, or compare with the one that is there: a run id stands for one identity.

    A change of the job's own code may be accepted; the claim says with which code each coordinator came.
    """
    request = planned.request
    spec = {
        "run_id": request.run_id,
        "identity": planned.identity,
        "identity_digest": request.spec_digest,
        "job": request.job.model_dump(mode="json"),
    }
    body = json.dumps(spec, sort_keys=True, ensure_ascii=False, indent=1).encode()
    if not must_exist and Patience().retry(lambda: store.create(request.layout.spec, body)):
        return
    try:
        known = json.loads(Patience().retry(lambda: store.get(request.layout.spec)))
        if known["identity_digest"] == request.spec_digest:
            return
        known_identity = dict(known["identity"])
    except (MissingObject, ValueError, KeyError, TypeError) as error:
        what = "is gone: what the run stands for is not known" if isinstance(error, MissingObject) else "is damaged"
        raise DamagedStore(
            f"the run's spec {what}: {error}",
            where=request.layout.spec,
            hint="restore the object from a backup, or start a new run with another --run-id or --fresh",
        ) from error
    asked = json.loads(json.dumps(planned.identity))
    code_alone = {**known_identity, "code": asked["code"]} == asked
    if code_alone and accept_code_change:
        return
    changes = difference(known_identity, asked)
    raise IdentityChanged(
        "this run id stands for another job:\n  " + "\n  ".join(changes),
        where=f"run {request.run_id}",
        hint="use another --run-id, --fresh, or undo the change"
        + ("; --accept-code-change goes on with the changed code, and the result says so" if code_alone else ""),
    )


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


def _open(job: Job) -> Store:
    return open_store(job.storage.url, endpoint_url=job.storage.endpoint_url, region=job.storage.region)


def submit(
    job_path: str,
    *,
    address: str | None = None,
    overrides: Sequence[str] = (),
    run_id: str | None = None,
    extra: Sequence[str] = (),
    wait: bool = False,
    timeout_s: float | None = None,
    on_log: Callable[[str], None] = lambda line: None,
    root: str | None = None,
) -> tuple[str, int | None]:
    """Submit a job file to a Ray cluster through its job API; the job's folder is shipped.

    Args:
        job_path: the job file, inside `root`.
        address: `http://HEAD:8265`; default from RAY_API_SERVER_ADDRESS, else RAY_ADDRESS.
        overrides: `key=value` for the job.
        run_id: names the run; default as for `run`.
        extra: further options of `run`.
        wait: follow the driver's log until it ends.
        timeout_s: stop waiting after that long (TimedOut); the job goes on.
        on_log: gets each line of the driver's log.
        root: the folder to ship; default the working directory.

    Returns:
        The submission id, and with `wait` the driver's own exit code, else None.

    Raises:
        InvalidJob: the job is wrong, or outside the folder.
        ClusterUnavailable, AccessDenied: the cluster cannot be reached, or refuses.
    """
    from orchestrator.cluster import submission as jobs
    from orchestrator.cluster.submission_decisions import driver_command, resolve_address
    from orchestrator.spec import load_job

    root = root or str(Path.cwd())
    job = load_job(job_path, overrides)
    if "://" not in job.storage.url and not Path(job.storage.url).is_absolute():
        raise InvalidJob(
            f"the folder {job.storage.url!r} would lie in the job's own copy of the code, which Ray deletes",
            where="storage.url",
            hint="give s3://… or the absolute path of a folder that all nodes share",
        )
    planned = plan(job, run_id=run_id, root=root)
    where = resolve_address(address, os.environ)
    entrypoint = driver_command(jobs.job_path_in(root, job_path), list(overrides), run_id, list(extra))
    submission: jobs.Submission | None = None
    for attempt in range(1, 1000):  # a used submission id is refused for ever, so each start gets the next number
        submission = jobs.submit_job(
            address=where,
            entrypoint=entrypoint,
            working_dir=root,
            submission_id=f"{planned.request.layout.run_key}-{attempt}",
            excludes=jobs.read_excludes(root),
            token=jobs.find_token(os.environ),
        )
        if submission.state != "finished":
            break
    if submission is None or submission.state == "finished":
        raise ClusterUnavailable("no free submission id", where=planned.request.run_id)
    if not wait:
        return submission.submission_id, None
    return submission.submission_id, jobs.wait_for(submission, timeout_s=timeout_s, on_log=on_log)
