"""A Ray session: connecting to a cluster, or starting a Ray of the job's own; and leaving it."""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import ray
from ray import exceptions as rex

from orchestrator.cluster.authentication import Caution, cautions, host_of, read_means, refusal, refused
from orchestrator.cluster.door import knock
from orchestrator.cluster.head import Nodes, ask_for_nodes
from orchestrator.cluster.jobs.decisions import NEVER_SHIPPED
from orchestrator.errors import ClusterUnavailable, InvalidJob, OrchestratorError
from orchestrator.planning.placement import ClusterShape

_OWN = "a Ray of the job's own"
_QUIET: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
_UNUSED = ("start_api_server", "start_monitor", "start_log_monitor")
_NAMES = ("class_name:", "actor_id:", "pid:", "namespace:", "ip:")


@dataclass(frozen=True)
class Session:
    """A connection to Ray.

    Attributes:
        opened_here: this run opened it and closes it; a session that was open before stays open.
        can_grow: false for a Ray of the job's own, which no node will ever join.
        code_root: folder of the job's own modules on every node; None: the workers' working directory, where Ray has
            put them.
        cautions: what works and is dangerous about the cluster.
    """

    opened_here: bool
    can_grow: bool
    code_root: str | None
    cautions: tuple[Caution, ...] = ()

    def shape(self) -> ClusterShape:
        """The nodes alive now, but for those that are being taken away: Ray starts nothing on them."""
        return self.shape_of(ask_for_nodes())

    def shape_of(self, nodes: Nodes) -> ClusterShape:
        """What the head said, as placement sees it."""
        return ClusterShape(nodes.staying, self.can_grow, nodes.autoscaler if self.can_grow else None)

    def num_machines(self) -> int:
        """How many machines the living nodes are on."""
        return len({node["NodeManagerAddress"] for node in ray.nodes() if node["Alive"]})

    def close(self) -> None:
        """Leave Ray if this run connected to it; a Ray that it started ends with that."""
        if self.opened_here:
            ray.shutdown()


def connect(address: str | None, code_root: str | None) -> Session:
    """Connect to Ray, or start one on this machine.

    Args:
        address: of a running cluster (`auto`, `host:port`, `ray://…`); None starts a Ray of the job's own, unless
            this process is connected already: then that session is used and never shut down.
        code_root: folder of the job's own modules; shipped to a cluster unless this process runs as a submitted
            job, whose code Ray has shipped already. None: there are none.

    Raises:
        ClusterUnavailable: nothing answers at the address.
        AccessDenied: Ray's token authentication refuses us.
        InvalidJob: Ray or Python is another one there.
    """
    if ray.is_initialized():
        return Session(opened_here=False, can_grow=True, code_root=code_root)
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # Ray's coming default; silences its warning
    try:
        return _start_own(code_root) if address is None else _join(address, code_root)
    except OrchestratorError:
        raise
    except rex.AuthenticationError as error:
        means = read_means(os.environ)
        place = address or _OWN
        raise refused(means, place, shown=means.shown_to(place) is not None) from error
    except Exception as error:  # a node that does not come up in time is a bare Exception in Ray's words
        if "Version mismatch" in str(error):
            raise InvalidJob(
                f"Ray or Python is another one on the cluster: {brief(error)}",
                where=f"ray.address {address}",
                hint="use the cluster's versions here, or submit the job: its driver then runs on the cluster",
            ) from error
        raise ClusterUnavailable(
            f"Ray cannot be reached: {brief(error)}",
            where=f"ray.address {address}" if address else _OWN,
            hint="is the cluster up, and the address right? Without ray.address a Ray is started on this machine",
        ) from error


def _start_own(code_root: str | None) -> Session:
    with _own_signal_handler(), _only_what_trains():
        ray.init(address="local", include_dashboard=False, **_QUIET)
    return Session(opened_here=True, can_grow=False, code_root=code_root)


def _join(address: str, code_root: str | None) -> Session:
    means = read_means(os.environ)
    named = os.environ.get("RAY_ADDRESS", "") if address == "auto" else address
    # Ray waits for long before a closed door; where it finds the cluster by itself, one is there.
    door = knock(named, means) if named else None
    denied = refusal(door, means, address) if door else None
    if denied is not None:
        raise denied
    submitted = "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ
    runtime_env = None
    if code_root is not None and not submitted:
        runtime_env = {"working_dir": code_root, "excludes": list(NEVER_SHIPPED)}
    with _own_signal_handler():
        ray.init(address=address, runtime_env=runtime_env, **_QUIET)
    place = named or ray.get_runtime_context().gcs_address
    door = door or knock(place, means)
    found = () if door is None else tuple(cautions(door, means, address, host_of(place) or ""))
    return Session(opened_here=True, can_grow=True, code_root=None, cautions=found)


@contextmanager
def _own_signal_handler() -> Iterator[None]:
    """Keep the caller's handler of SIGTERM: `ray.init` puts one there that exits on the spot, without a record."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if callable(before) and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)


@contextmanager
def _only_what_trains() -> Iterator[None]:
    """Let a Ray that is started here leave out what a run on one machine never uses: the dashboard (without a page of
    its own, too, `ray.init` waits for that to come up), the autoscaler, and the reading of workers' logs for drivers.
    Two seconds of the start and 3 CPU-seconds (measured). Ray has no setting for it; one that starts them elsewhere
    than in these methods has them.
    """
    node = ray._private.node.Node
    skipped = {name: getattr(node, name) for name in _UNUSED if hasattr(node, name)}
    for name in skipped:
        setattr(node, name, _start_nothing)
    try:
        yield
    finally:
        for name, start in skipped.items():
            setattr(node, name, start)


def _start_nothing(node: Any, **settings: Any) -> None:
    node._webui_url = ""  # as that of a dashboard without a page


def brief(error: BaseException) -> str:
    """The telling lines of Ray's text; those of an actor's death begin with its names and numbers."""
    text = str(error).partition("Some common causes include")[0]
    lines = [line.strip() for line in text.splitlines()]
    return " ".join(line for line in lines if line and not line.startswith(_NAMES))[:300]
