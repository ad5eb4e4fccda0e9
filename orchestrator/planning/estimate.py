"""How long a run will take, reckoned from what one worker was measured to take. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from orchestrator.planning.members import MemberPlan
from orchestrator.planning.packs import Pack
from orchestrator.planning.stages import stages_of
from orchestrator.spec import EarlyStoppingSpec

QUICKER, SLOWER = 0.8, 1.5
"""A run may take so much less, or more, than what was measured: one worker was timed alone, with warm data and nothing
beside it; and in a run storage, other workers and the coordinator take their part."""


@dataclass(frozen=True)
class PackTiming:
    """What a pack was measured to take, in seconds. Epochs that were cut are reckoned up to all rows.

    Attributes:
        pack: index of the pack that was measured.
        first_s: from the beginning to the first step, with all that a worker compiles once: building, tracing, XLA.
        again_s: the same for a further pack of this kind in the same worker.
        train_s: the gradient steps of an epoch, of all its members together where they are fused.
        validation_s: the rest of an epoch: validation and what callbacks do at its end.
        first_prediction_s: predicting all scored rows by the first member, compilation included.
        prediction_s: the same by each further one.
        steps: gradient steps that were timed when all was compiled.
    """

    pack: int
    first_s: float
    again_s: float
    train_s: float
    validation_s: float
    first_prediction_s: float
    prediction_s: float
    steps: int

    @property
    def epoch_s(self) -> float:
        """A whole epoch."""
        return self.train_s + self.validation_s


@dataclass(frozen=True)
class Estimate:
    """How long a run will take.

    Attributes:
        low_s: if members stop as early as they can, and nothing is in the way.
        high_s: if all train for all their epochs, and the machine has more to do than when it was measured.
        reason: how that was reckoned.
    """

    low_s: float
    high_s: float
    reason: str


@dataclass(frozen=True)
class Work:
    """What there is to do.

    Attributes:
        packs: in the order in which they start.
        timings: by index of the pack; of those that were not measured, that of a pack of the same kind.
        epochs: of each member the fewest and the most.
        num_workers: that train side by side.
        rounds: how often all of this is done, one after another: the generations of a search.
        fewest: members without which there is no ensemble; None: all.
    """

    packs: Sequence[Pack]
    timings: Mapping[int, PackTiming]
    epochs: Mapping[int, tuple[int, int]]
    num_workers: int
    rounds: float = 1.0
    fewest: int | None = None


def estimate_run(work: Work, start_s: float) -> Estimate:
    """Reckon the time of a run.

    Args:
        work: what there is to do.
        start_s: until the first pack can begin: Ray, the worker's imports, data and preflight.

    Returns:
        A range: the high end has all epochs of all members, the low end the fewest with which they can end.
    """
    quick, slow = (_side_by_side(work, end) * work.rounds for end in (0, 1))
    reason = (
        f"{start_s:.1f} s to start, then {_told(work)}; with a margin of {QUICKER:g} to {SLOWER:g} for what was not "
        "measured: storage, workers side by side, evaluation and report"
    )
    return Estimate((start_s + quick) * QUICKER, (start_s + slow) * SLOWER, reason)


def _told(work: Work) -> str:
    """What there is to do, in words."""
    if not work.packs:
        return "nothing to train any more"
    sizes = sorted({len(pack.members) for pack in work.packs})
    engines = "/".join(sorted({pack.engine for pack in work.packs}))
    of = f"{sizes[0]}" if len(sizes) == 1 else f"{sizes[0]} to {sizes[-1]}"
    packs = f"{len(work.packs)} pack{'s' if len(work.packs) > 1 else ''} of {of} ({engines})"
    workers = f"{work.num_workers} worker{'s' if work.num_workers > 1 else ''}"
    fewest, most = (sum(work.epochs[m][end] for p in work.packs for m in p.members) for end in (0, 1))
    epochs = f"{most}" if fewest == most else f"{fewest} to {most}"
    again = f", {work.rounds:.3g} times" if work.rounds != 1 else ""
    return f"{packs} on {workers}, {epochs} member-epochs{again}"


def epochs_left(member: MemberPlan, done: float = 0) -> tuple[int, int]:
    """The fewest epochs with which a member can end, and the most that it trains, after so many.

    The fewest: as early as EarlyStopping may stop it, in each of its stages. A member that has ended has done
    `math.inf`.
    """
    stages = stages_of(member.train, member.stages)
    fewest = sum(_fewest(stage.train.epochs, stage.train.early_stopping) for stage in stages)
    return int(max(0, fewest - done)), int(max(0, member.epochs - done))


def _fewest(epochs: int, stopping: EarlyStoppingSpec | None) -> int:
    if stopping is None:
        return epochs
    return min(epochs, stopping.start_from_epoch + stopping.patience + 1)


def _side_by_side(work: Work, end: int) -> float:
    """Seconds until the last worker is through, each taking the next pack as soon as it is free."""
    free = [0.0] * max(1, work.num_workers)
    known: list[set[int]] = [set() for _ in free]
    enough = 0
    for pack in work.packs:
        if end == 0 and work.fewest is not None and enough >= work.fewest:
            break
        enough += len(pack.members)
        worker = min(range(len(free)), key=free.__getitem__)
        timing = work.timings[pack.index]
        is_first = timing.pack not in known[worker]
        known[worker].add(timing.pack)
        free[worker] += _pack_s(pack, timing, max(work.epochs[m][end] for m in pack.members), is_first=is_first)
    return max(free)


def _pack_s(pack: Pack, timing: PackTiming, epochs: int, *, is_first: bool) -> float:
    before = timing.first_s if is_first else timing.again_s
    predictions = timing.prediction_s * len(pack.members)
    if is_first:
        predictions += timing.first_prediction_s - timing.prediction_s
    return before + epochs * timing.epoch_s + max(0.0, predictions)


def in_words(seconds: float) -> str:
    """A duration as people say it: `12 s`, `3.4 min`, `5.2 h`."""
    if seconds < 100:
        return f"{math.ceil(seconds)} s"
    return f"{seconds / 60:.1f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
