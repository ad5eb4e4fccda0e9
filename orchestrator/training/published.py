"""A member's model as it was published: built by the job's own code, with its stored numbers, verified, in it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from orchestrator.models.build import build_member
from orchestrator.models.first_batch import call_first_batch
from orchestrator.models.load import load_published
from orchestrator.models.preprocess_fit import from_json
from orchestrator.planning.members import MemberPlan
from orchestrator.planning.ports import Store
from orchestrator.spec import Job, TrainSpec
from orchestrator.storage.blobs import get_blob, get_blob_file
from orchestrator.storage.members import model_file
from orchestrator.storage.records import BlobRef
from orchestrator.training.data import Inputs
from orchestrator.training.scratch import scratch_folder
from orchestrator.training.sources.load import load_job_data

if TYPE_CHECKING:
    import keras


def build_published(store: Store, final: Mapping[str, Any], member: MemberPlan, train: TrainSpec) -> keras.Model:
    """The member's model, its weights at their beginning.

    Preprocessing is what the model was trained with, not what would be fitted now.

    Raises:
        DamagedStore: what is stored of preprocessing is gone, or damaged.
        OrchestratorError: as `build_member`.
    """
    preprocessing = None
    if "preprocess" in final:
        reference = BlobRef.from_json(final["preprocess"], where=f"member {member.index}, preprocess")
        preprocessing = from_json(get_blob(store, reference), reference.key)
    return build_member(member.builder, member.kwargs, member.seed, train, preprocessing, member.base)


def open_published(store: Store, final: Mapping[str, Any], member: MemberPlan, job: Job) -> keras.Model:
    """The member's model with its published weights, without a worker's data at hand. Raises as both parts of it."""
    model = build_published(store, final, member, member.train)
    load_weights(store, final, member.index, model, lambda: load_job_data(job).train.take(slice(0, 1)).x)
    return model


def load_weights(
    store: Store, final: Mapping[str, Any], index: int, model: keras.Model, first_row: Callable[[], Inputs]
) -> None:
    """Put the published weights into the member's model.

    Args:
        store: where they are.
        final: body of the member's `final` record.
        index: of the member, for messages.
        model: as `build_published` made it.
        first_row: inputs of one row of the data, for a model that has no weights before its first row.

    Raises:
        DamagedStore: the file is gone or damaged, or does not fit the model.
    """
    reference = BlobRef.from_json(final["model"], where=f"member {index}, model")
    if not model.built:
        call_first_batch(model, first_row(), reference.key)
    with scratch_folder() as folder:
        path = str(folder / model_file(final))
        get_blob_file(store, reference, path)
        load_published(model, path, reference.key)
