"""Each row in small: the suite measures what it says, and every rival comes to its end."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.bench.__main__ import main
from tests.bench.harness import ROOT
from tests.bench.rows import ROWS

pytestmark = pytest.mark.bench

HIDES = """
from importlib.machinery import PathFinder

find = PathFinder.find_spec


def find_others(name, path=None, target=None):
    return None if name in ("tensorflow", "ray", "s3fs", "boto3", "typer") else find(name, path, target)


PathFinder.find_spec = find_others
"""


@pytest.mark.parametrize("row", ROWS)
def test_the_row_is_measured_and_every_rival_comes_to_its_end(row: str, tmp_path: Path) -> None:
    out, table = tmp_path / "out.json", tmp_path / "table.md"

    code = main([row, "--quick", "--out", str(out), "--markdown", str(table)])

    assert code == 0
    figures = json.loads(out.read_text())["figures"]
    assert figures
    for figure in figures:
        assert figure["row"] == row
        assert figure["problem"] is None
        assert figure["values"]
        assert figure["what"] in table.read_text()


def test_the_gpu_script_needs_neither_tensorflow_nor_ray(tmp_path: Path) -> None:
    """Its processes find neither of them, nor anything else that a bare GPU machine lacks."""
    hidden = tmp_path / "sitecustomize.py"
    hidden.write_text(HIDES)
    out = tmp_path / "out.json"

    def python(*arguments: str) -> subprocess.CompletedProcess[str]:
        environment = {"PYTHONPATH": str(tmp_path), "PATH": "/usr/bin:/bin", "JAX_PLATFORMS": "cpu"}
        return subprocess.run(
            [sys.executable, *arguments],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            timeout=580,
            check=False,
        )

    done = python("-m", "tests.bench.gpu", "--quick", "--out", str(out))

    assert "No module named 'tensorflow'" in python("-c", "import tensorflow").stderr
    assert done.returncode == 0, done.stderr[-3000:]
    figures = json.loads(out.read_text())["figures"]
    assert all(figure["values"] for figure in figures)
