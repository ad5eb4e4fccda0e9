"""What happened. Workers and adapters make these; `schedule.step` reads them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from orchestrator.errors import OrchestratorError
from orchestrator.planning.estimate import PackTiming
from orchestrator.planning.packs import Architecture, Pack
from orchestrator.planning.placement import ClusterShape
from orchestrator.planning.plan import Plan


class Cause(StrEnum):
    """Why an attempt ended without a result; each has its own budget."""

    USER_ERROR = "user_error"
    OUT_OF_MEMORY = "out_of_memory"
    CRASH = "crash"
    STALL = "stall"
    PREEMPTED = "preempted"
    NODE_LOST = "node_lost"
    DAMAGED = "damaged"
    """What the member had published is gone or damaged: it is trained again."""


@dataclass(frozen=True)
class DataLoaded:
    """The data is in the cluster.

    Attributes:
        fingerprint: of all of it.
        rows: how many there are, by split.
        row_digests: of the rows of each split that members are scored on: equal ones were looked at by other runs too.
        class_names: of each output whose labels were texts, in the order of their codes.
    """

    fingerprint: str
    rows: Mapping[str, int]
    row_digests: Mapping[str, str] = field(default_factory=dict)
    class_names: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class DataFailed:
    """The data cannot be loaded or used."""

    error: OrchestratorError


@dataclass(frozen=True)
class WorkerReady:
    """The worker runs and waits for work; TensorFlow may still be loading behind it."""

    worker: str
    node: str
    pid: int


@dataclass(frozen=True)
class WorkerLost:
    """The worker's process, or its node, is gone."""

    worker: str
    cause: Cause
    message: str


@dataclass(frozen=True)
class PreflightPassed:
    """Everything that can be checked before training holds.

    Attributes:
        tasks: what each output is asked to tell, see `ensemble.tasks.TaskKind`; by name, see `planning.outputs`, in the
            order of the model. A model with one output has it under `ONLY`.
        device: `cpu` or `gpu`, what the workers train on.
        deterministic: whether the workers run in deterministic mode.
        versions: of the packages that shape the numbers.
        labels: references of the stored labels, by part (`planning.outputs`): what members are scored on.
        architectures: of the members that may be packed with others.
        examples: references of stored examples, by split: what a report shows of the inputs, see `storage.examples`.
        codes: reference of the stored texts of columns that became codes; None: there are none.
    """

    worker: str
    tasks: Mapping[str, str]
    device: str
    deterministic: bool
    versions: Mapping[str, str]
    labels: Mapping[str, Mapping[str, object]]
    architectures: Mapping[int, Architecture] = field(default_factory=dict)
    examples: Mapping[str, Mapping[str, object]] = field(default_factory=dict)
    codes: Mapping[str, object] | None = None


@dataclass(frozen=True)
class PreflightFailed:
    """The job cannot train as it is: model, data or settings are wrong."""

    worker: str
    error: OrchestratorError


@dataclass(frozen=True)
class Measured:
    """The answer to `Measure`.

    Attributes:
        device: what the worker trains on, as in `PreflightPassed`.
        packs, reason: those of a run, and why they are as they are.
        timings: of each pack, by its index.
        import_s, preflight_s, packs_s: what the worker took to start, to check, and to time the packs.
        peak_bytes: the most memory that its process has had.
        peak_gpu_bytes: the same on its GPU; None: it has none.
        notes: what was not as in a run.
    """

    worker: str
    device: str
    packs: tuple[Pack, ...]
    reason: str
    timings: Mapping[int, PackTiming]
    import_s: float
    preflight_s: float
    packs_s: float
    peak_bytes: int
    peak_gpu_bytes: int | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class TrialsSeen:
    """The answer to `LookAtTrials`; `message` is what was wrong with one of them: those that are well train all the
    same, each alone, and the others say so when their turn comes."""

    worker: str
    architectures: Mapping[int, Architecture]
    message: str | None = None


@dataclass(frozen=True)
class Progress:
    """The worker moved on (a batch was fed): a sign of life between epochs."""

    worker: str


@dataclass(frozen=True)
class EpochEnded:
    """A member finished an epoch (1-based); `logs` is what Keras reported.

    `examples_per_s`: training rows in a second, from the end of the epoch before to the end of this one; None for the
    first of an attempt, most of which is building and compiling.
    """

    worker: str
    member: int
    epoch: int
    epochs: int
    logs: Mapping[str, float]
    examples_per_s: float | None = field(default=None, compare=False)


@dataclass(frozen=True)
class Printed:
    """A line that a member, or a whole pack, printed, where the job asks to see such lines (`train.verbose`)."""

    worker: str
    members: tuple[int, ...]
    line: str


