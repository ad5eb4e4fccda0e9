"""Asking every node of a cluster how it is: small tasks, each on its own node, each with an end.

The first task needs nothing but Python on the node. Only nodes with this package's version are asked the rest.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import ray
from ray import exceptions as rex
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from orchestrator.cluster import node_facts
from orchestrator.cluster.autoscaling import ask_for_autoscaler
from orchestrator.cluster.session import Session, brief
from orchestrator.errors import ClusterUnavailable, OrchestratorError
from orchestrator.planning.checkup import DEADLINE_S, Finding, Gpus, MachineReport, Right, skew_s
from orchestrator.spec import StorageSpec, TrainSpec
from orchestrator.spec.modules import locate
from orchestrator.storage.open import open_store
from orchestrator.storage.parallel import in_background
from orchestrator.storage.rights import check_rights
from orchestrator.training.device import prepare_backend, start_backend

_HEAD_S = 15.0
_GPU_SHARE = 0.01
"""Of a GPU: enough to see it, and little enough to share it with a worker that leaves some."""


@dataclass(frozen=True)
class Examination:
    """What nodes are asked about.

    Attributes:
        storage: the job's storage; None without a job.
        folder: where in it to try.
        mark: key of what the asking machine wrote there; None: it could not.
        modules: the job's own modules.
        train: the job's settings: whether its backend has a GPU is asked where Ray counts some.
    """

    storage: StorageSpec | None = None
    folder: str = ""
    mark: str | None = None
    modules: tuple[str, ...] = ()
    train: TrainSpec = field(default_factory=TrainSpec)


@dataclass(frozen=True)
class _Node:
    id: str
    where: str
    num_gpus: float
    trains: bool


@dataclass(frozen=True)
class _Answer:
    """What a node answered, and between which moments of this machine's clock; or why it did not."""

    value: Any = None
    sent_at: float = 0.0
    received_at: float = 0.0
    trouble: Finding | None = None


def examine(
    session: Session, asked: Examination, *, deadline_s: float = DEADLINE_S
) -> tuple[list[MachineReport], list[Finding]]:
    """Ask all living nodes of the cluster to which this process is connected.

    Args:
        session: the connection.
        asked: what about.
        deadline_s: seconds that the nodes, all at once, have for each of four rounds.

    Returns:
        What they report, and what is wrong with those of whom some answer is missing; and that there may be more nodes
        to come.

    Raises:
        ClusterUnavailable: the cluster's head does not say which nodes there are.
    """
    nodes, may_grow = _living_nodes(), _may_grow()
    ray.cloudpickle.register_pickle_by_value(node_facts)
    facts = _ask(nodes, node_facts.facts_here, deadline_s)
    answering = [node for node in nodes if facts[node.id].trouble is None]
    clocks = _ask(answering, node_facts.now, deadline_s)  # their processes are warm now: the answer comes at once
    able = [node for node in answering if _has_our_package(facts[node.id].value)]
    checks = _ask(able, check_node, deadline_s, asked, session.code_root)
    seen = _ask([node for node in able if node.num_gpus > 0], sees_gpu, deadline_s, asked.train, num_gpus=_GPU_SHARE)
    reports = [
        _report(node, facts[node.id].value, clocks[node.id], checks.get(node.id), seen.get(node.id))
        for node in answering
    ]
    answers = [*facts.values(), *clocks.values(), *checks.values()]
    what = "more nodes may be started when a job asks for them; only those that are up now are looked at"
    to_come = [Finding("nodes", "ok", "the autoscaler", what)] if may_grow else []
    return reports, [*to_come, *(answer.trouble for answer in answers if answer.trouble is not None)]


def check_node(asked: Examination, root: str | None) -> tuple[tuple[Right, ...], tuple[str, ...]]:
    """On a node: what it may do in storage, and which of the job's modules it lacks.

    Args:
        asked: what about.
        root: folder of the job's own modules; None: the working directory, where Ray has put them.
    """
    missing = tuple(name for name in asked.modules if locate(name, root or str(Path.cwd())) is None)
    if asked.storage is None:
        return (), missing
    place = asked.storage
    try:
        store = open_store(place.url, endpoint_url=place.endpoint_url, region=place.region)
    except OrchestratorError as error:
        return (Right("open", error),), missing
    return check_rights(store, asked.folder, asked.mark), missing


def sees_gpu(train: TrainSpec) -> bool:
    """Whether Keras' backend, started as in a worker, has a GPU to compute on."""
    prepare_backend(train, num_cpus=1, num_gpus=1)
    return start_backend(train, num_cpus=1).kind == "gpu"


