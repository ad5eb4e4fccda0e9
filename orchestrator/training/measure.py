"""What a job takes: the worker's own preflight, then a few steps of each kind of pack, timed. Nothing is stored.

Both engines train as they do in a run, members' callbacks included; rows are fewer, so that an epoch takes seconds, and
epochs are five: the first compiles, the last tells when the one before it was over, and of the three between them the
middle one counts, for a machine may have something else to do during one of them.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from orchestrator.errors import InvalidModel, OrchestratorError
from orchestrator.models.predictor import Predictor
from orchestrator.planning.alike import alike_members
from orchestrator.planning.estimate import PackTiming
from orchestrator.planning.members import MemberPlan
from orchestrator.planning.packs import Architecture, Pack, PackDecision, PackingRules, decide_packs
from orchestrator.training.callbacks import Diverged
from orchestrator.training.data import Dataset
from orchestrator.training.device import Device
from orchestrator.training.feed import choose_steps_per_execution
from orchestrator.training.fused.train import BLOCK, CannotFuse, Seat, train_fused
from orchestrator.training.limit import limit_rows
from orchestrator.training.predicting import rows_to_predict
from orchestrator.training.rows import member_rows
from orchestrator.training.scratch import scratch_folder
from orchestrator.training.solo import train_solo
from orchestrator.training.sources.stream import StreamedSplit

EPOCHS = 5
FEWEST_EPOCHS = 3
"""Epochs of a measurement, and how many of them are enough where they take long."""

FEW_STEPS = 64
CALLS = 3
"""Steps of a cut epoch: at least so many, and so many calls of the compiled program."""

MOST_SCORED = 16 * 1024
"""Rows of a set on which models are validated and predict, when they are timed."""

MOST_KINDS = 4
"""Kinds of packs that are timed; others are taken to be as slow as the slowest of these."""

ENOUGH_S = 30.0
"""Training that takes longer than this is broken off, and reckoned from the calls that were seen."""

FORWARD = 1 / 3
"""What predicting a row takes of a gradient step's time for it, where it was not measured: one pass of about three."""


@dataclass(frozen=True)
class Measurement:
    """Packs as they would be in a run, and what they take: `timings` has one for each pack, by its index."""

    decision: PackDecision
    timings: Mapping[int, PackTiming]
    notes: tuple[str, ...]


class _Enough(Exception):
    """Training has shown how long it takes."""


@dataclass
class _Watch:
    """When calls of the compiled program began, and epochs ended."""

    began: float = field(default_factory=time.monotonic)
    calls: list[float] = field(default_factory=list)
    epochs: list[float] = field(default_factory=list)
    ended: float = 0.0

    def check(self) -> None:
        self.calls.append(time.monotonic())
        if len(self.calls) >= CALLS and self.calls[-1] - self.began > ENOUGH_S:
            raise _Enough

    def epoch(self, number: int, logs: Mapping[str, float]) -> None:
        self.epochs.append(time.monotonic())


@dataclass(frozen=True)
class _Cut:
    """The rows that a pack is timed on, and how many steps and calls an epoch of them has, and calls one of all."""

    dataset: Dataset
    steps: int
    per_call: int
    calls: int
    all_calls: int
    scored_share: float


def measure_packs(
    members: Sequence[MemberPlan],
    architectures: Mapping[int, Architecture],
    rules: PackingRules,
    dataset: Dataset,
    device: Device,
    on_batch: Callable[[], None],
    *,
    num_workers: int,
) -> Measurement:
    """Decide on the packs as a run does, and time the first pack of each kind.

    Args:
        members: of the plan.
        architectures: of the members, from the preflight.
        rules: what the job says of packs.
        dataset: the run's rows.
        device: what is trained on.
        on_batch: called for each batch, as a sign of life.
        num_workers: that there will be.

    Raises:
        OrchestratorError: training fails: what is wrong with the model, and where.
    """
    known = {m.index: architectures.get(m.index, Architecture(f"member {m.index}")) for m in members}
    by_index = {member.index: member for member in members}
    kind_of = partial(_kind, known=known, on_own_rows=_on_own_rows(members))
    timed: dict[tuple[str, str], PackTiming] = {}
    while True:
        decision = decide_packs(
            known, rules, device=device.kind, num_rows=dataset.train.num_rows, num_workers=num_workers
        )
        kinds: dict[tuple[str, str], Pack] = {}
        for pack in sorted(decision.packs, key=lambda pack: -len(pack.members)):
            kinds.setdefault(kind_of(pack), pack)
        wanted = [kind for kind in kinds if kind not in timed][: MOST_KINDS - len(timed)]
        if not wanted:
            break
        pack = kinds[wanted[0]]
        try:
            timed[wanted[0]] = _time(pack, [by_index[index] for index in pack.members], dataset, device, on_batch)
        except CannotFuse as error:  # as in a run: its members are then trained one by one
            signature = known[pack.members[0]].signature
            known |= {i: replace(a, obstacle=str(error)) for i, a in known.items() if a.signature == signature}
    slowest = max(timed.values(), key=lambda timing: timing.epoch_s)
    left = len(kinds) - len(timed)
    notes = (f"{left} further kinds of models are taken to be as slow as the slowest of these",) if left > 0 else ()
    return Measurement(decision, {p.index: timed.get(kind_of(p), slowest) for p in decision.packs}, notes)


