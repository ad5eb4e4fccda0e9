"""Prefect 3: train an ensemble on the machine where the flow runs, and return its accuracy.

    ENSEMBLES_PROJECT=/opt/ensembles python prefect_flow.py          # or deploy it as any other flow

ENSEMBLES_PROJECT is this project's folder. Its `orchestrator` command may live in an environment of its own. To train
on a Ray cluster instead, say `submit … --wait` for `run`: see `airflow_dag.py`.
"""

from __future__ import annotations

import json
import os
import subprocess
from typing import Any

from prefect import flow, task
from prefect.runtime import flow_run

PROJECT = os.environ.get("ENSEMBLES_PROJECT", "/opt/ensembles")
COMMAND = os.environ.get("ENSEMBLES_COMMAND", f"{PROJECT}/.venv/bin/orchestrator")
RETRY_DELAY_S = float(os.environ.get("ENSEMBLES_RETRY_DELAY_S", "120"))

FINAL = (2, 3, 4)
"""Exit codes that another try would repeat: a wrong request, a missed quality gate, too few members."""


class TrainingFailed(RuntimeError):
    """The command ended with another exit code than 0."""

    def __init__(self, exit_code: int, last_line: str) -> None:
        super().__init__(f"exit code {exit_code}: {last_line}")
        self.exit_code = exit_code


def worth_another_try(task: Any, task_run: Any, state: Any) -> bool:
    """Asked by Prefect after each try that failed."""
    error = state.result(raise_on_failure=False)
    return not (isinstance(error, TrainingFailed) and error.exit_code in FINAL)


@task(retries=3, retry_delay_seconds=RETRY_DELAY_S, retry_condition_fn=worth_another_try, log_prints=True)
def train(job: str, run_id: str) -> dict[str, Any]:
    command = [COMMAND, "run", job, "--run-id", run_id, "--json"]
    process = subprocess.Popen(command, cwd=PROJECT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    last_line = ""
    try:
        for line in process.stdout or ():
            last_line = line.rstrip()
            print(last_line)
    except BaseException:  # the flow was cancelled
        process.terminate()
        process.wait()
        raise
    exit_code = process.wait()
    if exit_code != 0:
        raise TrainingFailed(exit_code, last_line)
    return json.loads(last_line)  # the last line is always one line of JSON


@flow(name="digits-ensemble")
def digits_ensemble(job: str = "jobs/digits.yaml") -> float:
    # The id of the flow's run stays the same when a task is tried again, so a retry goes on where the last try ended.
    result = train(job, f"digits-ensemble-{flow_run.id}")
    return float(result["validation"]["ensemble"]["accuracy"])


if __name__ == "__main__":
    print(digits_ensemble())