def _living_nodes() -> list[_Node]:
    try:
        alive = [node for node in in_background(ray.nodes).result(_HEAD_S) if node["Alive"]]
    except TimeoutError:
        what = f"the cluster's head does not say within {_HEAD_S:g} s which nodes there are"
        raise ClusterUnavailable(what, hint="is it overloaded? `ray status` on the head") from None
    addresses = Counter(node["NodeManagerAddress"] for node in alive)
    return [
        _Node(
            node["NodeID"],
            f"node {node['NodeManagerAddress']}"
            + (f" ({node['NodeID'][:8]})" if addresses[node["NodeManagerAddress"]] > 1 else ""),
            node["Resources"].get("GPU", 0.0),
            any(node["Resources"].get(kind, 0.0) > 0 for kind in ("CPU", "GPU")),
        )
        for node in alive
    ]


def _may_grow() -> bool:
    try:
        return in_background(ask_for_autoscaler).result(_HEAD_S) is not None
    except TimeoutError:
        return False  # this is no more than a note


def _ask(
    nodes: Sequence[_Node], question: Callable[..., Any], deadline_s: float, *args: Any, num_gpus: float = 0.0
) -> dict[str, _Answer]:
    """Call a function once on each node, all at the same time; the answers by the node's id."""
    task = ray.remote(num_cpus=0, num_gpus=num_gpus, max_retries=0)(question)
    waiting: dict[Any, tuple[_Node, float]] = {}
    for node in nodes:
        there = NodeAffinitySchedulingStrategy(node.id, soft=False)
        waiting[task.options(scheduling_strategy=there).remote(*args)] = (node, time.time())
    answers = {}
    give_up_at = time.monotonic() + deadline_s
    while waiting:
        ready, _ = ray.wait(list(waiting), num_returns=1, timeout=max(give_up_at - time.monotonic(), 0.0))
        received_at = time.time()
        if not ready:
            break
        node, sent_at = waiting.pop(ready[0])
        answers[node.id] = _taken(ready[0], node, sent_at, received_at)
    for reference, (node, _) in waiting.items():
        ray.cancel(reference, force=True)
        what, hint = f"it does not answer within {deadline_s:g} s", "is it overloaded or cut off? `ray status` tells"
        answers[node.id] = _Answer(trouble=Finding("nodes", "problem", node.where, what, hint, retryable=True))
    return answers


def _taken(reference: Any, node: _Node, sent_at: float, received_at: float) -> _Answer:
    try:
        return _Answer(ray.get(reference), sent_at, received_at)
    except rex.RuntimeEnvSetupError as error:
        what = f"the job's code cannot be brought there: {brief(error)}"
        return _Answer(trouble=Finding("nodes", "problem", node.where, what, "mend what it says, then ask again"))
    except rex.RayTaskError as error:
        what = f"it fails at being asked: {brief(error.cause)}"
        return _Answer(trouble=Finding("nodes", "problem", node.where, what, "is its environment whole?"))
    except rex.TaskUnschedulableError:
        what = "it went away while it was asked: it has left the cluster, or the head has lost sight of it"
        hint = "`ray status` on the head tells which nodes there are; its log says why they went"
        return _Answer(trouble=Finding("nodes", "problem", node.where, what, hint, retryable=True))
    except rex.RayError as error:
        what = f"it does not answer: {brief(error)}"
        return _Answer(trouble=Finding("nodes", "problem", node.where, what, "ask again", retryable=True))


def _has_our_package(facts: dict[str, Any]) -> bool:
    return bool(facts["versions"]["orchestrator"] == node_facts.version_of("orchestrator"))


def _report(
    node: _Node, facts: dict[str, Any], clock: _Answer, checked: _Answer | None, seen: _Answer | None
) -> MachineReport:
    gpus = Gpus(counted=node.num_gpus, installed=facts["installed_gpus"])
    if seen is not None:
        gpus = replace(gpus, seen=seen.value, silence=None if seen.trouble is None else seen.trouble.what)
    report = MachineReport(
        node.where,
        facts["versions"],
        facts["scratch"],
        facts["free_bytes"],
        ahead_s=0.0 if clock.trouble else skew_s(clock.sent_at, clock.value, clock.received_at),
        gpus=gpus,
        trains=node.trains,
    )
    if checked is None:
        return replace(report, unasked="it has not this version of this package")
    if checked.trouble is not None:
        return replace(report, unasked="it did not answer")
    rights, missing = checked.value
    return replace(report, rights=rights, missing_modules=missing)
