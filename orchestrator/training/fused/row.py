"""One member of a pack: its own model, its own callbacks, its history, and what becomes of it."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import keras
import numpy as np

from orchestrator.errors import InvalidModel
from orchestrator.models.build import build_member
from orchestrator.models.first_batch import call_first_batch
from orchestrator.models.preprocess_fit import Preprocessing
from orchestrator.spec import TrainSpec
from orchestrator.training.callback_state import restore_states, take_states
from orchestrator.training.callbacks import PrintEpochs, StopOnDivergence, TellEpochs
from orchestrator.training.checkpoint import Array, Snapshot
from orchestrator.training.feed import epoch_seeds
from orchestrator.training.fused.seat import CannotFuse, Seat
from orchestrator.training.fused.stand_in import StandIn
from orchestrator.training.fused.state import PackState, find_places
from orchestrator.training.fused.stateless import StatelessMember
from orchestrator.training.made_callbacks import (
    in_order,
    make_callbacks,
    make_checkpoint,
    make_early_stopping,
    stopped_epoch,
)
from orchestrator.training.trained import Trained, best_epoch_of, save_best
from orchestrator.training.variables import copies, restore_variables, storable


class Row:
    """A member and its row in the pack's arrays.

    Attributes:
        active: it trains; a row that does not is carried along as it is.
        error: it diverged, or its own code raised: there is nothing of it to keep.
        model: the member's own, once `build` has made it.
    """

    model: keras.Model

    def __init__(
        self,
        number: int,
        seat: Seat,
        *,
        has_validation: bool,
        preprocessing: Preprocessing | None = None,
    ) -> None:
        self.number, self.seat, self._train = number, seat, seat.member.train
        self.active = not seat.finished and not (seat.start_from is not None and seat.start_from.stopped)
        self.error: BaseException | None = None
        self._has_validation = has_validation
        self._preprocessing = preprocessing
        self._frozen: Snapshot | None = None

    def build(self, x: Any) -> None:
        """Make the member's model and its callbacks.

        Args:
            x: inputs of a batch [N, …], an array or a dictionary of arrays, for models that take their shapes from it.

        Raises:
            InvalidModel: the build function fails, or the snapshot does not fit.
            InvalidJob: a callback cannot be made.
        """
        seat, train, has_validation = self.seat, self._train, self._has_validation
        self.model = _build(seat, train, x, self._preprocessing)
        self._checkpoint = make_checkpoint(train, seat.folder, has_validation=has_validation)
        self._early_stopping = make_early_stopping(train, has_validation=has_validation)
        further = make_callbacks(train, seat.folder / "files", has_validation=has_validation)
        self._stateful = [*in_order(self._checkpoint, self._early_stopping, further), keras.callbacks.History()]
        start = seat.start_from
        self._history: list[Mapping[str, float]] = list(start.history) if start else []
        self._checkpoint.best_model = start.best if start else None

    def join(self, program: StatelessMember, state: PackState, num_steps: int) -> None:
        """Take the row in the pack's state.

        Args:
            program: what all members of the pack are trained by.
            state: of the pack.
            num_steps: batches in an epoch, for callbacks.

        Raises:
            CannotFuse: the program's model is of another architecture.
        """
        self._state, self._num_steps = state, num_steps
        try:
            self._places = find_places(self.model, program, f"member {self.seat.member.index}")
        except InvalidModel as error:
            raise CannotFuse(str(error)) from error
        self._write(list(enumerate(copies([*self.model.variables, *self.model.optimizer.variables]))))
        for place, rate in self._places.rates:
            state.write(place, self.number, rate)
        self._model = StandIn(self.model, program.model)
        self._model.stop_training = False

    def begin(self) -> None:
        """Callbacks begin; those of a member that goes on get their state back."""
        printing = [PrintEpochs()] if self._train.verbose else []
        self._hooks = keras.callbacks.CallbackList(
            [StopOnDivergence(), *self._stateful, TellEpochs(self._tell), *printing],
            model=self._model,
            verbose=self._train.verbose,
            epochs=self._train.epochs,
            steps=self._num_steps,
        )
        self._look()
        self._hooks.on_train_begin()
        if self.seat.start_from is not None:
            restore_states(self._stateful, self.seat.start_from.callbacks)
        self._settle()

    def begin_epoch(self, epoch: int) -> None:
        """Callbacks and seeds for an epoch (1-based). Seeds as `SeedEachEpoch` sets them for `fit`."""
        words = self._seed_host(epoch)
        for place, number in self._places.seeds:
            self._state.write(place, self.number, np.asarray([words[1] ^ number, words[2]]))
        self._hooks.on_epoch_begin(epoch - 1)
        self._settle()

    def end_epoch(self, epoch: int, logs: dict[str, float], val_logs: dict[str, float] | None) -> None:
        """Callbacks at the end of an epoch (1-based). Raises Diverged."""
        self._seed_host(epoch)
        self._look()
        if val_logs is not None:
            self._hooks.on_test_begin()
            self._hooks.on_test_end(val_logs)
            logs = {**logs, **{f"val_{name}": value for name, value in val_logs.items()}}
        self._hooks.on_epoch_end(epoch - 1, logs)
        self._settle()
        self._logs = logs
        self.active = not self.stops()

    def stops(self) -> bool:
        """Whether a callback has ended the member's training."""
        return bool(self._model.stop_training)

    def snapshot(self, epoch: int) -> Snapshot:
        """All that is needed to go on after an epoch of the pack; a member that has stopped stays as it was then."""
        if self._frozen is None:
            start = self.seat.start_from
            if start is not None and start.stopped:
                self._frozen = start
            else:
                taken = self._take(epoch)
                if self.active:
                    return taken
                self._frozen = taken
        return replace(self._frozen, epoch=epoch)

    def _take(self, epoch: int) -> Snapshot:
        places, row = self._places, self.number
        return Snapshot(
            member=self.seat.member.index,
            seed=self.seat.member.seed,
            epoch=epoch,
            variables=tuple(storable(array) for array in self._state.row(places.model, row)),
            optimizer=tuple(storable(array) for array in self._state.row(places.optimizer, row)),
            callbacks=take_states(self._stateful),
            history=tuple(self._history),
            logs=dict(self._logs),
            stopped=self.stops(),
            best=self._checkpoint.best_model,
        )

    def finish(self) -> Trained:
        """What the member's training gave, once it is through: its own model holds the best weights."""
        self.active = False
        self._look()
        model = self._model.load()
        self._hooks.on_train_end(dict(self._history[-1]) if self._history else None)
        path = save_best(model, self._train, self._checkpoint, self.seat.folder)
        best_epoch = best_epoch_of(self._checkpoint, self._early_stopping) or len(self._history)
        stopped = stopped_epoch(self._early_stopping)
        return Trained(model, path, tuple(self._history), best_epoch, stopped, self._preprocessing)

    def _tell(self, epoch: int, logs: dict[str, float]) -> None:
        self._history.append({"epoch": epoch, **logs})
        self.seat.on_epoch(epoch, logs)

    def _look(self) -> None:
        """Have the model that callbacks see stand for the row as it is now."""
        state, places, row = self._state, self._places, self.number
        self._model.refer(lambda: (state.row(places.model, row), state.row(places.optimizer, row)))

    def _settle(self) -> None:
        """Bring what callbacks changed in the model into the row."""
        self._write(self._model.changes())

    def _write(self, values: Sequence[tuple[int, Array]]) -> None:
        places = [*self._places.model, *self._places.optimizer]
        for place, value in values:
            self._state.write(places[place], self.number, value)

    def _seed_host(self, epoch: int) -> Any:
        """Python's and NumPy's seeds, for callbacks that draw from them."""
        words = epoch_seeds(self.seat.member.seed, epoch)
        random.seed(int(words[0]))
        np.random.seed(int(words[0]))
        return words


def _build(seat: Seat, train: TrainSpec, x: Any, preprocessing: Preprocessing | None) -> keras.Model:
    """The member's own model, from its beginning or as the snapshot has it."""
    member = seat.member
    model = build_member(member.builder, member.kwargs, member.seed, train, preprocessing, member.base)
    if not model.built:
        call_first_batch(model, x, f"{member.builder} (member {member.index})")
    if not model.optimizer.built:
        model.optimizer.build(model.trainable_variables)
    if seat.start_from is not None and not seat.finished:
        restore_variables(model, seat.start_from, where=f"member {member.index}")
    return model
