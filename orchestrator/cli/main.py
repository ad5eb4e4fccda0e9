"""The commands. Each is a few lines around `orchestrator.api`; exit codes come from the errors."""

from __future__ import annotations

import contextlib
import functools
import os
import shutil
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from orchestrator import api
from orchestrator.cli import runs
from orchestrator.cli.options import AsJson
from orchestrator.cli.output import (
    answer,
    check_writable,
    error_json,
    json_line,
    tell,
    use_color,
    write_output_dir,
    write_result_file,
)
from orchestrator.errors import Interrupted, OrchestratorError
from orchestrator.reporting.progress import make_progress
from orchestrator.reporting.result import Result, to_json
from orchestrator.reporting.tables import plan_text, render
from orchestrator.spec import Job, job_schema, load_job

Returned = TypeVar("Returned")

app = typer.Typer(
    name="orchestrator",
    help="Train an ensemble of Keras models in parallel on Ray, from one job file.",
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

JobPath = Annotated[str, typer.Argument(metavar="JOB", help="The job file (YAML).")]
Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Changes to the job, such as train.epochs=20.")
]
RunId = Annotated[str | None, typer.Option(help="Name of the run; any text, such as a scheduler's run id.")]
Fresh = Annotated[bool, typer.Option(help="Start a new run of the same job.")]
Timeout = Annotated[float | None, typer.Option(min=0, help="Give up after that many seconds (exit 124).")]
ResultFile = Annotated[Path | None, typer.Option(help="Write the result, or the error, to this file as JSON.")]
OutputDir = Annotated[Path | None, typer.Option(help="Write one file for each value of the result to this folder.")]


def main() -> None:
    """Entry point of the console script."""
    sys.path.insert(0, str(Path.cwd()))  # the job's own modules
    app()


def _with_exit_code(command: Callable[..., Returned]) -> Callable[..., Returned]:
    """Turn an error into its message and its exit code; the JSON of an error stands where the result would."""

    @functools.wraps(command)
    def wrapped(*args: Any, **kwargs: Any) -> Returned:
        try:
            return command(*args, **kwargs)
        except OrchestratorError as caught:
            error = caught
        except (typer.Exit, KeyboardInterrupt):
            raise
        except Exception as bug:
            traceback.print_exc()
            error = OrchestratorError(
                f"{type(bug).__name__}: {bug}",
                hint="this is a bug of orchestrator: please report it with the lines above",
            )
        tell(f"error: {error}")
        if kwargs.get("as_json"):
            answer(json_line(error_json(error)))
        if kwargs.get("result_file") is not None:
            _leave_error(kwargs["result_file"], error)
        raise typer.Exit(error.exit_code)

    return wrapped


def _leave_error(path: Path, error: OrchestratorError) -> None:
    try:
        write_result_file(path, f"{json_line(error_json(error))}\n".encode())
    except OSError as unwritable:
        tell(f"could not write {path}: {unwritable.strerror}")


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


@app.command()
@_with_exit_code
def validate(job: JobPath, overrides: Overrides = None, as_json: AsJson = False) -> None:
    """Check a job file without running any of its code."""
    loaded = load_job(job, overrides or [])
    api.validate(loaded)
    tell(f"{job}: valid, {loaded.members.total} members; model and data are checked further when the run starts")
    if as_json:
        answer(json_line({"valid": True, "name": loaded.name, "members": loaded.members.total}))


@app.command()
@_with_exit_code
def plan(
    job: JobPath,
    overrides: Overrides = None,
    run_id: RunId = None,
    fresh: Fresh = False,
    as_json: AsJson = False,
) -> None:
    """Show members, seeds, dropout, placement and storage keys; nothing is started."""
    planned = api.plan(load_job(job, overrides or []), run_id=run_id, fresh=fresh).to_json()
    if as_json:
        answer(json_line(planned))
        return
    facts = {name: planned[name] for name in ("run_id", "storage", "run", "placement", "engine")}
    facts |= {name: planned[name] for name in ("stop_when", "search", "folds", "stages") if planned[name] is not None}
    facts["exact"] = "yes, on a CPU" if planned["exact"] else f"no, because {'; '.join(planned['inexact_because'])}"
    rows = [
        {
            "member": member["index"],
            **{name: member[name] for name in ("configuration", "repeat", "fold") if name in member},
            "seed": member["seed"],
            "dropout": member["dropout"],
            "builder": member["builder"],
            "hyperparameters": {k: v for k, v in member["kwargs"].items() if k != "dropout"}
            | {f"train.{key}": value for key, value in member["train"].items()},
            "storage key": member["key"],
        }
        for member in planned["members"]
    ]
    answer(plan_text(facts, rows))


