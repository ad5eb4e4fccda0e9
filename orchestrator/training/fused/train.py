"""The fused engine: the epochs of a pack, with each member's real callbacks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import keras
import numpy as np
import numpy.typing as npt

from orchestrator.errors import InvalidModel
from orchestrator.models.first_batch import first_line
from orchestrator.models.preprocess_fit import Preprocessing
from orchestrator.spec import TrainSpec
from orchestrator.training.checkpoint import Snapshot
from orchestrator.training.class_weight import weigh_classes, weights_of_classes
from orchestrator.training.data import Dataset
from orchestrator.training.device import Device
from orchestrator.training.feed import choose_validation_batch, epoch_order
from orchestrator.training.fused.architecture import signature
from orchestrator.training.fused.program import (
    Batches,
    Leaves,
    Logs,
    Program,
    make_program,
    member_logs,
)
from orchestrator.training.fused.row import Row
from orchestrator.training.fused.seat import CannotFuse, Seat
from orchestrator.training.fused.state import PackState
from orchestrator.training.prepared import prepare_all
from orchestrator.training.printing import printing
from orchestrator.training.publish import OWN_ERRORS, is_anothers_fault, is_out_of_memory
from orchestrator.training.rows import MemberRows, member_rows
from orchestrator.training.trained import Trained

__all__ = ["BLOCK", "CannotFuse", "Outcome", "Seat", "train_fused"]

Outcome = Trained | BaseException
"""What a member's training ends with: `Diverged`, or what its own callbacks raised, as an exception."""

BLOCK = 100
"""Steps in one call of the program. Bits do not depend on it: how many there are is an argument."""


def train_fused(
    seats: Sequence[Seat],
    dataset: Dataset,
    device: Device,
    on_batch: Callable[[], None],
    *,
    keep: Callable[[Sequence[Snapshot]], None] = lambda snapshots: None,
    check: Callable[[], None] = lambda: None,
    done: Callable[[int, Outcome], None],
) -> None:
    """Train the members of a pack together, or go on with them; each ends on its own.

    A pack that goes on from a common epoch ends with the same bits as one that was never interrupted, on a CPU in
    deterministic mode, if it has the same members in the same seats.

    Args:
        seats: the pack, in a fixed order. Each member is trained by its own settings; epochs, batch size, order of rows
            and weights of classes are alike in all of them.
        dataset: the rows; shared and read-only.
        device: what is trained on.
        on_batch: called for each block of batches, as a sign of life.
        keep: gets, after each epoch, the state of all members that were not `finished` before and have not failed, all
            at the pack's epoch, those that have stopped too, in arrays of their own.
        check: called between blocks; what it raises ends the training and reaches the caller unchanged.
        done: gets a seat's number and what its training gave, as soon as that member is through. A member that
            diverges, that cannot be built, or whose own callbacks raise, ends alone.

    Raises:
        CannotFuse: the members are not of one architecture, their rows do not go together, or the compiler refuses
            their program; before anything has been trained.
        InvalidModel: a snapshot is of another epoch than the others.
    """
    train = seats[0].member.train
    epoch = _common_epoch(seats, train)
    own = _rows_of(seats, dataset)
    prepared = prepare_all([seat.member for seat in seats], [each.train for each in own])
    rows = [
        Row(number, seat, has_validation=own[0].validation is not None, preprocessing=fitted)
        for number, (seat, fitted) in enumerate(zip(seats, prepared, strict=True))
    ]
    first = own[0].train.take(slice(0, train.batch_size))
    for row in rows:
        _guarded(row, row.build, first.x)
    unfinished = [row for row in rows if not row.seat.finished]
    built = [row for row in unfinished if row.error is None]
    if built:
        pack = _Pack(rows, own, prepared, train, dataset, device, on_batch, check)
    if any(row.active for row in built) and epoch < train.epochs:
        pack.warm_up()
    for row in built:
        _guarded(row, row.begin)
    for row in unfinished:
        if epoch == train.epochs or not row.active:
            done(row.number, _finish(row))
    while epoch < train.epochs and any(row.active for row in rows):
        epoch += 1
        ended = pack.train_epoch(epoch)
        keep([row.snapshot(epoch) for row in unfinished if row.error is None])
        for row in ended:
            done(row.number, _finish(row))


def _rows_of(seats: Sequence[Seat], dataset: Dataset) -> Sequence[MemberRows]:
    """Each member's rows: as many to learn from for all of them, and one set to be watched on."""
    own = [member_rows(dataset, seat.member) for seat in seats]
    first = own[0]
    for each in own[1:]:
        if each.train.num_rows != first.train.num_rows:
            raise CannotFuse("members have different numbers of training rows")
        if each.validation is not None and not each.validation.same_as(first.validation):
            raise CannotFuse("members are watched on different rows")
    return own


def _guarded(row: Row, call: Callable[..., None], *arguments: object) -> None:
    """Call a member's own code; what it raises ends that member alone."""
    try:
        with printing(row.seat.member.index):
            call(*arguments)
    except OWN_ERRORS as error:
        row.active, row.error = False, _own_fault(error)


def _finish(row: Row) -> Outcome:
    if row.error is not None:
        return row.error
    try:
        with printing(row.seat.member.index):
            return row.finish()
    except OWN_ERRORS as error:
        return _own_fault(error)


def _own_fault(error: BaseException) -> BaseException:
    """An error in the code of one member. Raises what concerns them all."""
    if is_anothers_fault(error) or is_out_of_memory(error):
        raise error
    return error


def _common_epoch(seats: Sequence[Seat], train: TrainSpec) -> int:
    """Epochs that are finished already."""
    begun = {0 if seat.start_from is None else seat.start_from.epoch for seat in seats if not seat.finished}
    if len(begun) > 1:
        raise InvalidModel(f"the members of a pack stand at different epochs: {sorted(begun)}")
    return min(max(begun, default=0), train.epochs)