def _kind(pack: Pack, known: Mapping[int, Architecture], on_own_rows: Mapping[int, str]) -> tuple[str, str]:
    """What packs have in common that take as long: their sizes differ by one at most."""
    first = pack.members[0]
    return on_own_rows.get(first) or known[first].signature, pack.engine


def _on_own_rows(members: Sequence[MemberPlan]) -> Mapping[int, str]:
    """Of members whose preparation is fitted to their own folds' rows, what each shares with those of other folds: its
    figures make another program, which takes as long."""
    prepared = [replace(member, fold=None) for member in members if member.fold is not None and member.preprocess]
    groups = enumerate(alike_members(prepared).values())
    return {member.index: f"configuration {number}" for number, same in groups for member in same}


def _time(
    pack: Pack, members: Sequence[MemberPlan], dataset: Dataset, device: Device, on_batch: Callable[[], None]
) -> PackTiming:
    members = [_of_any_folds(member) for member in members]
    first = members[0]
    cut = _cut(pack, first, dataset)
    few = [_for_few_epochs(member, EPOCHS, cut.per_call) for member in members]
    once = [_for_few_epochs(member, 1, cut.per_call) for member in members]
    try:
        watch, model = _train(pack, few, cut.dataset, device, on_batch)
        if len(watch.epochs) < FEWEST_EPOCHS:
            return _from_calls(
                pack, watch, cut, _scored_rows(dataset, first) / member_rows(dataset, first).train.num_rows
            )
        again, _ = _train(pack, once, cut.dataset, device, on_batch)
    except (OrchestratorError, CannotFuse):
        raise
    except Exception as error:
        what = f"training raised {type(error).__name__}: {error}"
        raise InvalidModel(what, where=f"{first.builder} (member {first.index})") from error
    train_s, rest_s, warm_s = _warm_epoch(watch, cut)
    prediction = _time_prediction(model, few[0], cut, on_batch) if model is not None else (rest_s, rest_s)
    second = next(call for call in watch.calls if call > watch.epochs[0])
    first_s = max(0.0, second - watch.began - warm_s)
    if len(watch.epochs) == EPOCHS:
        first_s += watch.ended - watch.epochs[-1]
    return PackTiming(
        pack.index,
        first_s=first_s,
        again_s=min(first_s, max(0.0, again.ended - again.began - warm_s)),  # there is no more to do than at first
        train_s=train_s,
        validation_s=rest_s,
        first_prediction_s=prediction[0],
        prediction_s=prediction[1],
        steps=cut.steps,
    )


def _cut(pack: Pack, member: MemberPlan, dataset: Dataset) -> _Cut:
    num_rows, batch = member_rows(dataset, member).train.num_rows, member.train.batch_size
    steps = math.ceil(num_rows / batch)
    per_call = BLOCK if pack.engine == "fused" else _steps_per_call(member, steps)
    wanted = max(FEW_STEPS, CALLS * per_call)
    few = dataset
    if steps > wanted:
        # With folds a member learns from a part of the rows.
        few = _fewer(dataset, math.ceil(wanted * batch * dataset.train.num_rows / num_rows))
        steps_left = math.ceil(member_rows(few, member).train.num_rows / batch)
    else:
        steps_left = steps
    scored = limit_rows(replace(dataset, train=dataset.train.take(slice(0, 1)), groups=None), MOST_SCORED, 0)
    few = replace(few, validation=scored.validation, test=scored.test)
    share = _scored_rows(few, member) / max(1, _scored_rows(dataset, member)) or 1.0
    return _Cut(
        few, steps_left, per_call, _calls(pack, steps_left, per_call, few, member), math.ceil(steps / per_call), share
    )


def _calls(pack: Pack, steps: int, per_call: int, dataset: Dataset, member: MemberPlan) -> int:
    if pack.engine == "solo":
        return math.ceil(steps / per_call)
    full, tail = divmod(member_rows(dataset, member).train.num_rows, member.train.batch_size)
    return math.ceil(full / per_call) + (tail > 0)


def _steps_per_call(member: MemberPlan, steps: int) -> int:
    asked = member.train.steps_per_execution
    return choose_steps_per_execution(steps, member.train.epochs) if asked == "auto" else asked


def _fewer(dataset: Dataset, num_rows: int) -> Dataset:
    """The data with fewer training rows; of streamed ones the first pieces, so that reading takes what it takes."""
    if not isinstance(dataset.train, StreamedSplit):
        return limit_rows(replace(dataset, validation=None, test=None), num_rows, 0)
    stream, count, found = dataset.train.stream, 0, 0
    while found < num_rows and count < len(stream.pieces):
        found, count = found + stream.rows_in(count), count + 1
    limit = None if stream.max_rows is None else num_rows
    fewer = replace(stream, pieces=stream.pieces[:count], digests=stream.digests[:count], max_rows=limit)
    return replace(dataset, train=StreamedSplit(dataset.train, fewer))


