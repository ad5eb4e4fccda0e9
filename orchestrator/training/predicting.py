"""A member's predictions, from its published bytes: what is scored is what is stored."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from orchestrator.errors import DamagedStore, OrchestratorError
from orchestrator.models.build import build_member
from orchestrator.models.first_batch import call_first_batch
from orchestrator.models.load import load_published
from orchestrator.models.predictor import Predictor
from orchestrator.models.preprocess_fit import Preprocessing, from_json
from orchestrator.planning import events as ev
from orchestrator.planning.members import MemberPlan
from orchestrator.planning.outputs import part
from orchestrator.planning.ports import Store
from orchestrator.planning.recovery import read_member
from orchestrator.spec import TrainSpec
from orchestrator.storage.blobs import get_blob, get_blob_file, put_blob
from orchestrator.storage.layout import RunLayout
from orchestrator.storage.log import Log
from orchestrator.storage.records import JSON, BlobRef
from orchestrator.storage.tables import predictions_to_parquet
from orchestrator.training.data import Dataset, Inputs
from orchestrator.training.publish import cause_of, is_anothers_fault
from orchestrator.training.scratch import scratch_folder

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
    """Load a member's published model, verified, and store what it predicts for all rows but the training rows.

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
    reference = BlobRef.from_json(final["model"], where=f"member {member.index}")
    try:
        try:
            if model is None:
                preprocessing = published_preprocessing(store, final, member.index)
                model = build_member(member.builder, member.kwargs, member.seed, train, preprocessing)
            _load(store, reference, model, dataset)
        except DamagedStore as error:
            return ev.ModelLost(worker, member.index, f"its published model cannot be used: {error}")
        blobs = _predict(store, layout, dataset, lambda x: predictor.predict(model, x, on_batch))
    except Exception as error:
        if is_anothers_fault(error):
            raise
        cause, message = cause_of(error)
        return ev.AttemptFailed(worker, member.index, cause, message)
    return ev.MemberPredicted(worker, member.index, blobs)


def published_preprocessing(store: Store, final: Mapping[str, Any], index: int) -> Preprocessing | None:
    """What a published model was trained with, not what would be fitted now. Raises DamagedStore."""
    if "preprocess" not in final:
        return None
    reference = BlobRef.from_json(final["preprocess"], where=f"member {index}")
    return from_json(get_blob(store, reference), reference.key)


def _final(store: Store, layout: RunLayout, index: int) -> Mapping[str, Any]:
    """The body of the member's `final` record. It is the log's last unless something happened to the model since."""
    log = Log.open(store, layout.member_log(index))
    last = log.last
    body = last.body if last is not None and last.kind == "final" else read_member(log.records()).final
    if body is None:
        raise OrchestratorError("there is no published model to predict with", where=f"member {index}")
    return body


def _load(store: Store, reference: BlobRef, model: keras.Model, dataset: Dataset) -> None:
    if not model.built:  # a Sequential without an Input has no weights before its first row
        call_first_batch(model, dataset.train.take(slice(0, 1)).x, reference.key)
    with scratch_folder() as folder:
        path = str(folder / "best.keras")
        get_blob_file(store, reference, path)
        load_published(model, path, reference.key)


def _predict(
    store: Store,
    layout: RunLayout,
    dataset: Dataset,
    predict: Callable[[Inputs], Mapping[str, npt.NDArray[np.float32]]],
) -> dict[str, Mapping[str, JSON]]:
    """Predict split by split; the parts of each are stored while the next is predicted."""

    def keep(values: npt.NDArray[np.float32]) -> Mapping[str, JSON]:
        return put_blob(store, layout, predictions_to_parquet(values)).to_json()

    stored = {}
    with ThreadPoolExecutor(max_workers=2, thread_name_prefix="predictions") as uploads:
        for name, split in dataset.splits():
            if name != "train":
                for output, values in predict(split.x).items():
                    stored[part(name, output)] = uploads.submit(keep, values)
    return {name: future.result() for name, future in stored.items()}
