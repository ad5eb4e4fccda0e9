"""Whether a job's workers find a node in a cluster that is not there yet. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from orchestrator.cluster.authentication import host_of, is_loopback
from orchestrator.cluster.launcher.rules import Finding
from orchestrator.planning.labels import selector_text
from orchestrator.planning.placement import ClusterShape, place_workers
from orchestrator.spec import Job


def check_job(shape: ClusterShape, job: Job, *, unsaid: Collection[str] = ()) -> Iterator[Finding]:
    """What the job asks for and the cluster cannot give.

    Args:
        shape: the head, and what the autoscaler may start.
        job: as it would be submitted, overrides applied.
        unsaid: node types of which the launcher file does not say what they have: their machine tells Ray.
    """
    endpoint = job.storage.endpoint_url
    if endpoint is not None and is_loopback(host_of(endpoint) or ""):
        what = "that address is each node itself, where no such storage is"
        yield Finding("error", "storage.endpoint_url", what, "name the server as the nodes reach it")
    if not job.storage.url.startswith("s3://"):
        what = f"{job.storage.url!r} is a folder: each node would write to its own disk, which goes with the node"
        yield Finding("error", "storage.url", what, "take storage.url=s3://bucket/prefix")
    placement = place_workers(shape, job.resources, job.members.total)
    if placement.num_workers > 0:
        return
    demand = f"a worker needs {placement.num_cpus} CPU and {placement.num_gpus:g} GPU"
    if job.resources.labels:
        demand += f" on a node with {selector_text(job.resources.labels)}"
    if unsaid:
        what = f"{demand}; whether {', '.join(unsaid)} has that is not in the file"
        yield Finding("warning", "available_node_types", what, "say its CPU and GPU under `resources`")
    else:
        what = f"{demand}, which no node has: it would wait in vain"
        yield Finding("error", "available_node_types", what, "change the job's `resources`, or add such a node type")
