"""What a planned run would take, measured by one real worker. Nothing is written to the run's storage.

Ray is imported inside the functions: what only plans answers at once.
"""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from orchestrator.api.bases import copy_bases
from orchestrator.api.planned import RunPlan
from orchestrator.api.running import place_crews
from orchestrator.controller import POLL_S
from orchestrator.errors import ClusterUnavailable, InvalidJob
from orchestrator.planning import commands as cmd
from orchestrator.planning import events as ev
from orchestrator.planning.estimate import Estimate, Work, epochs_left, estimate_run
from orchestrator.planning.packing import is_short
from orchestrator.planning.packs import packing_rules, packs_to_json
from orchestrator.planning.placement import ClusterShape, Placement, place_workers
from orchestrator.planning.ports import Cluster
from orchestrator.reporting.remainder import Remainder
from orchestrator.spec import Job, StorageSpec
from orchestrator.storage.open import open_store
from orchestrator.storage.records import BlobRef

if TYPE_CHECKING:
    from orchestrator.cluster.ray_cluster import RayCluster
    from orchestrator.cluster.session import Session

WORKER = "measuring"


@dataclass(frozen=True)
class Measured:
    """What one worker took, and what the run is reckoned to take.

    Attributes:
        placement: the workers that the run would have.
        ray_s: until Ray was there.
        start_s: from the beginning until the first pack could begin: Ray, the worker's imports, data and preflight.
        told: by the worker.
        estimate: of the run.
    """

    placement: Placement
    ray_s: float
    start_s: float
    told: ev.Measured
    estimate: Estimate

    def to_json(self) -> dict[str, Any]:
        """As plain values: `engine`, `packs`, `time` (seconds) and `memory` (bytes) of a plan."""
        told = self.told
        return {
            "engine": told.reason,
            "packs": {"decided": True, "packs": packs_to_json(told.packs), "reason": told.reason},
            "time": {
                "measured": True,
                "low_s": round(self.estimate.low_s, 1),
                "high_s": round(self.estimate.high_s, 1),
                "reason": self.estimate.reason,
                "start": {
                    "total_s": round(self.start_s, 2),
                    "ray_s": round(self.ray_s, 2),
                    "import_s": round(told.import_s, 2),
                    "preflight_s": round(told.preflight_s, 2),
                },
                "packs": [
                    {
                        "pack": timing.pack,
                        "compile_s": round(timing.first_s, 3),
                        "compile_again_s": round(timing.again_s, 3),
                        "epoch_s": round(timing.epoch_s, 4),
                        "validation_s": round(timing.validation_s, 4),
                        "prediction_s": round(timing.prediction_s, 4),
                        "steps_timed": timing.steps,
                    }
                    for timing in {timing.pack: timing for timing in told.timings.values()}.values()
                ],
                "notes": list(told.notes),
            },
            "memory": {
                "measured": True,
                "device": told.device,
                "worker_peak_bytes": told.peak_bytes,
                "gpu_peak_bytes": told.peak_gpu_bytes,
                "num_workers": self.placement.num_workers,
            },
        }


def look_at_cluster(planned: RunPlan, *, note: Callable[[str], None] = lambda text: None) -> Placement:
    """Where the run's workers would be placed now, on the cluster that the job names.

    Raises:
        InvalidJob: it names none.
        ClusterUnavailable, AccessDenied: the cluster is out of reach, or refuses.
    """
    address = planned.request.job.ray.address
    if address is None:
        raise InvalidJob(
            "there is no cluster to connect to", where="--connect", hint="name one with ray.address, or leave it out"
        )
    from orchestrator.cluster.session import connect

    session = connect(address, planned.root)
    try:
        return place_crews(session.shape(), planned, note)[0]
    finally:
        session.close()


def measure(
    planned: RunPlan, *, after: Remainder | None = None, note: Callable[[str], None] = lambda text: None
) -> Measured:
    """Have one worker, on this machine or on the cluster that the job names, check the job and time some of its steps.

    It loads the data and imports the job's code, as a run does; user callbacks are called. Nothing of it is stored.

    Args:
        planned: from `plan`.
        after: what the run has done, which takes no time any more; from `remaining`.
        note: told what is going on.

    Raises:
        InvalidInput: what the preflight finds wrong (exit code 2).
        TryAgain: the cluster is out of reach, or the worker is lost.
    """
    began, address = time.monotonic(), planned.request.job.ray.address
    with _placed_bases(planned) as (job, bases):
        from orchestrator.cluster.session import connect

        note(f"connecting to Ray at {address}" if address else "starting Ray on this machine")
        session = connect(address, planned.root)
        ray_s = time.monotonic() - began
        try:
            for caution in session.cautions:
                note(f"warning: {caution}")
            shape = session.shape()
            placement, placing = place_crews(shape, planned, note)
            cluster = _cluster_for(planned, session, job, bases, placement, shape)
        except BaseException:
            session.close()
            raise
        try:
            told = ask_worker(cluster, planned, placement, note)
        finally:
            cluster.close()
    start_s = told.at - began - told.measured.packs_s
    if _regroups(planned, told):
        before, placement = placement, place_workers(shape, placing.resources, len(planned.request.plan.members))
        if placement.num_cpus != before.num_cpus:  # a run then starts its workers anew
            start_s += told.measured.import_s
    work = work_left(planned, told.measured, placement.num_workers, after)
    return Measured(placement, ray_s, start_s, told.measured, estimate_run(work, start_s))


