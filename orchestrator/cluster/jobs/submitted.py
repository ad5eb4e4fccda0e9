"""Which jobs of a cluster belong to a run, and what a start does about them. Pure.

A run's jobs are called `<run key>-<number>`. The number is the term under which the job's driver will claim the run, so
far as that can be known from here: one more than the last term in the run's log and than the numbers that the cluster
has seen. Ray refuses a used id for ever.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

ENDED = frozenset({"SUCCEEDED", "FAILED", "STOPPED"})
"""Ray's statuses of a job that has ended."""

_NUMBERED = re.compile(r"(.+)-(\d{1,9})\Z", re.ASCII | re.DOTALL)


@dataclass(frozen=True)
class KnownJob:
    """A job that a cluster knows.

    Attributes:
        submission_id: its id.
        status: Ray's: PENDING, RUNNING, SUCCEEDED, FAILED or STOPPED.
        driver_exit_code, message: of its end, see `exit_code_of`.
        metadata: given with it; jobs of runs carry `run_id`, `run_key`, the job's name, and where the run is stored.
        started_at, ended_at: UTC epoch seconds by the head's clock.
    """

    submission_id: str
    status: str
    driver_exit_code: int | None = None
    message: str | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)
    started_at: float | None = None
    ended_at: float | None = None

    @property
    def is_live(self) -> bool:
        """Whether it has not ended."""
        return self.status not in ENDED

    @property
    def number(self) -> int:
        """Its number among the jobs of its run; 0 where its id has none."""
        match = _NUMBERED.match(self.submission_id)
        return int(match[2]) if match else 0

    @property
    def run_key(self) -> str:
        """The key of its run: as its metadata say, else what its id begins with."""
        match = _NUMBERED.match(self.submission_id)
        return self.metadata.get("run_key") or (match[1] if match else self.submission_id)

    @property
    def folder(self) -> str:
        """Where its run lies in storage: `<job>/<run key>`, or the run key alone where its metadata name no job."""
        return "/".join(name for name in (self.metadata.get("job"), self.run_key) if name)


def submission_id_of(run_key: str, number: int) -> str:
    """The id of a run's job; `run_key` is safe in URLs, see `RunLayout`."""
    return f"{run_key}-{number}"


def jobs_of(jobs: Iterable[KnownJob], run: str) -> tuple[KnownJob, ...]:
    """The jobs of a run, by number; of several runs, where jobs of other names or storage have the same run id.

    Args:
        jobs: all that the cluster knows.
        run: a run key, a run id, `<job>/<run key>`, or the submission id of one job, which is then the only one found.
    """
    jobs = list(jobs)
    named = [job for job in jobs if job.submission_id == run]
    found = named or [job for job in jobs if run in (job.run_key, job.metadata.get("run_id"), job.folder)]
    return tuple(sorted(found, key=lambda job: job.number))


def of_the_run_meant(jobs: Sequence[KnownJob]) -> list[KnownJob]:
    """The jobs of one run among those that its name has found; the last is the one to look at: live, or the newest.

    A live one is meant rather than what has ended; of several runs with as good a claim none is: the answer is empty.
    """
    ordered = sorted(jobs, key=lambda job: (job.is_live, job.number))
    *_, last = ordered
    own = [job for job in ordered if is_of_run(job, last.metadata)]
    return [] if any(job.is_live == last.is_live for job in ordered if job not in own) else own


def is_of_run(job: KnownJob, told: Mapping[str, str]) -> bool:
    """Whether a job that has a run's key is that run's, so far as both tell (`metadata_of`).

    A run id is a name among the runs of one job in one place: what a scheduler calls today's run, several may be.
    """
    return _agree(job.metadata, told, ("job", "storage", "storage_endpoint_url"))


def metadata_of(
    run_id: str,
    *,
    job: str,
    identity: str,
    code: str,
    storage: str,
    endpoint_url: str | None,
    region: str | None,
    version: str,
) -> dict[str, str]:
    """What the cluster tells of a run's job to everyone who asks: no secrets, which no part of these may hold.

    Args:
        run_id: as given.
        job: the name in the job file.
        identity: digest of what the run id stands for, but for the job's own code.
        code: digest of that.
        storage, endpoint_url, region: where the run is kept.
        version: of this package.
    """
    told = {"storage": storage, "storage_endpoint_url": endpoint_url, "storage_region": region}
    own = {"run_id": run_id, "job": job, "identity": identity, "code": code, "orchestrator": version}
    return {**own, **{name: text for name, text in told.items() if text}}


def is_same(job: KnownJob, told: Mapping[str, str], *, accept_code_change: bool) -> bool:
    """Whether a run's job is what somebody else would submit under its id, so far as both tell (`metadata_of`)."""
    return _agree(job.metadata, told, ("identity",) if accept_code_change else ("identity", "code"))


def _agree(some: Mapping[str, str], others: Mapping[str, str], names: Sequence[str]) -> bool:
    return all(some[name] == others[name] for name in names if name in some and name in others)


def storage_in(metadata: Mapping[str, str]) -> dict[str, str | None] | None:
    """Where a job's run is kept, as arguments of `api.stored.open_at`; None where its metadata do not say."""
    if "storage" not in metadata:
        return None
    return {
        "storage": metadata["storage"],
        "endpoint_url": metadata.get("storage_endpoint_url"),
        "region": metadata.get("storage_region"),
    }


def newest(jobs: Sequence[KnownJob]) -> KnownJob | None:
    """The job of a run to look at: the newest that lives, else the newest; None where there is none."""
    return next((job for job in reversed(jobs) if job.is_live), jobs[-1] if jobs else None)


def next_number(jobs: Iterable[KnownJob], last_term: int | None) -> int:
    """The number of a run's next job.

    Args:
        jobs: the run's.
        last_term: the last term in the run's log, 0 where there is none; None where it cannot be read from here.
    """
    return 1 + max([last_term or 0, *(job.number for job in jobs)])


def coordinates(job: KnownJob, last_term: int, *, has_ended: bool) -> bool:
    """Whether a live job's driver has become the run's coordinator, so that it hears what is asked through storage.

    A request that is older than a coordinator's claim was meant for another: it would not hear it.

    Args:
        job: a live one; where its metadata name no term, whoever submitted it could not read the log: nobody can tell.
        last_term: the last term in the run's log.
        has_ended: the log's last record says that its coordinator has left.
    """
    return not has_ended and "term" in job.metadata and last_term >= int(job.metadata["term"])
