"""What an attempt ends with: the `final` record and the files that it names, or the cause of its failure."""

from __future__ import annotations

import errno
import hashlib
import os
import tempfile
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from orchestrator.errors import InvalidJob, InvalidModel, OrchestratorError
from orchestrator.models.preprocess_fit import to_json
from orchestrator.planning.events import Cause
from orchestrator.planning.ports import Store
from orchestrator.storage.blobs import put_blob, put_blob_file
from orchestrator.storage.layout import RunLayout
from orchestrator.storage.log import Log
from orchestrator.storage.redact import redact
from orchestrator.storage.tables import history_to_parquet

if TYPE_CHECKING:
    import keras

    from orchestrator.training.checkpoint import Snapshot
    from orchestrator.training.trained import Trained

OWN_ERRORS = (Exception, SystemExit, KeyboardInterrupt)
"""What a job's own code may raise. No signal does so here: they reach the main thread alone."""

_DISK_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_JAX_ERRORS = {"JaxRuntimeError", "XlaRuntimeError"}  # the same, by its name of before JAX 0.8


def publish_final(
    store: Store,
    layout: RunLayout,
    log: Log,
    trained: Trained,
    *,
    worker: str,
    began: float,
    resumed: Snapshot | None,
    engine: str = "solo",
    late: bool = False,
) -> Mapping[str, Any]:
    """Publish a member's best model: files first, the record last; returns the record's body.

    Args:
        store, layout: where to.
        log: the member's log, claimed.
        trained: what training gave.
        worker: who trained.
        began: monotonic second at which the attempt began.
        resumed: what the attempt went on from.
        engine: how it was trained.
        late: the deadline cut the member short.

    Raises:
        Fenced: a successor has claimed the member; nothing is published.
        StoreUnavailable: out of reach.
    """
    record = log.append(
        "final",
        model=put_blob_file(store, layout, str(trained.path)).to_json(),
        history=put_blob(store, layout, history_to_parquet(trained.history)).to_json(),
        epochs=len(trained.history),
        best_epoch=trained.best_epoch,
        stopped_epoch=trained.stopped_epoch,
        at_best=_finite(trained.history[trained.best_epoch - 1]),
        weights_sha256=weights_digest(trained.model),
        **({"weights_only": True} if trained.path.suffix == ".h5" else {}),
        **_preprocess(store, layout, trained),
        engine=engine,
        worker=worker,
        train_s=round(time.monotonic() - began, 3),
        late=late,
        resumed_from=None if resumed is None else resumed.epoch,
        at=round(time.time(), 3),
    )
    return record.body


def _preprocess(store: Store, layout: RunLayout, trained: Trained) -> dict[str, Any]:
    """What the model is to be built with once more: its numbers are no weights."""
    if trained.preprocessing is None:
        return {}
    return {"preprocess": put_blob(store, layout, to_json(trained.preprocessing)).to_json()}


def weights_digest(model: keras.Model) -> str:
    """sha256 over all weights in order: equal exactly when the weights are equal bit for bit.

    (A `.keras` file is a zip with a date inside: two saves of one model differ.)
    """
    digest = hashlib.sha256()
    for array in model.get_weights():
        digest.update(f"{array.dtype.str}{array.shape}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def cause_of(error: BaseException) -> tuple[Cause, str]:
    """Which budget an error of an attempt is counted against, and what to say of it: without secrets, it is stored."""
    cause, message = _sorted(error)
    return cause, redact(message, os.environ)


def _sorted(error: BaseException) -> tuple[Cause, str]:
    if isinstance(error, OSError) and error.errno in _DISK_FULL:
        where = f" ({error.filename})" if error.filename else ""
        return Cause.CRASH, f"the worker's disk is full{where}: free space in {tempfile.gettempdir()}, or set TMPDIR"
    message = str(error) if isinstance(error, OrchestratorError) else f"{type(error).__name__}: {error}"
    return (Cause.OUT_OF_MEMORY if is_out_of_memory(error) else Cause.USER_ERROR), message


def is_anothers_fault(error: BaseException) -> bool:
    """Whether an error of an attempt is neither the member's own nor a lack of memory: storage, damage, fencing."""
    own = isinstance(error, InvalidModel | InvalidJob) or is_out_of_memory(error)
    return isinstance(error, OrchestratorError) and not own


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error, or one that it was raised from, means that memory, of the host or the device, was too small."""
    name = type(error).__name__
    jax = name in _JAX_ERRORS and "RESOURCE_EXHAUSTED" in str(error)
    if jax or name == "ResourceExhaustedError" or isinstance(error, MemoryError):
        return True
    return error.__cause__ is not None and is_out_of_memory(error.__cause__)


def _finite(logs: Mapping[str, float]) -> dict[str, float]:
    return {name: value for name, value in logs.items() if value == value and abs(value) != float("inf")}
