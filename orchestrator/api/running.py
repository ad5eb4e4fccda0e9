"""Runs that are started: real clock, store and cluster around the controller.

Ray is imported inside `run`: a result that is there needs none.
"""

from __future__ import annotations

import json
from collections.abc import Callable

from orchestrator.api.bases import keep_bases
from orchestrator.api.clock import SystemClock
from orchestrator.api.planned import RunPlan, plan
from orchestrator.attach import Start, become_coordinator
from orchestrator.controller import Controller, RunRequest
from orchestrator.errors import ClusterUnavailable, DamagedStore, IdentityChanged, MissingObject, OrchestratorError
from orchestrator.planning.placement import ClusterShape, Placement, Placing, place_again, place_workers, placing_of
from orchestrator.planning.ports import Store
from orchestrator.reporting.ending import record_end
from orchestrator.reporting.mlflow import require_mlflow
from orchestrator.reporting.progress import Progress, SilentProgress
from orchestrator.reporting.result import Result
from orchestrator.search.samplers import sampler_of
from orchestrator.spec import Job, difference
from orchestrator.storage.beat import Beat
from orchestrator.storage.log import Log
from orchestrator.storage.open import open_store_of
from orchestrator.storage.probe import probe
from orchestrator.storage.retry import Patience

BEAT_EVERY_S = 5.0
"""How often a coordinator shows that it lives, unless its job asks for quicker take-overs."""


def run(
    job: Job,
    *,
    run_id: str | None = None,
    fresh: bool = False,
    smoke: bool = False,
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
        smoke: run the job made small (`spec.smoke`), under a run id of its own: whether all of it works.
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
    planned = plan(job, run_id=run_id, fresh=fresh, smoke=smoke, root=root)
    request = planned.request
    faults = request.job.faults
    store = open_store_of(request.job)
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
    except Exception as error:  # a signal to the whole process group ends Ray, too: it is chance what is seen first
        asked = interruption()
        if asked is None:
            raise
        raise asked from error
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
    from orchestrator.cluster.metrics import RayMetrics
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
        for caution in session.cautions:
            progress.note(f"warning: {caution}")
        shape = session.shape()
        placement, placing = place_crews(shape, planned, progress.note)
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
        cluster = RayCluster(session, setup, placement, shape=shape)
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
            solo_crew=place_again(shape, placing, len(request.plan.members), alone=True).crew,
            placing=placing,
            give_up_at=give_up_at,
            interruption=interruption,
            sampler=sampler_of(request.job),
            stop_requests=beat.stop_requests,
            observer=RayMetrics(request.run_id, request.job.name, progress.note),
        )
        return controller.run()
    finally:
        cluster.close()


def place_crews(shape: ClusterShape, planned: RunPlan, note: Callable[[str], None]) -> tuple[Placement, Placing]:
    """Decide on the first workers, and on what decides of them later.

    Where nothing fits now, a cluster gets its chance to grow; a lone machine does not.

    Raises:
        ClusterUnavailable: nothing fits, and nothing ever will.
    """
    resources, num_members = planned.request.job.resources, len(planned.request.plan.members)
    placement = place_workers(shape, resources, num_members, may_fuse=planned.may_fuse)
    if placement.num_workers == 0 and not shape.can_grow:
        raise ClusterUnavailable(
            f"no worker fits on this machine: {placement.reason}",
            where="resources",
            hint="ask for less under `resources`, or name a cluster that has it with ray.address",
        )
    if placement.num_at_once == 0:
        guess = "" if resources.num_gpus is not None else " (`resources.num_gpus` says whether GPUs are asked for)"
        note(f"waiting for a node: {placement.reason}{guess}")
    return placement, placing_of(resources, placement, may_fuse=planned.may_fuse)


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
