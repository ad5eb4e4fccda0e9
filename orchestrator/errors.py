"""One tree of errors. Each says what is wrong, where, and how to mend it; its class says whether a retry can help.

    OrchestratorError                 exit  1   a bug of ours, when nothing more exact is raised
    ├── InvalidInput                  exit  2   never worth a retry
    │   ├── InvalidJob                          the job file, an override, a name, a command line
    │   ├── InvalidModel                        the build function, or the model it returned
    │   ├── InvalidData                         the data function, or the arrays it returned
    │   ├── InvalidCluster                      the cluster launcher file
    │   ├── IdentityChanged                     the run id exists with another job, code or data
    │   ├── UnsupportedStore                    a store that ignores create-only writes, or cannot be written
    │   ├── AccessDenied                        wrong or missing credentials or permissions
    │   └── DamagedStore                        a log with a gap or garbage, a blob that does not match its sha256
    ├── QuorumMissed                  exit  4   too few members
    ├── TryAgain                      exit 75   the scheduler may retry
    │   ├── StoreUnavailable                    storage out of reach, or a write whose outcome is unknown
    │   ├── ClusterUnavailable                  Ray out of reach, or no node that fits the demand
    │   ├── CredentialsExpired                  storage or a cluster refuses in mid-run what it granted at the start
    │   ├── RunHeld                             the run has a live coordinator, and `--no-attach` was given
    │   ├── RunEnded                            the run that was attached to ended so; exit code as recorded
    │   └── Fenced                              a successor holds the log: this writer must end
    ├── TimedOut                      exit 124  `--timeout`
    ├── Interrupted                   exit 130 / 143   SIGINT / SIGTERM
    └── MissingObject                 (internal) no object under that key

Errors travel between processes, so they pickle with their fields.
"""

from __future__ import annotations


class OrchestratorError(Exception):
    """Base of all errors this package raises on purpose.

    Args:
        what: one sentence: what is wrong.
        where: the place: `file:line: key.path`, a run, member, attempt or storage key.
        hint: how to mend it.
    """

    exit_code: int = 1
    retryable: bool = False

    def __init__(self, what: str, *, where: str | None = None, hint: str | None = None) -> None:
        super().__init__(what)
        self.what = what
        self.where = where
        self.hint = hint

    def __str__(self) -> str:
        text = f"{self.where}: {self.what}" if self.where else self.what
        return f"{text}\n  → {self.hint}" if self.hint else text

    def __reduce__(self) -> tuple[object, ...]:
        return (_rebuild, (type(self), self.what, self.where, self.hint, dict(self.__dict__)))


def _rebuild(
    cls: type[OrchestratorError], what: str, where: str | None, hint: str | None, state: dict[str, object]
) -> OrchestratorError:
    error = cls(what, where=where, hint=hint)
    error.__dict__.update(state)
    return error


class InvalidInput(OrchestratorError):
    """The request itself is wrong: a retry gives the same answer."""

    exit_code = 2


class InvalidJob(InvalidInput):
    """The job file, an override, a name or the command line is wrong."""


class InvalidModel(InvalidInput):
    """The build function is missing, raises, or returns something that cannot be trained."""


class InvalidData(InvalidInput):
    """The data function is missing, raises, or returns arrays that cannot be used."""


class InvalidCluster(InvalidInput):
    """The cluster launcher file cannot be read."""


class IdentityChanged(InvalidInput):
    """The run id is known with another job, code or data."""


class UnsupportedStore(InvalidInput):
    """The store cannot keep the promises: not writable, or create-only writes are ignored."""


class AccessDenied(InvalidInput):
    """Credentials or permissions are wrong or missing."""


class DamagedStore(InvalidInput):
    """What is stored contradicts itself: it is refused loudly, never guessed at."""


class QuorumMissed(OrchestratorError):
    """Fewer members than the quorum ended well."""

    exit_code = 4


class TryAgain(OrchestratorError):
    """Nothing is wrong with the request; the same start may succeed later."""

    exit_code = 75
    retryable = True


class StoreUnavailable(TryAgain):
    """Storage is out of reach, or a write whose outcome is unknown."""


class ClusterUnavailable(TryAgain):
    """Ray is out of reach, or no node fits the demand within the time allowed."""


class CredentialsExpired(TryAgain):
    """Storage, or a cluster's job server, refuses in mid-run what it granted at the start."""


class RunHeld(TryAgain):
    """The run has a live coordinator, and this start was asked not to attach to it."""


class RunEnded(TryAgain):
    """The coordinator that this start was attached to ended the run without a result; its exit code is taken over."""


class Fenced(TryAgain):
    """A successor has claimed the log: whatever this writer still does is void, and it must end."""


class TimedOut(OrchestratorError):
    """The time given by `--timeout` is over."""

    exit_code = 124
    retryable = True


class Interrupted(OrchestratorError):
    """A signal or a stop request ended the run; what is recorded stands."""

    exit_code = 143
    retryable = True

    def __init__(
        self, what: str, *, where: str | None = None, hint: str | None = None, signal_number: int = 15
    ) -> None:
        super().__init__(what, where=where, hint=hint)
        self.exit_code = 128 + signal_number


class MissingObject(OrchestratorError):
    """No object is stored under that key."""