class _Pack:
    """The rows of a pack with their program."""

    def __init__(
        self,
        rows: Sequence[Row],
        own: Sequence[MemberRows],
        prepared: Sequence[Preprocessing | None],
        train: TrainSpec,
        dataset: Dataset,
        device: Device,
        on_batch: Callable[[], None],
        check: Callable[[], None],
    ) -> None:
        built = [row for row in rows if row.error is None]
        signatures = {signature(row.model) for row in built}
        if len(signatures) > 1 or None in signatures:
            who = ", ".join(str(row.seat.member.index) for row in built)
            raise CannotFuse(f"members {who} are of different architectures")
        weights = weights_of_classes(train.class_weight, own[0].train)
        dataset = replace(dataset, train=weigh_classes(dataset.train, weights))
        # The program's model is built as that of the first: one whose build function raises has to stand behind.
        first, *others = sorted(rows, key=lambda row: row.error is not None)
        members = [row.seat.member for row in (first, *others)]
        validation = None if own[0].validation is None else own[0].validation.all()
        size = choose_validation_batch(0 if validation is None else validation.num_rows)
        self._rows, self._own, self._train, self._dataset = rows, own, train, dataset
        self._on_batch, self._check = on_batch, check
        self._program: Program = make_program(
            (signatures.pop(), device), members, train, dataset, size, prepared[first.number]
        )
        self._batches = Batches.of(own[0].train.num_rows, train.batch_size)
        self._test_batches = None if validation is None else Batches.of(validation.num_rows, size)
        self._data = self._program.put_data(dataset.train)
        self._test_data = None if validation is None else self._program.put_data(validation)
        self._state = PackState(self._program)
        for row in built:
            row.join(self._program.member, self._state, self._batches.full + (self._batches.tail > 0))

    def warm_up(self) -> None:
        """Compile all programs, by no steps at all.

        Raises:
            CannotFuse: the compiler refuses one.
        """
        self._state.send()
        try:
            for size, _ in _parts(self._batches, 0):
                self._run(size, (0, 0), self._fresh_metrics(), self._program.put(self._no_order()))
            if self._test_batches is not None:
                for size, _ in _parts(self._test_batches, 0):
                    self._program.test(self._state.device, self._fresh_metrics(), self._test_data, size, (0, 0))
        except Exception as error:
            if is_out_of_memory(error):
                raise
            raise CannotFuse(first_line(error)) from error

    def train_epoch(self, epoch: int) -> list[Row]:
        """One epoch (1-based) of all active rows; returns those whose training ends with it."""
        training = [row for row in self._rows if row.active]
        for row in training:
            _guarded(row, row.begin_epoch, epoch)
        logs = self._train_all(epoch)
        val_logs = self._test_all()
        self._state.fetch()
        for row in training:
            if row.error is None:
                scores = None if val_logs is None else member_logs(val_logs, row.number)
                _guarded(row, row.end_epoch, epoch, member_logs(logs, row.number), scores)
        return [row for row in training if not row.active or epoch == self._train.epochs]

    def _train_all(self, epoch: int) -> Logs:
        order = self._no_order()
        for row, own in zip(self._rows, self._own, strict=True):
            if row.active:
                seen = epoch_order(own.train.num_rows, row.seat.member.seed, epoch, shuffle=self._train.shuffle)
                order[row.number, : len(seen)] = own.train.in_split(seen)
        placed = self._program.put(order)
        self._state.send()
        metrics = self._fresh_metrics()
        for size, steps in _parts(self._batches, BLOCK):
            self._check()
            self._on_batch()
            metrics, logs = self._run(size, steps, metrics, placed)
            _wait_for(logs)
        return logs

    def _no_order(self) -> npt.NDArray[np.int32]:
        """Row numbers [K, N], all 0; of as many columns in packs of every fold, so that these share a program."""
        return np.zeros((len(self._rows), self._dataset.train.num_rows), np.int32)

    def _run(self, size: int, steps: tuple[int, int], metrics: Leaves, order: object) -> tuple[Leaves, Logs]:
        active = self._program.put(np.asarray([row.active for row in self._rows]))
        self._state.device, metrics, logs = self._program.train(
            self._state.device, metrics, self._data, order, size, steps, active
        )
        return metrics, logs

    def _test_all(self) -> Logs | None:
        if self._test_batches is None:
            return None
        metrics = self._fresh_metrics()
        for size, steps in _parts(self._test_batches, BLOCK):
            self._check()
            self._on_batch()
            metrics, logs = self._program.test(self._state.device, metrics, self._test_data, size, steps)
            _wait_for(logs)
        return logs

    def _fresh_metrics(self) -> Leaves:
        """The metrics' state at the beginning of an epoch."""
        member = self._program.member
        begun = [keras.ops.convert_to_numpy(variable) for variable in member.metrics]
        return [self._program.put(np.stack([value] * len(self._rows))) for value in begun]


def _wait_for(logs: Logs) -> None:
    """Wait for a block: JAX returns before it has computed, and signs of life and stops must not run ahead of it."""
    member_logs(logs, 0)


def _parts(batches: Batches, block: int) -> list[tuple[int, tuple[int, int]]]:
    """Calls of the program for an epoch: (rows in a batch, (first batch, the one after the last)).

    A block of 0 gives one empty call for each program.
    """
    starts = range(0, batches.full, block) if block else range(1)
    parts = [(batches.size, (start, min(start + block, batches.full))) for start in starts]
    if batches.tail:
        parts.append((batches.tail, (batches.full, batches.full + min(block, 1))))
    return parts
