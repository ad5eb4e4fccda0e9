"""A finished run in MLflow: a parent run with one nested run per member. Nothing else imports MLflow (extra `mlflow`).

Where to is MLflow's own business: MLFLOW_TRACKING_URI, credentials, MLFLOW_EXPERIMENT_NAME (else the job's name).
"""

from __future__ import annotations

import json
import os
import re
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from itertools import zip_longest
from pathlib import Path
from typing import Any, TypeVar, get_args

from orchestrator.errors import InvalidJob, StoreUnavailable
from orchestrator.reporting.experiment import Experiment, Trace
from orchestrator.reporting.result import Result
from orchestrator.reporting.scores import FigureName
from orchestrator.storage.redact import redact

T = TypeVar("T")
Point = tuple[str, float, float, int]
"""A metric: name, value, UTC epoch seconds, step."""

RESULT_TAG = "orchestrator.result_sha256"
"""By this a parent run is found again: one for each result, whoever logs it and however often."""

MEMBER_TAG = "orchestrator.member"
LIMIT_S = 120.0
"""How long logging may hold up the end of a run; a later `report --mlflow` goes on where it stopped."""

_MANNERS = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",  # only the result belongs there
}
"""MLflow's settings where the user has none: its own would wait ten minutes for a server that is away."""

_ENDS = {"succeeded": "FINISHED", "late": "FINISHED", "diverged": "FAILED", "failed": "FAILED"}
_UNSAFE = re.compile(r"[^\w.\- /:]")
_MAX_PARAMS, _MAX_METRICS = 100, 900  # of a request: MLflow takes 100 and 1,000, and 1,000 of both together
_MAX_PARAM_CHARS = 6000


def require_mlflow() -> None:
    """Refuse a job that asks for MLflow where there is none.

    Raises:
        InvalidJob: MLflow is not installed.
    """
    found = find_spec("mlflow")
    if found is None or found.origin is None:  # a folder `mlflow` in the working directory is none
        raise InvalidJob(
            "MLflow is not installed where the coordinator runs",
            where="report.mlflow",
            hint="install the extra `mlflow` (mlflow-skinny, sqlalchemy, alembic), or leave report.mlflow out",
        )


def log_to_mlflow(experiment: Experiment, job: str, files: Mapping[str, bytes], *, limit_s: float | None = None) -> str:
    """Log a finished run: once, however often this is called. What an earlier call left unfinished is finished.

    Args:
        experiment: the run.
        job: name of MLflow's experiment, unless the environment names one.
        files: artefacts of the parent run, by file name.
        limit_s: give up between two members after so many seconds; None: never.

    Returns:
        MLflow's id of the parent run.

    Raises:
        InvalidJob: MLflow is not installed, or not all that it needs.
        StoreUnavailable: its server is away, refuses, or is too slow.
    """
    require_mlflow()
    with _mannered():
        from mlflow.exceptions import MlflowException
        from mlflow.tracking import MlflowClient

        give_up_at = None if limit_s is None else time.monotonic() + limit_s
        try:
            return _Logger(MlflowClient(), experiment, job).log(files, give_up_at)
        except (MlflowException, OSError) as error:  # what `requests` raises is an OSError
            raise StoreUnavailable(
                redact(f"MLflow cannot be written: {error}", os.environ),
                where="report.mlflow",
                hint="check MLFLOW_TRACKING_URI and its server",
            ) from None  # what the client says may quote the password in its URL
        except ImportError as error:
            raise InvalidJob(
                f"MLflow lacks a package for where it is to write: {error}",
                where="report.mlflow",
                hint="install it beside MLflow; boto3, for instance, for artefacts on S3",
            ) from error


