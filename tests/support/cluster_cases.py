"""What happens on a Ray cluster of three nodes, case by case, as JSON: `python -m tests.support.cluster_cases FOLDER`.

A process of its own, because one process has one connection to Ray, and the tests around have theirs. The nodes are
processes on this machine with logical GPUs: a head with CPUs alone, a node with two GPUs and a spot node with one. In
this process, where the coordinators work, TensorFlow cannot be imported.
"""

from __future__ import annotations

import importlib.abc
import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import ray
from ray.cluster_utils import Cluster

from orchestrator import api
from orchestrator.cluster import node_facts
from orchestrator.cluster.doctor import Examination, examine
from orchestrator.cluster.ray_cluster import RayCluster
from orchestrator.cluster.session import connect
from orchestrator.errors import OrchestratorError
from orchestrator.planning import commands as cmd
from orchestrator.planning import events as ev
from orchestrator.planning.placement import Placement
from orchestrator.reporting.progress import SilentProgress
from orchestrator.spec import StorageSpec, parse_job
from orchestrator.training.setup import WorkerSetup
from tests.support.light_program import LightProgram
from tests.support.packs import train_alone

HEALTH = {  # a dead node is known after some two seconds instead of a minute; a busy one has ten for each answer
    "health_check_initial_delay_ms": 0,
    "health_check_period_ms": 500,
    "health_check_timeout_ms": 10_000,
    "health_check_failure_threshold": 3,
}
WAIT_S = 180.0

MODULE = '''
import json
import os
import threading
import time
from pathlib import Path

import numpy as np

FOLDER = Path({folder!r})
HOLD = FOLDER / "hold"


def load_data(seed):
    import ray

    with (FOLDER / "loads").open("a") as file:
        file.write(ray.get_runtime_context().get_node_id() + "\\n")
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(1200, 512)).astype("float32")
    y = x[:, :3].argmax(axis=1)
    return {{"train": (x[:600], y[:600]), "validation": (x[600:900], y[600:900]), "test": (x[900:], y[900:])}}


def build_model(dropout, tag):
    """A small network that, where the file `hold` is there, waits in its second epoch until it is gone."""
    import keras
    import ray
    import tensorflow as tf

    class Held(keras.Sequential):
        num_evaluations = 0

        def evaluate(self, *args, **kwargs):
            self.num_evaluations += 1
            give_up_at = time.monotonic() + 240
            while self.num_evaluations == 2 and HOLD.exists() and time.monotonic() < give_up_at:
                threading.Event().wait(0.02)
            return super().evaluate(*args, **kwargs)

    about = {{
        "dropout": dropout,
        "pid": os.getpid(),
        "node": ray.get_runtime_context().get_node_id(),
        "gpu": os.environ.get("CUDA_VISIBLE_DEVICES"),
        "intra": tf.config.threading.get_intra_op_parallelism_threads(),
        "inter": tf.config.threading.get_inter_op_parallelism_threads(),
    }}
    with (FOLDER / f"{{tag}}.jsonl").open("a") as file:
        file.write(json.dumps(about) + "\\n")
    layers = [
        keras.Input((512,)),
        keras.layers.Dense(8, activation="relu"),
        keras.layers.Dropout(dropout),
        keras.layers.Dense(3, activation="softmax"),
    ]
    model = Held(layers)
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model
'''

DROPOUTS = [0.1, 0.2, 0.3, 0.4]


