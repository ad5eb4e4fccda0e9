"""A member's predictions, from its published bytes: what is scored is what is stored."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from orchestrator.errors import DamagedStore, OrchestratorError
from orchestrator.models.predictor import Predictor
from orchestrator.planning import events as ev
from orchestrator.planning.folds import OUT_OF_FOLD
from orchestrator.planning.members import MemberPlan
from orchestrator.planning.outputs import part
from orchestrator.planning.ports import Store
from orchestrator.planning.recovery import read_member
from orchestrator.spec import TrainSpec
from orchestrator.storage.blobs import put_blob
from orchestrator.storage.layout import RunLayout
from orchestrator.storage.log import Log
from orchestrator.storage.records import JSON
from orchestrator.storage.tables import predictions_to_parquet
from orchestrator.training.data import Dataset, Inputs
from orchestrator.training.publish import cause_of, is_anothers_fault
from orchestrator.training.published import build_published, load_weights
from orchestrator.training.rows import SplitRows, member_rows

if TYPE_CHECKING:
    import keras

Outcome = ev.MemberPredicted | ev.ModelLost | ev.AttemptFailed


def predict_member(
    store: Store,
    layout: RunLayout,
    member: MemberPlan,
    train: TrainSpec,
    dataset: Dataset,
    predictor: Predictor,
    *,
    worker: str,
    final: Mapping[str, Any] | None = None,
    model: keras.Model | None = None,
    on_batch: Callable[[], None] = lambda: None,
) -> Outcome:
    """Load a member's published model, verified, and store what it predicts for the rows that it did not learn from.

    Args:
        store, layout: where the run lives.
        member: whose predictions.
        train: how the member is compiled.
        dataset: the run's rows.
        predictor: of this process.
        worker: who tells of it.
        final: body of the member's `final` record, where it is at hand; None to read it from the member's log.
        model: built for this member by the job's code, in any state of its weights, where it is at hand: it becomes the
            predictor's. None to build it.
        on_batch: called after each batch, as a sign of life.

    Returns:
        The event that tells how it ended: predicted; its bytes are gone or damaged; or the user's code, or the memory,
        does not allow it.

    Raises:
        OrchestratorError: an error that belongs to no member, such as StoreUnavailable; also if nothing is published.
    """
    final = final or _final(store, layout, member.index)
    try:
        try:
            if model is None:
                model = build_published(store, final, member, train)
            load_weights(store, final, member.index, model, lambda: dataset.train.take(slice(0, 1)).x)
        except DamagedStore as error:
            return ev.ModelLost(worker, member.index, f"its published model cannot be used: {error}")
        blobs = _predict(
            store, layout, rows_to_predict(dataset, member), lambda x: predictor.predict(model, x, on_batch)
        )
    except Exception as error:
        if is_anothers_fault(error):
            raise
        cause, message = cause_of(error)
        return ev.AttemptFailed(worker, member.index, cause, message)
    return ev.MemberPredicted(worker, member.index, blobs)


def _final(store: Store, layout: RunLayout, index: int) -> Mapping[str, Any]:
    """The body of the member's `final` record. It is the log's last unless something happened to the model since."""
    log = Log.open(store, layout.member_log(index))
    last = log.last
    body = last.body if last is not None and last.kind == "final" else read_member(log.records()).final
    if body is None:
        raise OrchestratorError("there is no published model to predict with", where=f"member {index}")
    return body


def rows_to_predict(dataset: Dataset, member: MemberPlan) -> dict[str, SplitRows]:
    """The rows that a member is asked to predict, by split: of the training rows those alone that it held out."""
    found = {name: SplitRows(split) for name, split in dataset.scored().items()}
    held_out = member_rows(dataset, member).held_out
    return found if held_out is None else {OUT_OF_FOLD: held_out, **found}


def _predict(
    store: Store,
    layout: RunLayout,
    asked: Mapping[str, SplitRows],
    predict: Callable[[Inputs], Mapping[str, npt.NDArray[np.float32]]],
) -> dict[str, Mapping[str, JSON]]:
    """Predict split by split; the parts of each are stored while the next is predicted."""

    def keep(values: npt.NDArray[np.float32], rows: SplitRows) -> Mapping[str, JSON]:
        return put_blob(store, layout, predictions_to_parquet(values, rows.numbers)).to_json()

    stored = {}
    with ThreadPoolExecutor(max_workers=2, thread_name_prefix="predictions") as uploads:
        for name, rows in asked.items():
            for output, values in predict(rows.all().x).items():
                stored[part(name, output)] = uploads.submit(keep, values, rows)
    return {name: future.result() for name, future in stored.items()}
