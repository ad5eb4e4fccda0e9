"""The commands for runs on a Ray cluster that are reached through its job server; `main` registers them."""

from __future__ import annotations

import functools
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from orchestrator import api
from orchestrator.cli.ending import Signals
from orchestrator.cli.options import (
    AcceptCodeChange,
    Address,
    AsJson,
    Endpoint,
    Fresh,
    Headers,
    Interrupt,
    JobPath,
    OnInterrupt,
    OutputDir,
    Overrides,
    Region,
    ResultFile,
    Run,
    RunId,
    Smoke,
    Storage,
    SubmitAddress,
    Timeout,
)
from orchestrator.cli.output import (
    answer,
    answer_result,
    check_writable,
    json_line,
    leave_result,
    leave_told,
    tell,
)
from orchestrator.errors import InvalidJob
from orchestrator.reporting.tables import plan_text

GOES_ON = "the run goes on; `orchestrator stop` ends it"


def submit(
    job: JobPath,
    overrides: Overrides = None,
    address: SubmitAddress = None,
    headers: Headers = None,
    run_id: RunId = None,
    fresh: Fresh = False,
    smoke: Smoke = False,
    accept_code_change: AcceptCodeChange = False,
    wait: Annotated[bool, typer.Option(help="Follow the log and exit with the driver's own code.")] = False,
    on_interrupt: OnInterrupt = None,
    timeout: Timeout = None,
    as_json: AsJson = False,
    result_file: ResultFile = None,
    output_dir: OutputDir = None,
) -> None:
    """Submit the job, with the code of this folder, to a Ray cluster. The same command again attaches to the live job,
    resumes the run, or shows its result."""
    waits = {
        "--on-interrupt": on_interrupt,
        "--timeout": timeout,
        "--result-file": result_file,
        "--output-dir": output_dir,
    }
    for name, value in waits.items():
        if value is not None and not wait:
            raise InvalidJob("it belongs to the waiting", where=name, hint="give --wait too")
    check_writable(result_file, "--result-file")
    check_writable(output_dir, "--output-dir")
    submit_it = functools.partial(
        api.submit,
        job,
        address=address,
        headers=headers or [],
        overrides=overrides or [],
        run_id=run_id,
        fresh=fresh,
        smoke=smoke,
        accept_code_change=accept_code_change,
        on_note=tell,
    )
    if wait:
        with Signals() as signals:
            found = submit_it(waiting=_waiting(timeout, on_interrupt, signals))
    else:
        found = submit_it()
    _answer(found, as_json=as_json, result_file=result_file, output_dir=output_dir)


def wait(
    run: Run,
    address: Address = None,
    headers: Headers = None,
    storage: Storage = "runs",
    endpoint_url: Endpoint = None,
    region: Region = None,
    on_interrupt: Annotated[
        Interrupt,
        typer.Option(help="What becomes of the job when a signal ends this command; needs --address to stop."),
    ] = Interrupt.DETACH,  # who only looks on stops nothing that another started
    timeout: Timeout = None,
    as_json: AsJson = False,
    result_file: ResultFile = None,
    output_dir: OutputDir = None,
) -> None:
    """Wait until a run has ended, whoever started it, show its result and exit with its own exit code."""
    check_writable(result_file, "--result-file")
    check_writable(output_dir, "--output-dir")
    with Signals("no longer waiting", GOES_ON) as signals:
        if address is not None:
            waiting = _waiting(timeout, on_interrupt, signals)
            place = place_of(storage, endpoint_url, region)
            found = api.wait_submitted(run, address=address, headers=headers or [], storage=place, waiting=waiting)
            _answer(found, as_json=as_json, result_file=result_file, output_dir=output_dir)
        refuse_without_address({"--header": headers, "--on-interrupt": on_interrupt is Interrupt.STOP or None})
        result = api.wait(
            run,
            storage=storage,
            endpoint_url=endpoint_url,
            region=region,
            timeout_s=timeout,
            on_note=tell,
            interruption=signals.interruption,
        )
    leave_result(result, result_file, output_dir)
    answer_result(result, as_json=as_json)
    raise typer.Exit(result.exit_code)


def status(run: str, address: str, headers: list[str] | None, place: dict[str, Any] | None, *, as_json: bool) -> None:
    """`status RUN --address`: the run's jobs, and the run as it is stored."""
    found = api.submitted_status(run, address=address, headers=headers or [], storage=place)
    if as_json:
        answer(json_line(asdict(found)))
        return
    facts: dict[str, object] = {"run_id": found.run_id, "run_key": found.run_key, "address": found.address}
    if found.run is not None:
        facts |= {"status": found.run.status, "starts": found.run.terms, "message": found.run.message}
    rows = [
        {
            "job": job.submission_id,
            "status": job.status.lower(),
            "exit code": job.exit_code,
            "started": _time(job.started_at),
            "ended": _time(job.ended_at),
            "because": job.reason if job.exit_code else None,
        }
        for job in found.jobs
    ]
    answer(plan_text({name: value for name, value in facts.items() if value is not None}, rows))


def logs(run: str, address: str, headers: list[str] | None, *, member: int | None, follow: bool) -> None:
    """`logs RUN --address`: the log of the run's driver; with a member the lines about it alone."""
    with Signals("no longer following the log", GOES_ON) as signals:
        api.submitted_log(
            run,
            address=address,
            headers=headers or [],
            follow=follow,
            member=member,
            on_line=answer,
            interruption=signals.interruption,
        )


def stop(run: str, address: str, headers: list[str] | None, place: dict[str, Any] | None) -> None:
    """`stop RUN --address`."""
    tell(f"run {run}: {api.stop_submitted(run, address=address, headers=headers or [], storage=place)}")


def refuse_without_address(options: dict[str, object]) -> None:
    """Refuse what only a job server takes, where none is named."""
    for name, value in options.items():
        if value is not None:
            raise InvalidJob("it goes to a job server, and none is named", where=name, hint="give --address too")


def place_of(storage: str, endpoint_url: str | None, region: str | None) -> dict[str, str | None] | None:
    """Where a run is stored, as a user says it; None, where nothing is said: what its job's metadata say."""
    if (storage, endpoint_url, region) == ("runs", None, None):
        return None
    return {"storage": storage, "endpoint_url": endpoint_url, "region": region}


def _waiting(timeout: float | None, on_interrupt: Interrupt | None, signals: Signals) -> api.Waiting:
    return api.Waiting(
        timeout_s=timeout,
        on_log=tell,
        on_note=tell,
        interruption=signals.interruption,
        on_interrupt=None if on_interrupt is None else "stop" if on_interrupt is Interrupt.STOP else "detach",
    )


def _answer(found: api.SubmittedRun, *, as_json: bool, result_file: Path | None, output_dir: Path | None) -> None:
    """Leave what came of a job where it was asked for, and exit with its code."""
    if found.reason is not None:
        tell(f"job {found.submission_id} on {found.address}: {found.reason}")
    if found.error is not None and found.error["error"] == "JobEnded":
        tell(f"  → {found.error['hint']}")
    if found.result is not None:
        leave_result(found.result, result_file, output_dir)
    elif found.error is not None:
        leave_told(found.error, result_file, output_dir)
    if as_json:
        answer(json_line(found.to_json()))
    elif found.result is not None:
        answer_result(found.result, as_json=False)
    elif found.submission_id is not None:
        answer(found.submission_id)
    raise typer.Exit(found.exit_code or 0)


def _time(at: float | None) -> str | None:
    return None if at is None else f"{datetime.fromtimestamp(at, UTC):%Y-%m-%d %H:%M:%S} UTC"