class Cases:
    """The cases, each a method that returns what was seen."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.project = folder / "project"
        self.project.mkdir()
        (self.project / "held.py").write_text(MODULE.format(folder=str(folder)), encoding="utf-8")
        node = self.node = {"object_store_memory": 80_000_000}
        self.cluster = Cluster(
            initialize_head=True,
            head_node_args={**node, "num_cpus": 2, "num_gpus": 0, "include_dashboard": False, "_system_config": HEALTH},
        )
        self.two_gpus = self.cluster.add_node(num_cpus=4, num_gpus=2, **node)
        self.one_gpu = self.cluster.add_node(num_cpus=4, num_gpus=1, labels={"market": "spot"}, **node)
        self.cluster.wait_for_nodes()
        self.names = {
            self.cluster.head_node.node_id: "head",
            self.two_gpus.node_id: "two",
            self.one_gpu.node_id: "one",
        }

    def whole_gpus(self) -> dict[str, Any]:
        with self._light(1.0, 3) as cluster:
            return self._places(cluster, self._started(cluster, 3))

    def half_gpus(self) -> dict[str, Any]:
        with self._light(0.5, 6) as cluster:
            seen = self._places(cluster, self._started(cluster, 6))
            cluster.send([cmd.StartWorker("one too many")])
            until = time.monotonic() + 2.0
            late = [event for _ in _turns(until) for event in cluster.poll(0.5)]
            return {**seen, "one_too_many": sum(isinstance(event, ev.WorkerReady) for event in late)}

    def labelled(self) -> dict[str, Any]:
        """Workers for nodes with a label, and for those without it."""
        seen: dict[str, Any] = {}
        for market in ("spot", "!spot"):
            (self.folder / "loads").unlink(missing_ok=True)
            with self._light(0, 3, {"market": market}) as cluster:
                seen[market] = self._places(cluster, self._started(cluster, 3))["nodes"]
                seen[f"data {market}"] = self._loads()
        return seen

    def joined(self) -> dict[str, Any]:
        """A worker that needs four GPUs, and only then a node that has them; that node goes again."""
        with self._light(4.0, 1) as cluster:
            free = ray.available_resources()
            cluster.send([cmd.StartWorker("w0")])
            told = [event for _ in range(3) for event in cluster.poll(0.5)]
            num_before = len(told)
            node = self.cluster.add_node(num_cpus=4, num_gpus=4, **self.node)
            self.names[node.node_id] = "four"
            places = self._places(cluster, ["w0"], told)
            self.cluster.remove_node(node, allow_graceful=False)
            for _ in _turns(time.monotonic() + WAIT_S):
                told += cluster.poll(0.5)
                shapes = [event.shape for event in told if isinstance(event, ev.NodesChanged)]
                if len(shapes) > 1 and any(isinstance(event, ev.WorkerLost) for event in told):
                    break
        return {
            **places,
            "free": {name: free[name] for name in ("CPU", "GPU")},
            "before": [type(event).__name__ for event in told[:num_before]],
            "shapes": [sorted(self.names[node.node] for node in shape.nodes) for shape in shapes],
            "lost": [event.cause.value for event in told if isinstance(event, ev.WorkerLost)],
        }

    def examined(self) -> dict[str, Any]:
        """What `doctor` learns of nodes whose GPUs are Ray's alone, of late ones, and of one with another package."""
        ray.init(address=self.cluster.address, log_to_driver=False)
        try:
            session, place = connect(None, str(self.project)), StorageSpec(url=str(self.folder / "looked at"))
            asked = Examination(place, "here", mark="here/what-nobody-wrote", modules=("held", "not_held"))
            _, late = examine(session, asked, deadline_s=0.0)
            with self._another_package(self.two_gpus.node_id):
                reports, troubles = examine(session, asked)
        finally:
            ray.shutdown()
        return {
            "late": [[finding.what, finding.retryable] for finding in late],
            "gpus": sorted([report.gpus.counted, report.gpus.seen] for report in reports),
            "missing": sorted([list(report.missing_modules), report.unasked or ""] for report in reports),
            "denied": [[right.name for right in report.rights if right.error] for report in reports],
            "packages": sorted(str(report.versions["orchestrator"]) for report in reports),
            "troubles": len(troubles),
        }

    @contextmanager
    def _another_package(self, there: str) -> Iterator[None]:
        """One node says that it has another version of this package than it has."""
        facts_here, version = node_facts.facts_here, node_facts.version_of("orchestrator")

        def facts() -> dict[str, Any]:
            mine = ray.get_runtime_context().get_node_id() == there
            return {
                "versions": {"orchestrator": "0.0.9" if mine else version},
                "scratch": "/",
                "free_bytes": 1,
                "installed_gpus": None,
            }

        node_facts.facts_here = facts
        try:
            yield
        finally:
            node_facts.facts_here = facts_here

    def undisturbed(self) -> dict[str, Any]:
        return self._run("undisturbed", {"num_gpus": 1, "num_cpus": 2})

    def impossible(self) -> dict[str, Any]:
        return self._run("impossible", {"num_gpus": 8}, faults={"node_wait_s": 1})

    def struck(self) -> dict[str, Any]:
        """A worker on one node is killed, and the other node is lost, while three members are trained."""
        struck: dict[str, int] = {}

        def strike(member: int) -> bool:
            build = self._last("struck", member)
            if build["node"] == "one":
                struck["lost"] = member
                self.cluster.remove_node(self.one_gpu, allow_graceful=False)
                # Its worker would live on for a while, finish this member and begin another: both would be lost.
                _kill(build["pid"])
            elif "killed" not in struck:
                struck["killed"] = member
                _kill(build["pid"])
            return len(struck) == 2

        return {**self._run("struck", {"num_gpus": 1, "num_cpus": 2}, strike=strike), **struck}

    def left_to_the_head(self) -> dict[str, Any]:
        """The last node beside the head is lost, and with it the only copy of the data."""
        (self.folder / "loads").unlink(missing_ok=True)
        with self._light(0, 1) as cluster:
            self._train_on("two", cluster, self._started(cluster, 2))
            self.cluster.remove_node(self.two_gpus, allow_graceful=False)
            for _ in _turns(time.monotonic() + WAIT_S):
                if any(isinstance(event, ev.WorkerLost) for event in cluster.poll(0.5)):
                    break
            cluster.send([cmd.StartWorker("w2")])
            self._train_on("head", cluster, ["w2"])
        return {"loads": self._loads()}

    def _train_on(self, place: str, cluster: RayCluster, workers: Sequence[str]) -> None:
        """Have those of the workers train that are ready on a node; returns when one has."""
        for _ in _turns(time.monotonic() + WAIT_S):
            for event in cluster.poll(0.5):
                if isinstance(event, ev.WorkerReady) and event.worker in workers and self.names[event.node] == place:
                    cluster.send([train_alone(event.worker, 0)])
                if isinstance(event, ev.MemberTrained) and event.worker in workers:
                    return
        raise TimeoutError(f"nobody trained on {place}")

    def _run(
        self,
        tag: str,
        resources: Mapping[str, Any],
        faults: Mapping[str, Any] | None = None,
        strike: Callable[[int], bool] | None = None,
    ) -> dict[str, Any]:
        """A run with real training, and faults at ends of first epochs until `strike` says that all have struck."""
        (self.folder / "loads").unlink(missing_ok=True)
        job = self._job(tag, resources, {"backoff_min_s": 0.1, "backoff_max_s": 0.1, **(faults or {})})
        progress = Disturbance(strike, self.folder / "hold")
        began = time.monotonic()
        seen: dict[str, Any] = {"exit_code": 0}
        try:
            result = api.run(job, root=str(self.project), timeout_s=WAIT_S, progress=progress)
            seen["members"] = [
                {
                    "status": member.status,
                    "attempts": member.attempts,
                    "preemptions": member.preemptions,
                    "weights": member.weights_sha256,
                }
                for member in result.members
            ]
            seen["loads"] = self._loads()
            seen["builds"] = self._builds(tag)
        except OrchestratorError as error:
            seen |= {"exit_code": error.exit_code, "message": str(error)}
        seen |= {"took_s": time.monotonic() - began, "notes": progress.notes, "connected": ray.is_initialized()}
        return seen

    def _job(self, tag: str, resources: Mapping[str, Any], faults: Mapping[str, Any]) -> Any:
        return parse_job(
            {
                "name": "held",
                "model": {"builder": "held:build_model", "kwargs": {"tag": tag}},
                "data": "held:load_data",
                "members": {"count": len(DROPOUTS), "dropout": DROPOUTS},
                "train": {"epochs": 3, "batch_size": 100},
                "resources": resources,
                "faults": faults,
                "storage": {"url": str(self.folder / "store")},
                "ray": {"address": self.cluster.address},
            }
        )

    def _loads(self) -> list[str]:
        """The nodes on which the data function was called."""
        return [self.names[node] for node in (self.folder / "loads").read_text().splitlines()]

    def _builds(self, tag: str) -> list[dict[str, Any]]:
        lines = (self.folder / f"{tag}.jsonl").read_text(encoding="utf-8").splitlines()
        builds = [json.loads(line) for line in lines]
        return [{**build, "node": self.names[build["node"]]} for build in builds]

    def _last(self, tag: str, member: int) -> dict[str, Any]:
        return [build for build in self._builds(tag) if build["dropout"] == DROPOUTS[member]][-1]

    @contextmanager
    def _light(
        self, num_gpus: float, num_workers: int, labels: Mapping[str, str] | None = None
    ) -> Iterator[RayCluster]:
        """A cluster of light workers; they inherit this process' import path, so that they find the light program."""
        ray.init(address=self.cluster.address, log_to_driver=False)
        session = connect(None, str(self.project))
        job = self._job("light", {"num_gpus": num_gpus, "labels": dict(labels or {})}, {})
        request = api.plan(job, root=str(self.project)).request
        setup = WorkerSetup("", job, request.plan, request.layout, 1, session.code_root, 1, num_gpus)
        placement = Placement(num_workers, 1, num_gpus, "as the test says")
        cluster = RayCluster(session, setup, placement, program=LightProgram)
        try:
            yield cluster
        finally:
            cluster.close()
            ray.shutdown()

    def _started(self, cluster: RayCluster, num_workers: int) -> list[str]:
        workers = [f"w{number}" for number in range(num_workers)]
        cluster.send([cmd.StartWorker(worker) for worker in workers])
        return workers

    def _places(
        self, cluster: RayCluster, workers: Sequence[str], told: list[ev.Event] | None = None
    ) -> dict[str, Any]:
        """Where workers are, and what each sees while it trains; what was told besides joins `told`."""
        told = [] if told is None else told
        nodes: dict[str, str] = {}
        logs: dict[str, Mapping[str, float]] = {}
        for _ in _turns(time.monotonic() + WAIT_S):
            for event in cluster.poll(0.5):
                told.append(event)
                if isinstance(event, ev.WorkerReady):
                    nodes[event.worker] = self.names[event.node]
                    cluster.send([train_alone(event.worker, 0)])
                if isinstance(event, ev.EpochEnded):
                    logs[event.worker] = event.logs
            if len(logs) == len(workers):
                break
        return {"nodes": [nodes.get(worker) for worker in workers], "logs": [logs.get(worker) for worker in workers]}


