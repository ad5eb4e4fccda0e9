"""What only reads or plans answers at once: no command but `run` and `submit` loads a heavy library."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import orchestrator
from orchestrator import api
from orchestrator.spec import load_job
from orchestrator.storage.local import LocalStore
from orchestrator.storage.log import Log

HEAVY = ("tensorflow", "keras", "ray", "sklearn", "pyarrow", "s3fs", "matplotlib", "optuna", "user_code")

USER_CODE = """\
def load_data():
    raise SystemExit("imported by a command that must not")


def build_model(dropout=0.1):
    pass
"""

JOB = "name: light\nmodel: user_code:build_model\ndata: user_code:load_data\nmembers: 2\n"

SCRIPT = f"""\
import os
import sys
from orchestrator.cli.main import main
after_the_end = open(os.dup(2), "w")  # a command that has ended says no more on its own streams
try:
    main()
finally:
    print("loaded:", *sorted(set({HEAVY!r}) & set(sys.modules)), file=after_the_end, flush=True)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A working directory with a job and a run of it that was claimed and never went on."""
    (tmp_path / "user_code.py").write_text(USER_CODE, encoding="utf-8")
    job_file = tmp_path / "job.yaml"
    job_file.write_text(JOB, encoding="utf-8")
    planned = api.plan(load_job(str(job_file)), root=str(tmp_path), run_id="nightly")
    store = LocalStore(tmp_path / "runs")
    spec = {"run_id": "nightly", "job": planned.request.job.model_dump(mode="json")}
    store.create(planned.request.layout.spec, json.dumps(spec).encode())
    Log.open(store, planned.request.layout.coord_log).claim(run_id="nightly")
    return tmp_path


@pytest.mark.parametrize(
    "arguments",
    [
        ["validate", "job.yaml"],
        ["plan", "job.yaml"],
        ["plan", "job.yaml", "--json"],
        ["status", "nightly"],
        ["status", "nightly", "--json"],
        ["list"],
        ["stop", "nightly"],
        ["schema"],
        ["--help"],
        ["run", "--help"],
        ["--version"],
    ],
    ids=" ".join,
)
def test_a_command_that_trains_nothing_loads_no_heavy_library(folder: Path, arguments: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, *arguments], cwd=folder, capture_output=True, text=True, timeout=180, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines()[-1] == "loaded:"


def test_only_a_launcher_file_makes_validate_load_ray(folder: Path) -> None:
    cluster = str(Path(orchestrator.__file__).parents[1] / "cluster.yaml")
    arguments = ["validate", "--cluster", cluster, "--json"]
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, *arguments], cwd=folder, capture_output=True, text=True, timeout=180, check=False
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["valid"] is True
    assert done.stderr.splitlines()[-1] == "loaded: ray"


def test_importing_the_package_loads_none_of_its_modules() -> None:
    code = "import sys, orchestrator; print(sorted(name for name in sys.modules if name.startswith('orchestrator.')))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=180, check=False)
    assert (done.stdout.strip(), done.stderr) == ("[]", "")


def test_the_public_names_are_these() -> None:
    names = [
        "Job",
        "OrchestratorError",
        "Result",
        "compare",
        "evaluate",
        "list_runs",
        "load_job",
        "load_member",
        "logs",
        "parse_job",
        "plan",
        "prune",
        "report",
        "run",
        "status",
        "stop",
        "submit",
        "validate",
    ]
    assert sorted(orchestrator.__all__) == names
    assert all(callable(getattr(orchestrator, name)) for name in names)
    assert dir(orchestrator) == names