def _cluster_for(
    planned: RunPlan,
    session: Session,
    job: Job,
    bases: Mapping[str, BlobRef],
    placement: Placement,
    shape: ClusterShape,
) -> RayCluster:
    from orchestrator.cluster.ray_cluster import RayCluster
    from orchestrator.training.setup import WorkerSetup

    setup = WorkerSetup(
        worker="",
        job=job,
        plan=planned.request.plan,
        layout=planned.request.layout,
        coord_term=0,
        code_root=session.code_root,
        num_cpus=placement.num_cpus,
        num_gpus=placement.num_gpus,
        bases=bases,
    )
    return RayCluster(session, setup, placement, shape=shape)


@contextmanager
def _placed_bases(planned: RunPlan) -> Iterator[tuple[Job, Mapping[str, BlobRef]]]:
    """The job, and the models that its members start from: in a store of their own while the block runs."""
    request = planned.request
    with tempfile.TemporaryDirectory(prefix="orchestrator-measure-") as folder:
        bases = copy_bases(request.job, open_store(folder), request.layout, planned.root)
        if not bases:
            yield request.job, {}
            return
        if request.job.ray.address is not None:
            raise InvalidJob(
                "a base is copied to the run's storage, in which nothing is written here: it cannot reach the cluster",
                where="--measure",
                hint="measure on this machine: ray.address=null",
            )
        yield request.job.model_copy(update={"storage": StorageSpec(url=folder)}), bases


@dataclass(frozen=True)
class Told:
    """What the worker told, when (monotonic seconds), and how many training rows there are."""

    measured: ev.Measured
    at: float
    num_rows: int


def ask_worker(cluster: Cluster, planned: RunPlan, placement: Placement, note: Callable[[str], None]) -> Told:
    """Have a worker measure, and wait for its answer as long as it gives signs of life. Errors as `measure`."""
    request, faults = planned.request, planned.request.job.faults
    rules, num_workers = packing_rules(request.job), placement.num_workers
    cluster.send([cmd.StartWorker(WORKER, placement.num_cpus), cmd.Measure(WORKER, rules, num_workers)])
    rows: Mapping[str, int] = {}
    silent_until, wait_s = time.monotonic() + faults.data_wait_s, faults.data_wait_s
    while time.monotonic() < silent_until:
        for event in cluster.poll(POLL_S):
            if isinstance(event, ev.DataLoaded):  # from here on the worker is at work, and gives signs of life
                rows, wait_s = event.rows, faults.stall_s
            silent_until = time.monotonic() + wait_s
            match event:
                case ev.DataLoaded():
                    told = ", ".join(f"{count:,} {name}" for name, count in rows.items())
                    note(f"data: {told} rows; checking the job and timing a few of its steps")
                case ev.Measured():
                    return Told(event, time.monotonic(), rows["train"])
                case ev.PreflightFailed(error=error) | ev.DataFailed(error=error) | ev.WorkerFailed(error=error):
                    raise error
                case ev.WorkerLost(cause=cause, message=message):
                    raise ClusterUnavailable(
                        f"the worker that measured is gone ({cause.value}): {message}",
                        hint="a run would try again; out of memory, give it smaller batches or rows",
                    )
    raise ClusterUnavailable(
        f"the worker that measures has given no sign of life for {wait_s:g} s", hint="faults.stall_s allows more"
    )


def _regroups(planned: RunPlan, told: Told) -> bool:
    """Whether a run would have other workers, for its members turn out to be trained one by one; as `packing` does."""
    request = planned.request
    if any(pack.engine == "fused" for pack in told.measured.packs):
        return False
    search = request.job.search
    num_trained = len(request.plan.members) if search is None else search.num_trials
    return not is_short(packing_rules(request.job), told.num_rows, num_trained)


def work_left(planned: RunPlan, told: ev.Measured, num_workers: int, after: Remainder | None) -> Work:
    """What there is to do after what is done, as far as a plan can tell.

    Args:
        planned: from `plan`.
        told: by the worker that measured.
        num_workers: that the run would have.
        after: what the run has done; None: nothing.
    """
    job, members = planned.request.job, planned.request.plan.members
    rule, search = job.ensemble.stop_when, job.search
    over = after is not None and after.state in ("finished", "selected")
    done = {} if after is None else dict.fromkeys((*after.done, *after.diverged), math.inf) | dict(after.going_on)
    rounds = 1.0
    if search is not None and search.learns:  # the generation that is known stands for all trials that are left
        left = search.num_trials - sum(min(1.0, epochs / job.train.epochs) for epochs in done.values())
        rounds, done = left / len(members), {}
        over = over or left <= 0
    epochs = {member.index: epochs_left(member, done.get(member.index, 0)) for member in members}
    if search is not None and search.pruning is not None:  # the plan knows the first rung; some go on to others
        mean = math.ceil(search.mean_epochs(job.train.epochs))
        epochs = {i: _on_average(mean, *known) for i, known in epochs.items()}
    return Work(
        packs=() if over else tuple(pack for pack in told.packs if any(epochs[index][1] for index in pack.members)),
        timings=told.timings,
        epochs=epochs,
        num_workers=num_workers,
        rounds=rounds,
        fewest=None if rule is None else max(0, rule.patience + 1 - (0 if after is None else len(after.done))),
    )


def _on_average(mean: int, fewest: int, most: int) -> tuple[int, int]:
    """The fewest and the most epochs that are left of a trial of which the first rung alone is known."""
    if not most:
        return 0, 0
    return (min(fewest, mean) if fewest < most else mean), mean
