"""A second real S3 server, opt-in: Ceph RGW with one monitor and one object daemon, all in a folder of their own.

Debian's packages `radosgw ceph-mon ceph-osd` are all it needs: no manager, no container, nothing outside the folder.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
import uuid
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.ports import free_ports
from tests.support.s3_server import ACCESS_KEY, REGION, SECRET_KEY, answers, die_with_parent, stores

PROGRAMS = ("ceph-mon", "ceph-osd", "radosgw", "radosgw-admin", "ceph", "ceph-authtool", "monmaptool")
_INSTALL = "as root: apt-get install -y --no-install-recommends radosgw ceph-mon ceph-osd"
_ALL = "allow *"
_KEYS = {
    "mon.": {"mon": _ALL},
    "client.admin": {"mon": _ALL, "osd": _ALL},
    "osd.0": {"mon": "allow profile osd", "osd": _ALL},
    "client.gateway": {"mon": _ALL, "osd": _ALL},
}
_STEP_WITHIN_S = 120.0
_READY_WITHIN_S = 120.0


@dataclass
class CephServer:
    """A running server; `stop` ends its processes and nothing else."""

    folder: Path
    endpoint_url: str
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def stop(self) -> None:
        # Its data are thrown away, so there is nothing to end gracefully.
        for process in reversed(self.processes):
            process.kill()
            process.wait(timeout=30)

    def logs(self) -> str:
        return "\n".join(
            f"{path.name}: {path.read_text(errors='replace')[-1500:]}" for path in sorted(self.folder.glob("*.out"))
        )

    def start(self, *command: str) -> None:
        """A daemon, in the foreground, that ends with the tests."""
        name = Path(command[0]).name
        with (self.folder / f"{name}.out").open("wb") as output:
            process = subprocess.Popen(
                [*command, "--foreground", "--conf", str(self.folder / "ceph.conf")],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                preexec_fn=die_with_parent if sys.platform == "linux" else None,
            )
        self.processes.append(process)

    def do(self, *command: str) -> str:
        """A command to its end.

        Raises:
            RuntimeError: it failed; what it said, and what the daemons said, is part of the message.
        """
        done = subprocess.run(
            [*command, "--conf", str(self.folder / "ceph.conf")],
            capture_output=True,
            text=True,
            timeout=_STEP_WITHIN_S,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)} failed: {done.stderr[-2000:]}\n{self.logs()}")
        return done.stdout


def start_ceph_server(folder: Path) -> CephServer:
    """Start monitor, object daemon and gateway below `folder`, make the tests' user, and wait until it stores.

    Raises:
        RuntimeError: it is not installed, or did not come up; the message says what to install, or has its logs.
    """
    missing = [program for program in PROGRAMS if shutil.which(program) is None]
    if missing:
        raise RuntimeError(f"Ceph RGW is not installed: {', '.join(missing)} not found\n  → {_INSTALL}")
    mon_port, s3_port = free_ports(2)
    server = CephServer(folder, f"http://127.0.0.1:{s3_port}")
    _write_config(folder, mon_port)
    try:
        _start_mon(server, mon_port)
        _start_osd(server)
        user = ("--uid=test", "--display-name=test", f"--access-key={ACCESS_KEY}", f"--secret-key={SECRET_KEY}")
        server.do("radosgw-admin", "user", "create", *user)
        # Clients name the region when they make a bucket, and a gateway refuses any but its own.
        server.do("radosgw-admin", "zonegroup", "modify", "--rgw-zonegroup=default", f"--api-name={REGION}")
        server.start("radosgw", "--name", "client.gateway", f"--rgw_frontends=beast endpoint=127.0.0.1:{s3_port}")
        _wait_until_it_stores(server)
    except BaseException:
        server.stop()
        raise
    return server


def _write_config(folder: Path, mon_port: int) -> None:
    """Everything in the folder: nothing of this machine's own, if it has a cluster, is read or touched."""
    settings = {
        "fsid": uuid.uuid4(),
        "mon_host": f"[v2:127.0.0.1:{mon_port}/0]",
        "public_addr": "127.0.0.1",
        "cluster_addr": "127.0.0.1",
        "run_dir": folder,
        "admin_socket": "",  # its path would be longer than a socket's may be
        "log_file": "",
        "mon_cluster_log_file": "",
        "keyring": folder / "keyring",
        "mon_data": folder / "mon",
        "osd_data": folder / "osd",
        "osd_objectstore": "memstore",
        "memstore_device_bytes": 2 * 2**30,
        "osd_pool_default_size": 1,
        "osd_pool_default_min_size": 1,
        "osd_pool_default_pg_num": 1,
        "osd_crush_chooseleaf_type": 0,
        "mon_allow_pool_size_one": "true",
        "mon_data_avail_crit": 1,
        "rgw_data": folder / "rgw",
    }
    lines = ["[global]", *(f"{name} = {value}" for name, value in settings.items())]
    (folder / "ceph.conf").write_text("\n".join(lines) + "\n")
    for name in ("mon", "osd", "rgw"):
        (folder / name).mkdir()


def _start_mon(server: CephServer, port: int) -> None:
    monmap = str(server.folder / "monmap")
    fsid = next(
        line.split(" = ")[1] for line in (server.folder / "ceph.conf").read_text().splitlines() if "fsid" in line
    )
    address = f"[v2:127.0.0.1:{port}/0]"
    keyring = str(server.folder / "keyring")
    for number, (name, caps) in enumerate(_KEYS.items()):
        allowed = [word for daemon, cap in caps.items() for word in ("--cap", daemon, cap)]
        new = ["--create-keyring"] if number == 0 else []
        server.do("ceph-authtool", *new, keyring, "--gen-key", "--name", name, *allowed)
    server.do("monmaptool", "--create", "--addv", "a", address, "--fsid", fsid, monmap)
    server.do("ceph-mon", "--mkfs", "--id", "a", "--monmap", monmap, "--keyring", keyring)
    server.start("ceph-mon", "--id", "a")
    server.do("ceph", "--connect-timeout", "20", "mon", "stat")


def _start_osd(server: CephServer) -> None:
    osd_uuid = str(uuid.uuid4())
    server.do("ceph", "osd", "new", osd_uuid)
    server.do("ceph-osd", "--id", "0", "--mkfs", "--osd-uuid", osd_uuid)
    server.start("ceph-osd", "--id", "0")


def _wait_until_it_stores(server: CephServer) -> None:
    deadline = time.monotonic() + _READY_WITHIN_S
    while time.monotonic() < deadline:
        try:
            server.processes[-1].wait(timeout=0.2)
        except subprocess.TimeoutExpired:
            if answers(server.endpoint_url) and stores(server.endpoint_url):
                return
        else:
            break
    raise RuntimeError(f"Ceph RGW did not come up within {_READY_WITHIN_S:g} s\n{server.logs()}")
