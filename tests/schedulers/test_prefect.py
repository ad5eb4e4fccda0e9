"""The example flow in a real Prefect: a try that is killed is tried again, and goes on; what is wrong is not."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from tests.support.held_job import weights
from tests.support.processes import without_ray
from tests.support.scheduled_project import ScheduledProject
from tests.support.waiting import wait_until

pytestmark = pytest.mark.schedulers

FLOW = Path(__file__).parents[2] / "jobs" / "schedulers" / "prefect_flow.py"
PACKAGES = ("prefect==3.6.29", "fastapi==0.117.1")  # it cannot be imported with the newest FastAPI
ORCHESTRATOR = Path(sys.executable).with_name("orchestrator")


def environ_of(project: ScheduledProject) -> dict[str, str]:
    home = project.folder.parent / "prefect"
    base = {name: value for name, value in without_ray().items() if not name.startswith("PREFECT_")}
    return {
        **base,
        "PREFECT_HOME": str(home),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "240",  # its own server, started for the flow
        "NO_PROXY": "127.0.0.1,localhost",
        "ENSEMBLES_PROJECT": str(project.folder),
        "ENSEMBLES_COMMAND": str(ORCHESTRATOR),
        "ENSEMBLES_RETRY_DELAY_S": "1",
    }


def test_a_flow_whose_try_is_killed_goes_on_and_returns_its_accuracy(
    environment: Callable[[str, Sequence[str]], Path], tmp_path: Path
) -> None:
    project = ScheduledProject.write(tmp_path)
    python = environment("prefect", PACKAGES) / "python"
    output = tmp_path / "flow.log"
    began = time.monotonic()
    with output.open("wb") as log:
        flow = subprocess.Popen([python, FLOW], env=environ_of(project), stdout=log, stderr=subprocess.STDOUT)
    try:
        run_id = "digits-ensemble-"
        wait_until(
            lambda: (
                flow.poll() is not None
                or ("final" in project.kinds(run_id, 0) and "checkpoint" in project.kinds(run_id, 1))
            ),
            "a member that is published, and another one in training",
        )
        assert flow.poll() is None, output.read_text()[-4000:]
        project.kill("run")
        project.let_go()
        assert flow.wait(timeout=300) == 0, output.read_text()[-4000:]
    finally:
        if flow.poll() is None:
            flow.kill()
            flow.wait(timeout=30)
    took_s = time.monotonic() - began

    told = output.read_text(errors="replace")
    result = project.result(run_id)
    assert str(result["validation"]["ensemble"]["accuracy"]) in told.splitlines()
    assert "exit code -9" in told
    assert project.kinds(run_id).count("claim") == 2
    assert project.kinds(run_id, 0).count("claim") == 1, "what was published was trained again"
    straight = subprocess.run(
        [ORCHESTRATOR, "run", "jobs/digits.yaml", "--run-id", "straight", "--json"],
        cwd=project.folder,
        env=environ_of(project),
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    )
    assert weights(result) == weights(json.loads(straight.stdout))
    print(f"Prefect: two tries in {took_s:.0f} s")


def test_a_request_that_is_wrong_is_not_tried_again(
    environment: Callable[[str, Sequence[str]], Path], tmp_path: Path
) -> None:
    project = ScheduledProject.write(tmp_path)
    (project.folder / "jobs" / "digits.yaml").write_text("name: digits\n")
    python = environment("prefect", PACKAGES) / "python"
    flow = subprocess.run(
        [python, FLOW], env=environ_of(project), capture_output=True, text=True, timeout=300, check=False
    )
    assert flow.returncode != 0
    told = flow.stdout + flow.stderr
    assert "exit code 2" in told
    assert "Retry" not in told
