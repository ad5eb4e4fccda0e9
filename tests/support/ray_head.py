"""A real Ray cluster for tests: a head with dashboard and job server, and worker nodes, all on this machine.

    with ray_head(tmp_path, num_cpus=0, num_nodes=2) as head:
        subprocess.run([..., "--address", head.address], env=head.environ)
        head.kill_node(head.nodes[0])
        head.add_node(num_gpus=4, labels={"market": "spot"})

Head and nodes are `ray start --block` of their own, each with an address and ports of its own. Nothing of the caller's
Ray settings reaches them, nothing of them reaches `~/.ray` or `/tmp/ray`, and at the end only processes that were
started here are killed. A test that needs a cluster takes the fixture `cluster_head`: one serves them all.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.support.ports import free_ports
from tests.support.processes import family, kill_all, kill_what_holds, without_ray
from tests.support.waiting import wait_until

START_TIMEOUT_S = 180.0
GONE_TIMEOUT_S = 60.0

_HEAD_IP = "127.0.0.2"
"""127.0.0.1 would be turned into the host's outer address; any other loopback address stays."""

_QUICKLY_MISSED = {
    "RAY_health_check_initial_delay_ms": "1000",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "10000",
    "RAY_health_check_failure_threshold": "5",
}
"""A killed node is missed after seconds instead of half a minute; a slow one still has ten for each answer."""


@dataclass(frozen=True)
class RayNode:
    """A worker node. Prometheus reads `metrics_url`."""

    ip: str
    metrics_url: str
    process: subprocess.Popen[bytes] = field(repr=False)
    output: Path = field(repr=False)


@dataclass(frozen=True)
class RayHead:
    """A running head and its worker nodes.

    `address` is the job server's URL, `gcs_address` the host:port that `ray.init` takes, `client_address` that of
    `ray://`, `metrics_url` where Prometheus reads the head's metrics (each node has its own), `environ` an environment
    in which clients (and `orchestrator submit`) find the token and no other cluster.
    """

    address: str
    gcs_address: str
    client_address: str
    metrics_url: str
    token: str = field(repr=False)
    environ: dict[str, str] = field(repr=False)
    folder: Path = field(repr=False)
    scratch: Path = field(repr=False)
    nodes: list[RayNode] = field(default_factory=list)
    numbers: Iterator[int] = field(default_factory=lambda: itertools.count(3), repr=False)

    def add_node(
        self,
        *,
        num_cpus: int = 2,
        num_gpus: int = 0,
        labels: Mapping[str, str] | None = None,
        resources: Mapping[str, float] | None = None,
    ) -> RayNode:
        """Start a worker node with logical CPUs, GPUs, labels and resources, and wait until the head knows it."""
        node = self._start_node(num_cpus, num_gpus, labels or {}, resources or {})
        wait_until(lambda: self._knows(node), lambda: f"{node.ip} to join:\n{_said(node.output)}", START_TIMEOUT_S)
        return node

    def kill_node(self, node: RayNode) -> None:
        """Kill all processes of a node at once; the head misses it after seconds (`wait_until_gone`)."""
        kill_all([node.process.pid, *family(node.process.pid)])
        node.process.wait(timeout=30.0)
        self.nodes.remove(node)

    def wait_until_gone(self, node: RayNode) -> None:
        """Wait until the head has missed a killed node."""

        def gone() -> bool:
            alive = self._alive_now()
            return alive is not None and node.ip not in alive

        wait_until(gone, f"the head to miss {node.ip}", GONE_TIMEOUT_S)

    def alive(self) -> set[str]:
        """The addresses of the nodes that live as the head sees it, its own included."""
        known = self.ask("/api/v0/nodes?limit=1000")["data"]["result"]["result"]
        return {node["node_ip"] for node in known if node["state"] == "ALIVE"}

    def ask(self, path: str) -> Any:
        """What the head's dashboard answers at `path`, as JSON."""
        request = urllib.request.Request(self.address + path, headers={"Authorization": f"Bearer {self.token}"})
        with _opener().open(request, timeout=30.0) as answer:
            return json.load(answer)

    def _start_node(
        self, num_cpus: int, num_gpus: int, labels: Mapping[str, str], resources: Mapping[str, float]
    ) -> RayNode:
        number = next(self.numbers)
        ip = f"127.0.0.{number}"
        agent_port, metrics_port = free_ports(2)
        output = self.folder / f"ray-node-{number}.log"
        arguments = [
            *(f"--address={self.gcs_address}", f"--node-ip-address={ip}", f"--temp-dir={self.scratch}"),
            *(f"--dashboard-agent-listen-port={agent_port}", f"--metrics-export-port={metrics_port}"),
            # Nodes of one machine would take each other's ports out of Ray's fixed range.
            *("--min-worker-port=0", "--max-worker-port=0"),
            *(f"--num-cpus={num_cpus}", f"--num-gpus={num_gpus}", f"--resources={json.dumps(dict(resources))}"),
            f"--labels={','.join(f'{name}={value}' for name, value in labels.items())}",
        ]
        process = _ray_start(arguments, self.environ, self.folder, output)
        node = RayNode(ip, f"http://{ip}:{metrics_port}/metrics", process, output)
        self.nodes.append(node)
        return node

    def _knows(self, node: RayNode) -> bool:
        if node.process.poll() is not None:
            raise RuntimeError(f"the node at {node.ip} ended:\n{_said(node.output)}")
        return node.ip in (self._alive_now() or ())

    def _alive_now(self) -> set[str] | None:
        """As `alive`; None while a busy head does not answer."""
        try:
            return self.alive()
        except OSError:
            return None