@app.command()
@_with_exit_code
def run(
    job: JobPath,
    overrides: Overrides = None,
    run_id: RunId = None,
    fresh: Fresh = False,
    attach: Annotated[
        bool, typer.Option(help="Wait for the result of a run that has a live coordinator, or exit with 75.")
    ] = True,
    accept_code_change: Annotated[
        bool, typer.Option(help="Go on with a run although the job's own code has changed since it began.")
    ] = False,
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
    with _Signals() as signals, contextlib.redirect_stdout(sys.stderr):
        result = api.run(
            loaded,
            run_id=run_id,
            fresh=fresh,
            attach=attach,
            accept_code_change=accept_code_change,
            timeout_s=timeout,
            progress=progress,
            interruption=signals.interruption,
        )
    if result_file is not None:
        write_result_file(result_file, to_json(result))
    if output_dir is not None:
        write_output_dir(output_dir, result)
    _show(result, as_json=as_json)
    raise typer.Exit(result.exit_code)


def _show(result: Result, *, as_json: bool) -> None:
    if as_json:
        answer(to_json(result).decode())
        return
    color = use_color(os.environ, isatty=sys.stdout.isatty())
    answer(render(result, width=shutil.get_terminal_size((110, 24)).columns, color=color))


class _Signals:
    """Turns SIGTERM and SIGINT into an orderly end: the first lets workers save, another does not wait for that.

    A second SIGINT ends even a process that is waiting for something else.
    """

    def __init__(self) -> None:
        self._received: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> _Signals:
        for number in (signal.SIGTERM, signal.SIGINT):
            self._before[number] = signal.signal(number, self._receive)
        return self

    def __exit__(self, *exc: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _receive(self, number: int, frame: object) -> None:
        self._received = number
        signal.signal(signal.SIGINT, signal.default_int_handler)

    def interruption(self) -> OrchestratorError | None:
        number, self._received = self._received, None
        if number is None:
            return None
        name = signal.Signals(number).name
        return Interrupted(f"{name}: the run ends here", hint="start again to resume", signal_number=number)


@app.command()
@_with_exit_code
def submit(
    job: JobPath,
    overrides: Overrides = None,
    address: Annotated[str | None, typer.Option(help="http://HEAD:8265; default from RAY_API_SERVER_ADDRESS.")] = None,
    run_id: RunId = None,
    wait: Annotated[bool, typer.Option(help="Follow the log and exit with the driver's own code.")] = False,
    timeout: Timeout = None,
    as_json: AsJson = False,
) -> None:
    """Submit the job, with the code of this folder, to a Ray cluster."""
    submission_id, code = api.submit(
        job, address=address, overrides=overrides or [], run_id=run_id, wait=wait, timeout_s=timeout, on_log=tell
    )
    if as_json:
        answer(json_line({"submission_id": submission_id, "exit_code": code}))
    else:
        answer(submission_id)
    raise typer.Exit(code or 0)


@app.command()
@_with_exit_code
def schema() -> None:
    """Print the JSON Schema of job files, for editors."""
    answer(json_line(job_schema()))


app.command("status")(_with_exit_code(runs.status))
app.command("list")(_with_exit_code(runs.list_))
app.command("evaluate")(_with_exit_code(runs.evaluate))
app.command("report")(_with_exit_code(runs.report))
app.command("compare")(_with_exit_code(runs.compare))
app.command("logs")(_with_exit_code(runs.logs))
app.command("stop")(_with_exit_code(runs.stop))
app.command("prune")(_with_exit_code(runs.prune))