def _scored_rows(dataset: Dataset, member: MemberPlan) -> int:
    return sum(rows.num_rows for rows in rows_to_predict(dataset, member).values())


def _of_any_folds(member: MemberPlan) -> MemberPlan:
    """The member with rows dealt without regard to classes, of which too few may be left for each fold."""
    return member if member.fold is None else replace(member, fold=replace(member.fold, stratified=False))


def _for_few_epochs(member: MemberPlan, epochs: int, per_call: int) -> MemberPlan:
    """The member as it is, but for how long it trains; if in stages, then in one go, with no layer frozen by them."""
    kept = member.train.checkpoint.model_copy(update={"save_freq": "epoch", "initial_value_threshold": None})
    own = {"epochs": epochs, "early_stopping": None, "checkpoint": kept, "verbose": 0, "steps_per_execution": per_call}
    return replace(member, train=member.train.model_copy(update=own), stages=(), best_over="last")


def _train(
    pack: Pack, members: Sequence[MemberPlan], dataset: Dataset, device: Device, on_batch: Callable[[], None]
) -> tuple[_Watch, Any]:
    """Train; returns when what happened, and the first member's model, None where it has none."""
    with scratch_folder() as folder:
        watch, models = _Watch(), dict[int, Any]()
        try:
            if pack.engine == "solo":
                own = _folder(folder, members[0])
                models[0] = train_solo(members[0], dataset, own, device, watch.epoch, on_batch, check=watch.check).model
            else:
                told: list[Callable[[int, Mapping[str, float]], None]] = [watch.epoch]
                told += [lambda epoch, logs: None] * (len(members) - 1)
                train_fused(
                    [Seat(m, _folder(folder, m), None, False, tell) for m, tell in zip(members, told, strict=True)],
                    dataset,
                    device,
                    on_batch,
                    check=watch.check,
                    done=lambda seat, outcome: models.update({seat: getattr(outcome, "model", None)}),
                )
        except (_Enough, Diverged):  # a member that diverges takes as long as another
            pass
        watch.ended = time.monotonic()
        return watch, models.get(0)


def _folder(scratch: Path, member: MemberPlan) -> Path:
    folder = scratch / f"member-{member.index}"
    folder.mkdir()
    return folder


def _warm_epoch(watch: _Watch, cut: _Cut) -> tuple[float, float, float]:
    """Seconds of an epoch: of its steps and of the rest, both for all rows; and of all of it as it was. Of those after
    the first, which compiles, the one that took neither longest nor shortest."""
    warm = sorted((_epoch(watch, cut, number) for number in range(1, len(watch.epochs) - 1)), key=lambda took: took[2])
    return warm[(len(warm) - 1) // 2]


def _epoch(watch: _Watch, cut: _Cut, number: int) -> tuple[float, float, float]:
    """What `_warm_epoch` tells, of one epoch (0-based), after which there is another."""
    ended = watch.epochs[number]
    calls = [call for call in watch.calls if watch.epochs[number - 1] < call <= ended]
    over = next(call for call in watch.calls if call > ended)
    trained = calls[cut.calls] if len(calls) > cut.calls else ended
    train_s = trained - calls[0]
    if cut.calls > 1:  # the first call of an epoch has more to do than those that follow
        each = (trained - calls[1]) / (cut.calls - 1)
        train_s += each * (cut.all_calls - cut.calls)
    return max(train_s, 0.0), (over - trained) / cut.scored_share, over - calls[0]


def _from_calls(pack: Pack, watch: _Watch, cut: _Cut, scored: float) -> PackTiming:
    """Reckoned from the calls alone, where an epoch takes too long; `scored` is of rows that are, in training rows."""
    if len(watch.calls) < 3:
        raise InvalidModel(
            "training ended before it could be timed",
            where=f"member {pack.members[0]}",
            hint="does it diverge at once?",
        )
    each = (watch.calls[-1] - watch.calls[1]) / (len(watch.calls) - 2)
    train_s = each * cut.all_calls
    first_s = max(0.0, watch.calls[1] - watch.began - each)
    forward_s = train_s * scored * FORWARD
    steps = (len(watch.calls) - 2) * cut.per_call
    return PackTiming(pack.index, first_s, first_s, train_s, forward_s, forward_s, forward_s, steps)


def _time_prediction(model: Any, member: MemberPlan, cut: _Cut, on_batch: Callable[[], None]) -> tuple[float, float]:
    """Seconds in which a model predicts all rows that are scored: for the first time, and again."""
    predictor, took = Predictor(), []
    for _ in range(2):
        began = time.monotonic()
        for rows in rows_to_predict(cut.dataset, member).values():
            predictor.predict(model, rows.all().x, on_batch)
        took.append(time.monotonic() - began)
    again = took[1] / cut.scored_share
    return max(0.0, took[0] - took[1]) + again, again
