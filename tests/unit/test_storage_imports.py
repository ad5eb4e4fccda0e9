from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import orchestrator

HEAVY = ("s3fs", "fsspec", "botocore", "aiobotocore", "pyarrow", "ray", "keras", "tensorflow")


def test_importing_the_storage_room_and_opening_a_store_loads_no_heavy_library() -> None:
    code = (
        "import sys, orchestrator.storage, orchestrator.testing\n"
        "from orchestrator.storage.open import open_store\n"
        "open_store('s3://bucket/prefix'), open_store('runs')\n"
        f"print(*sorted(set({HEAVY!r}) & set(sys.modules)))\n"
    )
    root = str(Path(orchestrator.__file__).parents[1])
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": root},
        capture_output=True,
        text=True,
        timeout=180,
        check=True,
    )
    assert done.stdout.strip() == ""
