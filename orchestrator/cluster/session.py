"""A Ray session: connecting to a cluster, or starting a Ray of the job's own; and leaving it."""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import ray
from ray import exceptions as rex

from orchestrator.cluster.head import leaving_nodes
from orchestrator.cluster.submission import read_excludes
from orchestrator.errors import AccessDenied, ClusterUnavailable
from orchestrator.planning.placement import ClusterShape, NodeShape

REACH_S = 20.0
"""How long a named cluster is tried; Ray itself goes on for a quarter of an hour where nothing listens."""


_NAMES = ("class_name:", "actor_id:", "pid:", "namespace:", "ip:")


@dataclass(frozen=True)
class Session:
    """A connection to Ray.

    Attributes:
        opened_here: this run opened it and closes it; a session that was open before stays open.
        can_grow: false for a Ray of the job's own, which no node will ever join.
        code_root: folder of the job's own modules on every node; None: the workers' working directory, where Ray has
            put them.
    """

    opened_here: bool
    can_grow: bool
    code_root: str | None

    def shape(self) -> ClusterShape:
        """The nodes alive now, but for those that are being taken away: Ray starts nothing on them."""
        leaving = leaving_nodes()
        nodes = tuple(
            NodeShape(node["Resources"].get("CPU", 0.0), node["Resources"].get("GPU", 0.0))
            for node in ray.nodes()
            if node["Alive"] and node["NodeID"] not in leaving
        )
        return ClusterShape(nodes, can_grow=self.can_grow)

    def num_machines(self) -> int:
        """How many machines the living nodes are on."""
        return len({node["NodeManagerAddress"] for node in ray.nodes() if node["Alive"]})

    def close(self) -> None:
        """Leave Ray if this run connected to it; a Ray that it started ends with that."""
        if self.opened_here:
            ray.shutdown()


def connect(address: str | None, code_root: str) -> Session:
    """Connect to Ray, or start one on this machine.

    Args:
        address: of a running cluster (`auto`, `host:port`, `ray://…`); None starts a Ray of the job's own, unless
            this process is connected already: then that session is used and never shut down.
        code_root: folder of the job's own modules; shipped to a cluster unless this process runs as a submitted
            job, whose code Ray has shipped already.

    Raises:
        ClusterUnavailable: nothing answers at the address.
        AccessDenied: Ray's token authentication refuses us.
    """
    if ray.is_initialized():
        return Session(opened_here=False, can_grow=True, code_root=code_root)
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # Ray's coming default; silences its warning
    try:
        if address is None:
            with _own_signal_handler():
                ray.init(address="local", include_dashboard=False, **quiet)
            _end_autoscaler()
            return Session(opened_here=True, can_grow=False, code_root=code_root)
        _check_reachable(address)
        submitted = "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ
        runtime_env = None if submitted else {"working_dir": code_root, "excludes": list(read_excludes(code_root))}
        with _own_signal_handler():
            ray.init(address=address, runtime_env=runtime_env, **quiet)
        return Session(opened_here=True, can_grow=True, code_root=None)
    except rex.AuthenticationError as error:
        raise AccessDenied(
            f"Ray refused the token: {brief(error)}",
            where=f"ray.address {address}",
            hint="set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH to the cluster's token",
        ) from error
    except Exception as error:  # a node that does not come up in time is a bare Exception in Ray's words
        raise ClusterUnavailable(
            f"Ray cannot be reached: {brief(error)}",
            where=f"ray.address {address}" if address else "a Ray of the job's own",
            hint="is the cluster up, and the address right? Without ray.address a Ray is started on this machine",
        ) from error


@contextmanager
def _own_signal_handler() -> Iterator[None]:
    """Keep the caller's handler of SIGTERM: `ray.init` puts one there that exits on the spot, without a record."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if callable(before) and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)


def _check_reachable(address: str) -> None:
    """Knock at a cluster's door, for Ray waits without end before a closed one. Raises OSError when nobody opens."""
    if address == "auto":
        address = os.environ.get("RAY_ADDRESS", "")
    host, _, port = address.rpartition(":")
    if "://" in address or not host or not port.isdecimal():
        return  # Ray's client has a deadline of its own, and Ray finds a local cluster by itself
    socket.create_connection((host.strip("[]"), int(port)), timeout=REACH_S).close()


def _end_autoscaler() -> None:
    """End the autoscaler's monitor of a Ray of the job's own: it has nothing to scale, competes with the workers' start
    for the cores, and ignores SIGTERM, on which `ray.shutdown` waits a second. A Ray that keeps it elsewhere keeps it.
    """
    node = getattr(ray._private.worker, "_global_node", None)
    for process_info in getattr(node, "all_processes", {}).get("monitor", []):
        process_info.process.kill()
        process_info.process.wait(timeout=5)


def brief(error: BaseException) -> str:
    """The telling lines of Ray's text; those of an actor's death begin with its names and numbers."""
    text = str(error).partition("Some common causes include")[0]
    lines = [line.strip() for line in text.splitlines()]
    return " ".join(line for line in lines if line and not line.startswith(_NAMES))[:300]
