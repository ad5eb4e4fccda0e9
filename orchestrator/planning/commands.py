"""What to do. `schedule.step` makes these; the controller and the cluster carry them out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from orchestrator.errors import OrchestratorError
from orchestrator.planning.events import Cause
from orchestrator.planning.packs import Pack, PackingRules


@dataclass(frozen=True)
class StartWorker:
    """Start a worker under this name; `num_cpus`: with so many cores instead of those that the cluster was given."""

    worker: str
    num_cpus: int | None = None


@dataclass(frozen=True)
class Preflight:
    """Check build, one batch, monitors, callbacks and labels before any member starts."""

    worker: str


@dataclass(frozen=True)
class Measure:
    """Do what `Preflight` asks for, then time a few steps of each kind of pack, and store nothing at all.

    Answered by `Measured`, or by `PreflightFailed`.
    """

    worker: str
    rules: PackingRules
    num_workers: int


@dataclass(frozen=True)
class LookAtTrials:
    """Build the models of trials that a search has added, for their packs to be decided. Answered by `TrialsSeen`."""

    worker: str
    trials: tuple[int, ...]


@dataclass(frozen=True)
class TrainPack:
    """Claim and train the named members of a pack, and publish their best models.

    The others of the pack are through: their rows are carried along, because a pack's size shapes its bits. `predict`:
    members that this worker published before; it predicts them first, without a round trip for each.
    """

    worker: str
    pack: Pack
    members: tuple[int, ...]
    predict: tuple[int, ...] = ()


@dataclass(frozen=True)
class SaveNow:
    """Publish the newest finished epoch as a checkpoint at once; unlike other commands it waits for nothing.

    The worker answers `Saved`. `stop`: it then gives up what it trains, at the next batch, and becomes idle.
    """

    worker: str
    stop: bool = False


@dataclass(frozen=True)
class PublishLate:
    """Claim the member and publish the best epoch of its newest verified checkpoint: the deadline has come."""

    worker: str
    member: int


@dataclass(frozen=True)
class Predict:
    """Reload the member's published best model and store its predictions."""

    worker: str
    member: int


@dataclass(frozen=True)
class KillWorker:
    """End the worker at once, whatever it does."""

    worker: str


@dataclass(frozen=True)
class RecordEnded:
    """Remember in the coordinator's log that an attempt ended, and why: budgets outlive the coordinator."""

    member: int
    attempt: int
    cause: Cause
    message: str


@dataclass(frozen=True)
class RecordPacked:
    """Remember in the coordinator's log how the members are packed: whoever resumes packs them the same way."""

    packs: tuple[Pack, ...]
    reason: str


@dataclass(frozen=True)
class ScorePrefix:
    """Score the ensemble of the first `num_members` members, whose last one predicted `predictions`.

    Asked for in the order of the index, one at a time; absent members are passed over. Answered by `PrefixScored`.
    """

    num_members: int
    predictions: Mapping[str, Mapping[str, object]]


@dataclass(frozen=True)
class RecordEnough:
    """Remember in the coordinator's log that the first `num_members` members make the ensemble."""

    num_members: int
    scores: tuple[float | None, ...]
    reason: str


@dataclass(frozen=True)
class AskTrials:
    """All trials of the search so far are through: record what it tries next. Answered by `TrialsAsked`.

    `predictions` are those of each trial that has a model.
    """

    predictions: Mapping[int, Mapping[str, Mapping[str, object]]]


@dataclass(frozen=True)
class Void:
    """Claim the member's log and take its `final` back: its bytes are gone, and it is trained again."""

    member: int
    reason: str


@dataclass(frozen=True)
class RecordFailed:
    """Claim the log of a member that is given up and record it: a lost worker of it is fenced for good."""

    member: int
    cause: Cause
    message: str


@dataclass(frozen=True)
class Note:
    """Tell the user."""

    text: str


@dataclass(frozen=True)
class Select:
    """All members are through and enough of them are good: fix the selection, evaluate, publish."""

    members: tuple[int, ...]
    reason: str


@dataclass(frozen=True)
class Abort:
    """End the run without a result; what is recorded stands."""

    error: OrchestratorError


WorkerCommand = (
    StartWorker | Preflight | Measure | LookAtTrials | TrainPack | SaveNow | PublishLate | Predict | KillWorker
)
Command = (
    WorkerCommand
    | RecordEnded
    | RecordPacked
    | ScorePrefix
    | RecordEnough
    | AskTrials
    | Void
    | RecordFailed
    | Note
    | Select
    | Abort
)
