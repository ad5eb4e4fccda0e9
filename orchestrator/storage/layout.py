"""The one place that knows how keys are spelled.

    <job>/<run key>/
      spec.json                          create-only: the resolved spec
      coord/log/<seq>.json               the coordinator's log
      coord/beat.json                    overwritten; liveness only, never safety
      control/stop-<nonce>.json          create-only requests
      members/<m>/log/<seq>.json         the log of member m
      members/<m>/<file>                 readable copies
      labels/<part>.parquet              readable copies of what members are scored on
      codes.json                         readable copy of the texts of columns that became codes
      blobs/<sha256>-<nonce>             immutable; means nothing unless a record names it
      attempts/<m>-<term>/               what one attempt writes besides
      results/<k>.json, result.json      copies of what `done` records say
      report.html
      tensorboard/<run>/                 event files: of each member, and of the ensemble
      probe/                             short-lived objects of the probe
    .data/<digest>/<job>/<run key>/<members>-<trials>
                                         marks of the runs that were scored on the rows of this digest

Names come from users and schedulers, so they are made safe here and nowhere else.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from dataclasses import dataclass

from orchestrator.errors import InvalidJob

NAME_PATTERN = r"^[a-z0-9][a-z0-9._-]{0,62}$"
TEMPORARY_PREFIX = ".tmp-"
"""Local stores start the names of unfinished files with this; no key may."""

_NAME = re.compile(NAME_PATTERN.removesuffix("$") + r"\Z")  # `$` would let a trailing newline through
_UNSAFE = re.compile(r"[^a-z0-9._-]+")
_DIGEST_CHARS = 10
_SLUG_CHARS = 63 - 1 - _DIGEST_CHARS
_RECORD_FILE = re.compile(r"(\d{8})\.json\Z", re.ASCII)
_LOG_FOLDER = re.compile(r"(coord|members/[^/]+)/log/")
_MEMBER_RECORD = re.compile(r"members/(\d{1,9})/log/(\d{8})\.json\Z", re.ASCII)
_ATTEMPT = re.compile(r"attempts/(\d{1,9})-(\d{1,9})/(.+)\Z", re.ASCII | re.DOTALL)
_MAX_RECORDS = 10**8


def new_nonce() -> str:
    """64 random bits as 16 hex characters: tells one write from any other."""
    return secrets.token_hex(8)


def check_key(key: str) -> str:
    """Return `key` if every store can hold it.

    Raises:
        ValueError: an empty, absolute or climbing key, or a name that local stores keep for themselves.
    """
    for name in key.split("/"):
        if name in ("", ".", "..") or name.startswith(TEMPORARY_PREFIX) or "\\" in name or "\0" in name:
            raise ValueError(f"{key!r} is no storage key: {name!r} cannot be a name in it")
    return key


def run_key(name: str, run_id: str, *, is_default: bool = False) -> str:
    """The folder name of a run; it always matches `NAME_PATTERN`.

    Two different ids never share a key: a given id ends in `-` and 10 hex digits of its sha256, a default id in `-`
    and 12.

    Args:
        name: the job's name; stands in where the id has no usable character.
        run_id: any string, for instance the run id of a workflow scheduler.
        is_default: the id was made by this package (`<name>-<12 hex digits>`), so it is used as it is when it fits.
    """
    if is_default and _NAME.match(run_id):
        return run_id
    slug = _slug(run_id) or _slug(name) or "run"
    digest = hashlib.sha256(run_id.encode("utf-8", "surrogatepass")).hexdigest()
    return f"{slug}-{digest[:_DIGEST_CHARS]}"


def _slug(text: str) -> str:
    return _UNSAFE.sub("-", text.lower()).lstrip("._-")[:_SLUG_CHARS].rstrip("._-")


def record_key(prefix: str, seq: int) -> str:
    """The key of record `seq` (from 0) in the log at `prefix`."""
    if not 0 <= seq < _MAX_RECORDS:
        raise ValueError(f"record number {seq} is outside 0…{_MAX_RECORDS - 1}")
    return f"{prefix}/{seq:08d}.json"


def record_seq(prefix: str, key: str) -> int | None:
    """The record number that `key` stands for in the log at `prefix`; None for a key that is not one of its records."""
    folder, _, file = key.rpartition("/")
    match = _RECORD_FILE.match(file)
    return int(match[1]) if folder == prefix and match else None


def looks_at(rows: str) -> str:
    """Prefix of the marks of all runs scored on the rows of this digest. (No job's name begins with a dot.)"""
    return check_key(f".data/{rows}")


@dataclass(frozen=True)
class AttemptFile:
    """A file that one attempt at a member left: `name` is what follows the attempt's prefix."""

    member: int
    term: int
    name: str


@dataclass(frozen=True)
class RunLayout:
    """All keys of one run.

    Args:
        job: the job's name.
        run_key: what `run_key` returned.

    Raises:
        InvalidJob: a name that is not safe in a key.
    """

    job: str
    run_key: str

    def __post_init__(self) -> None:
        for what, name in (("job name", self.job), ("run key", self.run_key)):
            if not _NAME.match(name):
                raise InvalidJob(
                    f"{name!r} cannot be a {what}",
                    hint="use 1 to 63 of a-z 0-9 . _ - and start with a letter or digit",
                )

    @classmethod
    def of_spec(cls, key: str) -> RunLayout | None:
        """The run whose `spec.json` stands at `key`; None for any other key, foreign objects included."""
        parts = key.split("/")
        if len(parts) != 3 or parts[2] != "spec.json" or not all(_NAME.match(part) for part in parts[:2]):
            return None
        return cls(parts[0], parts[1])

    @property
    def root(self) -> str:
        return f"{self.job}/{self.run_key}"

    @property
    def spec(self) -> str:
        return f"{self.root}/spec.json"

    @property
    def result(self) -> str:
        return f"{self.root}/result.json"

    @property
    def report(self) -> str:
        return f"{self.root}/report.html"

    @property
    def tensorboard(self) -> str:
        """Prefix of the event files that TensorBoard reads."""
        return f"{self.root}/tensorboard"

    def event_file(self, run: str) -> str:
        """The event file of one of TensorBoard's runs, such as `member-3`; it finds them by `tfevents` in the name."""
        return check_key(f"{self.tensorboard}/{run}/events.out.tfevents.0")

    @property
    def coord_log(self) -> str:
        """Prefix of the coordinator's log."""
        return f"{self.root}/coord/log"

    @property
    def beat(self) -> str:
        return f"{self.root}/coord/beat.json"

    @property
    def control(self) -> str:
        """Prefix of requests to the coordinator."""
        return f"{self.root}/control"

    @property
    def members(self) -> str:
        """Prefix of everything that belongs to single members."""
        return f"{self.root}/members"

    @property
    def probe(self) -> str:
        """Prefix of the probe's short-lived objects."""
        return f"{self.root}/probe"

    def stop_request(self, nonce: str) -> str:
        return f"{self.control}/stop-{nonce}.json"

    def member_log(self, member: int) -> str:
        """Prefix of a member's log."""
        return f"{self.members}/{member}/log"

    def member_record(self, key: str) -> tuple[int, int] | None:
        """Whose log `key` is a record of, and the record's number; None when it is none of a member."""
        match = _MEMBER_RECORD.match(key.removeprefix(f"{self.root}/"))
        return (int(match[1]), int(match[2])) if match and key.startswith(f"{self.root}/") else None

    def member_copy(self, member: int, filename: str) -> str:
        """A readable copy of a member's file, for instance `best.keras`."""
        return check_key(f"{self.members}/{member}/{filename}")

    def labels_copy(self, part: str) -> str:
        """The readable copy of a part's labels (`planning.outputs`), row by row as in the members' predictions."""
        return check_key(f"{self.root}/labels/{part}.parquet")

    @property
    def codes(self) -> str:
        """The readable copy of the texts of each column that became codes, in the order of these."""
        return f"{self.root}/codes.json"

    def log_of(self, key: str) -> str | None:
        """Prefix of the log, the coordinator's or a member's, in whose folder `key` is; None when it is in none."""
        match = _LOG_FOLDER.match(key.removeprefix(f"{self.root}/"))
        return f"{self.root}/{match[1]}/log" if match and key.startswith(f"{self.root}/") else None

    @property
    def attempts(self) -> str:
        """Prefix of what all attempts write besides their records."""
        return f"{self.root}/attempts"

    def attempt_prefix(self, member: int, term: int) -> str:
        """Prefix of what one attempt at a member writes besides its records."""
        return f"{self.attempts}/{member}-{term}"

    def attempt_file(self, key: str) -> AttemptFile | None:
        """What `key` is as a file of an attempt; None when it is none."""
        match = _ATTEMPT.match(key.removeprefix(f"{self.root}/"))
        if match is None or not key.startswith(f"{self.root}/"):
            return None
        return AttemptFile(int(match[1]), int(match[2]), match[3])

    @property
    def blobs(self) -> str:
        """Prefix of all blobs."""
        return f"{self.root}/blobs"

    def blob(self, sha256: str, nonce: str) -> str:
        """A fresh key for immutable bytes: the nonce keeps two uploads of the same bytes apart."""
        return f"{self.blobs}/{sha256}-{nonce}"

    def look(self, rows: str, members: int, trials: int) -> str:
        """This run's mark at the rows of this digest, on which it is scored."""
        return f"{looks_at(rows)}/{self.root}/{members}-{trials}"

    def results(self, k: int) -> str:
        """Copy of the k-th result: a run that grows has several."""
        return f"{self.root}/results/{k}.json"
