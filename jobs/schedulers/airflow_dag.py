"""Airflow 3: train an ensemble on a Ray cluster every night and hand its accuracy to the next task.

Put this file into Airflow's folder of DAGs. Airflow's workers need this project's folder and its `orchestrator`
command, which may live in an environment of its own; what is trained is trained on the cluster. From the workers'
environment come

- ENSEMBLES_PROJECT, the project's folder, and ENSEMBLES_STORAGE, where runs are kept: `s3://my-bucket/ensembles`;
- RAY_API_SERVER_ADDRESS, the cluster's job server: `http://ray-head:8265`; RAY_AUTH_TOKEN_PATH, a file with its token.
"""

from __future__ import annotations

import json
import os
from datetime import datetime, timedelta
from typing import Any

from airflow.exceptions import AirflowException, AirflowFailException
from airflow.providers.standard.hooks.subprocess import SubprocessHook
from airflow.sdk import BaseOperator, dag, task

PROJECT = os.environ.get("ENSEMBLES_PROJECT", "/opt/ensembles")
STORAGE = os.environ.get("ENSEMBLES_STORAGE", "s3://my-bucket/ensembles")
COMMAND = os.environ.get("ENSEMBLES_COMMAND", f"{PROJECT}/.venv/bin/orchestrator")
RETRY_DELAY_S = float(os.environ.get("ENSEMBLES_RETRY_DELAY_S", "120"))

FINAL = {2: "the request is wrong", 3: "the quality gate was missed", 4: "too few members"}
"""Exit codes that another try would repeat. What else is not 0, such as 75 (try again later), is worth one."""


class TrainEnsemble(BaseOperator):
    """Runs one job file on the cluster. A BashOperator would do, but it tries again whatever the exit code is."""

    # The run id names this run of the DAG and of no other, so a retry of the task goes on where the last try ended.
    template_fields = ("run_id",)

    def __init__(self, *, job: str, run_id: str = "{{ dag.dag_id }}-{{ run_id }}", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.job = job
        self.run_id = run_id
        self.process = SubprocessHook()

    def execute(self, context: Any) -> dict[str, Any]:
        command = [COMMAND, "submit", self.job, f"storage.url={STORAGE}", "--run-id", self.run_id, "--wait", "--json"]
        ended = self.process.run_command(command, cwd=PROJECT)  # its lines go to the task's log
        if ended.exit_code in FINAL:
            raise AirflowFailException(f"{FINAL[ended.exit_code]}: {ended.output}")  # no retry
        if ended.exit_code != 0:
            raise AirflowException(f"exit code {ended.exit_code}: {ended.output}")
        result = json.loads(ended.output)["result"]  # the last line is always one line of JSON
        accuracy = result["validation"]["ensemble"]["accuracy"]
        return {"run_id": self.run_id, "status": result["status"], "accuracy": accuracy}  # small: it becomes the XCom

    def on_kill(self) -> None:
        """For Airflow, when somebody marks the task or at `execution_timeout`: SIGTERM to the command.

        That stops the job on the cluster in order; `--on-interrupt detach` would let it go on.
        """
        self.process.send_sigterm()


@dag(schedule="0 2 * * *", start_date=datetime(2026, 1, 1), catchup=False, tags=["ensembles"])
def digits_ensemble() -> None:
    train = TrainEnsemble(
        task_id="train",
        job="jobs/digits.yaml",
        retries=3,
        retry_delay=timedelta(seconds=RETRY_DELAY_S),
        execution_timeout=timedelta(hours=6),
    )

    @task
    def tell(found: dict[str, Any]) -> None:
        print(f"run {found['run_id']} {found['status']}: accuracy {found['accuracy']:.3f}")

    tell(train.output)


digits_ensemble()
