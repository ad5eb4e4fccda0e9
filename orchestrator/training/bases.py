"""The bases of a run on a worker's machine: fetched once, verified, then opened anew for each member."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from orchestrator.planning.ports import Store
from orchestrator.storage.blobs import get_blob_file
from orchestrator.storage.records import BlobRef
from orchestrator.training.scratch import scratch_folder


@contextmanager
def placed_bases(store: Store, bases: Mapping[str, BlobRef]) -> Iterator[None]:
    """Have `models.base.load_base` find the bases, by source, while the block runs.

    Raises:
        DamagedStore: the run's copy is gone, or has other bytes than recorded.
        StoreUnavailable: out of reach.
    """
    from orchestrator.models.base import place_base

    with scratch_folder() as folder:
        for source, ref in bases.items():
            path = folder / f"{ref.sha256}.keras"
            get_blob_file(store, ref, str(path))
            place_base(source, path)
        yield