@dataclass(frozen=True)
class Checkpointed:
    """A checkpoint of the member is in storage: its log names it. What came before `epoch` (1-based) is not lost.

    `upload_s`: how many seconds saving took; of members that are saved together the first alone tells it.
    """

    worker: str
    member: int
    epoch: int
    upload_s: float | None = field(default=None, compare=False)


@dataclass(frozen=True)
class Saved:
    """The answer to `SaveNow`: the newest finished epoch of what the worker trains, if there is one, is in storage."""

    worker: str


@dataclass(frozen=True)
class NodeDraining:
    """The worker's node will be taken away in `remaining_s` seconds; None: nobody says when."""

    worker: str
    remaining_s: float | None


@dataclass(frozen=True)
class NodesChanged:
    """Nodes came or went: what there is now. Those that will be taken away are left out."""

    shape: ClusterShape


@dataclass(frozen=True)
class MemberTrained:
    """The member's best model is published: its log holds a `final` record.

    `late`: it is the best so far of a member that the deadline cut short. `upload_s`: how many seconds publishing took.
    """

    worker: str
    member: int
    late: bool = False
    upload_s: float | None = field(default=None, compare=False)


@dataclass(frozen=True)
class NothingToPublish:
    """The answer to `PublishLate` when the member has no checkpoint that verifies."""

    worker: str
    member: int


@dataclass(frozen=True)
class ModelLost:
    """The bytes of a published model are missing or damaged, in four reads."""

    worker: str
    member: int
    message: str


@dataclass(frozen=True)
class MemberDiverged:
    """The member's loss became NaN or infinite; its log holds a `failed` record that says so."""

    worker: str
    member: int
    message: str


@dataclass(frozen=True)
class AttemptFailed:
    """An attempt to train or to predict ended in an error; the worker lives."""

    worker: str
    member: int
    cause: Cause
    message: str


@dataclass(frozen=True)
class PackTooLarge:
    """A pack of several members needs more memory than there is; the worker lives."""

    worker: str
    pack: int
    message: str


@dataclass(frozen=True)
class PackRefused:
    """The pack's members cannot be trained as one program after all; the worker lives."""

    worker: str
    pack: int
    message: str


@dataclass(frozen=True)
class MemberPredicted:
    """The predictions of the member's published model are stored; `blobs` are their references by part."""

    worker: str
    member: int
    blobs: Mapping[str, Mapping[str, object]]


@dataclass(frozen=True)
class PrefixScored:
    """The answer to `ScorePrefix`, in the units of the rule's metric.

    `score` is None where the last member weighs nothing, so that the ensemble is the one before.
    """

    num_members: int
    score: float | None


@dataclass(frozen=True)
class TrialsAsked:
    """The answer to `AskTrials`: the plan with the trials that come next, if there are any, and why these.

    Attributes:
        plan, reason: see above.
        over: nothing comes any more.
        again: trials that go on to more epochs.
        pruned: trials that were left behind so far: they are no members.
    """

    plan: Plan
    reason: str
    over: bool = False
    again: tuple[int, ...] = ()
    pruned: tuple[int, ...] = ()


@dataclass(frozen=True)
class WorkerIdle:
    """The worker finished what it was told and waits for work.

    `publishing`: members that it has trained and publishes meanwhile; each is told by an event of its own.
    """

    worker: str
    publishing: tuple[int, ...] = ()


@dataclass(frozen=True)
class WorkerFenced:
    """A worker found its member claimed by a successor."""

    worker: str
    message: str


@dataclass(frozen=True)
class WorkerFailed:
    """An error that belongs to no member: storage out of reach, damage, a bug. It ends the run with its exit code."""

    worker: str
    error: OrchestratorError


@dataclass(frozen=True)
class StopRequested:
    """Somebody asked the run to end: a signal, a stop request, the end of `--timeout`."""

    error: OrchestratorError


@dataclass(frozen=True)
class Tick:
    """Time went by."""


Event = (
    DataLoaded
    | DataFailed
    | WorkerReady
    | WorkerLost
    | PreflightPassed
    | PreflightFailed
    | Measured
    | TrialsSeen
    | Progress
    | EpochEnded
    | Printed
    | Checkpointed
    | Saved
    | NodeDraining
    | NodesChanged
    | MemberTrained
    | NothingToPublish
    | ModelLost
    | MemberDiverged
    | AttemptFailed
    | PackTooLarge
    | PackRefused
    | MemberPredicted
    | PrefixScored
    | TrialsAsked
    | WorkerIdle
    | WorkerFenced
    | WorkerFailed
    | StopRequested
    | Tick
)
