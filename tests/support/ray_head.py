"""A real Ray head with dashboard and job server, for tests: its own processes, ports, folder and token.

    with ray_head(tmp_path) as head:
        subprocess.run([..., "--address", head.address], env=head.environ)

Nothing of the caller's Ray settings reaches it, nothing of it reaches `~/.ray` or `/tmp/ray`, and at the end only
processes that it started are killed.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.ports import free_ports

START_TIMEOUT_S = 180.0


@dataclass(frozen=True)
class RayHead:
    """A running head.

    `address` is the job server's URL, `gcs_address` the host:port that `ray.init` takes, `environ` an environment in
    which clients (and `orchestrator submit`) find the token and no other cluster.
    """

    address: str
    gcs_address: str
    token: str = field(repr=False)
    environ: dict[str, str] = field(repr=False)
    started_in_s: float


@contextlib.contextmanager
def ray_head(folder: Path, *, num_cpus: int = 2, num_gpus: int = 0) -> Iterator[RayHead]:
    """Start a head with logical CPUs and GPUs, wait until it takes jobs, and kill it at the end.

    Args:
        folder: for the token, the home directory of the head's processes, and its output.
        num_cpus: logical CPUs.
        num_gpus: logical GPUs.
    """
    began = time.monotonic()
    token = secrets.token_hex(32)
    home = folder / "home"
    home.mkdir()
    (folder / "token").write_text(token, encoding="utf-8")
    environ = _environ(folder / "token", home)
    # Ray's sockets lie below its folder, and a socket's path may have 107 characters at most: pytest's is too long.
    scratch = Path(tempfile.mkdtemp(prefix="ray-head-", dir="/tmp"))
    gcs_port, dashboard_port, agent_port, client_port = free_ports(4)
    output = folder / "ray-head.log"
    with output.open("wb") as log:
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block"),
                # 127.0.0.1 would be turned into the host's outer address; any other loopback address stays.
                "--node-ip-address=127.0.0.2",
                f"--port={gcs_port}",
                "--dashboard-host=127.0.0.1",
                f"--dashboard-port={dashboard_port}",
                # These two have fixed defaults, on which two heads of one machine would collide.
                f"--dashboard-agent-listen-port={agent_port}",
                f"--ray-client-server-port={client_port}",
                f"--temp-dir={scratch}",
                f"--num-cpus={num_cpus}",
                f"--num-gpus={num_gpus}",
                "--object-store-memory=100000000",
                "--include-log-monitor=false",
                "--no-monitor",
                "--disable-usage-stats",
            ],
            env=environ,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        address = f"http://127.0.0.1:{dashboard_port}"
        _wait_until_it_takes_jobs(process, address, f"http://127.0.0.2:{agent_port}", token, output)
        took_s = time.monotonic() - began
        yield RayHead(address, f"127.0.0.2:{gcs_port}", token, environ, took_s)
    finally:
        _kill(process, marker=str(scratch))
        shutil.rmtree(scratch, ignore_errors=True)


def _environ(token: Path, home: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.upper().startswith("RAY_")}
    bin_folder = str(Path(sys.executable).parent)  # a job's `python` is to be this one
    return {
        **kept,
        "PATH": os.pathsep.join([bin_folder, kept.get("PATH", os.defpath)]),
        "HOME": str(home),
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token),
        "RAY_USAGE_STATS_ENABLED": "0",
        "NO_PROXY": "127.0.0.0/8,127.0.0.1,127.0.0.2,localhost",
        "no_proxy": "127.0.0.0/8,127.0.0.1,127.0.0.2,localhost",
    }


def _wait_until_it_takes_jobs(
    process: subprocess.Popen[bytes], address: str, agent: str, token: str, output: Path
) -> None:
    """Poll the job server, then the agent that starts the drivers: a job sent before it is up waits for seconds."""
    deadline = time.monotonic() + START_TIMEOUT_S
    pause = threading.Event()
    for url in (f"{address}/api/version", f"{agent}/api/healthz"):
        while not _answers(url, token):
            if process.poll() is not None or time.monotonic() > deadline:
                said = output.read_text(encoding="utf-8", errors="replace")[-4000:]
                raise RuntimeError(f"the Ray head does not answer at {url} (exit code {process.poll()}):\n{said}")
            pause.wait(0.1)


def _answers(url: str, token: str) -> bool:
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {token}"})
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=2.0) as answer:
            return bool(answer.status == 200)
    except urllib.error.HTTPError as error:
        return error.code < 500
    except OSError:
        return False


def _kill(process: subprocess.Popen[bytes], *, marker: str) -> None:
    """Kill the head's process group, then what it started in groups of its own, known by the head's folder."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait(timeout=30.0)
    deadline = time.monotonic() + 10.0
    pause = threading.Event()
    while (left := _processes_of(marker)) and time.monotonic() < deadline:
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        pause.wait(0.05)
    if left:
        raise RuntimeError(f"processes of the Ray head outlived it: {left}")


def _processes_of(marker: str) -> list[int]:
    """Live processes whose command line, working directory or open files name the head's folder."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit() and int(folder.name) != os.getpid():
            with contextlib.suppress(OSError):
                # Workers rename themselves, which overwrites their command line; their logs stay open.
                links = [folder / "cwd", *(folder / "fd").iterdir()]
                if marker.encode() in (folder / "cmdline").read_bytes() or any(marker in _target(x) for x in links):
                    found.append(int(folder.name))
    return found


def _target(link: Path) -> str:
    try:
        return str(link.readlink())
    except OSError:
        return ""
