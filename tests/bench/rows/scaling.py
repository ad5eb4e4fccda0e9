"""P10: members that only sleep, on Ray clusters of one, two and four nodes: how the work done in a second grows.

The nodes are processes on this machine with logical CPUs; sleeping takes none of the real ones, so what is measured is
what the coordinator, Ray and the store add. Every worker gets as many members, whatever the number of nodes.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from orchestrator.controller import POLL_S
from tests.bench.harness import ROOT, Bar, Bench, Contestant, Figure, problem_of, ratios
from tests.bench.rows.scheduling import WatchedCluster
from tests.bench.sleeper import Sleeper
from tests.bench.tasks import job_of, make_task

NODES = (1, 2, 4)
WORKERS_PER_NODE = 4
SLEEP_S = 2.0
LISTEN_S = 5.0


def measure(bench: Bench) -> Iterator[Figure]:
    """members that sleep, on 1, 2 and 4 nodes"""
    per_worker = 1 if bench.quick else 10

    def run(num_nodes: int) -> Contestant:
        here = "tests.bench.rows.scaling"
        return lambda: bench.process(here, str(num_nodes), str(per_worker), deadline_s=600)

    found = bench.run({f"{num} nodes": run(num) for num in NODES}, rounds=3)
    one = found["1 nodes"]
    for num in NODES[1:]:
        several = found[f"{num} nodes"]
        yield Figure(
            "P10",
            f"members per second on {num} nodes of {WORKERS_PER_NODE} workers, {SLEEP_S:g} s each: as a multiple",
            "one node",
            ratios(several, one, lambda outcome: float(outcome.facts["per_second"])),
            bar=Bar(0.9 * num),
            problem=problem_of(several, one),
            facts={"nodes": several.facts(), "one": one.facts()},
        )
    most = found[f"{NODES[-1]} nodes"]
    for what, fact in (
        ("coordinator's CPU time per member, Ray's threads included", "member_ms"),
        ("coordinator's CPU time per second of a worker that is only listened to", "listening_ms"),
    ):
        yield Figure(
            "P10",
            f"{what}, on {NODES[-1]} nodes",
            values=tuple(float(outcome.facts[fact]) for outcome in most.outcomes),
            unit="ms",
            problem=problem_of(most),
        )


def main(num_nodes: str, per_worker: str, report_path: str) -> None:
    """The process that is measured: a whole run on a cluster of so many nodes, its result checked."""
    import ray
    from ray.cluster_utils import Cluster

    from orchestrator import api
    from orchestrator.cluster.ray_cluster import RayCluster
    from orchestrator.cluster.session import connect
    from orchestrator.controller import Controller
    from orchestrator.planning.placement import place_workers, placing_of
    from orchestrator.reporting.progress import SilentProgress
    from orchestrator.spec import parse_job
    from orchestrator.storage.log import Log
    from orchestrator.storage.open import open_store
    from orchestrator.training.setup import WorkerSetup

    node: dict[str, Any] = {"object_store_memory": 80_000_000}
    nodes = Cluster(initialize_head=True, head_node_args={**node, "num_cpus": 0, "include_dashboard": False})
    for _ in range(int(num_nodes)):
        nodes.add_node(num_cpus=WORKERS_PER_NODE, **node)
    nodes.wait_for_nodes()
    num_members = int(num_nodes) * WORKERS_PER_NODE * int(per_worker)
    task = make_task("mlp", "pictures", num_members, epochs=1, patience=None)
    with tempfile.TemporaryDirectory() as folder:
        request = api.plan(parse_job(job_of(task, folder, engine="solo")), root=str(ROOT)).request
        store = open_store(request.job.storage.url)
        log = Log.open(store, request.layout.coord_log)
        term = log.claim(run_id=request.run_id)
        ray.init(address=nodes.address, log_to_driver=False)
        session = connect(None, str(ROOT))
        placement = place_workers(session.shape(), request.job.resources, num_members)
        assert placement.num_workers == int(num_nodes) * WORKERS_PER_NODE, placement
        setup = WorkerSetup("", request.job, request.plan, request.layout, term, str(ROOT), 1, 0)
        program = partial(Sleeper, publishes=True, sleep_s=SLEEP_S)
        cluster = WatchedCluster(RayCluster(session, setup, placement, program=program), None, placement.num_workers)
        result = Controller(
            request,
            store=store,
            log=log,
            cluster=cluster,
            clock=api.SystemClock(),
            progress=SilentProgress(),
            crew=placement.crew,
            placing=placing_of(request.job.resources, placement, may_fuse=False),
        ).run()
        assert result.status == "succeeded", result.status
        assert cluster.began is not None
        listening_s = _listen(cluster, LISTEN_S)
        cluster.close()
        ray.shutdown()
        nodes.shutdown()
    span_s, marks = cluster.ended - cluster.began, cluster.marks
    report = {
        "span_s": round(span_s, 3),
        "per_second": round(num_members / span_s, 3),
        "member_ms": round(1000 * (marks[-1].process_s - marks[0].process_s) / (len(marks) - 1), 3),
        "listening_ms": round(1000 * listening_s / LISTEN_S / placement.num_workers, 3),
    }
    Path(report_path).write_text(json.dumps(report))


def _listen(cluster: WatchedCluster, seconds: float) -> float:
    """CPU seconds of this process while its workers have nothing to do, as while they train a long epoch."""
    began, until = time.process_time(), time.monotonic() + seconds
    while time.monotonic() < until:
        cluster.poll(POLL_S)
    return time.process_time() - began


if __name__ == "__main__":
    main(*sys.argv[1:])
