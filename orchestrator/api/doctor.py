"""Is everything there that a run needs: on this machine, on a cluster's nodes, in storage? Nothing is mended here.

Ray is imported inside the functions.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeVar

from orchestrator.api.planned import plan
from orchestrator.api.submitted import check_place
from orchestrator.cluster.authentication import Caution, Means, read_means
from orchestrator.cluster.door import cautions_at
from orchestrator.cluster.jobs.decisions import parse_headers, resolve_address
from orchestrator.cluster.node_facts import facts_here
from orchestrator.errors import (
    AccessDenied,
    ClusterUnavailable,
    InvalidJob,
    OrchestratorError,
    StoreUnavailable,
    TimedOut,
)
from orchestrator.planning.checkup import (
    CLEARING,
    DEADLINE_S,
    Asked,
    Finding,
    Gpus,
    MachineReport,
    Right,
    error_in,
    findings_in,
    judge,
    of_error,
    skew_s,
)
from orchestrator.planning.ports import Store
from orchestrator.spec import Job, StorageSpec, TrainSpec, load_job, needed_modules
from orchestrator.spec.modules import locate
from orchestrator.spec.urls import ray_address_problem
from orchestrator.storage.layout import new_nonce
from orchestrator.storage.open import open_store
from orchestrator.storage.parallel import in_background
from orchestrator.storage.probe import probe
from orchestrator.storage.rights import check_rights, leave_mark
from orchestrator.storage.s3 import S3Store

HERE = "this machine"
_ROUNDS = 8
"""Checks that follow one another where the cluster is asked, its start of the driver included."""

_CHECKS: dict[type[OrchestratorError], str] = {AccessDenied: "authentication", InvalidJob: "versions"}
"""What has failed where a cluster cannot be joined; otherwise it is out of reach."""

_THERE = "the cluster's driver"
_RACE = "create-only in a race"

T = TypeVar("T")


@dataclass(frozen=True)
class _Subject:
    """What of a job is looked at; nothing without one."""

    storage: StorageSpec | None = None
    folder: str = ""
    modules: tuple[str, ...] = ()
    train: TrainSpec = field(default_factory=TrainSpec)


@dataclass(frozen=True)
class _Storage:
    """What this machine found out about storage."""

    rights: tuple[Right, ...] = ()
    mark: str | None = None
    server_ahead_s: float | None = None


def doctor(
    job_path: str | None = None,
    *,
    overrides: Sequence[str] = (),
    address: str | None = None,
    modules: Sequence[str] = (),
    root: str | None = None,
    deadline_s: float = DEADLINE_S,
) -> tuple[Finding, ...]:
    """Check versions, GPUs, storage rights, clocks, authentication, disks and the job's modules.

    Args:
        job_path: the job file whose storage, modules and cluster are looked at; None: the machines alone.
        overrides: `key=value` for the job.
        address: of a running cluster, as `ray.address`, default the job's; or `http://HEAD:8265`, a job server: then
            the same check is submitted there, with the job's folder.
        modules: that must be found on every node, besides those that the job names and those of its own that they
            import.
        root: folder from which the job's modules are imported; default the working directory.
        deadline_s: seconds for each check.

    Returns:
        What was found, check by check; `planning.checkup.exit_code` sums it up.

    Raises:
        InvalidJob: the job itself is wrong, or the address is none.
    """
    root = root or str(Path.cwd())
    job = None if job_path is None else load_job(job_path, overrides)
    subject = _Subject() if job is None else _subject(job, root)
    subject = replace(subject, modules=tuple(sorted({*subject.modules, *modules})))
    address = address or (job.ray.address if job is not None else None)
    if address is not None and address.startswith(("http://", "https://")):
        if job is not None:
            check_place(job)
        command = ["doctor", *_of_job(job_path, overrides, root), *(f"--module={name}" for name in subject.modules)]
        return _over_job_server(resolve_address(address, {}), command, root if subject.modules else None, deadline_s)
    if address is not None and (problem := ray_address_problem(address)):
        raise InvalidJob(problem, where=f"--address {address}")
    return _from_here(subject, address, root, deadline_s)


def _from_here(subject: _Subject, address: str | None, root: str, deadline_s: float) -> tuple[Finding, ...]:
    here = replace(_facts(), missing_modules=tuple(name for name in subject.modules if locate(name, root) is None))
    found = _Storage()
    nodes: list[MachineReport] = []
    findings: list[Finding] = []
    store = None if subject.storage is None else _open(subject.storage)
    try:
        if store is not None:
            found = _check_storage(store, subject.folder, deadline_s)
            here = replace(here, rights=found.rights)
        if address is None:
            here = replace(here, gpus=_own_gpus(here.gpus, subject.train, deadline_s))
        else:
            nodes, findings = _ask_cluster(address, subject, found.mark, root, deadline_s)
    finally:
        if store is not None and found.mark is not None:
            with suppress(OrchestratorError):  # a leftover of some bytes must not hide what was found
                store.delete(found.mark)
    asked = Asked(
        backend=subject.train.backend,
        storage=None if store is None else store.url,
        on_s3=isinstance(store, S3Store),
        server_ahead_s=found.server_ahead_s,
        modules=subject.modules,
        of_cluster=address is not None,
        some_silent=any((finding.check, finding.level) == ("nodes", "problem") for finding in findings),
    )
    return (*findings, *judge(here, nodes, asked))


def _subject(job: Job, root: str) -> _Subject:
    request = plan(job, root=root).request
    return _Subject(request.job.storage, request.layout.probe, needed_modules(job, root), job.train)


def _open(place: StorageSpec) -> Store:
    return open_store(place.url, endpoint_url=place.endpoint_url, region=place.region)


def _facts() -> MachineReport:
    facts = facts_here()
    gpus = Gpus(installed=facts["installed_gpus"])
    return MachineReport(HERE, facts["versions"], facts["scratch"], facts["free_bytes"], gpus=gpus)


def _check_storage(store: Store, folder: str, deadline_s: float) -> _Storage:
    """This machine's rights, the promises of the store, its server's clock, and a mark for other machines to see."""

    def look() -> _Storage:
        rights = check_rights(store, folder, None)
        if any(right.error for right in rights if right.name != CLEARING):
            return _Storage(rights)
        try:
            probe(store, folder)
            return _Storage((*rights, Right(_RACE)), leave_mark(store, folder), _server_ahead_s(store))
        except OrchestratorError as error:
            return _Storage((*rights, Right(_RACE, error)))

    late = StoreUnavailable(f"no answer within {deadline_s:g} s", hint="check the endpoint and the network")
    return _within(deadline_s, look, _Storage((Right("answer", late),)))


def _server_ahead_s(store: Store) -> float | None:
    if not isinstance(store, S3Store):
        return None
    sent_at = time.time()
    there = store.server_time()
    return skew_s(sent_at, there + 0.5, time.time())  # it tells whole seconds


def _own_gpus(gpus: Gpus, train: TrainSpec, deadline_s: float) -> Gpus:
    """Whether a worker on this machine would see a GPU: asked in a process of its own, and only where one is."""
    if not gpus.installed:
        return gpus
    code = "import sys; from orchestrator.cluster.doctor import sees_gpu; from orchestrator.spec import TrainSpec; "
    code += "sys.exit(0 if sees_gpu(TrainSpec.model_validate_json(sys.argv[1])) else 3)"
    try:
        command = [sys.executable, "-c", code, train.model_dump_json()]
        ended = subprocess.run(command, capture_output=True, text=True, timeout=deadline_s, check=False)
    except subprocess.TimeoutExpired:
        return replace(gpus, silence=f"the backend does not start within {deadline_s:g} s")
    if ended.returncode not in (0, 3):
        return replace(gpus, silence=f"the backend does not start: {ended.stderr.strip()[-300:]}")
    return replace(gpus, seen=ended.returncode == 0)


def _ask_cluster(
    address: str, subject: _Subject, mark: str | None, root: str, deadline_s: float
) -> tuple[list[MachineReport], list[Finding]]:
    from orchestrator.cluster.doctor import Examination, examine
    from orchestrator.cluster.session import connect

    try:
        session = connect(address, root if subject.modules else None)
    except OrchestratorError as error:
        return [], [of_error(_CHECKS.get(type(error), "cluster"), address, error)]
    try:
        guarded = _guarded(session.cautions, read_means(os.environ), address)
        asked = Examination(subject.storage, subject.folder, mark, subject.modules, subject.train)
        reports, troubles = examine(session, asked, deadline_s=deadline_s)
        return reports, [*guarded, *troubles]
    except ClusterUnavailable as error:
        return [], [of_error("cluster", address, error)]
    finally:
        session.close()


def _guarded(found: Iterable[Caution], means: Means, address: str) -> list[Finding]:
    """How the cluster is guarded, of one that lets us in."""
    warnings = [Finding("authentication", "warning", each.where, each.what, each.hint) for each in found]
    shown = means.shown_to(address)
    what = f"it takes the token in {shown.source}" if shown else "it asks for no token, and is on this machine alone"
    return warnings or [Finding("authentication", "ok", address, what)]


def _of_job(job_path: str | None, overrides: Sequence[str], root: str) -> list[str]:
    """How the job is named on the cluster, in the folder that is shipped."""
    from orchestrator.cluster.jobs.submission import job_path_in

    return [] if job_path is None else [job_path_in(root, job_path), *overrides]


def _over_job_server(
    address: str, command: Sequence[str], folder: str | None, deadline_s: float
) -> tuple[Finding, ...]:
    """How the job server is guarded, and what the same check finds when it runs on the cluster, with that folder."""
    try:
        means = read_means(os.environ)
        guarded: list[Finding] = []
        if not parse_headers((), os.environ):  # a door that opens to a header cannot be judged by who knocks without
            guarded = _guarded(cautions_at(address, means), means, address)
        return (*guarded, *_submitted(address, command, folder, deadline_s))
    except OSError as error:
        away = ClusterUnavailable(f"the cluster's job server is out of reach ({error})", hint="is the port forwarded?")
        return (of_error("cluster", address, away),)
    except AccessDenied as error:
        return (of_error("authentication", address, error),)
    except ClusterUnavailable as error:
        return (of_error("cluster", address, error),)


def _submitted(address: str, command: Sequence[str], folder: str | None, deadline_s: float) -> tuple[Finding, ...]:
    """Submit this check to the cluster, and return what it found there."""
    from orchestrator.cluster.jobs import submission as jobs
    from orchestrator.cluster.jobs.server import open_job_server

    server = open_job_server(address, (), os.environ)
    lines: list[str] = []
    with TemporaryDirectory() as empty:
        submission = jobs.submit_job(
            server,
            run_key=f"doctor-{new_nonce()}",
            entrypoint=["python", "-m", "orchestrator", *command, "--address", "auto", "--json"],
            working_dir=folder or empty,
        )
    try:
        end = jobs.wait_for(server, submission.submission_id, timeout_s=_ROUNDS * deadline_s, on_log=lines.append)
        code = end.exit_code
    except TimedOut:
        lines, code = [f"nothing within {_ROUNDS * deadline_s:g} s"], 75
    found = next((found for line in reversed(lines) if (found := findings_in(line))), None)
    error = next((error for line in reversed(lines) if (error := error_in(line, _THERE))), None)
    if found is None and error is not None:
        return (error,)
    if found is None:
        said = next((line for line in reversed(lines) if line.strip()), "nothing")
        hint = "is this package, in this version, installed on the cluster's head?"
        what = f"the check that was submitted did not come to its end; it said: {said}"
        return (Finding("nodes", "problem", address, what, hint, retryable=code == 75),)
    return tuple(
        replace(each, where=_THERE) if each.where == HERE else each
        for each in found
        if (each.check, each.level) != ("authentication", "ok")  # it is told already, as seen from here
    )


def _within(deadline_s: float, call: Callable[[], T], otherwise: T) -> T:
    try:
        return in_background(call).result(deadline_s)
    except TimeoutError:
        return otherwise