@contextlib.contextmanager
def ray_head(
    folder: Path, *, num_cpus: int = 2, num_gpus: int = 0, num_nodes: int = 0, cpus_per_node: int = 2
) -> Iterator[RayHead]:
    """Start a head and worker nodes, wait until it takes jobs, and kill all of it at the end.

    Args:
        folder: for the token, the home directory of the processes, and their output.
        num_cpus: logical CPUs of the head; 0: nothing but drivers runs there.
        num_gpus: logical GPUs of the head.
        num_nodes: worker nodes to begin with; `add_node` starts more.
        cpus_per_node: logical CPUs of each of these.
    """
    token = secrets.token_hex(32)
    home = folder / "home"
    home.mkdir()
    (folder / "token").write_text(token, encoding="utf-8")
    environ = _environ(folder / "token", home)
    # Ray's sockets lie below its folder, and a socket's path may have 107 characters at most: pytest's is too long.
    scratch = Path(tempfile.mkdtemp(prefix="ray-head-", dir="/tmp"))
    gcs_port, dashboard_port, agent_port, client_port, metrics_port = free_ports(5)
    output = folder / "ray-head.log"
    process = _ray_start(
        [
            *("--head", f"--node-ip-address={_HEAD_IP}", f"--port={gcs_port}", f"--temp-dir={scratch}"),
            *("--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard_port}"),
            # These two have fixed defaults, on which two heads of one machine would collide.
            *(f"--dashboard-agent-listen-port={agent_port}", f"--ray-client-server-port={client_port}"),
            f"--metrics-export-port={metrics_port}",
            *(f"--num-cpus={num_cpus}", f"--num-gpus={num_gpus}"),
            *("--include-log-monitor=false", "--no-monitor"),
        ],
        environ | _QUICKLY_MISSED,
        folder,
        output,
    )
    head = RayHead(
        address=f"http://127.0.0.1:{dashboard_port}",
        gcs_address=f"{_HEAD_IP}:{gcs_port}",
        client_address=f"{_HEAD_IP}:{client_port}",
        metrics_url=f"http://{_HEAD_IP}:{metrics_port}/metrics",
        token=token,
        environ=environ,
        folder=folder,
        scratch=scratch,
    )
    try:
        _wait_until_it_takes_jobs(process, head.address, f"http://{_HEAD_IP}:{agent_port}", token, output)
        for _ in range(num_nodes):  # one after the other: two at once would choose the same names for their sockets
            head.add_node(num_cpus=cpus_per_node)
        yield head
    finally:
        for each in [*(node.process for node in head.nodes), process]:
            kill_all([each.pid, *family(each.pid)])
            each.wait(timeout=30.0)
        kill_what_holds(str(scratch))
        shutil.rmtree(scratch, ignore_errors=True)


def _ray_start(
    arguments: Sequence[str], environ: Mapping[str, str], folder: Path, output: Path
) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block"]
    shared = ["--object-store-memory=100000000", "--disable-usage-stats"]
    with output.open("wb") as log:
        return subprocess.Popen(
            [*command, *arguments, *shared],
            env=environ,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def _environ(token: Path, home: Path) -> dict[str, str]:
    kept = without_ray()
    loopback = ",".join(["localhost", "127.0.0.0/8", *(f"127.0.0.{number}" for number in range(1, 100))])
    bin_folder = str(Path(sys.executable).parent)  # a job's `python` is to be this one
    return {
        **kept,
        "PATH": os.pathsep.join([bin_folder, kept.get("PATH", os.defpath)]),
        "HOME": str(home),
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token),
        "RAY_USAGE_STATS_ENABLED": "0",
        "NO_PROXY": loopback,
        "no_proxy": loopback,
    }


def _wait_until_it_takes_jobs(
    process: subprocess.Popen[bytes], address: str, agent: str, token: str, output: Path
) -> None:
    """Poll the job server, then the agent that starts the drivers: a job sent before it is up waits for seconds."""

    def answers(url: str) -> bool:
        if process.poll() is not None:
            raise RuntimeError(f"the Ray head ended with {process.returncode}:\n{_said(output)}")
        return _answers(url, token)

    for url in (f"{address}/api/version", f"{agent}/api/healthz"):
        wait_until(lambda url=url: answers(url), lambda url=url: f"{url} to answer:\n{_said(output)}", START_TIMEOUT_S)


def _answers(url: str, token: str) -> bool:
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {token}"})
    try:
        with _opener().open(request, timeout=2.0) as answer:
            return bool(answer.status == 200)
    except urllib.error.HTTPError as error:
        return error.code < 500
    except OSError:
        return False


def _opener() -> urllib.request.OpenerDirector:
    return urllib.request.build_opener(urllib.request.ProxyHandler({}))


def _said(output: Path) -> str:
    return output.read_text(encoding="utf-8", errors="replace")[-4000:]