class NoTensorFlow(importlib.abc.MetaPathFinder):
    """Refuses to import what the coordinator must not need."""

    def find_spec(self, fullname: str, path: object = None, target: object = None) -> None:
        if fullname.partition(".")[0] in ("tensorflow", "keras"):
            raise ImportError(f"the coordinator imports {fullname}")


class Disturbance(SilentProgress):
    """Strikes when a member's first epoch has ended; members wait in their second epoch until all has struck."""

    def __init__(self, strike: Callable[[int], bool] | None, hold: Path) -> None:
        self.notes: list[str] = []
        self._strike = strike
        self._hold = hold
        if strike is not None:
            hold.touch()

    def note(self, text: str) -> None:
        self.notes.append(text)

    def epoch(self, member: int, epoch: int, epochs: int, logs: Mapping[str, float]) -> None:
        if self._strike is not None and epoch == 1 and self._strike(member):
            self._strike = None
            self._hold.unlink()


def _kill(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def _turns(until: float) -> Iterator[None]:
    while time.monotonic() < until:
        yield


def main(folder: Path) -> None:
    """Run all cases on one cluster and write `results.json`; a case that raises leaves its traceback there."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("told to end"))  # in order, so that the nodes end too
    sys.meta_path.insert(0, NoTensorFlow())
    began = time.monotonic()
    cases = Cases(folder)
    seen: dict[str, Any] = {"timing": {"start": time.monotonic() - began}}
    try:
        # The last two take a node away each.
        for case in (
            cases.whole_gpus,
            cases.half_gpus,
            cases.labelled,
            cases.joined,
            cases.impossible,
            cases.examined,
            cases.undisturbed,
            cases.struck,
            cases.left_to_the_head,
        ):
            began = time.monotonic()
            try:
                seen[case.__name__] = case()
            except Exception:
                seen[case.__name__] = {"error": traceback.format_exc()}
            seen["timing"][case.__name__] = time.monotonic() - began
    finally:
        (folder / "results.json").write_text(json.dumps(seen, indent=1), encoding="utf-8")
        ray.shutdown()
        cases.cluster.shutdown()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
