"""The example DAG in a real Airflow, against a real Ray head: what is killed is tried again, and goes on."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from tests.support.held_job import weights
from tests.support.processes import without_ray
from tests.support.ray_head import RayHead, ray_head
from tests.support.scheduled_project import ScheduledProject
from tests.support.waiting import wait_until

pytestmark = pytest.mark.schedulers

ROOT = Path(__file__).parents[2]
PACKAGES = ("apache-airflow-core==3.1.8", "apache-airflow-providers-standard==1.21.0")
ORCHESTRATOR = Path(sys.executable).with_name("orchestrator")
DATE = "2026-11-21"


@pytest.fixture
def head(tmp_path: Path) -> Iterator[RayHead]:
    with ray_head(tmp_path) as started:
        yield started


def install(
    environment: Callable[[str, Sequence[str]], Path], project: ScheduledProject, environ: dict[str, str]
) -> tuple[Path, Path, dict[str, str]]:
    """Airflow's command, its folder with an empty database and the example DAG, and the environment that both want."""
    airflow = environment("airflow", PACKAGES) / "airflow"
    home = project.folder.parent / "airflow"
    (home / "dags").mkdir(parents=True)
    shutil.copy(ROOT / "jobs" / "schedulers" / "airflow_dag.py", home / "dags")
    environ = {
        **environ,
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "ENSEMBLES_PROJECT": str(project.folder),
        "ENSEMBLES_STORAGE": str(project.storage),
        "ENSEMBLES_COMMAND": str(ORCHESTRATOR),
        "ENSEMBLES_RETRY_DELAY_S": "1",
    }
    subprocess.run([airflow, "db", "migrate"], env=environ, check=True, capture_output=True, timeout=300)
    return airflow, home, environ


def ended(home: Path) -> tuple[str, int]:
    """The state and the number of tries of the task that trains."""
    with sqlite3.connect(home / "airflow.db") as database:
        [row] = database.execute("select state, try_number from task_instance where task_id = 'train'")
    return row[0], row[1]


def test_a_dag_whose_tries_are_killed_goes_on_and_hands_its_accuracy_on(
    environment: Callable[[str, Sequence[str]], Path], head: RayHead, tmp_path: Path
) -> None:
    """The first try's driver is killed on the cluster, the second try's own process on Airflow's machine."""
    project = ScheduledProject.write(tmp_path)
    base = {**head.environ, "RAY_API_SERVER_ADDRESS": head.address}
    airflow, home, environ = install(environment, project, base)
    began = time.monotonic()
    output = tmp_path / "airflow.log"
    with output.open("wb") as log:
        dag = subprocess.Popen(
            [airflow, "dags", "test", "digits_ensemble", DATE], env=environ, stdout=log, stderr=subprocess.STDOUT
        )
    try:
        run_id = "digits_ensemble-"
        wait_until(
            lambda: (
                dag.poll() is not None
                or ("final" in project.kinds(run_id, 0) and "checkpoint" in project.kinds(run_id, 1))
            ),
            "a member that is published, and another one in training",
        )
        assert dag.poll() is None, output.read_text()[-4000:]
        first = project.kill("run")
        wait_until(lambda: project.kinds(run_id).count("claim") == 2, "the driver of the second try")
        second = project.kill("submit")
        wait_until(lambda: project.process("submit") not in (None, second), "the third try")
        project.let_go()
        assert dag.wait(timeout=300) == 0, output.read_text()[-4000:]
    finally:
        if dag.poll() is None:
            dag.kill()
            dag.wait(timeout=30)
    took_s = time.monotonic() - began

    told = output.read_text(errors="replace")
    result = project.result(run_id)
    with sqlite3.connect(home / "airflow.db") as database:
        [(xcom,)] = database.execute("select value from xcom where task_id = 'train' and key = 'return_value'")
    handed_on = json.loads(xcom)
    accuracy = result["validation"]["ensemble"]["accuracy"]
    assert handed_on == {"run_id": result["run_id"], "status": "succeeded", "accuracy": accuracy}
    assert ended(home) == ("success", 3), told[-4000:]
    assert f"accuracy {accuracy:.3f}" in told
    assert first != second

    assert project.kinds(run_id, 0).count("claim") == 1, "what was published was trained again"
    assert project.kinds(run_id).count("claim") == 2, "the third try did not attach to the second one's driver"
    straight = subprocess.run(
        [ORCHESTRATOR, "run", "jobs/digits.yaml", "--run-id", "straight", "--json"],
        cwd=project.folder,
        env=without_ray(head.environ),
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    )
    assert weights(result) == weights(json.loads(straight.stdout))
    print(f"Airflow: three tries in {took_s:.0f} s")


def test_a_request_that_is_wrong_is_not_tried_again(
    environment: Callable[[str, Sequence[str]], Path], tmp_path: Path
) -> None:
    project = ScheduledProject.write(tmp_path)
    (project.folder / "jobs" / "digits.yaml").write_text("name: digits\n")
    airflow, home, environ = install(environment, project, without_ray(os.environ))
    command = [airflow, "dags", "test", "digits_ensemble", DATE]
    told = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=300, check=False)
    assert "the request is wrong" in told.stdout + told.stderr
    assert ended(home) == ("failed", 1)
