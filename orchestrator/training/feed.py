"""The order in which a member sees its rows, and the feed that hands them to Keras."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import numpy.typing as npt

from orchestrator.errors import OrchestratorError
from orchestrator.training.data import Split
from orchestrator.training.rows import SplitRows
from orchestrator.training.sources.stream import StreamedSplit, StreamReader


def epoch_order(num_rows: int, seed: int, epoch: int, *, shuffle: bool = True) -> npt.NDArray[np.int64]:
    """Row numbers in the order of one epoch: a function of the member's seed and the epoch (1-based) alone.

    So an epoch can be repeated on its own, whatever ran before it: what exact resume needs. Without `shuffle` all
    epochs have the rows as they are.
    """
    if not shuffle:
        return np.arange(num_rows)
    return np.random.default_rng([seed, epoch]).permutation(num_rows)


def epoch_seeds(seed: int, epoch: int) -> npt.NDArray[np.unsignedinteger[Any]]:
    """Three words from which everything random in one epoch (1-based) of a member starts, besides the order."""
    return np.random.SeedSequence(seed, spawn_key=(epoch,)).generate_state(3)


class Feed(keras.utils.PyDataset):  # type: ignore[misc]  # keras is untyped here
    """Batches of training rows, gathered from the shared read-only arrays: no copy of the data per worker.

    Streamed rows are read from their files; a `with` block ends that.

    Args:
        rows: the training rows.
        batch_size: rows per batch; the last batch may be smaller.
        seed: of the member.
        on_batch: called for each batch that is handed out, as a sign of life.
        form: puts labels and sample weights into the structure that the model wants, see `models.outputs`.
        weigh: gives a batch its final sample weights.
        shuffle: a new order at each epoch; false: the rows as they are.
    """

    def __init__(
        self,
        rows: Split | SplitRows,
        batch_size: int,
        seed: int,
        on_batch: Callable[[], None],
        form: Callable[[Any], Any] = lambda labels: labels,
        weigh: Callable[[Split], Split] = lambda batch: batch,
        *,
        shuffle: bool = True,
    ) -> None:
        super().__init__(workers=1, use_multiprocessing=False)
        self._rows = rows
        self._shuffle = shuffle
        self._batch_size = batch_size
        self._seed = seed
        self._on_batch = on_batch
        self._form = form
        self._weigh = weigh
        split = rows.split if isinstance(rows, SplitRows) else rows
        self._reader = StreamReader(split.stream) if isinstance(split, StreamedSplit) else None
        self._error: OrchestratorError | None = None
        self.start_epoch(1)

    def start_epoch(self, epoch: int) -> None:
        """Set the order of epoch `epoch` (1-based)."""
        if self._reader is not None:
            self._reader.start(self._seed, epoch, shuffle=self._shuffle)
        else:
            self._order = epoch_order(self._rows.num_rows, self._seed, epoch, shuffle=self._shuffle)

    def __len__(self) -> int:
        return -(-self._rows.num_rows // self._batch_size)

    def __getitem__(self, index: int) -> tuple[Any, ...]:
        self._on_batch()
        start = index * self._batch_size
        stop = start + self._batch_size
        try:
            batch = self._reader.rows(start, stop) if self._reader else self._rows.take(self._order[start:stop])
            return fit_arguments(self._weigh(batch), self._form)
        except OrchestratorError as error:
            self._error = error
            raise

    def __enter__(self) -> Feed:
        return self

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        """End the reading. What went wrong in it is raised as it was: Keras may have put it into words of its own.

        Raises:
            OrchestratorError: rows could not be read.
        """
        if self._reader is not None:
            self._reader.close()
        if error is not None and self._error is not None and error is not self._error:
            raise self._error from error


def fit_arguments(split: Split, form: Callable[[Any], Any]) -> tuple[Any, ...]:
    """Rows as Keras takes them: inputs, labels and, where there are any, sample weights. `form` as for `Feed`."""
    return (split.x, form(split.y)) if split.w is None else (split.x, form(split.y), form(split.w))


VALIDATION_BATCH = 1024
"""Rows of a batch of validation at most."""


def choose_validation_batch(num_rows: int) -> int:
    """Rows of a full batch of validation, the same for both engines.

    A divisor where there is one from half of the most on: then there is no second program, and Keras' mean over batches
    (of the loss of one of several outputs, on TensorFlow) is one over rows.
    """
    divisors = [size for size in range(VALIDATION_BATCH, VALIDATION_BATCH // 2, -1) if num_rows % size == 0]
    return divisors[0] if divisors else VALIDATION_BATCH


FEW_STEPS = 600
"""Below so many steps in all, the loop around them takes longer to trace (0.2 s) than it saves (0.4 ms a step)."""


def choose_steps_per_execution(num_steps: int, epochs: int, most: int = 64) -> int:
    """How many batches one call of the compiled function runs: the largest divisor of the epoch up to `most`.

    1 where there are fewer than `FEW_STEPS` steps in all. A divisor, so that no call spans two epochs and no smaller
    call at the end needs a second program. Where no divisor of at least an eighth of `most` exists (a prime number of
    steps), `most` itself: Keras ends such an epoch with one shorter call. Losses are bit-identical for every choice.
    """
    if num_steps * epochs < FEW_STEPS:
        return 1
    if num_steps <= most:
        return max(1, num_steps)
    best = max(k for k in range(1, most + 1) if num_steps % k == 0)
    return best if best >= most // 8 else most
