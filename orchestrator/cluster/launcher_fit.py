"""Whether a job's workers find a node in a cluster that is not there yet. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from orchestrator.cluster.launcher_checks import Config, Finding, worker_types
from orchestrator.spec import Job


def check_job(config: Config, job: Job) -> Iterator[Finding]:
    """What the job asks for and the cluster cannot give.

    Args:
        config: the launcher file with Ray's defaults filled in.
        job: as it would be submitted, overrides applied.
    """
    if "://" not in job.storage.url:
        what = f"{job.storage.url!r} is a folder: each node would write to its own disk, which goes with the node"
        yield Finding("error", "storage.url", what, "take storage.url=s3://bucket/prefix")
    workers = worker_types(config)
    with_gpus = sorted(name for name, each in workers.items() if each["resources"].get("GPU"))
    num_gpus = job.resources.num_gpus
    if num_gpus is None and with_gpus and not any(workers[name].get("min_workers", 0) for name in with_gpus):
        what = f"the job asks for no GPU, and none of {', '.join(with_gpus)} is there to be counted when it starts"
        yield Finding("warning", "resources.num_gpus", what, "say resources.num_gpus=1, or 0 for CPUs alone")
    yield from _check_demand(config, float(job.resources.num_cpus or 1), num_gpus or 0.0)


def _check_demand(config: Config, num_cpus: float, num_gpus: float) -> Iterator[Finding]:
    candidates = worker_types(config) | {"the head": config["available_node_types"][config["head_node_type"]]}
    unknown = []
    for name, node_type in candidates.items():
        offered = node_type["resources"]
        if "CPU" not in offered:
            unknown.append(name)
        elif offered["CPU"] >= num_cpus and offered.get("GPU", 0) >= num_gpus:
            return
    demand = f"{num_cpus:g} CPU" + (f" and {num_gpus:g} GPU" if num_gpus else "")
    if unknown:
        what = f"a worker needs {demand}; whether {', '.join(unknown)} has that is not in the file"
        yield Finding("warning", "available_node_types", what, "say its CPU and GPU under `resources`")
        return
    offers = "; ".join(
        f"{name}: {each['resources']['CPU']:g} CPU, {each['resources'].get('GPU', 0):g} GPU"
        for name, each in candidates.items()
    )
    what = f"a worker needs {demand}, which no node has ({offers}): it would wait for ever"
    yield Finding("error", "available_node_types", what, "change the job's `resources`, or take a larger machine")
