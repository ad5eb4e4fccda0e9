"""The commands. Each is a few lines around `orchestrator.api`; exit codes come from the errors."""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from orchestrator import api
from orchestrator.cli import clusters, plans, runs, validating
from orchestrator.cli.doctor import doctor
from orchestrator.cli.ending import Signals, answer_usage_error, say_no_more, sigterm_is_an_error, with_exit_code
from orchestrator.cli.logs import logs
from orchestrator.cli.options import (
    AcceptCodeChange,
    AsJson,
    Fresh,
    JobPath,
    OutputDir,
    Overrides,
    ResultFile,
    RunId,
    Smoke,
    Timeout,
)
from orchestrator.cli.output import (
    answer,
    answer_result,
    check_writable,
    json_line,
    leave_result,
)
from orchestrator.reporting.progress import make_progress
from orchestrator.spec import Job, job_schema, load_job

app = typer.Typer(
    name="orchestrator",
    help="Train an ensemble of Keras models in parallel on Ray, from one job file.",
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def main() -> None:
    """Entry point of the console script."""
    sigterm_is_an_error()
    sys.path.insert(0, str(Path.cwd()))  # the job's own modules
    try:
        app()
    except SystemExit as end:
        answer_usage_error(end, sys.argv)
        raise
    finally:
        say_no_more()


def _version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        answer(version("orchestrator"))
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Show it.")] = False,
) -> None:
    pass


app.command("validate")(with_exit_code(validating.validate))
app.command("plan")(with_exit_code(plans.plan))


@app.command()
@with_exit_code
def run(
    job: JobPath,
    overrides: Overrides = None,
    run_id: RunId = None,
    fresh: Fresh = False,
    smoke: Smoke = False,
    attach: Annotated[
        bool, typer.Option(help="Wait for the result of a run that has a live coordinator, or exit with 75.")
    ] = True,
    accept_code_change: AcceptCodeChange = False,
    timeout: Timeout = None,
    as_json: AsJson = False,
    result_file: ResultFile = None,
    output_dir: OutputDir = None,
) -> None:
    """Train the ensemble and show its result. The same command again attaches, resumes, or shows the result."""
    check_writable(result_file, "--result-file")
    check_writable(output_dir, "--output-dir")
    loaded: Job = load_job(job, overrides or [])
    progress = make_progress(sys.stderr, sys.stderr.isatty(), os.environ, api.SystemClock())
    # Ray tells of lost workers on standard output, where only the result belongs.
    with Signals() as signals, contextlib.redirect_stdout(sys.stderr):
        result = api.run(
            loaded,
            run_id=run_id,
            fresh=fresh,
            smoke=smoke,
            attach=attach,
            accept_code_change=accept_code_change,
            timeout_s=timeout,
            progress=progress,
            interruption=signals.interruption,
        )
    leave_result(result, result_file, output_dir)
    answer_result(result, as_json=as_json)
    raise typer.Exit(result.exit_code)


@app.command()
@with_exit_code
def schema() -> None:
    """Print the JSON Schema of job files, for editors."""
    answer(json_line(job_schema()))


app.command("submit")(with_exit_code(clusters.submit))
app.command("doctor")(with_exit_code(doctor))
app.command("wait")(with_exit_code(clusters.wait))
app.command("status")(with_exit_code(runs.status))
app.command("list")(with_exit_code(runs.list_))
app.command("evaluate")(with_exit_code(runs.evaluate))
app.command("report")(with_exit_code(runs.report))
app.command("compare")(with_exit_code(runs.compare))
app.command("logs")(with_exit_code(logs))
app.command("stop")(with_exit_code(runs.stop))
app.command("prune")(with_exit_code(runs.prune))