@contextmanager
def _mannered() -> Iterator[None]:
    added = {name: value for name, value in _MANNERS.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            os.environ.pop(name, None)


class _Logger:
    """Writes one run. A run of MLflow's counts as written once it has ended: until then it is written anew."""

    def __init__(self, client: Any, experiment: Experiment, job: str) -> None:
        self._client = client
        self._experiment = experiment
        self._home = _home(client, job)

    def log(self, files: Mapping[str, bytes], give_up_at: float | None) -> str:
        found = self._search(f"tags.`{RESULT_TAG}` = '{self._experiment.result_sha256}'")
        parent = found[0] if found else self._create_parent()
        run_id = str(parent.info.run_id)
        if parent.info.status == "FINISHED":
            return run_id
        written = self._written_members(run_id)
        for trace in self._experiment.members:
            if give_up_at is not None and time.monotonic() > give_up_at:
                raise StoreUnavailable(
                    f"MLflow is slow: {len(written)} of {len(self._experiment.members)} members are there",
                    where="report.mlflow",
                )
            if trace.member.index not in written:
                self._write_member(run_id, trace)
                written.add(trace.member.index)
        self._write_parent(parent, files)
        return run_id

    def _create_parent(self) -> Any:
        result, experiment = self._experiment.result, self._experiment
        tags = {
            RESULT_TAG: experiment.result_sha256,
            "orchestrator.run": experiment.root,
            "orchestrator.run_id": result.run_id,
            "orchestrator.status": result.status,
        }
        return self._client.create_run(
            self._home, start_time=_ms(experiment.began_at), tags=tags, run_name=result.run_id
        )

    def _written_members(self, parent: str) -> set[int]:
        """Indices of the members that are there; the one that was being written when a predecessor ended goes."""
        written = set()
        for run in self._search(f"tags.`mlflow.parentRunId` = '{parent}'"):
            member = run.data.tags.get(MEMBER_TAG)
            if member is None:  # somebody else's
                continue
            if run.info.status == "RUNNING":
                self._client.delete_run(run.info.run_id)
            else:
                written.add(int(member))
        return written

    def _write_member(self, parent: str, trace: Trace) -> None:
        member = trace.member
        tags = {
            "mlflow.parentRunId": parent,
            MEMBER_TAG: str(member.index),
            "orchestrator.status": member.status,
            "orchestrator.engine": member.engine,
        }
        run = self._client.create_run(
            self._home, start_time=_ms(trace.began_at), tags=tags, run_name=trace.name
        ).info.run_id
        points = [(name, value, at, epoch) for epoch, at, metrics in trace.epochs() for name, value in metrics.items()]
        best = member.best_epoch or 0
        points += [(name, value, trace.ended_at, best) for name, value in trace.scores().items()]
        self._write(run, trace.params(), points)
        self._client.set_terminated(run, _ENDS.get(member.status, "KILLED"), end_time=_ms(trace.ended_at))

    def _write_parent(self, parent: Any, files: Mapping[str, bytes]) -> None:
        run, experiment = parent.info.run_id, self._experiment
        points: list[Point] = [
            (f"{figure}/{name}", value, experiment.ended_at, 0)
            for figure in get_args(FigureName)
            for name, value in experiment.scores(figure).items()
        ]
        for size, scores in experiment.curve():
            points += [(name, value, experiment.ended_at, size) for name, value in scores.items()]
        there = parent.data.metrics  # from a predecessor that was ended before it could say so
        self._write(run, _parent_params(experiment.result), [point for point in points if _key(point[0]) not in there])
        with tempfile.TemporaryDirectory() as folder:
            for name, body in files.items():
                path = Path(folder, name)
                path.write_bytes(body)
                self._client.log_artifact(run, str(path))
        self._client.set_terminated(run, "FINISHED", end_time=_ms(experiment.ended_at))

    def _write(self, run: str, params: Mapping[str, object], points: Sequence[Point]) -> None:
        from mlflow.entities import Metric, Param

        told = [Param(_key(name), str(value)[:_MAX_PARAM_CHARS]) for name, value in params.items()]
        metrics = [Metric(_key(name), value, _ms(at), step) for name, value, at, step in points]
        for some_metrics, some_params in zip_longest(_slices(metrics, _MAX_METRICS), _slices(told, _MAX_PARAMS)):
            self._client.log_batch(run, metrics=some_metrics or (), params=some_params or ())

    def _search(self, query: str) -> list[Any]:
        found: list[Any] = []
        token: str | None = None
        while True:
            page = self._client.search_runs([self._home], query, page_token=token)
            found += page
            token = page.token
            if not token:
                return found


def _home(client: Any, job: str) -> str:
    """The id of MLflow's experiment; it is created should it be missing."""
    from mlflow.exceptions import MlflowException

    if "MLFLOW_EXPERIMENT_ID" in os.environ:
        return os.environ["MLFLOW_EXPERIMENT_ID"]
    name = os.environ.get("MLFLOW_EXPERIMENT_NAME", job)
    found = client.get_experiment_by_name(name)
    if found is not None:
        return str(found.experiment_id)
    try:
        return str(client.create_experiment(name))
    except MlflowException:
        found = client.get_experiment_by_name(name)  # another run of the job may have been quicker
        if found is None:
            raise
        return str(found.experiment_id)


def _parent_params(result: Result) -> dict[str, object]:
    versions = {f"version.{name}": version for name, version in result.versions.items()}
    return {
        "members": len(result.members),
        "task": result.task if isinstance(result.task, str) else json.dumps(result.task),
        "combine": result.combine,
        "missing": json.dumps(result.missing),
        "spec_digest": result.spec_digest,
        "code_digest": result.code_digest,
        "data_fingerprint": result.data_fingerprint,
        **versions,
    }


def _key(name: str) -> str:
    """A name that MLflow takes: a metric of Keras may have any."""
    return _UNSAFE.sub("_", name)[:250]


def _ms(at: float) -> int:
    return int(at * 1000)


def _slices(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    return (items[start : start + size] for start in range(0, len(items), size))
