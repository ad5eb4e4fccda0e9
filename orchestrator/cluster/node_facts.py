"""What a machine can say of itself by the standard library alone.

`doctor` sends these functions to the nodes by value, so that a node without this package, or with another version of
it, can still say so: they import only inside themselves, and return plain values.
"""

from __future__ import annotations

from typing import Any

PACKAGES = ("orchestrator", "ray", "keras", "tensorflow", "jax", "numpy")
_SMI_S = 20.0


def facts_here() -> dict[str, Any]:
    """Versions, scratch folder with its free bytes, and the GPUs that the driver lists (None: no `nvidia-smi`)."""
    import platform
    import shutil
    import tempfile

    scratch = tempfile.gettempdir()
    return {
        "versions": {"python": platform.python_version(), **{name: version_of(name) for name in PACKAGES}},
        "scratch": scratch,
        "free_bytes": shutil.disk_usage(scratch).free,
        "installed_gpus": installed_gpus(),
    }


def version_of(package: str) -> str | None:
    """The installed version, without importing the package; None: it is not installed."""
    from importlib.metadata import PackageNotFoundError, version
    from importlib.util import find_spec

    for distribution in (package, f"{package}-cpu"):
        try:
            return version(distribution)
        except PackageNotFoundError:
            continue
    return "of unknown version" if find_spec(package) else None


def installed_gpus() -> int | None:
    """How many GPUs NVIDIA's driver lists; None where its tool is missing or fails."""
    import shutil
    import subprocess

    tool = shutil.which("nvidia-smi")
    if tool is None:
        return None
    try:
        listed = subprocess.run([tool, "-L"], capture_output=True, text=True, timeout=_SMI_S, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    return sum(line.startswith("GPU ") for line in listed.splitlines())


def now() -> float:
    """This machine's clock in UTC epoch seconds."""
    import time

    return time.time()
